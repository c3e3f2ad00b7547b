//! Scoring a run's averaged weights on its way: when, what is kept of it, and which checkpoint was the best.
//!
//! How weights are scored is not the trainer's matter: whoever starts it brings an [`Evaluator`].

use crate::metrics::{AtStep, MetricsError, StepLog};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A number that weights are judged by; less is better.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Score {
    /// What it is: `FID`, `bits/dim`.
    pub name: String,
    /// The number.
    pub value: f64,
}

/// Why weights could not be scored.
pub type EvaluationError = Box<dyn Error + Send + Sync>;

/// Scores weights. The same weights must get the same scores.
pub trait Evaluator {
    /// The scores of the averaged weights `ema` after `completed` updates, the one that decides which are the
    /// best first. `None` if `stop` was set on the way.
    ///
    /// # Errors
    /// If they cannot be scored.
    fn evaluate(
        &mut self,
        completed: u64,
        ema: &[f32],
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Score>>, EvaluationError>;
}

/// A line of `evaluations.jsonl`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    /// Updates done.
    pub step: u64,
    /// The scores, the one that decides first.
    pub scores: Vec<Score>,
}

impl AtStep for Evaluation {
    fn step(&self) -> u64 {
        self.step
    }
}

impl Evaluation {
    /// The number that decides; infinite if there is none.
    pub fn deciding(&self) -> f64 {
        self.scores.first().map_or(f64::INFINITY, |score| score.value)
    }
}

/// Which line is the best: the first of those with the least deciding number.
pub fn best(evaluations: &[Evaluation]) -> Option<&Evaluation> {
    evaluations
        .iter()
        .filter(|line| !line.deciding().is_nan())
        .min_by(|a, b| a.deciding().total_cmp(&b.deciding()))
}

/// The evaluations of a run, in a file that goes on.
#[derive(Debug)]
pub(crate) struct EvaluationLog {
    log: StepLog<Evaluation>,
    lines: Vec<Evaluation>,
}

impl EvaluationLog {
    /// Opens the file for a run that has done `completed` updates; later lines are dropped.
    pub fn open(path: &Path, completed: u64) -> Result<Self, MetricsError> {
        let (log, _) = StepLog::open(path, completed)?;
        Ok(Self { log, lines: crate::metrics::read_lines(path)? })
    }

    /// Whether the weights after `step` updates have been scored.
    pub fn has(&self, step: u64) -> bool {
        self.lines.iter().any(|line| line.step == step)
    }

    /// Whether `line` would be the best so far.
    pub fn is_best(&self, line: &Evaluation) -> bool {
        !line.deciding().is_nan()
            && best(&self.lines).is_none_or(|best| line.deciding().total_cmp(&best.deciding()).is_lt())
    }

    /// Adds a line.
    pub fn add(&mut self, line: Evaluation) -> Result<(), MetricsError> {
        self.log.append(&line)?;
        self.lines.push(line);
        Ok(())
    }

    /// Waits until the lines are on the disk.
    pub fn sync(&self) -> Result<(), MetricsError> {
        self.log.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64, fid: f64) -> Evaluation {
        Evaluation { step, scores: vec![Score { name: "FID".into(), value: fid }] }
    }

    /// Adds a line; returns whether it was the best so far, which must be what all lines say.
    fn add(log: &mut EvaluationLog, line: Evaluation) -> bool {
        let (step, is_best) = (line.step, log.is_best(&line));
        log.add(line).unwrap();
        assert_eq!(best(&log.lines).is_some_and(|best| best.step == step), is_best);
        is_best
    }

    #[test]
    fn the_first_of_the_least_is_the_best() {
        let lines = [line(1, f64::NAN), line(2, 5.0), line(3, 4.0), line(4, 4.0), line(5, 9.0)];
        assert_eq!(best(&lines).unwrap().step, 3);
        assert_eq!(best(&lines[..1]), None);
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn what_is_the_best_survives_a_stop_and_lost_updates_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evaluations.jsonl");
        let mut log = EvaluationLog::open(&path, 0).unwrap();
        let added: Vec<_> =
            [line(2, 5.0), line(4, 3.0), line(6, 4.0), line(8, 1.0)].map(|line| add(&mut log, line)).to_vec();
        assert_eq!(added, [true, true, false, true]);
        drop(log);
        let mut log = EvaluationLog::open(&path, 6).unwrap();
        assert!(log.has(6) && !log.has(8));
        assert!(!add(&mut log, line(8, 3.0)));
        assert!(!log.is_best(&line(9, f64::NAN)));
        assert!(add(&mut log, line(10, 2.0)));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 5);
    }
}
