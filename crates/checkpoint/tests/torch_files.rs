//! PyTorch's files of tensors. What the fixtures hold is in `tools/torch_file_fixtures.py`.

use checkpoint::{Error, TorchFile};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const ZIP: &[u8] = include_bytes!("fixtures/torch/zip.pth");
const LEGACY: &[u8] = include_bytes!("fixtures/torch/legacy.pth");

struct Written {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn written(bytes: &[u8]) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.pth");
    std::fs::write(&path, bytes).unwrap();
    Written { path, _dir: dir }
}

fn read(file: &mut TorchFile, name: &str) -> Result<Vec<f32>, Error> {
    let len = file.shape(name).map_or(1, |shape| shape.iter().product());
    let mut values = vec![f32::NAN; len];
    file.read(name, &mut values).map(|()| values)
}

/// Elements of `values(…)` in the script.
fn ramp(numbers: impl IntoIterator<Item = usize>) -> Vec<f32> {
    numbers.into_iter().map(|i| i as f32 / 8.0 - 1.0).collect()
}

/// Opens `path` and reads all of it.
fn read_all(path: &Path) -> Result<(), Error> {
    let mut file = TorchFile::open(path)?;
    for tensor in file.tensors() {
        if tensor.shape.iter().try_fold(1usize, |n, &len| n.checked_mul(len)).is_some_and(|n| n < 1 << 20) {
            match read(&mut file, &tensor.name) {
                Err(Error::UnsupportedDtype { .. }) => {}
                other => drop(other?),
            }
        }
    }
    Ok(())
}

#[test]
fn both_formats_give_every_tensor() {
    for bytes in [ZIP, LEGACY] {
        let written = written(bytes);
        let mut file = TorchFile::open(&written.path).unwrap();
        let names: Vec<String> = file.tensors().into_iter().map(|tensor| tensor.name).collect();
        let expected = [
            "bfloat16",
            "double",
            "half",
            "inner.counter",
            "inner.weight",
            "parameter",
            "part",
            "plain",
            "scalar",
            "transposed",
        ];
        assert_eq!(names, expected);
        assert_eq!(file.shape("inner.weight"), Some(&[2, 3, 1, 1][..]));
        assert_eq!(read(&mut file, "plain").unwrap(), ramp(0..6));
        assert_eq!(read(&mut file, "inner.weight").unwrap(), ramp(0..6));
        assert_eq!(read(&mut file, "scalar").unwrap(), [1.5]);
        assert_eq!(read(&mut file, "parameter").unwrap(), ramp(0..2));
        for name in ["half", "bfloat16"] {
            assert_eq!(read(&mut file, name).unwrap(), ramp(0..5), "{name}");
        }
        assert_eq!(read(&mut file, "double").unwrap(), ramp(0..3));
        let transposed = (0..6).flat_map(|column| (0..4).map(move |row| row * 6 + column));
        assert_eq!(read(&mut file, "transposed").unwrap(), ramp(transposed));
        let part = (1..3).flat_map(|row| (2..5).map(move |column| row * 6 + column));
        assert_eq!(read(&mut file, "part").unwrap(), ramp(part));
        let error = read(&mut file, "inner.counter").unwrap_err().to_string();
        assert!(error.contains("inner.counter") && error.contains("LongStorage"), "{error}");
        let error = read(&mut file, "absent").unwrap_err().to_string();
        assert!(error.contains("`absent` is missing"), "{error}");
        let error = file.read("plain", &mut [0.0; 5]).unwrap_err().to_string();
        assert!(error.contains("[2, 3], not of 5"), "{error}");
    }
}

#[test]
fn parts_of_one_storage_are_read_from_the_file_once() {
    for bytes in [ZIP, LEGACY] {
        let written = written(bytes);
        let mut file = TorchFile::open(&written.path).unwrap();
        let part = read(&mut file, "part").unwrap();
        // Whatever is read from now on is not from the file.
        std::fs::OpenOptions::new().write(true).open(&written.path).unwrap().set_len(0).unwrap();
        assert_eq!(read(&mut file, "part").unwrap(), part);
        // Of another storage.
        read(&mut file, "scalar").unwrap_err();
    }
}

#[test]
fn what_would_run_code_is_refused_by_name() {
    // torch.save of an object whose __reduce__ is (os.system, ("…",)), in both formats.
    let call = b"\x80\x02}X\x01\x00\x00\x00wcposix\nsystem\nX\x04\x00\x00\x00true\x85Rs.";
    let mut legacy = LEGACY.to_vec();
    let dictionary =
        legacy.windows(29).position(|w| w == b"\x80\x02ccollections\nOrderedDict\nq\x00").unwrap();
    legacy.truncate(dictionary);
    legacy.extend(call);
    for bytes in [legacy, zipped(call)] {
        let written = written(&bytes);
        let error = TorchFile::open(&written.path).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("`posix system`") && message.contains("never made"), "{message}");
        assert!(message.contains("weights.pth") && error.is_input(), "{message}");
    }
}

