//! Features on disk: appended as they are computed, so that a long run that was stopped goes on where it was,
//! and kept under a key of everything they depend on, so that they are computed once.
//!
//! A file is a header (`ddpm features 2`, the dimensions, the key) and records: first image, images, rows,
//! checksum, then the rows as little-endian `f32`. The checksum is of the numbers before it and of the rows.
//! A record that a killed process left half-written is cut off, and so is what follows a damaged one. In
//! files of version 1 the checksum said nothing of the numbers: they begin anew, so that their features are
//! computed once more.

use crate::moments::FeatureMoments;
use crate::{MeasureError, ResizeMode, Statistics};
use std::fs::{self, File, TryLockError};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

const MAGIC: &[u8; 16] = b"ddpm features 2\n";
const EARLIER_MAGIC: &[u8; 16] = b"ddpm features 1\n";
const HEADER_BYTES: u64 = 16 + 8 + 16;
const RECORD_BYTES: usize = 32;

/// The key of a store: all that features depend on. `content` is what
/// [`ImageSet::content_key`](crate::image_set::ImageSet::content_key) says of the images, `convolutions` how
/// they are computed.
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
    replaces_earlier: bool,
    /// The file goes when the store does.
    _temporary: Option<tempfile::TempDir>,
}

/// Rows that were appended together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    /// Images of the records before.
    first: u64,
    images: u64,
    rows: u64,
    checksum: u64,
    /// Where the rows begin.
    start: u64,
}

/// The checksum of a record's numbers and of its rows' bytes.
fn checksum(first: u64, images: u64, rows: u64, payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    for number in [first, images, rows] {
        hash.update(&number.to_le_bytes());
    }
    hash.update(payload);
    hash.digest()
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
        let (records, replaces_earlier) = (Vec::new(), false);
        let mut store = Self { path, file, dims, records, replaces_earlier, _temporary: temporary };
        store.recover(key)?;
        Ok(store)
    }

    /// Reads the records that are whole and cuts off the rest; a file that is none of ours begins anew.
    fn recover(&mut self, key: &str) -> Result<(), MeasureError> {
        let mut header = MAGIC.to_vec();
        header.extend((self.dims as u64).to_le_bytes());
        header.extend(xxh3_128(key.as_bytes()).to_le_bytes());
        let found = {
            let read = MeasureError::io(&self.path, "read");
            scan(&self.file, &header, self.dims).map_err(read)?
        };
        let Scanned { records, end, is_earlier } = found;
        self.records = records;
        self.replaces_earlier = is_earlier;
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

    /// Whether the file was one of an earlier version, whose features are to be computed once more.
    pub fn replaces_earlier(&self) -> bool {
        self.replaces_earlier
    }

    /// Images that are done, whether they gave a row or could not be read.
    pub fn images(&self) -> u64 {
        // No overflow: neither a file nor `append` adds a record beyond 2^64 images.
        self.records.last().map_or(0, |record| record.first + record.images)
    }

    /// Rows: images that could be read.
    pub fn rows(&self) -> u64 {
        self.records.iter().map(|record| record.rows).sum()
    }

    /// Mean and covariance of the rows of the first `images` images, in f64, without holding them all; `what`
    /// says what they are.
    ///
    /// # Errors
    /// [`MeasureError::TooFew`] of fewer than two rows; and as [`Self::for_each_rows`].
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

    /// Appends the rows of the next `images` images, at most as many. Not after [`Self::release`].
    ///
    /// # Errors
    /// If the file cannot be written; [`MeasureError::Features`] if there would be 2^64 images or more.
    ///
    /// # Panics
    /// If `rows` is not a whole number of rows, at most `images`.
    pub fn append(&mut self, images: u64, rows: &[f32]) -> Result<(), MeasureError> {
        let count = (rows.len() / self.dims) as u64;
        assert!(rows.len().is_multiple_of(self.dims) && count <= images);
        let payload: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
        let first = self.images();
        if first.checked_add(images).is_none() {
            let problem = format!("{images} images after {first} are more than can be counted");
            return Err(self.unusable(problem));
        }
        let checksum = checksum(first, images, count, &payload);
        let mut bytes = Vec::with_capacity(RECORD_BYTES + payload.len());
        for number in [first, images, count, checksum] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(payload);
        let write = |error| MeasureError::io(&self.path, "written")(error);
        let start = self.file.stream_position().map_err(write)?;
        self.file.write_all(&bytes).map_err(write)?;
        let start = start + RECORD_BYTES as u64;
        self.records.push(Record { first, images, rows: count, checksum, start });
        Ok(())
    }

    /// Calls `visit` with the rows of the first `images` images, in order, some at a time.
    ///
    /// # Errors
    /// If the file cannot be read; [`MeasureError::Features`] if the last of the images lies amid some that
    /// were appended together and not all of which could be read: which rows are whose is then not known.
    ///
    /// # Panics
    /// If there are not as many images.
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
            if checksum(record.first, record.images, record.rows, &bytes) != record.checksum {
                let changed = std::io::Error::other("it was changed while it was in use; run again");
                return Err(MeasureError::io(&self.path, "read")(changed));
            }
            let mut rows: Vec<f32> =
                bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
            if left < record.images {
                if record.rows != record.images {
                    let (first, last) = (record.first, record.first + record.images - 1);
                    let problem =
                        format!("of the first {images} images the last is one of {first} to {last}, ");
                    let problem = problem + "not all of which could be read, so that its row is not known";
                    return Err(self.unusable(problem));
                }
                rows.truncate(left as usize * self.dims);
            }
            left = left.saturating_sub(record.images);
            visit(&rows);
        }
        Ok(())
    }

    /// Lets others fill the store on, this process too: from here on it is only read.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn release(&self) -> Result<(), MeasureError> {
        self.file.unlock().map_err(MeasureError::io(&self.path, "written"))
    }

    fn unusable(&self, problem: String) -> MeasureError {
        MeasureError::Features { path: self.path.clone(), problem }
    }

    /// All rows of the first `images` images, `[rows, dims]`. Takes `4 · dims` bytes an image.
    ///
    /// # Errors
    /// As [`Self::for_each_rows`].
    ///
    /// # Panics
    /// As [`Self::for_each_rows`].
    pub fn read_rows(&self, images: u64) -> Result<Vec<f32>, MeasureError> {
        let mut all = Vec::new();
        self.for_each_rows(images, |rows| all.extend_from_slice(rows))?;
        Ok(all)
    }
}

