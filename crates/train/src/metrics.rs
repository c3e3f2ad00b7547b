//! `metrics.jsonl`: how a run went, one JSON object a line.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// One line of `metrics.jsonl`: what happened in the updates since the line before.
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

/// The updates since the last line of metrics, summed up.
///
/// Kept at every checkpoint, so that a resumed run goes on with the line that it was stopped in.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Window {
    /// Updates done.
    pub step: u64,
    /// Updates summed up.
    pub updates: u64,
    /// Sum of their losses.
    pub loss: f64,
    /// Sum of their gradients' norms.
    pub grad_norm: f64,
    /// Time they took, in seconds.
    pub seconds: f64,
}

impl Window {
    /// Adds the next update.
    pub fn add(&mut self, loss: f64, grad_norm: f64, seconds: f64) {
        self.step += 1;
        self.updates += 1;
        self.loss += loss;
        self.grad_norm += grad_norm;
        self.seconds += seconds;
    }

    /// The line for what has been summed up, with which the next begins.
    pub fn take_record(&mut self, batch_size: u64, learning_rate: f64) -> Record {
        let Window { step, updates, loss, grad_norm, seconds } = *self;
        *self = Window { step, ..Window::default() };
        let count = updates.max(1) as f64;
        Record {
            step,
            images: step * batch_size,
            loss: loss / count,
            grad_norm: grad_norm / count,
            learning_rate,
            images_per_second: (updates * batch_size) as f64 / seconds.max(1e-9),
        }
    }
}

/// Something that was so after a number of updates.
pub trait AtStep: Serialize + DeserializeOwned {
    /// Updates done.
    fn step(&self) -> u64;
}

impl AtStep for Record {
    fn step(&self) -> u64 {
        self.step
    }
}

impl AtStep for Window {
    fn step(&self) -> u64 {
        self.step
    }
}

/// No line is nearly as long, in bytes; a longer one is not read into memory.
const MAX_LINE: u64 = 1 << 16;

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

/// A file with a line for some steps of a run, in their order, open for further lines.
#[derive(Debug)]
pub struct StepLog<L> {
    path: PathBuf,
    file: File,
    lines: PhantomData<L>,
}

impl<L: AtStep> StepLog<L> {
    /// Opens the file for a run that has done `step` updates, creating it if there is none.
    ///
    /// Lines beyond `step` come from updates that were lost and will be done again; they are dropped, and so is a
    /// last line cut short. What follows makes the file what an uninterrupted run would have written.
    /// Returns the last line kept, too.
    ///
    /// # Errors
    /// If the file cannot be read or written, or a line inside it is not a record.
    pub fn open(path: &Path, step: u64) -> Result<(Self, Option<L>), MetricsError> {
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
        let (kept, last) = kept_lines(&file, path, step)?;
        file.set_len(kept).map_err(io("cannot shorten the metrics"))?;
        file.seek(SeekFrom::End(0)).map_err(io("cannot open the metrics"))?;
        Ok((Self { path: path.to_owned(), file, lines: PhantomData }, last))
    }

    /// Writes a line.
    ///
    /// # Errors
    /// If the system does not take it, as when the disk is full.
    pub fn append(&mut self, line: &L) -> Result<(), MetricsError> {
        let line = serde_json::to_string(line).map_err(std::io::Error::other);
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

/// The lines of a file: as far as they are whole. No file has none.
///
/// # Errors
/// If the file cannot be read, or a line inside it is not a record.
pub fn read_lines<L: AtStep>(path: &Path) -> Result<Vec<L>, MetricsError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(MetricsError::Io {
                path: path.to_owned(),
                action: "cannot read the metrics",
                source,
            });
        }
    };
    let mut lines = Vec::new();
    visit_lines(&file, path, |_, line| {
        lines.push(line);
        true
    })?;
    Ok(lines)
}

/// Length of the leading lines of `file` that are whole and not beyond `step`, and the last of them.
fn kept_lines<L: AtStep>(file: &File, path: &Path, step: u64) -> Result<(u64, Option<L>), MetricsError> {
    let (mut kept, mut last) = (0, None);
    visit_lines(file, path, |length, line: L| {
        if line.step() > step {
            return false;
        }
        kept += length;
        last = Some(line);
        true
    })?;
    Ok((kept, last))
}

/// Calls `visit` with the length in bytes and the content of each whole line, until it returns false.
fn visit_lines<L: AtStep>(
    file: &File,
    path: &Path,
    mut visit: impl FnMut(u64, L) -> bool,
) -> Result<(), MetricsError> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(|source| {
            MetricsError::Io { path: path.to_owned(), action: "cannot read the metrics", source }
        })?;
        if line.last() != Some(&b'\n') && (read as u64) < MAX_LINE {
            break;
        }
        let parsed: L = serde_json::from_slice(&line).map_err(|error| MetricsError::Damaged {
            path: path.to_owned(),
            line: number,
            reason: error.to_string(),
        })?;
        if !visit(read as u64, parsed) {
            break;
        }
    }
    Ok(())
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
        let (mut file, _) = StepLog::open(path, from).unwrap();
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
    fn a_window_goes_on_where_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windows");
        let mut whole = Window::default();
        let mut kept = None;
        for step in 1..=7 {
            whole.add(1.0 / f64::from(step), 0.1 * f64::from(step), 0.5);
            if step == 5 {
                let (mut log, _) = StepLog::open(&path, 0).unwrap();
                log.append(&whole).unwrap();
                kept = StepLog::<Window>::open(&path, 5).unwrap().1;
            }
        }
        let mut resumed = kept.unwrap();
        resumed.add(1.0 / 6.0, 0.1 * 6.0, 0.5);
        resumed.add(1.0 / 7.0, 0.1 * 7.0, 0.5);
        assert_eq!(resumed, whole);
        let record = whole.take_record(4, 1e-3);
        assert_eq!((record.step, record.images, record.images_per_second), (7, 28, 8.0));
        assert!((record.loss - 2.592_857_142_857_143 / 7.0).abs() < 1e-15, "{record:?}");
        assert_eq!(whole, Window { step: 7, ..Window::default() });
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
        let error = StepLog::<Record>::open(&path, 3).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`step`"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
    }
}
