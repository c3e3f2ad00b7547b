//! One cell of the table, and what came of it.

use crate::estimate::Estimate;
use diffusion::{BetaSchedule, DiffusionConfig, Loss, Prediction, Variance};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is trained on: a row of Table 2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The bound L, with a diagonal Σ that the network gives.
    BoundLearned,
    /// The bound L, with a fixed isotropic Σ.
    BoundFixed,
    /// The squared error of the prediction; of ε that is L_simple.
    Mse,
}

impl Objective {
    /// All rows, in the paper's order.
    pub const ALL: [Self; 3] = [Self::BoundLearned, Self::BoundFixed, Self::Mse];

    /// As in the paper's table.
    pub fn words(self, prediction: Prediction) -> &'static str {
        match (self, prediction) {
            (Self::BoundLearned, _) => "L, learned diagonal Σ",
            (Self::BoundFixed, _) => "L, fixed isotropic Σ",
            (Self::Mse, Prediction::Eps) => "‖ε − ε_θ‖² (L_simple)",
            (Self::Mse, Prediction::Xprev) => "‖μ̃ − μ_θ‖²",
            (Self::Mse, Prediction::Xstart) => "‖x₀ − x_θ‖²",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::BoundLearned => "bound-learned",
            Self::BoundFixed => "bound-fixed",
            Self::Mse => "mse",
        }
    }
}

/// One training of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Variant {
    /// β.
    pub schedule: BetaSchedule,
    /// What the network predicts.
    pub prediction: Prediction,
    /// What it is trained on.
    pub objective: Objective,
    /// The training's seed.
    pub seed: u64,
}

impl Variant {
    /// Every combination, schedule by schedule, in the order of the paper's table.
    pub fn all(
        schedules: &[BetaSchedule],
        predictions: &[Prediction],
        objectives: &[Objective],
        seeds: &[u64],
    ) -> Vec<Self> {
        let mut all = Vec::new();
        for &schedule in schedules {
            for &prediction in predictions {
                for &objective in objectives {
                    all.extend(seeds.iter().map(|&seed| Self { schedule, prediction, objective, seed }));
                }
            }
        }
        all
    }

    /// The process it trains, `base` in all that it does not say. A fixed variance is that of `base`, or β where `base`
    /// has none.
    pub fn diffusion(&self, base: &DiffusionConfig) -> DiffusionConfig {
        let fixed = match base.variance {
            Variance::FixedSmall => Variance::FixedSmall,
            _ => Variance::FixedLarge,
        };
        let (loss, variance) = match self.objective {
            Objective::BoundLearned => (Loss::Kl, Variance::Learned),
            Objective::BoundFixed => (Loss::Kl, fixed),
            Objective::Mse => (Loss::Mse, fixed),
        };
        DiffusionConfig {
            schedule: self.schedule,
            prediction: self.prediction,
            loss,
            variance,
            ..base.clone()
        }
    }
}

/// The name of a variant's folder: `linear-eps-mse-seed0`.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schedule = schedule_name(self.schedule);
        write!(f, "{schedule}-{}-{}-seed{}", self.prediction, self.objective.name(), self.seed)
    }
}

/// A schedule's name in configurations.
pub(super) fn schedule_name(schedule: BetaSchedule) -> String {
    serde_json::to_value(schedule)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("{schedule:?}"))
}

/// A score of sample quality, as another part of the program computed it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct QualityScore {
    /// What it is, with all that tells it from others: `FID-192`, `IS`.
    pub name: String,
    /// The score.
    pub value: f64,
    /// Its spread, where there is one.
    pub deviation: Option<f64>,
}

/// How a training ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Outcome {
    /// It made all its updates and was measured.
    Finished {
        /// Mean loss over the last line of metrics, in the objective's own unit: not comparable between rows.
        loss: f64,
        /// Bits/dim on images not trained on.
        bits_per_dim: Estimate,
        /// Of it, the rate.
        rate: Estimate,
        /// Of it, the decoder's part.
        distortion: Estimate,
        /// Sample quality.
        quality: Vec<QualityScore>,
    },
    /// A loss, a gradient or a prediction was not finite.
    Unstable {
        /// Updates made before.
        step: u64,
        /// What happened.
        reason: String,
    },
}

/// What came of a variant.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VariantResult {
    /// The variant.
    pub variant: Variant,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The whole configuration, as TOML.
    pub config: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_table_has_six_cells_that_can_all_be_trained() {
        let all = Variant::all(
            &[BetaSchedule::Linear],
            &[Prediction::Xprev, Prediction::Eps],
            &Objective::ALL,
            &[0],
        );
        assert_eq!(all.len(), 6);
        for base in [Variance::FixedLarge, Variance::FixedSmall, Variance::Learned] {
            let base = DiffusionConfig {
                variance: base,
                loss: Loss::Kl,
                timesteps: 77,
                ..DiffusionConfig::default()
            };
            let processes: Vec<_> = all.iter().map(|variant| variant.diffusion(&base)).collect();
            for (i, process) in processes.iter().enumerate() {
                process.validate().unwrap();
                assert_eq!(process.timesteps, 77);
                assert!(!processes[..i].contains(process), "{process:?} is there twice");
            }
            let fixed = if base.variance == Variance::FixedSmall {
                Variance::FixedSmall
            } else {
                Variance::FixedLarge
            };
            assert_eq!(processes.iter().filter(|process| process.variance == fixed).count(), 4);
        }
        let names: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names[0], "linear-xprev-bound-learned-seed0");
        assert_eq!(names[5], "linear-eps-mse-seed0");
    }

    #[test]
    fn results_survive_writing_and_reading() {
        let variant = Variant {
            schedule: BetaSchedule::Warmup10,
            prediction: Prediction::Xprev,
            objective: Objective::Mse,
            seed: 3,
        };
        let outcome = Outcome::Unstable { step: 12, reason: "the loss of update 13 is inf".into() };
        let result = VariantResult { variant, outcome, config: "[data]".into() };
        let text = serde_json::to_string(&result).unwrap();
        assert!(text.contains("\"status\":\"unstable\",\"step\":12"), "{text}");
        assert_eq!(serde_json::from_str::<VariantResult>(&text).unwrap(), result);
    }
}
