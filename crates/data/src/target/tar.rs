//! Tar shards as WebDataset has them: `shard-000000.tar`, … with `00000000.png` and, where there are classes,
//! `00000000.cls`.

use super::{Item, Writer, png};
use crate::{DataError, ImageSource};
use ::tar::{Builder, Header};
use engine::ImageShape;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Images in a shard.
const SHARD: u64 = 4096;

struct Shards {
    folder: PathBuf,
    len: u64,
    written: u64,
    /// The shard in the making, which has its name once it is whole.
    current: Option<Builder<BufWriter<File>>>,
}

pub(super) fn open(path: &Path, len: u64, _: ImageShape) -> Result<Box<dyn Writer + Send + Sync>, DataError> {
    std::fs::create_dir_all(path).map_err(|e| DataError::io(path, "made", e))?;
    let shards = len.div_ceil(SHARD);
    let whole = (0..shards).find(|&shard| !path.join(name(shard)).exists()).unwrap_or(shards);
    let written = (whole * SHARD).min(len);
    Ok(Box::new(Shards { folder: path.into(), len, written, current: None }))
}

fn name(shard: u64) -> String {
    format!("shard-{shard:06}.tar")
}

impl Shards {
    fn partial(&self) -> PathBuf {
        self.folder.join("partial")
    }
}

impl Writer for Shards {
    fn written(&self) -> u64 {
        self.written
    }

    fn encode(&self, item: &Item<'_>) -> Result<Vec<u8>, DataError> {
        png(item)
    }

    fn push(&mut self, item: &Item<'_>, encoded: Vec<u8>) -> Result<(), DataError> {
        let partial = self.partial();
        let failed = |e| DataError::io(&partial, "written", e);
        let mut tar = match self.current.take() {
            Some(tar) => tar,
            None => Builder::new(BufWriter::new(File::create(&partial).map_err(failed)?)),
        };
        let mut append = |extension: &str, content: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("{:08}.{extension}", item.index), content).map_err(failed)
        };
        append("png", &encoded)?;
        if let Some(label) = item.label {
            append("cls", label.to_string().as_bytes())?;
        }
        self.written += 1;
        if !self.written.is_multiple_of(SHARD) && self.written < self.len {
            self.current = Some(tar);
            return Ok(());
        }
        let file = tar.into_inner().and_then(|out| out.into_inner().map_err(Into::into)).map_err(failed)?;
        // A shard with its name is taken for whole.
        file.sync_all().map_err(failed)?;
        let shard = (self.written - 1) / SHARD;
        std::fs::rename(&partial, self.folder.join(name(shard))).map_err(failed)
    }

    fn flush(&mut self) -> Result<(), DataError> {
        Ok(())
    }

    fn finish(self: Box<Self>, _: &dyn ImageSource) -> Result<(), DataError> {
        Ok(())
    }
}
