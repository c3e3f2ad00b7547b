//! What a trainer tells while it works.

use crate::evaluation::Evaluation;
use crate::metrics::Record;
use std::path::Path;

/// A run that begins or goes on.
#[derive(Clone, PartialEq, Debug)]
pub struct Start<'a> {
    /// Its directory.
    pub run: &'a Path,
    /// The images, in words.
    pub data: String,
    /// What the device tells of itself, if it does.
    pub device: Option<String>,
    /// Numbers in the network.
    pub parameters: usize,
    /// Updates done before.
    pub completed: u64,
    /// Updates in the whole run.
    pub steps: u64,
}

/// An update just made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Progress {
    /// Updates done.
    pub completed: u64,
    /// Updates in the whole run.
    pub steps: u64,
    /// Mean loss since the last line of metrics.
    pub loss: f64,
    /// Training images per second since then.
    pub images_per_second: f64,
}

/// Is told how a run goes. All methods do nothing unless implemented.
pub trait Observer {
    /// Training begins.
    fn started(&mut self, _start: &Start<'_>) {}
    /// An update was made.
    fn updated(&mut self, _progress: &Progress) {}
    /// A line of metrics was written.
    fn logged(&mut self, _record: &Record) {}
    /// A grid of samples was written.
    fn sampled(&mut self, _completed: u64, _grid: &Path) {}
    /// The averaged weights were scored; whether they are the best so far, and were kept apart.
    fn evaluated(&mut self, _evaluation: &Evaluation, _best: bool) {}
    /// Training is over for now, and it was measured where the time went.
    fn profiled(&mut self, _table: &str) {}
    /// A checkpoint was saved.
    fn saved(&mut self, _completed: u64, _checkpoint: &Path) {}
}

/// Listens to nothing.
impl Observer for () {}
