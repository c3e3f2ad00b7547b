//! Reading files whose size is not to be trusted: plain or gzip, never more than a limit.

use crate::DataError;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// Reads at most `limit` bytes; then, unlike [`Read::take`], fails instead of feigning the end.
pub(crate) struct Bounded<R> {
    inner: R,
    limit: u64,
    left: u64,
}

impl<R: Read> Bounded<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self { inner, limit, left: limit }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than allowed may be asked for: its arrival is what tells "too large" from "just fits".
        let most = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                let limit = self.limit;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("it holds more than the {limit} bytes that are accepted"),
                ));
            }
        }
        Ok(count)
    }
}

/// A file's content, unpacked if it begins like gzip (whatever its name), at most `limit` bytes of it.
pub(crate) fn open_unpacked(path: &Path, limit: u64) -> Result<Bounded<Box<dyn Read>>, DataError> {
    let mut file = File::open(path).map_err(|e| DataError::io(path, "opened", e))?;
    let mut magic = Vec::with_capacity(2);
    let rewound = file.by_ref().take(2).read_to_end(&mut magic).and_then(|_| file.rewind());
    rewound.map_err(|e| DataError::io(path, "read", e))?;
    let file = BufReader::with_capacity(1 << 16, file);
    let content: Box<dyn Read> =
        if magic == [0x1f, 0x8b] { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(Bounded::new(content, limit))
}

/// Reads `content` to its end. `path` is for messages.
pub(crate) fn read_all(content: &mut dyn Read, path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    // Grows with what arrives, never with what a header promises.
    match content.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(content_error(path, bytes.len() as u64, error)),
    }
}

/// Tells a damaged content from a failing disk.
pub(crate) fn content_error(path: &Path, offset: impl Into<Option<u64>>, error: io::Error) -> DataError {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        UnexpectedEof => DataError::damaged(path, offset, "it ends in the middle of its content"),
        InvalidData | InvalidInput | Other => DataError::damaged(path, offset, error.to_string()),
        _ => DataError::io(path, "read", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_itself_is_accepted_and_one_byte_more_is_not() {
        let mut out = Vec::new();
        Bounded::new(&[7u8; 100][..], 100).read_to_end(&mut out).unwrap();
        assert_eq!(out.len(), 100);
        let error = Bounded::new(&[7u8; 101][..], 100).read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("more than the 100 bytes"), "{error}");
    }

    #[test]
    fn a_gzip_bomb_stops_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bomb.gz");
        let file = File::create(&path).unwrap();
        let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::best());
        io::copy(&mut io::repeat(0).take(50 << 20), &mut packer).unwrap();
        packer.finish().unwrap();
        let mut content = open_unpacked(&path, 1 << 20).unwrap();
        let mut most = 0;
        let mut buffer = vec![0; 1 << 16];
        let error = loop {
            match content.read(&mut buffer) {
                Ok(count) => most += count,
                Err(error) => break error,
            }
        };
        assert!(most <= 1 << 20, "{most}");
        assert!(error.to_string().contains("more than"), "{error}");
    }
}
