//! Files that someone damaged, or made to do damage: an error that names the file, never a panic, and never more
//! memory than the file is long.

mod support;

use checkpoint::{Dtype, Error, ModelLocation, RunDirectory, SavedTraining, TensorFile, export, inspect};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};
use support::{SmallRun, copy_tree, files, fixture, labelled, layout_of, noise, small_model};

#[global_allocator]
static ALLOCATIONS: PeakAlloc = PeakAlloc;

/// Tests here run one at a time: what one allocates is not to be counted for another.
fn alone() -> MutexGuard<'static, ()> {
    static MEASURING: Mutex<()> = Mutex::new(());
    MEASURING.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The most that `work` had allocated at a time, in bytes.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATIONS.current_usage();
    ALLOCATIONS.reset_peak_usage();
    let result = work();
    (result, ALLOCATIONS.peak_usage().saturating_sub(before))
}

/// A good checkpoint and a good model, made once.
fn originals() -> &'static (tempfile::TempDir, PathBuf) {
    static ORIGINALS: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    ORIGINALS.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        let layout = layout_of(&small_model());
        let parameters = noise(layout.len(), 1);
        let model = root.path().join("model");
        export(&model, &small_model(), &layout, labelled(&parameters), Dtype::F16).unwrap();
        let checkpoint = SmallRun::at(3).save(&RunDirectory::new(&root.path().join("run"))).unwrap();
        (root, checkpoint)
    })
}

/// Everything a command does with a model.
fn read_whole(directory: &Path) -> Result<(), Error> {
    inspect(directory)?;
    let mut model = ModelLocation::resolve(directory)?.open(None)?;
    let layout = models::Unet::layout(&model.unet);
    model.read_parameters(&layout)?;
    Ok(())
}

/// A way to damage bytes.
#[derive(Clone, Debug)]
enum Damage {
    Truncate(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    Overwrite(prop::sample::Index, Vec<u8>),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Digits(prop::sample::Index, u64),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << (bit % 8);
            }
            Self::Overwrite(at, with) => {
                let at = at.index(bytes.len());
                let end = (at + with.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&with[..end - at]);
            }
            Self::Insert(at, with) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, with.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = at.index(bytes.len());
                let end = (at + count).min(bytes.len());
                bytes.drain(at..end);
            }
            // A number somewhere in a header or configuration becomes another one.
            Self::Digits(at, number) => {
                let at = at.index(bytes.len());
                let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|start| at + start)
                else {
                    return;
                };
                let len = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(start..start + len, number.to_string().into_bytes());
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..20);
    prop_oneof![
        at().prop_map(Damage::Truncate),
        (at(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), bytes()).prop_map(|(at, with)| Damage::Overwrite(at, with)),
        (at(), bytes()).prop_map(|(at, with)| Damage::Insert(at, with)),
        (at(), 1usize..200).prop_map(|(at, count)| Damage::Remove(at, count)),
        (at(), prop_oneof![Just(0), Just(u64::MAX), Just(1 << 40), 0u64..100_000])
            .prop_map(|(at, number)| Damage::Digits(at, number)),
    ]
}

