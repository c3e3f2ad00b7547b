//! What a diffusion process is made of, as it stands in a configuration file.

use serde::{Deserialize, Serialize};

/// How β_t grows with t (REFERENCE: the original code's schedules, and `cosine` of Nichol & Dhariwal 2021).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// From `beta_start` to `beta_end`, both included (the paper's).
    Linear,
    /// Linear in √β, squared.
    Quad,
    /// `beta_end` throughout.
    Const,
    /// Linear over the first 10 % of the steps, then `beta_end`.
    Warmup10,
    /// Linear over the first half of the steps, then `beta_end`.
    Warmup50,
    /// 1/T, 1/(T-1), …, 1.
    Jsd,
    /// ᾱ follows a squared cosine (Nichol & Dhariwal 2021).
    Cosine,
}

/// What the network's output stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε.
    Eps,
    /// The image x_0.
    Xstart,
    /// The mean of x_{t-1} (the paper's μ̃ parameterisation).
    Xprev,
}

/// The variance of p(x_{t-1} | x_t).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// β̃_t, the posterior's.
    FixedSmall,
    /// β_t.
    FixedLarge,
    /// The second half of the output channels is the log variance.
    Learned,
}

/// The training objective.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Squared error of the prediction (with [`Prediction::Eps`]: L_simple).
    Mse,
    /// One uniformly drawn term of the variational bound, in bits/dim.
    Kl,
}

/// A diffusion process and what its network is trained for: the `[diffusion]` section of a configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiffusionConfig {
    /// T, the number of diffusion steps; at least 1.
    pub timesteps: usize,
    /// How β grows.
    pub schedule: BetaSchedule,
    /// β of the first step, in (0, 1).
    pub beta_start: f64,
    /// β of the last step, in (0, 1).
    pub beta_end: f64,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The reverse process's variance.
    pub variance: Variance,
    /// What training minimises.
    pub loss: Loss,
    /// Whether x̂0 is clipped to [-1, 1] when sampling.
    pub clip_denoised: bool,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self {
            timesteps: 1000,
            schedule: BetaSchedule::Linear,
            beta_start: 1e-4,
            beta_end: 0.02,
            prediction: Prediction::Eps,
            variance: Variance::FixedLarge,
            loss: Loss::Mse,
            clip_denoised: true,
        }
    }
}
