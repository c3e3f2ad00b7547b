//! CIFAR-10: both versions, packed and unpacked, and what is wrong with wrong ones.

use crate::files::{archive, fixtures, members, message, open_as_stored, read};
use data::ImageSource;
use engine::ImageShape;
use std::fs;
use std::path::Path;

/// The formula that `tools/data_fixtures.py` writes the images by.
fn expected(batch: usize, image: usize) -> Vec<u8> {
    let mut pixels = Vec::new();
    for y in 0..32 {
        for x in 0..32 {
            pixels
                .extend((0..3).map(|channel| (40 * batch + 11 * image + 80 * channel + 5 * y + 3 * x) as u8));
        }
    }
    pixels
}

fn check(source: &dyn ImageSource, batches: std::ops::Range<usize>) {
    assert_eq!(source.shape(), ImageShape::new(32, 32, 3));
    assert_eq!(source.len(), 3 * batches.len() as u64);
    for (number, batch) in batches.enumerate() {
        for image in 0..3 {
            let index = (3 * number + image) as u64;
            assert!(read(source, index).unwrap() == expected(batch, image), "batch {batch}, image {image}");
            assert_eq!(source.label(index), Some((batch + 3 * image) as u32 % 10));
        }
    }
    assert_eq!(source.label(source.len()), None);
    assert!(message(read(source, source.len())).contains("there is no image"));
}

fn unpack(archive: &Path, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for (name, content) in members(archive) {
        fs::write(folder.join(name), content).unwrap();
    }
}

#[test]
fn either_archive_is_read_as_it_is() {
    for name in ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"] {
        let path = fixtures("cifar10").join(name);
        check(&*open_as_stored(&format!("cifar10:{}", path.display())).unwrap(), 1..6);
        check(&*open_as_stored(&format!("cifar10:{}:train", path.display())).unwrap(), 1..6);
        check(&*open_as_stored(&format!("cifar10:{}:test", path.display())).unwrap(), 0..1);
    }
}

#[test]
fn either_version_is_read_unpacked_from_its_folder_or_the_one_above() {
    for (name, folder) in [
        ("cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
        ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join(folder);
        unpack(&fixtures("cifar10").join(name), &inner);
        for place in [dir.path(), &inner] {
            check(&*open_as_stored(&format!("cifar10:{}", place.display())).unwrap(), 1..6);
            check(&*open_as_stored(&format!("cifar10:{}:test", place.display())).unwrap(), 0..1);
        }
    }
}

#[test]
fn an_archive_is_found_in_its_folder_and_the_description_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("cifar10:{}", dir.path().display());
    let put = |name: &str| fs::copy(fixtures("cifar10").join(name), dir.path().join(name)).unwrap();
    put("cifar-10-python.tar.gz");
    assert!(open_as_stored(&spec).unwrap().description().contains("Python version"));
    put("cifar-10-binary.tar.gz");
    assert!(open_as_stored(&spec).unwrap().description().contains("binary version"));
}

#[test]
fn missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("cifar10:{}", dir.path().display());
    assert!(message(open_as_stored(&spec)).contains("cifar-10-binary.tar.gz"));
    unpack(&fixtures("cifar10").join("cifar-10-binary.tar.gz"), dir.path());
    fs::remove_file(dir.path().join("data_batch_3.bin")).unwrap();
    assert!(message(open_as_stored(&spec)).contains("data_batch_3.bin: this batch of CIFAR-10 is missing"));
    assert!(message(open_as_stored("cifar10:no/such/place")).contains("no/such/place"));

    let path = dir.path().join("some.tar.gz");
    fs::write(&path, archive(&[("data_batch_1.bin", &[0; 3073])])).unwrap();
    assert!(message(open_as_stored(&format!("cifar10:{}", path.display()))).contains("data_batch_2"));
}

#[test]
fn a_wrong_binary_batch_is_refused_at_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test_batch.bin");
    let spec = format!("cifar10:{}:test", dir.path().display());
    let try_with = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        message(open_as_stored(&spec))
    };
    let text = try_with(&[3; 3073 * 2 + 100]);
    assert!(text.contains("test_batch.bin at byte 6146: the last record has 100 of 3073 bytes"), "{text}");
    let mut records = [3; 3073 * 2];
    records[3073] = 10;
    let text = try_with(&records);
    assert!(text.contains("at byte 3073: label 10 of record 1"), "{text}");
    assert!(try_with(&[]).contains("no image"));
}

#[test]
fn a_pickle_that_calls_something_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("cifar10:{}:test", dir.path().display());
    let try_with = |content: &[u8]| {
        fs::write(dir.path().join("test_batch"), content).unwrap();
        message(open_as_stored(&spec))
    };
    let text = try_with(b"\x80\x02cos\nsystem\nU\x0becho hacked\x85R.");
    assert!(text.contains("at byte 27: it asks for a call of `os system`, which is never made"), "{text}");
    for (content, hint) in [
        (&b"\x80\x04."[..], "pickle protocol 4"),
        (b"not a pickle", "not a pickle of protocol 2"),
        (b"", "not a pickle"),
        (b"\x80\x02}.", "no key `data`"),
        (b"\x80\x02].", "not a dictionary"),
        (b"\x80\x02}U\x04dataK\x01s.", "not a two-dimensional numpy array"),
        (b"\x80\x02}U\x04data", "ends in the middle"),
        (b"\x80\x02R", "without the values"),
        (b"\x80\x02(K\x01(\x85.", "without the values"),
        (b"\x80\x02}K\x01a", "not a list"),
        (b"\x80\x02h\x07.", "memo 7"),
    ] {
        let text = try_with(content);
        assert!(text.contains(hint), "{content:?}: {text}");
    }
}

#[test]
fn a_damaged_archive_is_refused_even_behind_the_last_batch() {
    let good = fs::read(fixtures("cifar10").join("cifar-10-binary.tar.gz")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cifar-10-binary.tar.gz");
    let spec = format!("cifar10:{}", path.display());
    let try_with = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        message(open_as_stored(&spec))
    };
    // The checksum in gzip's last 8 bytes.
    let mut changed = good.clone();
    let checksum = changed.len() - 8;
    changed[checksum] ^= 1;
    assert!(try_with(&changed).contains("cifar-10-binary.tar.gz"));
    assert!(try_with(&good[..good.len() / 2]).contains("damaged"));
    assert!(try_with(&good[..good.len() - 4]).contains("damaged"));
    assert!(try_with(b"hello").contains("damaged"));
    assert!(try_with(&[]).contains("data_batch_1"));
}
