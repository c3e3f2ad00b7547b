//! What a diffusion process is made of, as it stands in a configuration file.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::DiffusionError;

/// The most steps a process may have. Its tables take about 100 bytes a step, so that a slip of the pen
/// in a configuration does not fill the memory.
pub const MAX_TIMESTEPS: usize = 100_000;

/// How β_t grows with t (REFERENCE: the original code's schedules, and `cosine` of Nichol & Dhariwal 2021).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε.
    Eps,
    /// The image x_0.
    Xstart,
    /// The mean of x_{t-1} (the paper's μ̃ parameterisation).
    Xprev,
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eps => "eps",
            Self::Xstart => "xstart",
            Self::Xprev => "xprev",
        })
    }
}

/// The variance of p(x_{t-1} | x_t).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// β̃_t, the posterior's.
    FixedSmall,
    /// β_t.
    FixedLarge,
    /// The second half of the output channels is the log variance.
    Learned,
    /// The second half of the output channels says where between log β̃_t (-1) and log β_t (1) the log variance lies
    /// (Nichol & Dhariwal 2021, eq. 15).
    LearnedRange,
}

impl Variance {
    /// Whether the network's output has a second half of channels for it.
    pub fn is_learned(self) -> bool {
        matches!(self, Self::Learned | Self::LearnedRange)
    }

    /// What a network with this variance is trained on in the paper that has it, where nothing else is known.
    pub fn usual_loss(self) -> Loss {
        match self {
            Self::FixedSmall | Self::FixedLarge => Loss::Mse,
            Self::Learned => Loss::Kl,
            Self::LearnedRange => Loss::Hybrid,
        }
    }
}

/// The training objective.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Squared error of the prediction (with [`Prediction::Eps`]: L_simple).
    Mse,
    /// One uniformly drawn term of the variational bound, in bits/dim.
    Kl,
    /// L_hybrid (Nichol & Dhariwal 2021, eq. 16): [`Self::Mse`], and a thousandth of an estimate of the whole
    /// bound, which trains a learned variance and nothing else.
    Hybrid,
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

impl DiffusionConfig {
    /// Checks every value, and those that only together make no sense.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] for T outside 1..=[`MAX_TIMESTEPS`] or β outside (0, 1);
    /// [`DiffusionError::Conflict`] for `mse` with a learned variance, which it would never train, and for
    /// `hybrid` with a fixed one.
    pub fn validate(&self) -> Result<(), DiffusionError> {
        if !(1..=MAX_TIMESTEPS).contains(&self.timesteps) {
            return Err(DiffusionError::OutOfRange {
                key: "diffusion.timesteps",
                value: self.timesteps.to_string(),
                valid: format!("a whole number from 1 to {MAX_TIMESTEPS}"),
            });
        }
        for (key, beta) in [("diffusion.beta_start", self.beta_start), ("diffusion.beta_end", self.beta_end)]
        {
            // Written so that NaN fails too.
            if !(beta > 0.0 && beta < 1.0) {
                return Err(DiffusionError::OutOfRange {
                    key,
                    value: beta.to_string(),
                    valid: "greater than 0 and less than 1".into(),
                });
            }
        }
        if self.loss == Loss::Mse && self.variance.is_learned() {
            return Err(DiffusionError::Conflict(
                "`diffusion.loss = \"mse\"` does not train the variance, so it cannot go with a learned \
                 `diffusion.variance`: use `loss = \"hybrid\"` or `\"kl\"`, or the variance `fixed_small` or `fixed_large`"
                    .into(),
            ));
        }
        if self.loss == Loss::Hybrid && !self.variance.is_learned() {
            return Err(DiffusionError::Conflict(
                "`diffusion.loss = \"hybrid\"` is for a variance that is learned: use `variance = \"learned_range\"` \
                 or `\"learned\"`, or `loss = \"mse\"`"
                    .into(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(config: DiffusionConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn values_out_of_range_are_named_with_what_is_valid() {
        let default = DiffusionConfig::default;
        default().validate().unwrap();
        let text = message(DiffusionConfig { timesteps: 0, ..default() });
        assert!(text.contains("`diffusion.timesteps` is 0") && text.contains("from 1 to 100000"), "{text}");
        message(DiffusionConfig { timesteps: usize::MAX, ..default() });
        for bad in [0.0, 1.0, -1e-4, f64::NAN, f64::INFINITY] {
            assert!(
                message(DiffusionConfig { beta_start: bad, ..default() }).contains("diffusion.beta_start")
            );
            assert!(message(DiffusionConfig { beta_end: bad, ..default() }).contains("diffusion.beta_end"));
        }
    }

    #[test]
    fn mse_does_not_train_a_variance() {
        let learned = DiffusionConfig { variance: Variance::Learned, ..DiffusionConfig::default() };
        assert!(message(learned.clone()).contains("\"kl\""));
        DiffusionConfig { loss: Loss::Kl, ..learned.clone() }.validate().unwrap();
        DiffusionConfig { loss: Loss::Hybrid, ..learned }.validate().unwrap();
        let fixed = DiffusionConfig { loss: Loss::Hybrid, ..DiffusionConfig::default() };
        assert!(message(fixed).contains("learned_range"));
    }
}
