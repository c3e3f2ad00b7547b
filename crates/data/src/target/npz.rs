//! A NumPy archive: `arr_0` of shape [n, height, width, channels], 8 bits a channel, as openai's evaluator wants it.

use super::{Item, Writer};
use crate::{DataError, ImageSource};
use engine::ImageShape;
use numpy::{Element, Header};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

struct Archive {
    path: PathBuf,
    shape: ImageShape,
    out: BufWriter<File>,
    written: u64,
}

/// Where pixels lie until all are there.
pub(super) fn pixels_path(path: &Path) -> PathBuf {
    super::with_suffix(path, ".pixels")
}

pub(super) fn open(
    path: &Path,
    _: u64,
    shape: ImageShape,
) -> Result<Box<dyn Writer + Send + Sync>, DataError> {
    let pixels = pixels_path(path);
    let failed = |e| DataError::io(&pixels, "written", e);
    let file = OpenOptions::new().append(true).create(true).open(&pixels).map_err(failed)?;
    let written = file.metadata().map_err(failed)?.len() / shape.len() as u64;
    file.set_len(written * shape.len() as u64).map_err(failed)?;
    Ok(Box::new(Archive { path: path.into(), shape, out: BufWriter::new(file), written }))
}

impl Writer for Archive {
    fn written(&self) -> u64 {
        self.written
    }

    fn encode(&self, _: &Item<'_>) -> Result<Vec<u8>, DataError> {
        Ok(Vec::new())
    }

    fn push(&mut self, item: &Item<'_>, _: Vec<u8>) -> Result<(), DataError> {
        self.out.write_all(item.pixels).map_err(|e| DataError::io(&self.path, "written", e))?;
        self.written += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DataError> {
        self.out.flush().map_err(|e| DataError::io(&self.path, "written", e))
    }

    fn finish(mut self: Box<Self>, source: &dyn ImageSource) -> Result<(), DataError> {
        self.flush()?;
        let pixels = pixels_path(&self.path);
        let content = File::open(&pixels).map_err(|e| DataError::io(&pixels, "read", e))?;
        let labels: Option<Vec<u32>> = (0..self.written).map(|index| source.label(index)).collect();
        write_npz(&self.path, BufReader::new(content), self.written, self.shape, labels.as_deref())?;
        std::fs::remove_file(&pixels).map_err(|e| DataError::io(&pixels, "removed", e))
    }
}

/// Writes `count` images of `shape` from `pixels` as `arr_0`, and classes as `labels`.
///
/// # Errors
/// [`DataError::Io`] if `pixels` cannot be read or `path` not be written; what is at `path` is then not whole.
pub fn write_npz(
    path: &Path,
    pixels: impl Read,
    count: u64,
    shape: ImageShape,
    labels: Option<&[u32]>,
) -> Result<(), DataError> {
    let written = || -> zip::result::ZipResult<()> {
        // No compression: then images can be read one by one. NumPy takes entries of more than 4 GiB.
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        let mut archive = ZipWriter::new(BufWriter::with_capacity(1 << 20, File::create(path)?));
        let ImageShape { height, width, channels } = shape;
        archive.start_file("arr_0.npy", options)?;
        archive.write_all(&Header::encode(Element::U8, &[count as usize, height, width, channels]))?;
        let expected = count * shape.len() as u64;
        if std::io::copy(&mut pixels.take(expected), &mut archive)? != expected {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        if let Some(labels) = labels {
            archive.start_file("labels.npy", options)?;
            archive.write_all(&Header::encode(Element::I64 { big_endian: false }, &[labels.len()]))?;
            for &label in labels {
                archive.write_all(&i64::from(label).to_le_bytes())?;
            }
        }
        archive.finish()?.into_inner().map_err(std::io::Error::from)?.sync_all()?;
        Ok(())
    };
    written().map_err(|error| match error {
        zip::result::ZipError::Io(error) => DataError::io(path, "written", error),
        other => DataError::io(path, "written", std::io::Error::other(other)),
    })
}
