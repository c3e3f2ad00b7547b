//! TFRecord files of images: StyleGAN-style (`shape` and `data`, raw bytes channel by channel), which CelebA-HQ and
//! LSUN were prepared as, and TFDS-style (`image`, `image/encoded`: PNG or JPEG).
//!
//! A record is its length (8 bytes, little-endian), the length's CRC, the content, the content's CRC; CRCs are
//! CRC-32C, rotated and offset ("masked").

use crate::example::{Feature, parse_example};
use crate::fitted::{self, PictureSet, Place};
use crate::picture::{DECODING, MAX_FILE_BYTES, Picture};
use crate::positioned::PositionedFile;
use crate::{DataError, ImageOptions, ImageSource, SourceKind, SourceSpec, shards};
use protobuf::masked_crc;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) static KIND: SourceKind = SourceKind {
    name: "tfrecord",
    form: "tfrecord:FILE|DIR[:train|:test]",
    about: "TFRecords of images, StyleGAN-style (also a folder of -rNN files) or TFDS-style (also a folder of shards)",
    takes_path: true,
    takes_split: true,
    open,
};

fn open(spec: &SourceSpec, options: &ImageOptions) -> Result<Arc<dyn ImageSource>, DataError> {
    let is_shard = |name: &str| name.contains(".tfrecord");
    let mut files = shards::list(spec.required_path()?, spec.split(), is_shard, "*.tfrecord* file")?;
    if let Some(level) = level_of_detail(&files, options.size) {
        files = vec![level];
    }
    let set = TfRecords::open(&files)?;
    // Raw records say themselves how many channels they have; decoded files count as colour.
    let channels = if set.is_raw()? { None } else { Some(3) };
    fitted::open(set, options, channels)
}

const REMEDY: &str = "the file is damaged or not a TFRecord file: get it again";
const CRC_BYTES: u64 = 4;
const HEADER_BYTES: u64 = 8 + CRC_BYTES;
/// A record is an image and little more.
const MAX_RECORD_BYTES: u64 = MAX_FILE_BYTES + (1 << 16);
/// Where the image's file is looked for.
const ENCODED: [&str; 6] = ["image/encoded", "image", "image_raw", "img", "jpg", "png"];
const LABELS: [&str; 4] = ["label", "image/class/label", "image/label", "class"];

/// Of StyleGAN's files of one set at every resolution, `name-r02.tfrecords` (4×4) and on, the one for `size`, or the
/// largest. `None` if that is not what the files are.
fn level_of_detail(files: &[PathBuf], size: Option<usize>) -> Option<PathBuf> {
    let level = |path: &PathBuf| -> Option<u32> {
        path.file_stem()?.to_str()?.rsplit_once("-r")?.1.parse().ok().filter(|level| *level < 32)
    };
    let levels: Vec<(u32, &PathBuf)> =
        files.iter().map(|path| Some((level(path)?, path))).collect::<Option<_>>()?;
    let wanted = levels.iter().find(|(level, _)| size == Some(1 << level));
    wanted.or(levels.iter().max()).map(|(_, path)| (*path).clone())
}

/// The records of all shards. Their places take 12 bytes of memory each.
#[derive(Debug)]
struct TfRecords {
    shards: Vec<PositionedFile>,
    /// Where each shard's records end in `offsets`.
    ends: Vec<u64>,
    /// Where each record's content begins.
    offsets: Vec<u64>,
    lengths: Vec<u32>,
}

impl TfRecords {
    /// Reads the lengths of all records (and checks them), not the records.
    fn open(files: &[PathBuf]) -> Result<Self, DataError> {
        let mut records =
            Self { shards: Vec::new(), ends: Vec::new(), offsets: Vec::new(), lengths: Vec::new() };
        for path in files {
            let file = PositionedFile::open(path)?;
            let mut offset = 0;
            while offset < file.len() {
                let length = record_length(&file, offset)?;
                records.offsets.push(offset + HEADER_BYTES);
                records.lengths.push(length as u32);
                offset += HEADER_BYTES + length + CRC_BYTES;
            }
            records.ends.push(records.offsets.len() as u64);
            records.shards.push(file);
        }
        Ok(records)
    }

    fn is_raw(&self) -> Result<bool, DataError> {
        match self.offsets.is_empty() {
            true => Ok(false),
            false => self.with_features(0, |features| Ok(raw(features).is_some())),
        }
    }

    fn shard(&self, index: u64) -> &PositionedFile {
        &self.shards[shards::locate(&self.ends, index).0]
    }

