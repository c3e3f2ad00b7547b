//! One cell of the table, and what came of it.

use super::measure::Measure;
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

    /// The process it trains, `base` in all that it does not say. A fixed variance is that of `base`, or β
    /// where `base` has none.
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
    /// What it was measured by. `None` if the training diverged, and in files of versions that did not write
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
}

impl VariantResult {
    /// Whether this is what comes of measuring by `measure`. Of a training that diverged there is nothing to
    /// measure; of numbers that nothing is written of, nobody knows what they are.
    pub fn is_by(&self, measure: &Measure) -> bool {
        match &self.measure {
            Some(by) => by == measure,
            None => matches!(self.outcome, Outcome::Unstable { .. }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::SampleMeasure;
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
        let result = VariantResult { variant, outcome, config: "[data]".into(), measure: None };
        let text = serde_json::to_string(&result).unwrap();
        assert!(text.contains("\"status\":\"unstable\",\"step\":12"), "{text}");
        assert_eq!(serde_json::from_str::<VariantResult>(&text).unwrap(), result);
    }

    #[test]
    fn numbers_are_those_of_one_measure() {
        let estimate = Estimate { mean: 3.5, standard_error: None, low: None, high: None, count: 9 };
        let outcome = Outcome::Finished {
            loss: 0.1,
            bits_per_dim: estimate,
            rate: estimate,
            distortion: estimate,
            quality: Vec::new(),
        };
        let samples = SampleMeasure {
            count: 9,
            dims: 64,
            inception_sha256: "0123456789".into(),
            reference: "digits".into(),
            reference_images: 60,
        };
        let measure =
            Measure { test_data: "digits".into(), images: 9, terms: 50, samples: Some(samples.clone()) };
        let variant = Variant {
            schedule: BetaSchedule::Linear,
            prediction: Prediction::Eps,
            objective: Objective::Mse,
            seed: 0,
        };
        let mut result =
            VariantResult { variant, outcome, config: "[data]".into(), measure: Some(measure.clone()) };
        let text = serde_json::to_string(&result).unwrap();
        assert_eq!(serde_json::from_str::<VariantResult>(&text).unwrap(), result);
        assert!(result.is_by(&measure));
        for other in [
            Measure { test_data: "letters".into(), ..measure.clone() },
            Measure { images: 10, ..measure.clone() },
            Measure { terms: 1000, ..measure.clone() },
            Measure { samples: None, ..measure.clone() },
            Measure {
                samples: Some(SampleMeasure { reference_images: 59, ..samples.clone() }),
                ..measure.clone()
            },
            Measure {
                samples: Some(SampleMeasure { inception_sha256: "9876543210".into(), ..samples }),
                ..measure.clone()
            },
        ] {
            assert!(!result.is_by(&other), "{other:?}");
        }
        // As earlier versions wrote it.
        result.measure = None;
        let text = serde_json::to_string(&result).unwrap();
        assert!(!text.contains("measure"), "{text}");
        let mut earlier: VariantResult = serde_json::from_str(&text).unwrap();
        assert!(!earlier.is_by(&measure));
        earlier.outcome = Outcome::Unstable { step: 12, reason: "the loss is inf".into() };
        assert!(earlier.is_by(&measure));
    }
}