/// A zip of this pickle alone.
fn zipped(pickle: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).unwrap();
    std::io::Write::write_all(&mut archive, pickle).unwrap();
    archive.finish().unwrap().into_inner()
}

#[test]
fn what_a_pickle_refers_to_again_and_again_takes_no_memory() {
    // Dictionaries of 200 references to one dictionary, four deep: 1.6 milliard tensors in 3 kB.
    let mut pickle = b"\x80\x02}q\x00".to_vec();
    for depth in 0u8..4 {
        // A dictionary whose keys are "0" to "199" and whose values are all the one before.
        pickle.extend(b"}(");
        for key in 0..200 {
            let key = format!("{key}");
            pickle.extend(
                [&b"X"[..], &(key.len() as u32).to_le_bytes(), key.as_bytes(), b"h", &[depth]].concat(),
            );
        }
        pickle.extend([b'u', b'q', depth + 1]);
    }
    pickle.extend(b".");
    let error = TorchFile::open(&written(&zipped(&pickle)).path).unwrap_err().to_string();
    assert!(error.contains("more than 262144 entries"), "{error}");
    // Tensors of 100,000 dimensions, and of storages with long names, are of no form that PyTorch writes.
    let tensor = |key: &[u8], dimensions: usize| {
        let text = |text: &[u8]| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text].concat();
        let sizes = [&b"("[..], &b"K\x01".repeat(dimensions), b"t"].concat();
        let storage =
            [&b"("[..], &text(b"storage"), b"ctorch\nFloatStorage\n", &text(key), &text(b"cpu"), b"K\x01tQ"];
        let call =
            [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &storage.concat(), b"K\x00", &sizes, &sizes];
        let call = [call.concat(), b"\x89}tR".to_vec()].concat();
        zipped(&[&b"\x80\x02}"[..], &text(b"w"), &call, b"s."].concat())
    };
    let names = |bytes: Vec<u8>| {
        let file = TorchFile::open(&written(&bytes).path).map_err(|error| error.to_string())?;
        Ok::<_, String>(file.tensors().len())
    };
    assert_eq!(names(tensor(b"0", 4)), Ok(1));
    for refused in [tensor(b"0", 100_000), tensor(&[b'0'; 1000], 4)] {
        let error = names(refused).unwrap_err();
        assert!(error.contains("`w` is a tensor of a form that is not read"), "{error}");
    }
}

#[test]
fn other_files_and_truncated_ones_say_what_they_are() {
    for (bytes, words) in [
        (&b"hello"[..], "no PyTorch file"),
        (b"", "no PyTorch file"),
        (b"\x80\x02K\x01.", "not one that PyTorch wrote"),
        (b"PK\x03\x04", "zip archive"),
        (&ZIP[..ZIP.len() - 30], "zip archive"),
        (&LEGACY[..LEGACY.len() - 3], "truncated"),
        (&LEGACY[..200], "ends in the middle"),
    ] {
        let written = written(bytes);
        let error = read_all(&written.path).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("weights.pth"), "{words}: {error}");
    }
}

#[test]
fn a_changed_number_in_a_zip_has_another_checksum() {
    let one_and_a_half = 1.5f32.to_le_bytes();
    let mut bytes = ZIP.to_vec();
    let place = bytes.windows(4).position(|window| window == one_and_a_half).unwrap();
    bytes[place] ^= 1;
    let written = written(&bytes);
    let error = read_all(&written.path).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
}

#[test]
fn nan_is_found_with_its_place() {
    let mut bytes = LEGACY.to_vec();
    let last = ramp(0..6)[5].to_le_bytes();
    for place in 0..bytes.len() - 3 {
        if bytes[place..place + 4] == last {
            bytes[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    }
    let written = written(&bytes);
    let error = read(&mut TorchFile::open(&written.path).unwrap(), "plain").unwrap_err().to_string();
    assert!(error.contains("`plain`") && error.contains("NaN at element 5"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_are_read_or_refused(legacy: bool, at: usize, byte: u8, cut: usize) {
        let mut bytes = if legacy { LEGACY } else { ZIP }.to_vec();
        let (at, cut) = (at % bytes.len(), cut % bytes.len());
        bytes[at] = byte;
        for bytes in [&bytes[..], &bytes[..cut]] {
            let _ = read_all(&written(bytes).path);
        }
    }
}
