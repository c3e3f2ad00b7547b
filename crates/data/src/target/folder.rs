//! A folder of PNG files `00000000.png`, …, and `dataset.json` with the classes, where there are any: what StyleGAN's
//! tools take, too.

use super::{Item, Writer, png};
use crate::{DataError, ImageSource, whole_files};
use engine::ImageShape;
use serde_json::json;
use std::path::{Path, PathBuf};

struct Folder {
    path: PathBuf,
    written: u64,
    /// Files that are still to be written: together they come to the disk in a fraction of the time.
    pending: Vec<(PathBuf, Vec<u8>)>,
}

pub(super) fn open(path: &Path, len: u64, _: ImageShape) -> Result<Box<dyn Writer + Send + Sync>, DataError> {
    std::fs::create_dir_all(path).map_err(|e| DataError::io(path, "made", e))?;
    let written = (0..len).find(|&index| !path.join(name(index)).exists()).unwrap_or(len);
    Ok(Box::new(Folder { path: path.into(), written, pending: Vec::new() }))
}

fn name(index: u64) -> String {
    format!("{index:08}.png")
}

impl Writer for Folder {
    fn written(&self) -> u64 {
        self.written
    }

    fn encode(&self, item: &Item<'_>) -> Result<Vec<u8>, DataError> {
        png(item)
    }

    fn push(&mut self, item: &Item<'_>, encoded: Vec<u8>) -> Result<(), DataError> {
        self.pending.push((self.path.join(name(item.index)), encoded));
        self.written += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DataError> {
        whole_files::write_all(&std::mem::take(&mut self.pending))
    }

    fn finish(mut self: Box<Self>, source: &dyn ImageSource) -> Result<(), DataError> {
        self.flush()?;
        let labels = (0..self.written).map(|index| Some(json!([name(index), source.label(index)?])));
        match labels.collect::<Option<Vec<_>>>() {
            None => Ok(()),
            Some(labels) => whole_files::write(
                &self.path.join("dataset.json"),
                json!({ "labels": labels }).to_string().as_bytes(),
            ),
        }
    }
}
