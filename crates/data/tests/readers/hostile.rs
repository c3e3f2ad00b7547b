//! Mutated and malicious files: errors, never a panic, never memory without bound.

use crate::files::{
    archive, fixtures, gunzip, gzip, idx_images, idx_labels, members, message, open_as_stored, open_with,
    read,
};
use data::{DataError, ImageOptions};
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::path::Path;

/// A change to a file.
#[derive(Clone, Debug)]
pub enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, u8),
    Repeat(Index, u8),
    Fill(Index, u8, u8),
}

pub fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let mutation = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, value)| Mutation::Set(at, value)),
        2 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => any::<Index>().prop_map(Mutation::Cut),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        1 => (any::<Index>(), 1u8..9, any::<u8>()).prop_map(|(at, len, value)| Mutation::Fill(at, len, value)),
    ];
    prop::collection::vec(mutation, 1..6)
}

pub fn mutate(file: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut file = file.to_vec();
    for mutation in mutations {
        if file.is_empty() {
            break;
        }
        let len = file.len();
        let span = |at: &Index, count: u8| at.index(len)..(at.index(len) + count as usize).min(len);
        match mutation {
            Mutation::Set(at, value) => file[at.index(len)] = *value,
            Mutation::Flip(at, bit) => file[at.index(len)] ^= 1 << bit,
            Mutation::Cut(at) => file.truncate(at.index(len)),
            Mutation::Remove(at, count) => drop(file.drain(span(at, *count))),
            Mutation::Repeat(at, count) => {
                let copy = file[span(at, *count)].to_vec();
                file.splice(at.index(len)..at.index(len), copy);
            }
            Mutation::Fill(at, count, value) => file[span(at, *count)].fill(*value),
        }
    }
    file
}

/// Opens a source and reads some of its images.
fn exercise(spec: &str, options: ImageOptions) -> Result<(), DataError> {
    let source = open_with(spec, options)?;
    for index in [0, source.len() / 2, source.len() - 1] {
        assert_eq!(read(&*source, index)?.len(), source.shape().len());
        source.label(index);
    }
    Ok(())
}

/// The source is read or refused, with the place named.
fn must_not_panic(spec: &str, options: ImageOptions, place: &Path) {
    if let Err(error) = exercise(spec, options) {
        let text = error.to_string();
        assert!(text.contains(place.to_str().unwrap()), "the error does not say where: {text}");
    }
}

fn member(archive: &str, name: &str) -> Vec<u8> {
    let files = members(&fixtures("cifar10").join(archive));
    files.into_iter().find(|(found, _)| found == name).unwrap().1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_binary_batches(changes in mutations()) {
        let dir = tempfile::tempdir().unwrap();
        let file = member("cifar-10-binary.tar.gz", "test_batch.bin");
        fs::write(dir.path().join("test_batch.bin"), mutate(&file, &changes)).unwrap();
        must_not_panic(&format!("cifar10:{}:test", dir.path().display()), ImageOptions::default(), dir.path());
    }

    #[test]
    fn mutated_pickles(changes in mutations(), head in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let file = member("cifar-10-python.tar.gz", "test_batch");
        // Most of the file is pixels; half of the cases change the instructions before them.
        let cut = if head { 230 } else { file.len() };
        let mutated = [mutate(&file[..cut], &changes), file[cut..].to_vec()].concat();
        fs::write(dir.path().join("test_batch"), mutated).unwrap();
        must_not_panic(&format!("cifar10:{}:test", dir.path().display()), ImageOptions::default(), dir.path());
    }

    #[test]
    fn random_pickle_instructions(program in prop::collection::vec(
        prop::sample::select(&b"(.NJKMUTXaebesu}])thqjrcR\x85\x86\x87\x88\x89\x8a\x00\x01\x02\n"[..]), 0..60,
    )) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("test_batch"), [b"\x80\x02".to_vec(), program].concat()).unwrap();
        must_not_panic(&format!("cifar10:{}:test", dir.path().display()), ImageOptions::default(), dir.path());
    }

    #[test]
    fn mutated_archives(changes in mutations(), python: bool, inside: bool) {
        let dir = tempfile::tempdir().unwrap();
        let name = if python { "cifar-10-python.tar.gz" } else { "cifar-10-binary.tar.gz" };
        let file = fs::read(fixtures("cifar10").join(name)).unwrap();
        let file = if inside { gzip(&mutate(&gunzip(&file), &changes)) } else { mutate(&file, &changes) };
        fs::write(dir.path().join(name), file).unwrap();
        must_not_panic(&format!("cifar10:{}", dir.path().display()), ImageOptions::default(), dir.path());
    }

    #[test]
    fn mutated_idx_files(changes in mutations(), of_labels: bool, packed: bool, header: bool) {
        let dir = tempfile::tempdir().unwrap();
        let (mut images, mut labels) = (idx_images(3), idx_labels(3));
        if packed {
            (images, labels) = (gzip(&images), gzip(&labels));
        }
        let file = if of_labels { &mut labels } else { &mut images };
        let cut = if header { 16.min(file.len()) } else { file.len() };
        *file = [mutate(&file[..cut], &changes), file[cut..].to_vec()].concat();
        fs::write(dir.path().join("train-images-idx3-ubyte"), images).unwrap();
        fs::write(dir.path().join("train-labels-idx1-ubyte"), labels).unwrap();
        must_not_panic(&format!("mnist:{}", dir.path().display()), ImageOptions::default(), dir.path());
    }

    #[test]
    fn mutated_images(changes in mutations(), which in any::<Index>(), sized: bool) {
        let names = [
            "rgb.png", "rgba.png", "gray_16_bits.png", "palette_transparent.png", "rgb.jpg", "progressive.JPG",
            "turned.jpg", "lossless.webp", "alpha.webp", "lossy.webp", "animated.gif", "rgb.bmp", "gray.bmp",
        ];
        let name = names[which.index(names.len())];
        let dir = tempfile::tempdir().unwrap();
        let file = fs::read(fixtures("images").join(name)).unwrap();
        fs::write(dir.path().join(name), mutate(&file, &changes)).unwrap();
        let options = ImageOptions { size: sized.then_some(8), ..Default::default() };
        must_not_panic(&format!("images:{}", dir.path().display()), options, dir.path());
    }
}

