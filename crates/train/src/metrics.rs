//! `metrics.jsonl`: how a run went, one JSON object a line.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// One line: what happened in the updates since the line before.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Updates done.
    pub step: u64,
    /// Training images seen, repetitions counted.
    pub images: u64,
    /// Mean loss of the updates since the last line.
    pub loss: f64,
    /// Mean norm of the whole gradient, before clipping, of the updates since the last line.
    pub grad_norm: f64,
    /// Adam's step size in the last update.
    pub learning_rate: f64,
    /// Training images per second. Alone in not being the same in a repeated run.
    pub images_per_second: f64,
}

/// A metrics file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file cannot be read or written.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line inside the file is not a record.
    #[error(
        "{}, line {line}: not a line of metrics ({reason}); remove this line, or the file, and resume again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The file, open for further lines.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file for a run that has done `step` updates, creating it if there is none.
    ///
    /// Lines beyond `step` come from updates that were lost and will be done again; they are dropped, and so is a
    /// last line cut short. What follows makes the file what an uninterrupted run would have written.
    ///
    /// # Errors
    /// If the file cannot be read or written, or a line inside it is not a record.
    pub fn open(path: &Path, step: u64) -> Result<Self, MetricsError> {
        let io = |action| {
            let path = path.to_owned();
            move |source| MetricsError::Io { path, action, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io("cannot open the metrics"))?;
        let kept = kept_bytes(&file, path, step)?;
        file.set_len(kept).map_err(io("cannot shorten the metrics"))?;
        file.seek(SeekFrom::End(0)).map_err(io("cannot open the metrics"))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// If the system does not take it, as when the disk is full.
    pub fn append(&mut self, record: &Record) -> Result<(), MetricsError> {
        let line = serde_json::to_string(record).map_err(std::io::Error::other);
        // One write, so that a killed process leaves at most one line cut short.
        line.and_then(|line| self.file.write_all(format!("{line}\n").as_bytes()))
            .map_err(|source| self.error("cannot write a line of metrics", source))
    }

    /// Waits until the lines are on the disk, so that they outlive whatever a checkpoint made now outlives.
    ///
    /// # Errors
    /// If the system reports that they did not get there.
    pub fn sync(&self) -> Result<(), MetricsError> {
        self.file.sync_data().map_err(|source| self.error("cannot write the metrics to the disk", source))
    }

    fn error(&self, action: &'static str, source: std::io::Error) -> MetricsError {
        MetricsError::Io { path: self.path.clone(), action, source }
    }
}

/// Length of the leading lines of `file` that are whole and not beyond `step`.
fn kept_bytes(file: &File, path: &Path, step: u64) -> Result<u64, MetricsError> {
    let mut reader = BufReader::new(file);
    let mut kept = 0;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(|source| MetricsError::Io {
            path: path.to_owned(),
            action: "cannot read the metrics",
            source,
        })?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let record: Record = serde_json::from_slice(&line).map_err(|error| MetricsError::Damaged {
            path: path.to_owned(),
            line: number,
            reason: error.to_string(),
        })?;
        if record.step > step {
            break;
        }
        kept += read as u64;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        Record {
            step,
            images: step * 8,
            loss: 1.0 / step as f64,
            grad_norm: 0.5,
            learning_rate: 2e-4,
            images_per_second: 3.5,
        }
    }

    fn write(path: &Path, from: u64, steps: std::ops::RangeInclusive<u64>) {
        let mut file = MetricsFile::open(path, from).unwrap();
        for step in steps {
            file.append(&record(step)).unwrap();
        }
        file.sync().unwrap();
    }

    #[test]
    fn a_resumed_file_is_that_of_an_uninterrupted_run() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, resumed) = (dir.path().join("whole"), dir.path().join("resumed"));
        write(&whole, 0, 1..=9);
        write(&resumed, 0, 1..=7);
        write(&resumed, 5, 6..=9);
        let text = std::fs::read_to_string(&whole).unwrap();
        assert_eq!(text.lines().count(), 9);
        assert_eq!(std::fs::read_to_string(&resumed).unwrap(), text);
    }

    #[test]
    fn a_line_cut_short_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        write(&path, 0, 1..=3);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..20 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            write(&path, 3, 3..=3);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut by {cut} bytes");
        }
    }

    #[test]
    fn a_damaged_line_is_named_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        write(&path, 0, 1..=3);
        let damaged = std::fs::read_to_string(&path).unwrap().replacen("\"step\":2", "\"stop\":2", 1);
        std::fs::write(&path, &damaged).unwrap();
        let error = MetricsFile::open(&path, 3).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`step`"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    }
}
