//! Why training did not begin, or did not go on: what, where, and what to do.

use crate::config_text::ConfigError;
use crate::evaluation::EvaluationError;
use crate::grid::EncodeError;
use crate::metrics::MetricsError;
use crate::step::{NotFinite, SetupError, StepError};
use crate::tensorboard::TensorboardError;
use crate::training_run::RunError;
use data::DataError;
use diffusion::DiffusionError;
use engine::BackendError;
use std::path::{Path, PathBuf};

/// Why a run did not begin, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The process or the device.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The network cannot be saved.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The checkpoint to go on from cannot be used.
    #[error("cannot resume from the last checkpoint: {source}{}", remedy(damaged, before))]
    Resume {
        /// What is wrong with it.
        source: Box<checkpoint::Error>,
        /// The checkpoint.
        damaged: PathBuf,
        /// The one before, if there is one.
        before: Option<PathBuf>,
    },
    /// The checkpoint was made by another configuration than the run's.
    #[error("{}: this checkpoint was not made with the configuration of the run (config.toml); restore that file", path.display())]
    OtherModel {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// TensorBoard's files.
    #[error(transparent)]
    Tensorboard(#[from] TensorboardError),
    /// The configuration asks for evaluations, and there is nothing that evaluates.
    #[error("log.evaluate_every = {every}: nothing was given that evaluates; set it to 0")]
    NoEvaluator {
        /// Updates between two evaluations.
        every: u64,
    },
    /// Something went wrong on the way.
    #[error("{source}; stopped after {completed} of {steps} updates. {}", last_good(checkpoint))]
    Stopped {
        /// What went wrong.
        source: Box<StopCause>,
        /// Updates done.
        completed: u64,
        /// Updates in the whole run.
        steps: u64,
        /// The last good checkpoint.
        checkpoint: Option<PathBuf>,
    },
}

/// What can go wrong on the way.
#[derive(Debug, thiserror::Error)]
pub enum StopCause {
    /// The loss or the gradient.
    #[error(
        "{0}: training has diverged; begin again with a lower train.learning_rate or with train.grad_clip"
    )]
    NotFinite(#[from] NotFinite),
    /// An image.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A sample.
    #[error("no samples can be drawn: {0}")]
    Sample(#[from] DiffusionError),
    /// An evaluation.
    #[error("the weights cannot be evaluated: {0}")]
    Evaluation(#[source] EvaluationError),
    /// The device, or memory for sampling.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A grid of samples.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A checkpoint that cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A grid of samples, or the best weights, that cannot be written.
    #[error(transparent)]
    Output(checkpoint::Error),
    /// The configuration that goes with a checkpoint.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// TensorBoard's files.
    #[error(transparent)]
    Tensorboard(#[from] TensorboardError),
}

impl StopCause {
    /// Whether the weights are as good as before, and worth a checkpoint that the run can go on from: not
    /// when training has diverged, when the device failed that holds them, or when it was a checkpoint that
    /// could not be written.
    pub(crate) fn leaves_good_weights(&self) -> bool {
        match self {
            Self::NotFinite(_) | Self::Sample(DiffusionError::NonFiniteOutput { .. }) => false,
            Self::Backend(_) | Self::Checkpoint(_) | Self::Config(_) => false,
            Self::Data(_) | Self::Sample(_) | Self::Evaluation(_) => true,
            Self::Encode(_) | Self::Output(_) | Self::Metrics(_) | Self::Tensorboard(_) => true,
        }
    }
}

impl From<StepError> for StopCause {
    fn from(error: StepError) -> Self {
        match error {
            StepError::NotFinite(error) => Self::NotFinite(error),
            StepError::Backend(error) => Self::Backend(error),
        }
    }
}

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("The last good checkpoint is {}", path.display()),
        None => "There is no checkpoint yet".to_owned(),
    }
}

fn remedy(damaged: &Path, before: &Option<PathBuf>) -> String {
    let remove = format!("; to go on without it, remove {}", damaged.display());
    match before {
        Some(before) => format!("{remove} (the one before is {})", before.display()),
        None => format!("{remove}, and the run begins anew"),
    }
}

impl TrainError {
    /// Whether the call or the input was wrong (exit status 2), as opposed to work that failed (exit status 1).
    pub fn is_input(&self) -> bool {
        match self {
            Self::Config(_) | Self::Data(_) | Self::NoEvaluator { .. } => true,
            Self::Resume { .. } | Self::OtherModel { .. } => true,
            Self::Setup(SetupError::Diffusion(_)) => true,
            Self::Metrics(MetricsError::Damaged { .. }) => true,
            Self::Run(error) => error.is_input(),
            Self::Checkpoint(error) => error.is_input(),
            Self::Stopped { source, .. } => matches!(**source, StopCause::Data(_)),
            _ => false,
        }
    }
}
