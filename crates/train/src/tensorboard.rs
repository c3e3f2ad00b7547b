//! TensorBoard event files: scalars and images.
//!
//! An event file is a TFRecord file (length, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes) whose
//! records are `tensorflow.Event` messages in protocol buffer encoding (`event.proto`, `summary.proto`). Of these
//! only the few fields named below are needed.

use crate::grid::{EncodeError, Picture};
use crc::{CRC_32_ISCSI, Crc};
use engine::ImageShape;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TensorboardError {
    /// The system refuses.
    #[error(
        "{}: cannot write TensorBoard events: {source} (log.tensorboard = false does without)",
        path.display()
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// An image cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// An event file, open for further events.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts a new file in `folder`, for a run that has done `step` updates.
    ///
    /// TensorBoard joins the files of a folder in the order of their names and, told so at the start of this one,
    /// forgets what earlier ones hold beyond `step`: a resumed run shows as one never stopped.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(folder: &Path, step: u64) -> Result<Self, TensorboardError> {
        let io = |path: &Path, source| TensorboardError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
        let time = wall_time();
        let mut number = 0;
        let (path, file) = loop {
            // Sorted by time of start; the number tells apart files of one second.
            let path = folder.join(format!("events.out.tfevents.{:010}.{number:06}.ddpm", time as u64));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(io(&path, source)),
            }
        };
        let mut events = Self { path, file };
        events.write(&event(time, 0, &bytes_field(FILE_VERSION, b"brain.Event:2")))?;
        let started = bytes_field(SESSION_LOG, &varint_field(SESSION_STATUS, SESSION_START));
        events.write(&event(time, step + 1, &started))?;
        Ok(events)
    }

    /// Adds numbers, each with its tag (`train/loss`), at `step`.
    ///
    /// # Errors
    /// If the system does not take them.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), TensorboardError> {
        let summary: Vec<u8> =
            values.iter().flat_map(|(tag, value)| scalar_value(tag, *value as f32)).collect();
        self.write(&event(wall_time(), step, &bytes_field(SUMMARY, &summary)))
    }

    /// Adds a picture at `step`.
    ///
    /// # Errors
    /// If it cannot be encoded, or the system does not take it.
    pub fn image(&mut self, step: u64, tag: &str, picture: &Picture) -> Result<(), TensorboardError> {
        let summary = image_value(tag, picture.shape, &picture.to_png()?);
        self.write(&event(wall_time(), step, &bytes_field(SUMMARY, &summary)))
    }

    fn write(&mut self, event: &[u8]) -> Result<(), TensorboardError> {
        self.file
            .write_all(&record(event))
            .map_err(|source| TensorboardError::Io { path: self.path.clone(), source })
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

// Field numbers of `Event`.
const WALL_TIME: u32 = 1;
const STEP: u32 = 2;
const FILE_VERSION: u32 = 3;
const SUMMARY: u32 = 5;
const SESSION_LOG: u32 = 7;
// Of `SessionLog`, and its status.
const SESSION_STATUS: u32 = 1;
const SESSION_START: u64 = 1;
// Of `Summary`, `Summary.Value` and `Summary.Image`.
const VALUE: u32 = 1;
const TAG: u32 = 1;
const SIMPLE_VALUE: u32 = 2;
const IMAGE: u32 = 4;
const IMAGE_HEIGHT: u32 = 1;
const IMAGE_WIDTH: u32 = 2;
const IMAGE_COLORSPACE: u32 = 3;
const IMAGE_ENCODED: u32 = 4;

fn event(wall_time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    let mut out = key(WALL_TIME, 1);
    out.extend(wall_time.to_le_bytes());
    out.extend(varint_field(STEP, step));
    out.extend(what);
    out
}

fn scalar_value(tag: &str, value: f32) -> Vec<u8> {
    let mut out = bytes_field(TAG, tag.as_bytes());
    out.extend(key(SIMPLE_VALUE, 5));
    out.extend(value.to_le_bytes());
    bytes_field(VALUE, &out)
}

fn image_value(tag: &str, shape: ImageShape, png: &[u8]) -> Vec<u8> {
    // The colour space is the number of channels: 1 gray, 3 RGB.
    let image = [
        varint_field(IMAGE_HEIGHT, shape.height as u64),
        varint_field(IMAGE_WIDTH, shape.width as u64),
        varint_field(IMAGE_COLORSPACE, shape.channels as u64),
        bytes_field(IMAGE_ENCODED, png),
    ]
    .concat();
    bytes_field(VALUE, &[bytes_field(TAG, tag.as_bytes()), bytes_field(IMAGE, &image)].concat())
}

/// A field's key: its number and wire type (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
fn key(field: u32, wire_type: u32) -> Vec<u8> {
    varint(u64::from(field << 3 | wire_type))
}

fn varint_field(field: u32, value: u64) -> Vec<u8> {
    let mut out = key(field, 0);
    out.extend(varint(value));
    out
}

fn bytes_field(field: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = key(field, 2);
    out.extend(varint(bytes.len() as u64));
    out.extend(bytes);
    out
}

/// Seven bits a byte, the least significant first; the high bit says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// TFRecord framing.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// CRC-32C, rotated and shifted as TFRecord has it.
fn masked_crc(data: &[u8]) -> u32 {
    const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC.checksum(data).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_crc_is_castagnolis_masked() {
        // "123456789" has CRC-32C E3069283 (RFC 3720's polynomial; the check value of the CRC catalogue).
        assert_eq!(masked_crc(b"123456789"), 0xE306_9283_u32.rotate_right(15).wrapping_add(0xA282_EAD8));
    }

    /// What tensorboard 2.21 (its protobuf classes and `RecordWriter`) writes for the same events.
    #[test]
    fn events_are_the_bytes_tensorboard_writes() {
        let scalar = event(1234.5, 300, &bytes_field(SUMMARY, &scalar_value("train/loss", 0.125)));
        assert_eq!(
            hex(&record(&scalar)),
            "2100000000000000017becf60900000000004a934010ac022a130a110a0a747261696e2f6c6f7373150000003e7e28ef5f"
        );
        let image = image_value("samples", ImageShape::new(2, 200, 3), b"\x89PNG");
        assert_eq!(
            hex(&record(&event(1234.5, 300, &bytes_field(SUMMARY, &image)))),
            "2800000000000000ff70164a0900000000004a934010ac022a1a0a180a0773616d706c6573220d080210c801180322\
             0489504e4746f390b8"
        );
        let start = bytes_field(SESSION_LOG, &varint_field(SESSION_STATUS, SESSION_START));
        assert_eq!(
            hex(&record(&event(1234.5, 301, &start))),
            "100000000000000095fbfe180900000000004a934010ad023a020801c02893a5"
        );
    }
}
