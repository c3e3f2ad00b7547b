//! Checkpoints that TensorFlow and PyTorch wrote (`tools/import_fixtures.py`): the same parameters from all,
//! damage found.

use checkpoint::{ForeignModel, Heads, ImportOptions, QkvOrder, TensorBundle, Weights};
use diffusion::Denoiser;
use engine::{ConvMethod, Cpu, CpuOptions, ParamLayout};
use flate2::read::GzDecoder;
use models::{Conventions, Unet, UnetConfig, UnetDenoiser};
use proptest::prelude::*;
use proptest::sample::Index;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

const INDEX: &str = "model.ckpt-7.index";
const DATA: &str = "model.ckpt-7.data-00000-of-00001";
const TORCH: &str = "ema_model-7.ckpt";
const PYTORCH_DDPM: &str = "ckpt.pt";
const OPENAI: &str = "ema_0.9999_000007.pt";

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/imports");
    match std::fs::read(folder.join(name)) {
        Ok(bytes) => bytes,
        Err(_) => {
            let packed = std::fs::read(folder.join(format!("{name}.gz"))).unwrap();
            let mut bytes = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
            bytes
        }
    }
}

/// All files of the fixtures in a folder of their own.
fn unpacked() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in [INDEX, DATA, TORCH, PYTORCH_DDPM, OPENAI] {
        std::fs::write(dir.path().join(name), fixture(name)).unwrap();
    }
    dir
}

fn read(
    path: PathBuf,
    wanted: Option<Weights>,
) -> Result<(ForeignModel, ParamLayout, Vec<f32>), checkpoint::Error> {
    read_with(path, &ImportOptions { weights: wanted, ..ImportOptions::default() })
}

fn read_with(
    path: PathBuf,
    options: &ImportOptions,
) -> Result<(ForeignModel, ParamLayout, Vec<f32>), checkpoint::Error> {
    let mut model = ForeignModel::open(&path, options)?;
    let layout = Unet::layout(&model.unet);
    let parameters = model.read_parameters(&layout)?;
    Ok((model, layout, parameters))
}

/// The original's name of a parameter of this small network, written out a second time.
fn original(name: &str) -> String {
    let name = name
        .replace("time_embedding.linear_1", "temb.dense0")
        .replace("time_embedding.linear_2", "temb.dense1");
    let name = name.replace("up_blocks.0", "up_1").replace("up_blocks.1", "up_0");
    let name = name.replace("down_blocks.", "down_").replace("mid_block.attentions.0", "mid.attn_1");
    let name =
        name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2");
    let name = name.replace("resnets.", "block_").replace("attentions.", "attn_");
    let name = name.replace("time_emb_proj", "temb_proj").replace("conv_shortcut", "nin_shortcut");
    let name = name
        .replace("group_norm", "norm")
        .replace("to_out.0", "proj_out")
        .replace("conv_norm_out", "norm_out");
    let name =
        name.replace(".to_", ".").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample");
    let (stem, kind) = name.rsplit_once('.').unwrap();
    let kind = match (stem.contains("norm"), kind) {
        (true, "weight") => "gamma",
        (true, _) => "beta",
        (false, "weight") => "W",
        (false, _) => "b",
    };
    format!("model/{}/{kind}", stem.replace('.', "/"))
}

/// What every parameter must be.
fn expected(layout: &ParamLayout, scale: f32) -> Vec<f32> {
    let mut names: Vec<String> = layout.specs().iter().map(|spec| original(&spec.name)).collect();
    names.sort_unstable();
    let numbers: BTreeMap<&str, usize> =
        names.iter().enumerate().map(|(n, name)| (name.as_str(), n)).collect();
    let mut parameters = vec![0.0; layout.len()];
    for spec in layout.specs() {
        let n = numbers[original(&spec.name).as_str()];
        for (k, value) in parameters[spec.range()].iter_mut().enumerate() {
            *value = scale * (((7 * k + 13 * n) % 251) as f32 / 64.0 - 2.0);
        }
    }
    parameters
}

#[test]
fn the_originals_checkpoints_have_averaged_and_raw_weights() {
    let dir = unpacked();
    for (wanted, scale) in [(None, 0.5), (Some(Weights::Ema), 0.5), (Some(Weights::Raw), 1.0)] {
        for name in ["model.ckpt-7", INDEX] {
            let (model, layout, parameters) = read(dir.path().join(name), wanted).unwrap();
            assert_eq!(model.weights, wanted.or(Some(Weights::Ema)));
            assert_eq!((model.step, model.has_both), (Some(7), true));
            let unet = &model.unet;
            assert_eq!((unet.channels, &unet.channel_mult[..], unet.num_res_blocks), (32, &[1, 1][..], 1));
            assert_eq!((unet.image_size, &unet.attention_resolutions[..]), (32, &[16][..]));
            assert!(parameters == expected(&layout, scale));
            // The other weights, the optimiser's and the step.
            assert!(
                model.ignored.len() > layout.specs().len()
                    && model.ignored.contains(&"global_step".to_owned())
            );
        }
    }
}

