//! Fingerprints: XXH3 with 128 bits, which finds accidental damage at the speed of memory (it is no signature).

use engine::ParamLayout;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Bytes hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A fingerprint of the names, shapes and order of a network's parameters, as 32 hexadecimal digits.
///
/// Buffers may be exchanged between two layouts exactly if their fingerprints are equal.
pub fn layout_fingerprint(layout: &ParamLayout) -> String {
    let mut hash = Xxh3::new();
    for spec in layout.specs() {
        hash.update(format!("{} {:?}\n", spec.name, spec.shape).as_bytes());
    }
    hex(&hash)
}

/// A fingerprint of a network's parameters: equal for equal bits in the same order, as 32 hexadecimal digits.
pub fn weights_fingerprint(weights: &[f32]) -> String {
    let mut hash = WeightsHash::default();
    hash.update(weights);
    hash.fingerprint()
}

/// [`weights_fingerprint`] of parameters that come piece by piece.
#[derive(Default)]
pub struct WeightsHash {
    hash: Xxh3,
    chunk: Vec<u8>,
}

impl WeightsHash {
    /// Adds the next parameters.
    pub fn update(&mut self, weights: &[f32]) {
        for values in weights.chunks(CHUNK_BYTES / size_of::<f32>()) {
            self.chunk.clear();
            self.chunk.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            self.hash.update(&self.chunk);
        }
    }

    /// The fingerprint of all that were added.
    pub fn fingerprint(&self) -> String {
        hex(&self.hash)
    }
}

pub(crate) fn bytes(bytes: &[u8]) -> String {
    let mut hash = Xxh3::new();
    hash.update(bytes);
    hex(&hash)
}

/// The length of a file and the fingerprint of its bytes.
pub(crate) fn file(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut hash, mut length) = (File::open(path)?, Xxh3::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((length, hex(&hash))),
            Ok(count) => {
                hash.update(&chunk[..count]);
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}

/// Passes bytes on to `inner`, and counts and hashes them on the way.
pub(crate) struct HashingWriter<W> {
    inner: W,
    hash: Xxh3,
    length: u64,
}

impl<W: Write> HashingWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, hash: Xxh3::new(), length: 0 }
    }

    /// Length and fingerprint of all that was written.
    pub fn finish(self) -> (u64, String) {
        (self.length, hex(&self.hash))
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_fingerprint_of_their_bytes() {
        let weights: Vec<f32> = (0..CHUNK_BYTES / 4 + 3).map(|i| i as f32).collect();
        let raw: Vec<u8> = weights.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(weights_fingerprint(&weights), bytes(&raw));
        let mut pieces = WeightsHash::default();
        weights.chunks(7).for_each(|piece| pieces.update(piece));
        assert_eq!(pieces.fingerprint(), bytes(&raw));
        let mut other = weights.clone();
        other[5] = -0.5;
        assert_ne!(weights_fingerprint(&other), weights_fingerprint(&weights));
    }
}
