//! The method of "Denoising Diffusion Probabilistic Models" (Ho, Jain, Abbeel 2020), readable as code.
//!
//! No IO and no network type: everything that needs a trained network sees a [`Denoiser`].

#![forbid(unsafe_code)]

pub mod config;
pub mod denoiser;

pub use config::{BetaSchedule, DiffusionConfig, Loss, Prediction, Variance};
pub use denoiser::{DenoiseError, Denoiser};
