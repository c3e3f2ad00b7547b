//! Features on disk: appended as they are computed, so that a long run that was stopped goes on where it was, and kept under
//! a key of everything they depend on, so that they are computed once.
//!
//! A file is a header (`ddpm features 1`, the dimensions, the key) and records: first image, images, rows, checksum, then the
//! rows as little-endian `f32`. A record that a killed process left half-written is cut off.

use crate::moments::FeatureMoments;
use crate::{MeasureError, ResizeMode, Statistics};
use std::fs::{self, File, TryLockError};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

const MAGIC: &[u8; 16] = b"ddpm features 1\n";
const HEADER_BYTES: u64 = 16 + 8 + 16;
const RECORD_BYTES: usize = 32;

/// The key of a store: all that features depend on. `content` is what [`ImageSet::content_key`](crate::image_set::ImageSet::content_key)
/// says of the images, `convolutions` how they are computed.
pub fn features_key(
    inception_sha256: &str,
    dims: usize,
    resize: ResizeMode,
    convolutions: &str,
    content: &str,
) -> String {
    format!("inception {inception_sha256} {dims} {resize} {convolutions} {content}")
}

/// A file of features, one row an image.
#[derive(Debug)]
pub struct FeatureStore {
    path: PathBuf,
    file: File,
    dims: usize,
    records: Vec<Record>,
    /// The file goes when the store does.
    _temporary: Option<tempfile::TempDir>,
}

/// Rows that were appended together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    images: u64,
    rows: u64,
    checksum: u64,
    /// Where the rows begin.
    start: u64,
}

impl FeatureStore {
    /// Opens the store of `key` in `folder`, or begins one; the folder is made.
    ///
    /// # Errors
    /// If the file system refuses, or another process is filling the same store.
    pub fn open(folder: &Path, key: &str, dims: usize) -> Result<Self, MeasureError> {
        fs::create_dir_all(folder).map_err(MeasureError::io(folder, "written"))?;
        let name = format!("{:032x}.features", xxh3_128(key.as_bytes()));
        Self::open_file(folder.join(name), key, dims, None)
    }

