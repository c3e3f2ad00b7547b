//! The terms of the bound measured so far, in a file that only grows: stopped at any moment, the work goes on
//! from it.
//!
//! The first line is a JSON object that says what the terms are of. Blocks follow, one for each batch: the number of
//! entries and the CRC-32 of their bytes, both little-endian `u32`, then the entries, two little-endian `f32` each.
//! A block cut short by a kill is dropped when the file is opened again.

use checkpoint::atomic;
use crc::{CRC_32_ISO_HDLC, Crc};
use diffusion::{BoundTerm, DiffusionConfig, NormalCdf};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// Bytes of a block before its entries.
const BLOCK_HEADER: usize = 8;
/// Bytes of an entry.
const ENTRY: usize = 8;
/// Most entries of a block.
const MAX_ENTRIES: usize = 1 << 16;
/// Longest first line read, in bytes.
const MAX_HEADER: u64 = 1 << 16;

/// What terms are of. Terms of the same identity are the same bits, whenever and wherever they are measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The fingerprint of the network's weights.
    pub model: String,
    /// The diffusion process.
    pub diffusion: DiffusionConfig,
    /// The images, in words.
    pub data: String,
    /// How many images there are to draw from.
    pub data_images: u64,
    /// Height, width and channels of an image.
    pub image: [usize; 3],
    /// The cumulative distribution function of the decoder.
    pub decoder_cdf: NormalCdf,
    /// Terms evaluated for an image.
    pub terms: usize,
    /// The seed of the noise, the choice of t and the order of images.
    pub seed: u64,
    /// How convolutions are computed, which changes last bits.
    pub convolutions: String,
}

/// A file of terms that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TermFileError {
    /// The system refuses.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be created.
    #[error(transparent)]
    Create(#[from] checkpoint::Error),
    /// Another process is measuring.
    #[error("{}: another process is measuring here; wait for it, or stop it, first", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file was begun for something else.
    #[error(
        "{}: begun with {key} = {before}, now it is {now}; give the same again, or another --out, or remove the file",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs.
        key: String,
        /// In the file.
        before: String,
        /// Now.
        now: String,
    },
    /// The file is damaged.
    #[error("{} at byte {offset}: {what}; remove the file to measure anew, or restore it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

impl TermFileError {
    /// Whether the call or the input was wrong, as opposed to a disk that is full or broken.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Io { source, .. } => !atomic::is_full(source),
            Self::Create(error) => error.is_input(),
            _ => true,
        }
    }
}

/// A file of terms, locked for writing.
#[derive(Debug)]
pub struct TermFile {
    path: PathBuf,
    file: File,
    first_block: u64,
    entries: u64,
}

