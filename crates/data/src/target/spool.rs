//! Items of different lengths, appended to a file, their lengths to another: what formats that need all of
//! their content before the first byte are made from, and what survives a stop.

use crate::DataError;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

pub(super) struct Spool {
    path: PathBuf,
    content: BufWriter<File>,
    lengths: BufWriter<File>,
    len: u64,
}

impl Spool {
    /// Opens the spool at `path`, cut to the items that are whole.
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let failed = |e| DataError::io(path, "written", e);
        let open = |path: &Path| OpenOptions::new().read(true).append(true).create(true).open(path);
        let (content, lengths) = (open(path).map_err(failed)?, open(&lengths_path(path)).map_err(failed)?);
        let stored = content.metadata().map_err(failed)?.len();
        let (mut len, mut end) = (0, 0);
        let mut reader = BufReader::new(&lengths);
        while let Some(length) = next_length(&mut reader).map_err(failed)? {
            if end + length > stored {
                break;
            }
            (len, end) = (len + 1, end + length);
        }
        content.set_len(end).and_then(|()| lengths.set_len(len * 4)).map_err(failed)?;
        Ok(Self {
            path: path.into(),
            content: BufWriter::new(content),
            lengths: BufWriter::new(lengths),
            len,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn push(&mut self, item: &[u8]) -> Result<(), DataError> {
        let length = (item.len() as u32).to_le_bytes();
        let written = self.content.write_all(item).and_then(|()| self.lengths.write_all(&length));
        written.map_err(|e| DataError::io(&self.path, "written", e))?;
        self.len += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), DataError> {
        // Content first: a length without its content would be noticed, the other way round not.
        let flushed = self.content.flush().and_then(|()| self.lengths.flush());
        flushed.map_err(|e| DataError::io(&self.path, "written", e))
    }

    /// Calls `visit` with every item in turn.
    pub(super) fn for_each(
        mut self,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        self.flush()?;
        let failed = |e| DataError::io(&self.path, "read", e);
        let mut content = BufReader::with_capacity(1 << 20, File::open(&self.path).map_err(failed)?);
        let mut lengths = BufReader::new(File::open(lengths_path(&self.path)).map_err(failed)?);
        let mut item = Vec::new();
        for index in 0..self.len {
            let length = next_length(&mut lengths).map_err(failed)?.unwrap_or(0);
            item.resize(length as usize, 0);
            content.read_exact(&mut item).map_err(failed)?;
            visit(index, &item)?;
        }
        Ok(())
    }

    /// Removes the files of the spool at `path`.
    pub(super) fn remove(path: &Path) -> Result<(), DataError> {
        let removed = std::fs::remove_file(path).and_then(|()| std::fs::remove_file(lengths_path(path)));
        removed.map_err(|e| DataError::io(path, "removed", e))
    }
}

fn lengths_path(path: &Path) -> PathBuf {
    path.with_extension("lengths")
}

fn next_length(reader: &mut impl Read) -> std::io::Result<Option<u64>> {
    let mut bytes = [0; 4];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(u32::from_le_bytes(bytes).into())),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