    /// A store that nothing remains of.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn temporary(dims: usize) -> Result<Self, MeasureError> {
        let folder = std::env::temp_dir();
        let folder = tempfile::tempdir().map_err(MeasureError::io(&folder, "written"))?;
        Self::open_file(folder.path().join("features"), "", dims, Some(folder))
    }

    fn open_file(
        path: PathBuf,
        key: &str,
        dims: usize,
        temporary: Option<tempfile::TempDir>,
    ) -> Result<Self, MeasureError> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(MeasureError::io(&path, "written"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MeasureError::Busy { path }),
            Err(TryLockError::Error(error)) => return Err(MeasureError::io(&path, "written")(error)),
        }
        let mut store = Self { path, file, dims, records: Vec::new(), _temporary: temporary };
        store.recover(key)?;
        Ok(store)
    }

    /// Reads the records that are whole and cuts off the rest; a file that is none of ours begins anew.
    fn recover(&mut self, key: &str) -> Result<(), MeasureError> {
        let mut header = MAGIC.to_vec();
        header.extend((self.dims as u64).to_le_bytes());
        header.extend(xxh3_128(key.as_bytes()).to_le_bytes());
        let (records, end) = {
            let read = MeasureError::io(&self.path, "read");
            scan(&self.file, &header, self.dims).map_err(read)?
        };
        self.records = records;
        let write = |error| MeasureError::io(&self.path, "written")(error);
        let end = match end {
            0 => {
                self.file.set_len(0).map_err(write)?;
                self.file.rewind().map_err(write)?;
                self.file.write_all(&header).map_err(write)?;
                HEADER_BYTES
            }
            end => end,
        };
        self.file.set_len(end).map_err(write)?;
        self.file.seek(SeekFrom::Start(end)).map_err(write)?;
        Ok(())
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Features in a row.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Images that are done, whether they gave a row or could not be read.
    pub fn images(&self) -> u64 {
        self.records.iter().map(|record| record.images).sum()
    }

    /// Rows: images that could be read.
    pub fn rows(&self) -> u64 {
        self.records.iter().map(|record| record.rows).sum()
    }

    /// Mean and covariance of the rows of the first `images` images, in f64, without holding them all; `what` says what they are.
    ///
    /// # Errors
    /// [`MeasureError::TooFew`] of fewer than two rows; or if the file cannot be read.
    ///
    /// # Panics
    /// As [`Self::for_each_rows`].
    pub fn statistics(&self, images: u64, what: &str) -> Result<Statistics, MeasureError> {
        let mut moments = FeatureMoments::new(self.dims);
        self.for_each_rows(images, |rows| moments.add(rows))?;
        let rows = moments.count();
        let too_few = || MeasureError::TooFew { what: what.to_owned(), images: rows, needed: 2 };
        let (mu, sigma) = moments.finish().ok_or_else(too_few)?;
        Ok(Statistics { mu, sigma, about: None })
    }

    /// Appends the rows of the next `images` images, at most as many.
    ///
    /// # Errors
    /// If the file cannot be written.
    ///
    /// # Panics
    /// If `rows` is not a whole number of rows, at most `images`.
    pub fn append(&mut self, images: u64, rows: &[f32]) -> Result<(), MeasureError> {
        let count = (rows.len() / self.dims) as u64;
        assert!(rows.len().is_multiple_of(self.dims) && count <= images);
        let payload: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        let checksum = xxh3_64(&payload);
        let mut bytes = Vec::with_capacity(RECORD_BYTES + payload.len());
        for number in [self.images(), images, count, checksum] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(payload);
        let write = |error| MeasureError::io(&self.path, "written")(error);
        let start = self.file.stream_position().map_err(write)?;
        self.file.write_all(&bytes).map_err(write)?;
        self.records.push(Record { images, rows: count, checksum, start: start + RECORD_BYTES as u64 });
        Ok(())
    }

    /// Calls `visit` with the rows of the first `images` images, in order, some at a time.
    ///
    /// # Errors
    /// If the file cannot be read.
    ///
    /// # Panics
    /// If there are not as many images, or the last of them lies amid some of which not all could be read.
    pub fn for_each_rows(&self, images: u64, mut visit: impl FnMut(&[f32])) -> Result<(), MeasureError> {
        assert!(images <= self.images());
        let read = |error| MeasureError::io(&self.path, "read")(error);
        let mut file = BufReader::with_capacity(1 << 20, File::open(&self.path).map_err(read)?);
        let mut left = images;
        for record in self.records.iter() {
            if left == 0 {
                break;
            }
            file.seek(SeekFrom::Start(record.start)).map_err(read)?;
            let mut bytes = vec![0; record.rows as usize * self.dims * 4];
            file.read_exact(&mut bytes).map_err(read)?;
            if xxh3_64(&bytes) != record.checksum {
                let changed = std::io::Error::other("it was changed while it was in use; run again");
                return Err(MeasureError::io(&self.path, "read")(changed));
            }
            let mut rows: Vec<f32> =
                bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
            if left < record.images {
                assert_eq!(record.rows, record.images);
                rows.truncate(left as usize * self.dims);
            }
            left = left.saturating_sub(record.images);
            visit(&rows);
        }
        Ok(())
    }

    /// All rows of the first `images` images, `[rows, dims]`. Takes `4 · dims` bytes an image.
    ///
    /// # Errors
    /// If the file cannot be read.
    ///
    /// # Panics
    /// As [`Self::for_each_rows`].
    pub fn read_rows(&self, images: u64) -> Result<Vec<f32>, MeasureError> {
        let mut all = Vec::new();
        self.for_each_rows(images, |rows| all.extend_from_slice(rows))?;
        Ok(all)
    }
}