impl TermFile {
    /// Whether [`Self::open`] would go on with the file at `path` or begin it, rather than refuse it for
    /// being another `identity`'s.
    ///
    /// # Errors
    /// If the file is damaged, or cannot be read.
    pub fn is_of(path: &Path, identity: &Identity) -> Result<bool, TermFileError> {
        let io = |source| TermFileError::Io { path: path.to_owned(), action: "cannot be opened", source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(io(error)),
        };
        let wanted = serde_json::to_value(identity).map_err(|error| io(error.into()))?;
        match check_header(path, &file, &wanted) {
            Ok(_) => Ok(true),
            Err(TermFileError::Changed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens the file to go on with it, or begins it.
    ///
    /// # Errors
    /// If it was begun for another `identity`, is damaged, in use, or the system refuses.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, TermFileError> {
        let path = path.to_owned();
        let io = |action| {
            let path = path.clone();
            move |source| TermFileError::Io { path, action, source }
        };
        let wanted = serde_json::to_value(identity).map_err(|error| io("cannot be begun")(error.into()))?;
        if !path.exists() {
            atomic::write_file(&path, |out| {
                writeln!(out, "{wanted}")
                    .map_err(|source| checkpoint::Error::Write { path: path.clone(), source })
            })?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io("cannot be opened"))?;
        if !atomic::try_lock(&file).map_err(io("cannot be locked"))? {
            return Err(TermFileError::Locked { path });
        }
        let first_block = check_header(&path, &file, &wanted)?;
        let mut opened = Self { path, file, first_block, entries: 0 };
        let (mut entries, mut end) = (0, first_block);
        let mut blocks = opened.blocks()?;
        while let Some(block) = blocks.next_block()? {
            entries += block.len() as u64;
            end = blocks.offset;
        }
        opened.entries = entries;
        opened.file.set_len(end).map_err(|source| opened.error("cannot be shortened", source))?;
        opened.file.seek(SeekFrom::End(0)).map_err(|source| opened.error("cannot be read", source))?;
        Ok(opened)
    }

    /// Entries in the file.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds the entries of a batch and brings them to the disk.
    ///
    /// # Errors
    /// If the system does not take them; the file is then as it was, but for a block cut short, which counts
    /// for nothing.
    pub fn append(&mut self, terms: &[BoundTerm]) -> Result<(), TermFileError> {
        for terms in terms.chunks(MAX_ENTRIES) {
            let mut block = vec![0; BLOCK_HEADER];
            for term in terms {
                block.extend((term.bits_per_dim as f32).to_le_bytes());
                block.extend((term.xstart_mse as f32).to_le_bytes());
            }
            let crc = CRC.checksum(&block[BLOCK_HEADER..]);
            block[..4].copy_from_slice(&(terms.len() as u32).to_le_bytes());
            block[4..BLOCK_HEADER].copy_from_slice(&crc.to_le_bytes());
            let written = self.file.write_all(&block).and_then(|()| self.file.sync_data());
            written.map_err(|source| self.error("cannot be written", source))?;
            self.entries += terms.len() as u64;
        }
        Ok(())
    }

    /// Calls `visit` with the entries of each of the first `groups` groups of `size` in turn.
    ///
    /// # Errors
    /// If the file cannot be read, or holds fewer.
    pub fn visit_groups(
        &self,
        size: usize,
        groups: u64,
        mut visit: impl FnMut(&[BoundTerm]),
    ) -> Result<(), TermFileError> {
        let mut blocks = self.blocks()?;
        let (mut pending, mut left) = (Vec::new(), groups);
        while left > 0 {
            let Some(block) = blocks.next_block()? else {
                return Err(self.damaged(blocks.offset, format!("ends {left} images early")));
            };
            pending.extend(block);
            let whole = (pending.len() / size).min(usize::try_from(left).unwrap_or(usize::MAX));
            for group in pending.chunks_exact(size).take(whole) {
                visit(group);
            }
            pending.drain(..whole * size);
            left -= whole as u64;
        }
        Ok(())
    }

    fn blocks(&self) -> Result<Blocks<'_>, TermFileError> {
        let failed = |source| self.error("cannot be read", source);
        let end = self.file.metadata().map_err(failed)?.len();
        // Its own handle: reading does not move the place where the next block is written.
        let mut reader = BufReader::new(File::open(&self.path).map_err(failed)?);
        reader.seek(SeekFrom::Start(self.first_block)).map_err(failed)?;
        Ok(Blocks { of: self, reader, offset: self.first_block, end })
    }

    fn error(&self, action: &'static str, source: io::Error) -> TermFileError {
        TermFileError::Io { path: self.path.clone(), action, source }
    }

    fn damaged(&self, offset: u64, what: String) -> TermFileError {
        TermFileError::Damaged { path: self.path.clone(), offset, what }
    }
}

struct Blocks<'a> {
    of: &'a TermFile,
    reader: BufReader<File>,
    /// Where the next block begins.
    offset: u64,
    end: u64,
}

impl Blocks<'_> {
    /// The next whole block; `None` at the end, or where a block is cut short.
    fn next_block(&mut self) -> Result<Option<Vec<BoundTerm>>, TermFileError> {
        let left = self.end - self.offset;
        let mut header = [0; BLOCK_HEADER];
        if left < BLOCK_HEADER as u64 {
            return Ok(None);
        }
        let failed = |source| self.of.error("cannot be read", source);
        self.reader.read_exact(&mut header).map_err(failed)?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (count, crc) = (word(0) as usize, word(4));
        if count == 0 || count > MAX_ENTRIES {
            return Err(self.of.damaged(self.offset, format!("a block of {count} entries")));
        }
        let length = count * ENTRY;
        let block_end = self.offset + (BLOCK_HEADER + length) as u64;
        if block_end > self.end {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).map_err(failed)?;
        if CRC.checksum(&bytes) != crc {
            // The last block may have lost its content in a crash of the machine.
            if block_end == self.end {
                return Ok(None);
            }
            return Err(self.of.damaged(self.offset, "a block whose checksum is wrong".into()));
        }
        self.offset = block_end;
        let number = |bytes: &[u8]| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let entries = bytes.chunks_exact(ENTRY);
        Ok(Some(
            entries.map(|e| BoundTerm { bits_per_dim: number(e), xstart_mse: number(&e[4..]) }).collect(),
        ))
    }
}

/// Compares the first line of `file` with `wanted`; returns its length.
fn check_header(path: &Path, file: &File, wanted: &Value) -> Result<u64, TermFileError> {
    let mut line = Vec::new();
    BufReader::new(file)
        .take(MAX_HEADER)
        .read_until(b'\n', &mut line)
        .map_err(|source| TermFileError::Io { path: path.to_owned(), action: "cannot be read", source })?;
    let damaged = |what: String| TermFileError::Damaged { path: path.to_owned(), offset: 0, what };
    if line.last() != Some(&b'\n') {
        return Err(damaged("not a file of terms".into()));
    }
    let found: Identity =
        serde_json::from_slice(&line).map_err(|error| damaged(format!("not a file of terms ({error})")))?;
    let found = serde_json::to_value(found).map_err(|error| damaged(error.to_string()))?;
    if let Some((key, before, now)) = first_change(&found, wanted, "") {
        return Err(TermFileError::Changed { path: path.to_owned(), key, before, now });
    }
    Ok(line.len() as u64)
}