#[test]
fn pytorch_conversions_have_the_same_parameters() {
    let dir = unpacked();
    let (model, layout, parameters) = read(dir.path().join(TORCH), None).unwrap();
    // The file's name says that they are averaged.
    assert_eq!((model.weights, model.step, model.ignored.len()), (Some(Weights::Ema), None, 0));
    assert!(parameters == expected(&layout, 0.5));
    let renamed = dir.path().join("model.pt");
    std::fs::rename(dir.path().join(TORCH), &renamed).unwrap();
    assert_eq!(read(renamed.clone(), None).unwrap().0.weights, None);
    assert_eq!(read(renamed, Some(Weights::Raw)).unwrap().0.weights, Some(Weights::Raw));
}

/// The largest difference of what the network predicts at `t` from what is in `file`, where every `step`th
/// row and column is, over the rms of that. The input is as the script has it.
fn error_of(unet: &UnetConfig, parameters: &[f32], t: f32, file: &str, step: usize) -> f32 {
    let cpu = Cpu::with_options(CpuOptions { conv: ConvMethod::Direct, ..CpuOptions::default() }).unwrap();
    let mut network = UnetDenoiser::new(unet, parameters, 1, Box::new(cpu)).unwrap();
    let (channels, size) = (3, 32);
    let pixels = size * size;
    let mut x_t = vec![0.0; channels * pixels];
    for k in 0..x_t.len() {
        x_t[k % pixels * channels + k / pixels] = ((7 * k % 251) as f32 - 125.0) / 125.0;
    }
    let outputs = network.output_channels();
    let mut ours = vec![0.0; outputs * pixels];
    network.denoise(&x_t, &[t], &mut ours).unwrap();
    let rows = || (0..size).step_by(step);
    let places = (0..outputs).flat_map(|channel| {
        rows().flat_map(move |y| rows().map(move |x| (y * size + x) * outputs + channel))
    });
    let ours: Vec<f32> = places.map(|place| ours[place]).collect();
    // The numbers are the last of the file, planes of single precision.
    let stored = fixture(file);
    let numbers = &stored[stored.len() - 4 * ours.len()..];
    let theirs: Vec<f32> = numbers.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let rms = (theirs.iter().map(|value| value * value).sum::<f32>() / theirs.len() as f32).sqrt();
    ours.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max) / rms
}

#[test]
fn improved_diffusion_predicts_what_we_predict() {
    let dir = unpacked();
    let path = dir.path().join(OPENAI);
    let options = |heads, qkv_order| ImportOptions { heads, qkv_order, ..ImportOptions::default() };
    let two = Some(Heads::Number(2));
    for (order, file) in
        [(QkvOrder::ByHead, "improved_output.npy"), (QkvOrder::Thirds, "improved_thirds.npy")]
    {
        let (model, _, parameters) = read_with(path.clone(), &options(two, order)).unwrap();
        let unet = &model.unet;
        assert_eq!((model.weights, model.heads_are_assumed), (Some(Weights::Ema), false));
        assert_eq!((unet.channels, &unet.channel_mult[..], unet.num_res_blocks), (32, &[1, 2, 3][..], 1));
        assert_eq!((unet.image_size, &unet.attention_resolutions[..]), (32, &[16, 8][..]));
        assert!(unet.learned_variance && unet.scale_shift_norm && model.ignored.is_empty());
        assert_eq!((model.rescaled_timesteps, unet.conventions.heads), (Some(1000), Some(2)));
        let conventions = Conventions { time_scale: 0.25, ..unet.conventions };
        let unet = UnetConfig { conventions, ..unet.clone() };
        let error = error_of(&unet, &parameters, 611.0, file, 4);
        assert!(error <= 2e-5, "{order:?}: {error} of the rms");
    }
    // Nothing is said: four heads. Of 16 channels: as many as fit.
    let (model, ..) = read(path.clone(), None).unwrap();
    assert_eq!((model.heads_are_assumed, model.unet.conventions.heads), (true, Some(4)));
    let (model, ..) =
        read_with(path.clone(), &options(Some(Heads::OfChannels(16)), QkvOrder::ByHead)).unwrap();
    assert_eq!(model.unet.conventions.head_channels, Some(16));
    for heads in [Heads::Number(5), Heads::OfChannels(20)] {
        let error = read_with(path.clone(), &options(Some(heads), QkvOrder::ByHead)).unwrap_err().to_string();
        assert!(error.contains("must divide the 64 channels"), "{error}");
    }
}

