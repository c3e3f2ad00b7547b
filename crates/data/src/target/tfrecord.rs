//! StyleGAN-style TFRecords: `shape` [channels, height, width] and `data`, raw bytes channel by channel, and `label`
//! where there are classes.

use super::{Item, Writer};
use crate::example::{Feature, encode_example};
use crate::positioned::PositionedFile;
use crate::tfrecord::whole_records;
use crate::{DataError, ImageSource};
use engine::ImageShape;
use protobuf::push_record;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

struct Records {
    path: PathBuf,
    out: BufWriter<File>,
    written: u64,
}

pub(super) fn open(path: &Path, _: u64, _: ImageShape) -> Result<Box<dyn Writer + Send + Sync>, DataError> {
    let failed = |e| DataError::io(path, "written", e);
    let file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
    // A record cut short by the end of an earlier conversion is written again.
    let (written, end) = whole_records(&PositionedFile::open(path)?)?;
    file.set_len(end).map_err(failed)?;
    Ok(Box::new(Records { path: path.into(), out: BufWriter::new(file), written }))
}

impl Writer for Records {
    fn written(&self) -> u64 {
        self.written
    }

    fn encode(&self, item: &Item<'_>) -> Result<Vec<u8>, DataError> {
        let ImageShape { height, width, channels } = item.shape;
        let planes: Vec<u8> = (0..channels)
            .flat_map(|channel| item.pixels.iter().skip(channel).step_by(channels).copied())
            .collect();
        let shape = Feature::Integers([channels, height, width].map(|len| len as i64).into());
        let mut features = vec![("shape", shape), ("data", Feature::Bytes(vec![&planes]))];
        if let Some(label) = item.label {
            features.push(("label", Feature::Integers(vec![label.into()])));
        }
        let mut record = Vec::new();
        push_record(&mut record, &encode_example(&features));
        Ok(record)
    }

    fn push(&mut self, _: &Item<'_>, record: Vec<u8>) -> Result<(), DataError> {
        self.out.write_all(&record).map_err(|e| DataError::io(&self.path, "written", e))?;
        self.written += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DataError> {
        self.out.flush().map_err(|e| DataError::io(&self.path, "written", e))
    }

    fn finish(mut self: Box<Self>, _: &dyn ImageSource) -> Result<(), DataError> {
        self.flush()?;
        self.out.get_ref().sync_all().map_err(|e| DataError::io(&self.path, "written", e))
    }
}