/// The first key whose values differ, with both.
fn first_change(before: &Value, now: &Value, key: &str) -> Option<(String, String, String)> {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => before.iter().find_map(|(name, value)| {
            let dotted = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            first_change(value, now.get(name).unwrap_or(&Value::Null), &dotted)
        }),
        _ if before == now => None,
        _ => Some((key.to_owned(), before.to_string(), now.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            model: "abc".into(),
            diffusion: DiffusionConfig::default(),
            data: "shapes".into(),
            data_images: 5,
            image: [2, 2, 1],
            decoder_cdf: NormalCdf::Tanh,
            terms: 3,
            seed: 1,
            convolutions: "fast".into(),
        }
    }

    fn terms(range: std::ops::Range<u32>) -> Vec<BoundTerm> {
        range.map(|i| BoundTerm { bits_per_dim: f64::from(i) / 8.0, xstart_mse: f64::from(i) }).collect()
    }

    fn all(file: &TermFile, size: usize) -> Vec<BoundTerm> {
        let mut found = Vec::new();
        file.visit_groups(size, file.entries() / size as u64, |group| {
            assert_eq!(group.len(), size);
            found.extend_from_slice(group);
        })
        .unwrap();
        found
    }

    #[test]
    fn what_is_appended_is_read_in_groups_and_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("terms");
        let mut file = TermFile::open(&path, &identity()).unwrap();
        assert_eq!(file.entries(), 0);
        file.append(&terms(0..5)).unwrap();
        assert_eq!(all(&file, 2), terms(0..4));
        file.append(&terms(5..12)).unwrap();
        assert_eq!(all(&file, 4), terms(0..12));
        drop(file);
        let mut file = TermFile::open(&path, &identity()).unwrap();
        file.append(&terms(12..13)).unwrap();
        assert_eq!((file.entries(), all(&file, 1)), (13, terms(0..13)));
        assert!(matches!(file.visit_groups(2, 7, |_| ()), Err(TermFileError::Damaged { .. })));
    }

    #[test]
    fn a_block_cut_short_is_dropped_wherever_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("terms");
        let mut file = TermFile::open(&path, &identity()).unwrap();
        file.append(&terms(0..3)).unwrap();
        let kept = std::fs::metadata(&path).unwrap().len();
        file.append(&terms(3..6)).unwrap();
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        for cut in kept..whole.len() as u64 {
            std::fs::write(&path, &whole[..cut as usize]).unwrap();
            let mut file = TermFile::open(&path, &identity()).unwrap();
            assert_eq!(file.entries(), 3, "cut at {cut}");
            file.append(&terms(3..6)).unwrap();
            drop(file);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {cut}");
        }
        // Content lost in a crash: the length is right, the bytes are zeros.
        let mut zeros = whole.clone();
        zeros[kept as usize + BLOCK_HEADER..].fill(0);
        std::fs::write(&path, &zeros).unwrap();
        assert_eq!(TermFile::open(&path, &identity()).unwrap().entries(), 3);
    }

    #[test]
    fn damage_inside_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("terms");
        let mut file = TermFile::open(&path, &identity()).unwrap();
        let header = std::fs::metadata(&path).unwrap().len() as usize;
        file.append(&terms(0..3)).unwrap();
        file.append(&terms(3..6)).unwrap();
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        for (at, word) in [(header + 12, "checksum"), (header + 2, "entries"), (0, "not a file of terms")] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let error = TermFile::open(&path, &identity()).unwrap_err();
            assert!(error.is_input() && error.to_string().contains(word), "{at}: {error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        std::fs::write(&path, "").unwrap();
        assert!(matches!(TermFile::open(&path, &identity()), Err(TermFileError::Damaged { .. })));
    }

    #[test]
    fn terms_of_something_else_are_not_mixed_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("terms");
        assert!(TermFile::is_of(&path, &identity()).unwrap(), "what is not there can be anybody's");
        drop(TermFile::open(&path, &identity()).unwrap());
        assert!(TermFile::is_of(&path, &identity()).unwrap());
        let mut other = identity();
        other.diffusion.timesteps = 500;
        let error = TermFile::open(&path, &other).unwrap_err().to_string();
        assert!(error.contains("diffusion.timesteps = 1000, now it is 500"), "{error}");
        for change in [
            (|i| i.seed = 2) as fn(&mut Identity),
            |i| i.model = "abd".into(),
            |i| i.data = "digits".into(),
            |i| i.terms = 4,
            |i| i.decoder_cdf = NormalCdf::Erf,
        ] {
            let mut other = identity();
            change(&mut other);
            assert!(matches!(TermFile::open(&path, &other), Err(TermFileError::Changed { .. })));
            assert!(!TermFile::is_of(&path, &other).unwrap());
        }
    }

    #[test]
    fn one_writer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("terms");
        let _first = TermFile::open(&path, &identity()).unwrap();
        assert!(matches!(TermFile::open(&path, &identity()), Err(TermFileError::Locked { .. })));
    }
}