#[test]
fn a_file_too_short_for_its_shapes_is_refused_before_memory_is_asked_for() {
    let dir = unpacked();
    let data = std::fs::OpenOptions::new().write(true).open(dir.path().join(DATA)).unwrap();
    data.set_len(100).unwrap();
    let error = ForeignModel::open(&dir.path().join("model.ckpt-7"), &ImportOptions::default()).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("too short for the"), "{error}");
}

#[test]
fn networks_of_openai_that_are_others_are_refused_by_name() {
    for (key, word) in [
        ("label_emb.weight", "conditioned on classes"),
        ("output_blocks.1.1.in_layers.0.weight", "resblock_updown"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        // Names are enough to tell.
        let names = ["input_blocks.0.0.weight", "time_embed.0.weight", key];
        let tensor = || TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
        let bytes = safetensors::serialize(names.map(|name| (name, tensor())), None).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let error = ForeignModel::open(&path, &ImportOptions::default()).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("openai"), "{error}");
    }
}

#[test]
fn a_size_that_cannot_be_parted_into_blocks_is_refused() {
    let unet = UnetConfig {
        image_size: 32,
        image_channels: 3,
        learned_variance: false,
        channels: 32,
        channel_mult: vec![1, 2],
        num_res_blocks: 1,
        attention_resolutions: vec![8],
        dropout: 0.0,
        block_size: 2,
        norm_groups: 32,
        scale_shift_norm: false,
        conventions: Conventions::default(),
    };
    let layout = Unet::layout(&unet);
    let zeros = vec![0; 4 * layout.len()];
    let tensors = layout.specs().iter().map(|spec| {
        let shape = match spec.shape[..] {
            [height, width, inputs, outputs] => vec![outputs, inputs, height, width],
            [inputs, outputs] => vec![outputs, inputs],
            ref shape => shape.to_vec(),
        };
        let tensor = TensorView::new(safetensors::Dtype::F32, shape, &zeros[..4 * spec.len()]).unwrap();
        (spec.name.clone(), tensor)
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let open = |size| {
        let options = ImportOptions { image_size: Some(size), ..ImportOptions::default() };
        ForeignModel::open(&path, &options).map(|model| (model.unet.image_size, model.unet.block_size))
    };
    assert_eq!(open(32).unwrap(), (32, 2));
    let error = open(33).unwrap_err();
    let words = error.to_string();
    assert!(
        error.is_input() && words.contains("33 is no multiple of 2") && words.contains("--image-size"),
        "{words}"
    );
}

#[test]
fn pytorch_ddpm_predicts_what_we_predict() {
    let dir = unpacked();
    let (model, _, parameters) = read(dir.path().join(PYTORCH_DDPM), None).unwrap();
    assert_eq!((model.weights, model.has_both, model.timesteps), (Some(Weights::Ema), true, Some(100)));
    let unet = &model.unet;
    assert_eq!((unet.channels, &unet.channel_mult[..], unet.num_res_blocks), (32, &[1, 2][..], 1));
    assert_eq!((unet.image_size, &unet.attention_resolutions[..]), (32, &[16][..]));
    assert!(model.ignored.contains(&"net_model.head.weight".to_owned()));
    let error = error_of(unet, &parameters, 61.0, "ckpt_output.npy", 1);
    assert!(error <= 2e-5, "{error} of the rms");
    let (raw, _, twice) = read(dir.path().join(PYTORCH_DDPM), Some(Weights::Raw)).unwrap();
    assert_eq!(raw.weights, Some(Weights::Raw));
    assert!(twice.iter().zip(&parameters).all(|(raw, ema)| *raw == 2.0 * ema));
}

#[test]
fn damage_is_named() {
    let dir = unpacked();
    let check = |name: &str, change: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        let path = dir.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let error = read(dir.path().join("model.ckpt-7"), None).unwrap_err();
        assert!(error.is_input());
        for word in words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
        std::fs::write(&path, whole).unwrap();
    };
    check(
        DATA,
        &|bytes| bytes.iter_mut().step_by(50).for_each(|byte| *byte ^= 1),
        &[DATA, "CRC of tensor", "corrupted"],
    );
    check(DATA, &|bytes| bytes.truncate(bytes.len() / 2), &[DATA, "truncated"]);
    check(INDEX, &|bytes| bytes[100] ^= 1, &[INDEX, "CRC of a block"]);
    check(INDEX, &|bytes| bytes.truncate(bytes.len() - 3), &[INDEX, "truncated"]);
    std::fs::remove_file(dir.path().join(DATA)).unwrap();
    let error = read(dir.path().join("model.ckpt-7"), None).unwrap_err().to_string();
    assert!(error.contains(DATA), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_index_is_an_error_or_an_index(at in any::<Index>(), byte: u8, cut in any::<Index>(), cuts: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = fixture(INDEX);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(dir.path().join(INDEX), &bytes).unwrap();
        if let Err(error) = TensorBundle::open(&dir.path().join(INDEX)) {
            prop_assert!(error.to_string().contains(INDEX), "{error}");
        }
    }
}