    /// Reads record `index`, checks its CRC and takes it apart.
    fn with_features<T>(
        &self,
        index: u64,
        use_features: impl FnOnce(&[(&str, Feature<'_>)]) -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        let (shard, offset) = (self.shard(index), self.offsets[index as usize]);
        let content = record_content(shard, offset, self.lengths[index as usize].into())?;
        let features = parse_example(&content).map_err(|problem| {
            let what = format!("the record is not a tf.train.Example: {problem}");
            DataError::malformed(shard.path(), offset, what, REMEDY)
        })?;
        use_features(&features)
    }
}

/// The number of whole records at the beginning of a file, and where they end.
pub(crate) fn whole_records(file: &PositionedFile) -> Result<(u64, u64), DataError> {
    let (mut count, mut offset) = (0, 0);
    while offset < file.len() {
        match record_length(file, offset) {
            Ok(length) => offset += HEADER_BYTES + length + CRC_BYTES,
            Err(DataError::Malformed { .. }) => break,
            Err(error) => return Err(error),
        }
        count += 1;
    }
    Ok((count, offset))
}

/// The length of the record that begins at `offset`.
fn record_length(file: &PositionedFile, offset: u64) -> Result<u64, DataError> {
    let damaged = |what: String| DataError::malformed(file.path(), offset, what, REMEDY);
    if file.len() - offset < HEADER_BYTES {
        return Err(damaged("the file ends in the middle of a record's header".into()));
    }
    let header = file.array_at::<{ HEADER_BYTES as usize }>(offset)?;
    if offset == 0 && header.starts_with(&[0x1f, 0x8b]) {
        let remedy = "unpack it (gzip -d): records in a compressed file cannot be read one by one";
        return Err(DataError::malformed(file.path(), 0, "the file is compressed by gzip", remedy));
    }
    let (length, crc) = header.split_at(8);
    let le = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    if le(crc) != u64::from(masked_crc(&[length])) {
        return Err(damaged("the CRC of a record's length does not match".into()));
    }
    let length = le(length);
    if length > MAX_RECORD_BYTES {
        return Err(damaged(format!("a record of {length} bytes; at most {MAX_RECORD_BYTES} are read")));
    }
    if file.len() - offset - HEADER_BYTES < length + CRC_BYTES {
        return Err(damaged("the file ends in the middle of a record".into()));
    }
    Ok(length)
}

/// A record's content, checked against its CRC.
fn record_content(file: &PositionedFile, offset: u64, length: u64) -> Result<Vec<u8>, DataError> {
    let mut content = file.bytes_at(offset, length + CRC_BYTES)?;
    let crc = content.split_off(length as usize);
    if crc != masked_crc(&[&content]).to_le_bytes() {
        return Err(DataError::malformed(
            file.path(),
            offset,
            "the CRC of a record does not match its content",
            REMEDY,
        ));
    }
    Ok(content)
}

fn find<'f, 'a>(features: &'f [(&str, Feature<'a>)], name: &str) -> Option<&'f Feature<'a>> {
    features.iter().find(|(found, _)| *found == name).map(|(_, feature)| feature)
}

/// The `shape` and `data` of a StyleGAN-style record.
fn raw<'f, 'a>(features: &'f [(&str, Feature<'a>)]) -> Option<(&'f [i64], &'a [u8])> {
    Some((find(features, "shape")?.integers()?, find(features, "data")?.bytes()?))
}

/// The picture in raw channel planes of `shape` [channels, height, width].
fn raw_picture(shape: &[i64], data: &[u8]) -> Option<Picture> {
    let &[channels @ (1 | 3), height, width] = shape else { return None };
    let [channels, height, width] =
        [channels, height, width].map(|len| usize::try_from(len).unwrap_or(usize::MAX));
    let len = height.checked_mul(width)?.checked_mul(channels)?;
    (len > 0 && len == data.len()).then(|| Picture::from_planes(data, width, height, channels))
}

impl PictureSet for TfRecords {
    fn len(&self) -> u64 {
        self.offsets.len() as u64
    }

    fn picture(&self, index: u64) -> Result<Picture, DataError> {
        let (path, offset) = (self.shard(index).path(), self.offsets[index as usize]);
        self.with_features(index, |features| {
            if let Some((shape, data)) = raw(features) {
                return raw_picture(shape, data).ok_or_else(|| {
                    let what = format!("{} bytes of data are no image of shape {shape:?}", data.len());
                    DataError::malformed(path, offset, what, "shape must be [1 or 3, height, width]")
                });
            }
            match ENCODED.iter().find_map(|name| find(features, name)?.bytes()) {
                Some(bytes) => Picture::decode(bytes, path, offset),
                None => {
                    let names: Vec<&str> = features.iter().map(|(name, _)| *name).collect();
                    let what = format!("no image among the record's features ({})", names.join(", "));
                    let remedy = "it must have shape and data, or image or image/encoded";
                    Err(DataError::malformed(path, offset, what, remedy))
                }
            }
        })
    }

    fn place(&self, index: u64) -> Place<'_> {
        Place { path: self.shard(index).path().into(), offset: Some(self.offsets[index as usize]) }
    }

    fn label(&self, index: u64) -> Option<u32> {
        let label = self.with_features(index, |features| {
            let label = LABELS.iter().find_map(|name| find(features, name)?.integers());
            Ok(label.and_then(|label| <[i64; 1]>::try_from(label).ok()))
        });
        u32::try_from(label.ok()??[0]).ok()
    }

    fn description(&self) -> String {
        let first = self.shards.first().map_or(Path::new(""), PositionedFile::path);
        let more = shards::and_more(self.shards.len(), "shards");
        let decoding = if self.is_raw().unwrap_or(false) { String::new() } else { format!(", {DECODING}") };
        format!("{} images from {}{more} (TFRecord){decoding}", self.offsets.len(), first.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolution_is_chosen_by_the_size() {
        let files: Vec<PathBuf> =
            ["a-r04.tfrecords", "a-r05.tfrecords", "a-r08.tfrecords"].map(PathBuf::from).into();
        let chosen = |size| level_of_detail(&files, size).unwrap();
        assert_eq!(chosen(Some(32)), files[1]);
        assert_eq!(chosen(Some(100)), files[2]);
        assert_eq!(chosen(None), files[2]);
        assert_eq!(level_of_detail(&[PathBuf::from("x-train.tfrecord-00000-of-00001")], None), None);
    }
}
