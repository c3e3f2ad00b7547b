//! Mutated and truncated data sets: errors that name the file, never a panic, never memory without bound.

use crate::files::{fixtures, open_with, read};
use crate::hostile::{mutate, mutations};
use data::{DataError, ImageOptions};
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;

/// Files of the fixtures, by the kind of source that reads them.
const FILES: [(&str, &str); 15] = [
    ("lmdb", "lsun/data.mdb"),
    ("lmdb", "lsun/data.mdb"),
    ("tfrecord", "stylegan-r03.tfrecords"),
    ("tfrecord", "encoded.tfrecord"),
    ("zip", "dataset.zip"),
    ("tar", "shards/set-000000.tar"),
    ("tar", "shards/set-000001.tar"),
    ("parquet", "hub/train-00000-of-00002.parquet"),
    ("parquet", "hub/train-00000-of-00002.parquet"),
    ("parquet", "hub/test-00000-of-00001.parquet"),
    ("parquet", "paged.parquet"),
    ("npz", "stored.npz"),
    ("npz", "packed.npz"),
    ("npy", "planar.npy"),
    ("tfrecord", "tfds/toy-train.tfrecord-00000-of-00002"),
];

/// Reads what there is, first with all images of their own size, then resized.
fn exercise(spec: &str) -> Result<(), DataError> {
    for size in [None, Some(8)] {
        let source = open_with(spec, ImageOptions { size, ..Default::default() })?;
        let mut result = Ok(());
        for index in [0, 1, source.len() / 2, source.len() - 1] {
            source.label(index);
            if index < source.len() {
                result = result.and(read(&*source, index).map(drop));
            }
        }
        result?;
    }
    Ok(())
}

fn must_not_panic(kind: &str, name: &str, content: &[u8]) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name.rsplit('/').next().unwrap());
    fs::write(&path, content).unwrap();
    match exercise(&format!("{kind}:{}", path.display())) {
        Ok(()) => Ok(()),
        Err(error) if error.to_string().contains(path.to_str().unwrap()) => Err(error.to_string()),
        Err(error) => panic!("the error does not say where: {error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_data_sets(which in any::<Index>(), changes in mutations(), part in 0..3) {
        let (kind, name) = FILES[which.index(FILES.len())];
        let file = fs::read(fixtures("sources").join(name)).unwrap();
        // Most of a file is pixels: a third of the cases each changes its head, its tail and any of it.
        let edge = 600.min(file.len());
        let mutated = match part {
            0 => [mutate(&file[..edge], &changes), file[edge..].to_vec()].concat(),
            1 => [file[..file.len() - edge].to_vec(), mutate(&file[file.len() - edge..], &changes)].concat(),
            _ => mutate(&file, &changes),
        };
        let _ = must_not_panic(kind, name, &mutated);
    }

    #[test]
    fn truncated_data_sets(which in any::<Index>(), cut in any::<Index>()) {
        let (kind, name) = FILES[which.index(FILES.len())];
        let file = fs::read(fixtures("sources").join(name)).unwrap();
        let result = must_not_panic(kind, name, &file[..cut.index(file.len())]);
        // Cut between two records or members, a shorter set remains; and a tar's end is zeros.
        if !matches!(kind, "tfrecord" | "tar" | "lmdb") {
            result.expect_err("a truncated file was read");
        }
    }

    #[test]
    fn mutated_database_pages(page in 0usize..20, changes in mutations()) {
        let file = fs::read(fixtures("sources/lsun/data.mdb")).unwrap();
        let (before, rest) = file.split_at(page * 4096);
        let (head, rest) = rest.split_at(100);
        let mut head = mutate(head, &changes);
        head.resize(100, 0xff);
        let _ = must_not_panic("lmdb", "data.mdb", &[before, &head, rest].concat());
    }
}

#[test]
fn a_changed_byte_in_a_record_is_found_by_its_checksum() {
    for (kind, name) in [("tfrecord", "stylegan-r03.tfrecords"), ("zip", "dataset.zip")] {
        let mut file = fs::read(fixtures("sources").join(name)).unwrap();
        let at =
            file.windows(20).position(|window| window.contains(&b'd') && window.contains(&b'a')).unwrap()
                + 150;
        file[at] ^= 4;
        let text = must_not_panic(kind, name, &file).unwrap_err();
        assert!(text.to_lowercase().contains("crc") || text.contains("checksum"), "{text}");
    }
}

#[test]
fn lengths_that_no_file_has_take_no_memory() {
    // A record of 2^60 bytes whose length has the right CRC.
    let mut record = (1u64 << 60).to_le_bytes().to_vec();
    record.extend(crc_of_length(&record).to_le_bytes());
    let text = must_not_panic("tfrecord", "x.tfrecord", &record).unwrap_err();
    assert!(text.contains("at most"), "{text}");
    let header = numpy::Header::encode(numpy::Element::U8, &[1 << 40, 32, 32, 3]);
    let text = must_not_panic("npy", "x.npy", &header).unwrap_err();
    assert!(text.contains("do not fill the shape"), "{text}");
    // A database whose pages refer to each other in a circle.
    let mut file = fs::read(fixtures("sources/lsun/data.mdb")).unwrap();
    let meta = |page: usize, at: usize| file[page * 4096 + 16 + at];
    let newest = usize::from(meta(1, 128) > meta(0, 128));
    let branch = usize::from(meta(newest, 112)) * 4096;
    let node = usize::from(u16::from_le_bytes([file[branch + 16], file[branch + 17]])) + branch;
    file[node..node + 2].copy_from_slice(&((branch / 4096) as u16).to_le_bytes());
    let text = must_not_panic("lmdb", "data.mdb", &file).unwrap_err();
    assert!(text.contains("circle") || text.contains("neither"), "{text}");
}

/// The masked CRC-32C, bit by bit.
fn crc_of_length(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}
