//! What a run writes down on its way, in all its forms.

use crate::config::Config;
use crate::evaluation::{Evaluation, EvaluationLog};
use crate::metrics::{MetricsError, Record, StepLog, Window};
use crate::tensorboard::EventFile;
use crate::train_error::{StopCause, TrainError};
use crate::trainer::due;
use crate::training_run::TrainingRun;

/// What a run writes down on its way.
pub(crate) struct Logs {
    metrics: StepLog<Record>,
    /// The last line of metrics.
    pub last: Option<Record>,
    /// The unfinished line of metrics at each checkpoint.
    windows: StepLog<Window>,
    /// The updates since the last line of metrics.
    pub window: Window,
    /// How the averaged weights were judged.
    evaluations: Option<EvaluationLog>,
    /// TensorBoard's file, if wanted.
    pub events: Option<EventFile>,
}

impl Logs {
    /// Opens the files for a run that has done `completed` updates.
    ///
    /// # Errors
    /// If one cannot be read or written.
    pub fn open(config: &Config, run: &TrainingRun, completed: u64) -> Result<Self, TrainError> {
        // The last line of a run that was shorter once may have been cut short by its end.
        let whole_line = completed == config.train.steps || due(completed, config.log.every);
        let last_line = if whole_line { completed } else { completed.saturating_sub(1) };
        let (metrics, last) = StepLog::open(&run.metrics(), last_line)?;
        let (windows, window) = StepLog::open(&run.windows(), completed)?;
        let window = window
            .filter(|window: &Window| window.step == completed)
            .unwrap_or(Window { step: completed, ..Window::default() });
        let evaluations = match config.log.evaluate_every {
            0 => None,
            _ => Some(EvaluationLog::open(&run.evaluations(), completed)?),
        };
        let events = match config.log.tensorboard {
            true => Some(EventFile::create(&run.tensorboard(), completed)?),
            false => None,
        };
        Ok(Self { metrics, last, windows, window, evaluations, events })
    }

    /// Writes a line of metrics.
    ///
    /// # Errors
    /// If the system does not take it.
    pub fn write(&mut self, record: &Record) -> Result<(), StopCause> {
        self.metrics.append(record)?;
        if let Some(events) = &mut self.events {
            let scalars = [
                ("train/loss", record.loss),
                ("train/grad_norm", record.grad_norm),
                ("train/learning_rate", record.learning_rate),
                ("train/images_per_second", record.images_per_second),
            ];
            events.scalars(record.step, &scalars)?;
        }
        self.last = Some(record.clone());
        Ok(())
    }

    /// Whether the weights after `step` updates have been scored.
    pub fn has_evaluation(&self, step: u64) -> bool {
        self.evaluations.as_ref().is_some_and(|evaluations| evaluations.has(step))
    }

    /// Whether an evaluation that is not written yet is the best so far.
    pub fn is_best(&self, evaluation: &Evaluation) -> bool {
        self.evaluations.as_ref().is_some_and(|evaluations| evaluations.is_best(evaluation))
    }

    /// Writes an evaluation.
    ///
    /// # Errors
    /// If the system does not take it.
    pub fn evaluated(&mut self, evaluation: &Evaluation) -> Result<(), StopCause> {
        if let Some(events) = &mut self.events {
            let names = evaluation.scores.iter().map(|score| format!("evaluation/{}", score.name));
            let names: Vec<_> = names.collect();
            let values = names.iter().zip(&evaluation.scores);
            let scalars: Vec<_> = values.map(|(name, score)| (name.as_str(), score.value)).collect();
            events.scalars(evaluation.step, &scalars)?;
        }
        match &mut self.evaluations {
            Some(evaluations) => Ok(evaluations.add(evaluation.clone())?),
            None => Ok(()),
        }
    }

    /// Brings all of it to the disk, so that it is there when a checkpoint made now is.
    ///
    /// # Errors
    /// If the system does not take it.
    pub fn keep(&mut self) -> Result<(), MetricsError> {
        self.windows.append(&self.window)?;
        self.windows.sync()?;
        if let Some(evaluations) = &self.evaluations {
            evaluations.sync()?;
        }
        self.metrics.sync()
    }
}
