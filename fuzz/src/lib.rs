//! What the fuzz targets have in common: files for readers that take paths, checksums put right, so that what
//! lies behind them is reached, and sources read as programs read them.

#![forbid(unsafe_code)]

pub mod coded;
pub mod weights;

use data::{DataError, ImageOptions};
use protobuf::{Fields, masked_crc};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Puts `bytes` into the file `name` of this process's own folder, in memory where the system has such a place.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        parent.join(format!("ddpm-fuzz-{}", std::process::id()))
    });
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("the folder can be made");
    fs::write(&path, bytes).expect("the file can be written");
    path
}

/// Reads a source as programs do: its description, some of its images as they are and resized, their labels.
/// An error must say where it happened.
pub fn read_source(kind: &str, path: &Path) {
    if let Err(error) = try_source(kind, path) {
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "it does not say where: {text}");
    }
}

fn try_source(kind: &str, path: &Path) -> Result<(), DataError> {
    let spec = format!("{kind}:{}", path.display()).parse()?;
    for size in [None, Some(8)] {
        let source = data::open(&spec, &ImageOptions { size, ..ImageOptions::default() })?;
        assert!(source.description().contains("image"));
        let last = source.len() - 1;
        let mut pixels = vec![0; source.shape().len()];
        for index in [0, 1.min(last), last / 2, last] {
            source.label(index);
            source.read(index, &mut pixels)?;
        }
    }
    Ok(())
}

/// A zip archive of stored members, with the right checksums.
pub fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let start = archive.len() as u32;
        let (crc, len) = (crc32fast::hash(content), content.len() as u32);
        // Version 20, no flags, stored, no time; then sizes and the lengths of the name and of nothing.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        [crc, len, len].iter().for_each(|word| common.extend(word.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend(*content);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let count = (members.len() as u16).to_le_bytes();
    let (start, len) = (archive.len() as u32, directory.len() as u32);
    archive.extend(directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    [count, count].iter().for_each(|count| archive.extend(count));
    [len, start].iter().for_each(|word| archive.extend(word.to_le_bytes()));
    archive.extend([0; 2]);
    archive
}

/// Puts right the checksums of a file of TFRecords.
pub fn repair_records(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some((head, rest)) = bytes[at..].split_at_mut_checked(12) {
        let (length, crc) = head.split_at_mut(8);
        crc.copy_from_slice(&masked_crc(&[length]).to_le_bytes());
        let length = u64::from_le_bytes(length.try_into().expect("of 8 bytes"));
        let fits = |length: &usize| length.checked_add(4).is_some_and(|end| end <= rest.len());
        let Some(length) = usize::try_from(length).ok().filter(fits) else { return };
        let (content, crc) = rest.split_at_mut(length);
        crc[..4].copy_from_slice(&masked_crc(&[content]).to_le_bytes());
        at += 12 + length + 4;
    }
}

/// Puts right the checksums of the blocks of a LevelDB table.
pub fn repair_table(bytes: &mut [u8]) {
    let Some(footer) = bytes.len().checked_sub(48) else { return };
    bytes[footer + 40..].copy_from_slice(&0xdb47_7524_8b80_fb57u64.to_le_bytes());
    let handles = bytes[footer..footer + 40].to_vec();
    let mut handles = Fields::new(&handles);
    let Some(root) = handle(&mut handles).and_then(|_| handle(&mut handles)) else { return };
    let Some(content) = repair_block(bytes, root) else { return };
    // Entries whose keys begin anew; the restarts behind them are no entries, and do no harm.
    let mut entries = Fields::new(&content);
    let mut next = || -> Result<(u64, u64), &'static str> {
        let [_, own, value] =
            [entries.varint()?, entries.varint()?, entries.varint()?].map(|len| len as usize);
        entries.take(own)?;
        handle(&mut Fields::new(entries.take(value)?)).ok_or("no handle")
    };
    let mut blocks = Vec::new();
    while let Ok(block) = next() {
        blocks.push(block);
    }
    for block in blocks {
        repair_block(bytes, block);
    }
}

fn handle(fields: &mut Fields<'_>) -> Option<(u64, u64)> {
    Some((fields.varint().ok()?, fields.varint().ok()?))
}

/// Puts right the checksum of the block at `offset` of `len` bytes, and gives its content as it is stored.
fn repair_block(bytes: &mut [u8], (offset, len): (u64, u64)) -> Option<Vec<u8>> {
    let (start, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
    let block = bytes.get_mut(start..start.checked_add(len)?.checked_add(5)?)?;
    let (checked, crc) = block.split_at_mut(len + 1);
    crc.copy_from_slice(&masked_crc(&[checked]).to_le_bytes());
    Some(checked[..len].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = include_bytes!("../../crates/checkpoint/tests/fixtures/imports/model.ckpt-7.index");
    const RECORDS: &[u8] = include_bytes!("../../crates/data/tests/fixtures/sources/encoded.tfrecord");

    #[test]
    fn good_files_need_no_repair() {
        for (good, repair) in [(TABLE, repair_table as fn(&mut [u8])), (RECORDS, repair_records)] {
            let mut bytes = good.to_vec();
            repair(&mut bytes);
            assert!(bytes == good);
            // Of a damaged one, only a checksum is changed.
            bytes[20] ^= 1;
            repair(&mut bytes);
            assert!(bytes.iter().zip(good).filter(|(one, other)| one != other).count() > 1);
        }
    }

    #[test]
    fn archives_are_archives() {
        let path = file(
            "test.npz",
            &zip_of(&[("a.npy", &numpy::Header::encode(numpy::Element::U8, &[0])), ("b", b"")]),
        );
        let mut npz = numpy::NpzFile::open(&path).unwrap();
        assert_eq!(npz.names(), ["a", "b"]);
        assert!(npz.member("a").unwrap().read_f64().unwrap().is_empty());
    }
}
