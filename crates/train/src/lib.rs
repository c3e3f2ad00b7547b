//! The trainer: configuration, presets, the training loop, logs, resume.
//!
//! [`config_text::load`] reads a [`Config`], [`train()`] trains what it describes and tells an [`Observer`]
//! how it goes. What a run writes, and where, is in [`training_run`].

#![forbid(unsafe_code)]

pub mod config;
pub mod config_text;
pub mod evaluation;
pub mod grid;
mod logs;
pub mod metrics;
pub mod observer;
pub mod presets;
pub mod preview;
pub mod sampling;
pub mod step;
pub mod tensorboard;
pub mod train_error;
pub mod trainer;
pub mod training_run;
pub mod validate;

pub use config::Config;
pub use config_text::ConfigError;
pub use evaluation::{Evaluation, Evaluator, Score};
pub use observer::Observer;
pub use train_error::{StopCause, TrainError};
pub use trainer::{Job, Outcome, train, train_evaluated, train_on};
