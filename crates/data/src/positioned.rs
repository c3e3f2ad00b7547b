//! Files read at any place by many threads at once.

use crate::DataError;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file without a position of its own: every read says where.
#[derive(Debug)]
pub(crate) struct PositionedFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl PositionedFile {
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|e| DataError::io(path, "opened", e))?;
        Self::new(file, path)
    }

    /// `path` is for messages.
    pub(crate) fn new(file: File, path: &Path) -> Result<Self, DataError> {
        let metadata = file.metadata().map_err(|e| DataError::io(path, "opened", e))?;
        if !metadata.is_file() {
            return Err(DataError::Missing {
                path: path.into(),
                what: "it is not a file".into(),
                remedy: "give the file itself".into(),
            });
        }
        Ok(Self { path: path.into(), file, len: metadata.len() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DataError> {
        let mut done = 0;
        while done < buffer.len() {
            match read_at(&self.file, offset.saturating_add(done as u64), &mut buffer[done..]) {
                Ok(0) => return Err(DataError::damaged(&self.path, self.len, "the file ends too early")),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DataError::io(&self.path, "read", error)),
            }
        }
        Ok(())
    }

    /// `N` bytes from `offset` on.
    pub(crate) fn array_at<const N: usize>(&self, offset: u64) -> Result<[u8; N], DataError> {
        let mut bytes = [0; N];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// `len` bytes from `offset` on. Takes no memory for what the file does not have.
    pub(crate) fn bytes_at(&self, offset: u64, len: u64) -> Result<Vec<u8>, DataError> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len);
        let (Some(_), Ok(len)) = (end, usize::try_from(len)) else {
            return Err(DataError::damaged(&self.path, self.len, "the file ends too early"));
        };
        let mut bytes = vec![0; len];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// A reader of such a file, with a position of its own.
#[derive(Clone, Debug)]
pub(crate) struct FileCursor {
    file: Arc<PositionedFile>,
    position: u64,
}

impl FileCursor {
    pub(crate) fn new(file: Arc<PositionedFile>, position: u64) -> Self {
        Self { file, position }
    }
}

impl Read for FileCursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = read_at(&self.file.file, self.position, buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for FileCursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.file.len.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn any_place_can_be_read_and_no_place_beyond_the_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let open = PositionedFile::open(file.path()).unwrap();
        assert_eq!(open.bytes_at(3, 4).unwrap(), b"3456");
        assert_eq!(open.array_at::<2>(8).unwrap(), *b"89");
        for (offset, len) in [(8, 3), (11, 0), (0, u64::MAX), (u64::MAX, 2)] {
            assert!(open.bytes_at(offset, len).unwrap_err().to_string().contains("byte 10"));
        }
        assert!(open.array_at::<3>(8).is_err());
        let mut cursor = FileCursor::new(Arc::new(open), 0);
        cursor.seek(SeekFrom::End(-3)).unwrap();
        let mut rest = String::new();
        cursor.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "789");
        assert!(cursor.seek(SeekFrom::Current(-11)).is_err());
    }
}