/// Most that a reader of a small damaged model may hold: the largest network that a small file can be the weights of,
/// as a graph, and one buffer for conversions.
const ALLOWANCE: usize = 64 << 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_damaged_model_is_an_error_or_a_model(
        which in any::<prop::sample::Index>(),
        foreign in any::<bool>(),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let _alone = alone();
        let original = if foreign { fixture("current") } else { originals().0.path().join("model") };
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&original, copy.path());
        let all = files(copy.path());
        let path = copy.path().join(&all[which.index(all.len())]);
        let mut bytes = std::fs::read(&path).unwrap();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        std::fs::write(&path, bytes).unwrap();
        let (result, peak) = peak_of(|| read_whole(copy.path()));
        prop_assert!(peak < ALLOWANCE, "{peak} bytes");
        if let Err(error) = result {
            prop_assert!(error.is_input());
            prop_assert!(error.to_string().contains(copy.path().to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_damaged_header_is_an_error_or_a_header(damages in prop::collection::vec(damage(), 1..4)) {
        let _alone = alone();
        let original = fixture("older/diffusion_pytorch_model.safetensors");
        // The header alone: damage to weights is not seen here.
        let mut bytes = std::fs::read(original).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let weights = bytes.split_off(header);
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        bytes.extend(weights);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let (result, peak) = peak_of(|| TensorFile::open(file.path()));
        prop_assert!(peak < 4 << 20, "{peak} bytes");
        if let Ok(open) = result {
            let elements = open.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum::<usize>();
            prop_assert!(elements <= bytes.len() * 8, "more elements than the file has bits");
        }
    }

    #[test]
    fn a_damaged_checkpoint_is_never_resumed(
        which in any::<prop::sample::Index>(),
        damage in damage(),
    ) {
        let _alone = alone();
        let original = &originals().1;
        let copy = tempfile::tempdir().unwrap();
        copy_tree(original, copy.path());
        let all = files(copy.path());
        let path = copy.path().join(&all[which.index(all.len())]);
        let good = std::fs::read(&path).unwrap();
        let mut bytes = good.clone();
        damage.apply(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let opened = SavedTraining::open(copy.path());
        // The manifest alone is not recorded in itself; altered, it may say the same in another way.
        if bytes != good && !path.ends_with("manifest.json") {
            let error = opened.expect_err("the damage was not seen").to_string();
            prop_assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}

#[test]
fn lengths_beyond_reason_ask_for_no_memory() {
    let _alone = alone();
    let open = |bytes: &[u8], file_bytes: u64| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.as_file().set_len(file_bytes).unwrap();
        let (result, peak) = peak_of(|| TensorFile::open(file.path()));
        assert!(peak < 1 << 20, "{peak} bytes");
        result.unwrap_err().to_string()
    };
    assert!(open(&u64::MAX.to_le_bytes(), 100).contains("header of 18446744073709551615 bytes"));
    // A sparse file of a terabyte that is nearly all header.
    assert!(open(&(1u64 << 39).to_le_bytes(), 1 << 40).contains("not a safetensors file"));
    let header = br#"{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,64]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    assert!(open(&bytes, 8 + header.len() as u64 + 64).contains("header is not valid"));
    let nested = "[".repeat(100_000);
    let mut bytes = (nested.len() as u64).to_le_bytes().to_vec();
    bytes.extend(nested.as_bytes());
    assert!(open(&bytes, 8 + nested.len() as u64).contains("header is not valid"));
}

#[test]
fn a_file_is_as_long_as_its_header_says() {
    let _alone = alone();
    let bytes = std::fs::read(fixture("older/diffusion_pytorch_model.safetensors")).unwrap();
    let open = |bytes: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        TensorFile::open(file.path()).map(|file| file.bytes()).map_err(|error| error.to_string())
    };
    assert_eq!(open(&bytes), Ok(bytes.len() as u64));
    assert!(open(&bytes[..bytes.len() - 1]).unwrap_err().contains("truncated"));
    assert!(open(&bytes[..5]).unwrap_err().contains("truncated"));
    assert!(open(&[bytes.as_slice(), &[0]].concat()).unwrap_err().contains("longer than its header says"));
}

#[test]
fn a_configuration_of_a_giant_asks_for_no_memory() {
    let _alone = alone();
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&fixture("current"), copy.path());
    let config = copy.path().join("unet/config.json");
    support::set_json(&config, "block_out_channels", serde_json::json!([16384, 16384 * 64]));
    let (result, peak) = peak_of(|| read_whole(copy.path()));
    result.unwrap_err();
    assert!(peak < ALLOWANCE, "{peak} bytes");
    // A configuration file that never ends.
    let file = std::fs::File::options().write(true).open(&config).unwrap();
    file.set_len(1 << 40).unwrap();
    let (result, peak) = peak_of(|| read_whole(copy.path()));
    assert!(result.unwrap_err().to_string().contains("longer than"));
    assert!(peak < ALLOWANCE, "{peak} bytes");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for (name, value) in
        [("mid_block.resnets.1.conv2.weight", f32::NAN), ("conv_out.bias", f32::NEG_INFINITY)]
    {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&fixture("current"), copy.path());
        let path = copy.path().join("unet/diffusion_pytorch_model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let place = 8 + header + metadata.info(name).unwrap().data_offsets.0 + 2 * 4;
        bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let message = read_whole(copy.path()).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("element 2"), "{message}");
    }
}
