//! Where test files are, and how the files of a format are made.

use data::{DataError, ImageOptions, ImageSource, open};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder of `tests/fixtures`, written by `tools/data_fixtures.py`.
pub fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn open_with(spec: &str, options: ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    open(&spec.parse()?, &options)
}

pub fn open_as_stored(spec: &str) -> Result<Arc<dyn ImageSource>, DataError> {
    open_with(spec, ImageOptions::default())
}

/// The message of the error that `result` must be.
pub fn message<T>(result: Result<T, DataError>) -> String {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error.to_string(),
    }
}

pub fn read(source: &dyn ImageSource, index: u64) -> Result<Vec<u8>, DataError> {
    let mut pixels = vec![0; source.shape().len()];
    source.read(index, &mut pixels).map(|()| pixels)
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(content).unwrap();
    packer.finish().unwrap()
}

pub fn gunzip(packed: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut content).unwrap();
    content
}

/// The members of a `.tar.gz`: base name and content.
pub fn members(archive: &Path) -> Vec<(String, Vec<u8>)> {
    let mut tar = tar::Archive::new(std::io::Cursor::new(gunzip(&std::fs::read(archive).unwrap())));
    let mut found = Vec::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let name = entry.path().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            std::io::copy(&mut entry, &mut content).unwrap();
            found.push((name, content));
        }
    }
    found
}

/// A `.tar.gz` of files.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, *content).unwrap();
    }
    gzip(&tar.into_inner().unwrap())
}

/// An idx file of 28×28 images, counting up.
pub fn idx_images(count: u32) -> Vec<u8> {
    let mut file = vec![0, 0, 8, 3];
    for dimension in [count, 28, 28] {
        file.extend(dimension.to_be_bytes());
    }
    file.extend((0..count as usize * 784).map(|i| (i % 253) as u8));
    file
}

/// An idx file of labels 0, 1, ….
pub fn idx_labels(count: u32) -> Vec<u8> {
    let mut file = vec![0, 0, 8, 1];
    file.extend(count.to_be_bytes());
    file.extend((0..count).map(|i| (i % 10) as u8));
    file
}