#[test]
fn bombs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    // 200 MB of zeros as a batch of CIFAR-10, packed and in an archive.
    let zeros = vec![0; 200 << 20];
    let path = dir.path().join("test_batch.bin");
    fs::write(&path, gzip(&zeros)).unwrap();
    assert!(message(open_as_stored(&format!("cifar10:{}:test", dir.path().display()))).contains("more than"));
    fs::remove_file(&path).unwrap();
    let path = dir.path().join("cifar-10-binary.tar.gz");
    fs::write(&path, archive(&[("x/test_batch.bin", &zeros)])).unwrap();
    let text = message(open_as_stored(&format!("cifar10:{}:test", dir.path().display())));
    assert!(text.contains("test_batch.bin") && text.contains("far too large"), "{text}");

    // The same as an idx file that declares three images.
    let mut idx = idx_images(3);
    idx.extend(&zeros);
    fs::write(dir.path().join("train-images-idx3-ubyte.gz"), gzip(&idx)).unwrap();
    assert!(message(open_as_stored(&format!("mnist:{}", dir.path().display()))).contains("it goes on after"));
}

#[test]
fn a_deeply_nested_pickle_costs_no_stack() {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("cifar10:{}:test", dir.path().display());
    let nested = [b"\x80\x02N".to_vec(), vec![0x85; 500_000], b".".to_vec()].concat();
    fs::write(dir.path().join("test_batch"), nested).unwrap();
    assert!(message(open_as_stored(&spec)).contains("not a dictionary"));
    let many = [b"\x80\x02".to_vec(), vec![b'N'; 3_000_000], b".".to_vec()].concat();
    fs::write(dir.path().join("test_batch"), many).unwrap();
    assert!(message(open_as_stored(&spec)).contains("more than 1048576 values"));
}

#[test]
fn images_of_absurd_size_are_refused_before_memory_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("images:{}", dir.path().display());
    let options = ImageOptions { size: Some(8), ..Default::default() };
    let good = fs::read(fixtures("images").join("rgb.png")).unwrap();
    for (width, height) in [(60_000u32, 60_000u32), (100_000, 1), (20_000, 20_000)] {
        // Width and height in the header chunk, and its checksum.
        let mut png = good.clone();
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let mut checksum = flate2::Crc::new();
        checksum.update(&png[12..29]);
        png[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
        fs::write(dir.path().join("huge.png"), png).unwrap();
        let source = open_with(&spec, options).unwrap();
        let text = message(read(&*source, 0));
        assert!(text.contains("huge.png") && text.contains("too large"), "{text}");
    }
}
