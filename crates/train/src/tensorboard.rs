//! TensorBoard event files: scalars and images.
//!
//! An event file is a TFRecord file whose records are `tensorflow.Event` messages (`event.proto`,
//! `summary.proto`). Of these only the few fields named below are needed.

use crate::grid::{EncodeError, Picture};
use engine::ImageShape;
use protobuf::{push_bytes, push_f32, push_f64, push_number, push_record};
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
        events.write(&event(time, 0, FILE_VERSION, b"brain.Event:2"))?;
        events.write(&event(time, step + 1, SESSION_LOG, &session_start()))?;
        Ok(events)
    }

    /// Adds numbers, each with its tag (`train/loss`), at `step`.
    ///
    /// # Errors
    /// If the system does not take them.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), TensorboardError> {
        let summary: Vec<u8> =
            values.iter().flat_map(|(tag, value)| scalar_value(tag, *value as f32)).collect();
        self.write(&event(wall_time(), step, SUMMARY, &summary))
    }

    /// Adds a picture at `step`.
    ///
    /// # Errors
    /// If it cannot be encoded, or the system does not take it.
    pub fn image(&mut self, step: u64, tag: &str, picture: &Picture) -> Result<(), TensorboardError> {
        let summary = image_value(tag, picture.shape, &picture.to_png()?);
        self.write(&event(wall_time(), step, SUMMARY, &summary))
    }

    fn write(&mut self, event: &[u8]) -> Result<(), TensorboardError> {
        // One write, so that a killed process leaves at most one record cut short.
        let mut record = Vec::new();
        push_record(&mut record, event);
        self.file
            .write_all(&record)
            .map_err(|source| TensorboardError::Io { path: self.path.clone(), source })
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

// Field numbers of `Event`.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const SESSION_LOG: u64 = 7;
// Of `SessionLog`, and its status.
const SESSION_STATUS: u64 = 1;
const SESSION_START: u64 = 1;
// Of `Summary`, `Summary.Value` and `Summary.Image`.
const VALUE: u64 = 1;
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;
const IMAGE: u64 = 4;
const IMAGE_HEIGHT: u64 = 1;
const IMAGE_WIDTH: u64 = 2;
const IMAGE_COLORSPACE: u64 = 3;
const IMAGE_ENCODED: u64 = 4;

/// An event with the message `content` in its field `what`.
fn event(wall_time: f64, step: u64, what: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_f64(&mut out, WALL_TIME, wall_time);
    push_number(&mut out, STEP, step);
    push_bytes(&mut out, what, content);
    out
}

fn session_start() -> Vec<u8> {
    let mut out = Vec::new();
    push_number(&mut out, SESSION_STATUS, SESSION_START);
    out
}

fn scalar_value(tag: &str, value: f32) -> Vec<u8> {
    let mut content = Vec::new();
    push_bytes(&mut content, TAG, tag.as_bytes());
    push_f32(&mut content, SIMPLE_VALUE, value);
    summary_value(&content)
}

fn image_value(tag: &str, shape: ImageShape, png: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    push_number(&mut image, IMAGE_HEIGHT, shape.height as u64);
    push_number(&mut image, IMAGE_WIDTH, shape.width as u64);
    // The colour space is the number of channels: 1 gray, 3 RGB.
    push_number(&mut image, IMAGE_COLORSPACE, shape.channels as u64);
    push_bytes(&mut image, IMAGE_ENCODED, png);
    let mut content = Vec::new();
    push_bytes(&mut content, TAG, tag.as_bytes());
    push_bytes(&mut content, IMAGE, &image);
    summary_value(&content)
}

fn summary_value(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_bytes(&mut out, VALUE, content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record of `event`, in hexadecimal digits.
    fn hex(event: &[u8]) -> String {
        let mut record = Vec::new();
        push_record(&mut record, event);
        record.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What tensorboard 2.21 (its protobuf classes and `RecordWriter`) writes for the same events.
    #[test]
    fn events_are_the_bytes_tensorboard_writes() {
        let scalar = event(1234.5, 300, SUMMARY, &scalar_value("train/loss", 0.125));
        assert_eq!(
            hex(&scalar),
            "2100000000000000017becf60900000000004a934010ac022a130a110a0a747261696e2f6c6f7373150000003e7e28ef5f"
        );
        let image = image_value("samples", ImageShape::new(2, 200, 3), b"\x89PNG");
        assert_eq!(
            hex(&event(1234.5, 300, SUMMARY, &image)),
            "2800000000000000ff70164a0900000000004a934010ac022a1a0a180a0773616d706c6573220d080210c801180322\
             0489504e4746f390b8"
        );
        assert_eq!(
            hex(&event(1234.5, 301, SESSION_LOG, &session_start())),
            "100000000000000095fbfe180900000000004a934010ad023a020801c02893a5"
        );
    }
}