/// The whole records of a file with this header, and where they end; 0 if the header is another.
fn scan(file: &File, header: &[u8], dims: usize) -> std::io::Result<(Vec<Record>, u64)> {
    let len = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    reader.rewind()?;
    let mut start = vec![0; header.len()];
    if len < HEADER_BYTES {
        return Ok((Vec::new(), 0));
    }
    reader.read_exact(&mut start)?;
    if start != header {
        return Ok((Vec::new(), 0));
    }
    let (mut records, mut at, mut images) = (Vec::new(), HEADER_BYTES, 0);
    while len - at >= RECORD_BYTES as u64 {
        let mut numbers = [0; RECORD_BYTES];
        reader.read_exact(&mut numbers)?;
        let number = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&numbers[8 * index..][..8]);
            u64::from_le_bytes(word)
        };
        let (first, count, rows, checksum) = (number(0), number(1), number(2), number(3));
        let bytes =
            rows.checked_mul(4 * dims as u64).filter(|&bytes| bytes <= len - at - RECORD_BYTES as u64);
        let (Some(bytes), true) = (bytes, first == images && rows <= count) else { break };
        let mut payload = vec![0; bytes as usize];
        reader.read_exact(&mut payload)?;
        if xxh3_64(&payload) != checksum {
            break;
        }
        records.push(Record { images: count, rows, checksum, start: at + RECORD_BYTES as u64 });
        at += RECORD_BYTES as u64 + bytes;
        images += count;
    }
    Ok((records, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(first: usize, count: usize) -> Vec<f32> {
        (first * 3..(first + count) * 3).map(|i| i as f32).collect()
    }

    #[test]
    fn a_store_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FeatureStore::open(dir.path(), "key", 3).unwrap();
        store.append(4, &rows(0, 4)).unwrap();
        // Of three images one could not be read.
        store.append(3, &rows(4, 2)).unwrap();
        assert!(matches!(FeatureStore::open(dir.path(), "key", 3), Err(MeasureError::Busy { .. })));
        let path = store.path().to_owned();
        drop(store);
        let mut store = FeatureStore::open(dir.path(), "key", 3).unwrap();
        assert_eq!((store.images(), store.rows()), (7, 6));
        store.append(1, &rows(6, 1)).unwrap();
        assert_eq!(store.read_rows(8).unwrap(), rows(0, 7));
        assert_eq!(store.read_rows(3).unwrap(), rows(0, 3));
        drop(store);
        // Killed while the last record was being written; or its bytes were changed.
        let whole = fs::read(&path).unwrap();
        for cut in [1, 11, 20] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut store = FeatureStore::open(dir.path(), "key", 3).unwrap();
            assert_eq!((store.images(), store.rows()), (7, 6));
            store.append(1, &rows(6, 1)).unwrap();
            drop(store);
            assert!(fs::read(&path).unwrap() == whole);
        }
        let mut changed = whole.clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        fs::write(&path, &changed).unwrap();
        assert_eq!(FeatureStore::open(dir.path(), "key", 3).unwrap().images(), 7);
    }

    #[test]
    fn what_is_of_another_key_or_size_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FeatureStore::open(dir.path(), "key", 3).unwrap();
        store.append(4, &rows(0, 4)).unwrap();
        let path = store.path().to_owned();
        drop(store);
        assert_eq!(FeatureStore::open(dir.path(), "other", 3).unwrap().images(), 0);
        assert_eq!(FeatureStore::open(dir.path(), "key", 3).unwrap().images(), 4);
        assert_eq!(FeatureStore::open(dir.path(), "key", 2).unwrap().images(), 0);
        fs::write(&path, b"something else").unwrap();
        assert_eq!(FeatureStore::open(dir.path(), "key", 3).unwrap().images(), 0);
    }

    #[test]
    fn nothing_remains_of_a_temporary_one() {
        let mut store = FeatureStore::temporary(3).unwrap();
        store.append(2, &rows(0, 2)).unwrap();
        assert_eq!(store.read_rows(2).unwrap(), rows(0, 2));
        let path = store.path().to_owned();
        assert!(path.exists());
        drop(store);
        assert!(!path.exists());
    }
}
