//! The trainer: configuration, presets, the training loop, logs, resume.

#![forbid(unsafe_code)]

pub mod config;
pub mod config_text;
pub mod grid;
pub mod metrics;
pub mod presets;
pub mod tensorboard;
pub mod validate;

pub use config::Config;
pub use config_text::ConfigError;