/// What a file holds.
struct Scanned {
    /// The whole records from its beginning on.
    records: Vec<Record>,
    /// Where they end; 0 if the header is another.
    end: u64,
    /// Whether the header is that of an earlier version.
    is_earlier: bool,
}

/// Reads a file that should have this header.
fn scan(file: &File, header: &[u8], dims: usize) -> std::io::Result<Scanned> {
    let foreign = |is_earlier| Ok(Scanned { records: Vec::new(), end: 0, is_earlier });
    let len = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    reader.rewind()?;
    let mut start = vec![0; header.len()];
    if len < HEADER_BYTES {
        return foreign(false);
    }
    reader.read_exact(&mut start)?;
    if start != header {
        return foreign(start.starts_with(EARLIER_MAGIC));
    }
    let (mut records, mut at, mut images) = (Vec::new(), HEADER_BYTES, 0u64);
    while len - at >= RECORD_BYTES as u64 {
        let mut numbers = [0; RECORD_BYTES];
        reader.read_exact(&mut numbers)?;
        let number = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&numbers[8 * index..][..8]);
            u64::from_le_bytes(word)
        };
        let (first, count, rows, expected) = (number(0), number(1), number(2), number(3));
        let bytes =
            rows.checked_mul(4 * dims as u64).filter(|&bytes| bytes <= len - at - RECORD_BYTES as u64);
        let (Some(bytes), Some(after), true) =
            (bytes, images.checked_add(count), first == images && rows <= count)
        else {
            break;
        };
        let mut payload = vec![0; bytes as usize];
        reader.read_exact(&mut payload)?;
        if checksum(first, count, rows, &payload) != expected {
            break;
        }
        let start = at + RECORD_BYTES as u64;
        records.push(Record { first, images: count, rows, checksum: expected, start });
        at = start + bytes;
        images = after;
    }
    Ok(Scanned { records, end: at, is_earlier: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(first: usize, count: usize) -> Vec<f32> {
        (first * 3..(first + count) * 3).map(|i| i as f32).collect()
    }

    #[test]
    fn a_released_store_is_read_while_another_set_of_the_same_images_fills_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FeatureStore::open(dir.path(), "key", 3).unwrap();
        store.append(4, &rows(0, 4)).unwrap();
        store.release().unwrap();
        let mut other = FeatureStore::open(dir.path(), "key", 3).unwrap();
        other.append(2, &rows(4, 2)).unwrap();
        assert_eq!((store.images(), other.images()), (4, 6));
        assert_eq!(store.read_rows(4).unwrap(), rows(0, 4));
        assert_eq!(other.read_rows(6).unwrap(), rows(0, 6));
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
    fn no_byte_can_change_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FeatureStore::open(dir.path(), "key", 3).unwrap();
        store.append(2, &rows(0, 2)).unwrap();
        // One of the images could not be read.
        store.append(3, &rows(2, 2)).unwrap();
        store.append(1, &rows(4, 1)).unwrap();
        let path = store.path().to_owned();
        drop(store);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= change;
                fs::write(&path, &damaged).unwrap();
                let store = FeatureStore::open(dir.path(), "key", 3).unwrap();
                // What is before the damaged record is there; the rest is as if it had not been computed.
                let (images, kept) = match at {
                    0..96 => (0, 0),
                    96..152 => (2, 2),
                    _ => (5, 4),
                };
                assert_eq!((store.images(), store.rows()), (images, kept), "byte {at}");
                assert_eq!(store.read_rows(images).unwrap(), rows(0, kept as usize));
            }
        }
    }

    /// A file whose checksums hold, with records of so many images and rows.
    fn forged(records: &[(u64, u64)]) -> (tempfile::TempDir, FeatureStore) {
        let dir = tempfile::tempdir().unwrap();
        let path = FeatureStore::open(dir.path(), "key", 3).unwrap().path().to_owned();
        let mut bytes = fs::read(&path).unwrap();
        let mut first = 0u64;
        for &(images, count) in records {
            let payload: Vec<u8> = rows(0, count as usize).iter().flat_map(|x| x.to_le_bytes()).collect();
            let checksum = checksum(first, images, count, &payload);
            [first, images, count, checksum].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            bytes.extend(payload);
            first = first.wrapping_add(images);
        }
        fs::write(&path, bytes).unwrap();
        let store = FeatureStore::open(dir.path(), "key", 3).unwrap();
        (dir, store)
    }

    #[test]
    fn more_images_than_can_be_counted_are_refused() {
        let (_dir, mut store) = forged(&[(u64::MAX, 1), (u64::MAX, 1)]);
        assert_eq!((store.images(), store.rows()), (u64::MAX, 1));
        let error = store.append(1, &rows(1, 1)).unwrap_err();
        assert!(matches!(error, MeasureError::Features { .. }), "{error}");
    }

    #[test]
    fn images_amid_some_that_could_not_be_read_are_refused() {
        let (_dir, store) = forged(&[(2, 2), (1000, 3)]);
        assert_eq!(store.read_rows(2).unwrap(), rows(0, 2));
        let error = store.read_rows(7).unwrap_err();
        assert!(error.is_input() && error.to_string().contains("2 to 1001"), "{error}");
        assert!(matches!(store.statistics(7, "images"), Err(MeasureError::Features { .. })));
    }

    #[test]
    fn a_file_of_the_earlier_version_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FeatureStore::open(dir.path(), "key", 3).unwrap();
        store.append(2, &rows(0, 2)).unwrap();
        let path = store.path().to_owned();
        drop(store);
        let mut earlier = fs::read(&path).unwrap();
        earlier[..EARLIER_MAGIC.len()].copy_from_slice(EARLIER_MAGIC);
        fs::write(&path, earlier).unwrap();
        let store = FeatureStore::open(dir.path(), "key", 3).unwrap();
        assert!(store.replaces_earlier() && store.images() == 0);
        drop(store);
        assert!(!FeatureStore::open(dir.path(), "key", 3).unwrap().replaces_earlier());
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
