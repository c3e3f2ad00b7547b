//! The file of reference numbers.

use std::collections::BTreeMap;

use diffusion::{BetaSchedule, DiffusionConfig, Loss, NormalCdf, Prediction, Spacing, Variance};
use engine::ImageShape;
use serde::Deserialize;

/// Tables by name; null stands for an infinite entry.
pub type NamedTables = BTreeMap<String, Vec<Option<f64>>>;

#[derive(Deserialize)]
pub struct Fixture {
    pub schedules: Schedules,
    pub training: Training,
    pub drawn: Drawn,
    /// Rows of x, mean, log variance, and the negative log likelihood in nats with tanh and with erf.
    pub decoder: Vec<[f64; 5]>,
    pub bound: Bound,
    pub spacings: Vec<Kept>,
    pub sampling: Sampling,
}

#[derive(Deserialize)]
pub struct Schedules {
    pub t10: BTreeMap<BetaSchedule, NamedTables>,
    pub t1: BTreeMap<BetaSchedule, NamedTables>,
    pub t1000: Excerpt,
}

/// Some entries of some tables.
#[derive(Deserialize)]
pub struct Excerpt {
    pub at: Vec<usize>,
    pub tables: BTreeMap<BetaSchedule, NamedTables>,
}

#[derive(Deserialize)]
pub struct Process {
    timesteps: usize,
    beta_start: f64,
    beta_end: f64,
}

impl Process {
    pub fn config(&self, prediction: Prediction, variance: Variance, loss: Loss) -> DiffusionConfig {
        let &Self { timesteps, beta_start, beta_end } = self;
        DiffusionConfig {
            timesteps,
            beta_start,
            beta_end,
            prediction,
            variance,
            loss,
            ..DiffusionConfig::default()
        }
    }
}

#[derive(Deserialize)]
pub struct Training {
    pub process: Process,
    pub shape: [usize; 4],
    pub t: Vec<usize>,
    pub total_batch: usize,
    pub x_start: Vec<f32>,
    pub noise: Vec<f32>,
    pub x_t: Vec<f32>,
    pub posterior_mean: Vec<f64>,
    plain_outputs: BTreeMap<Prediction, Vec<f32>>,
    learned_outputs: BTreeMap<Prediction, Vec<f32>>,
    range_outputs: BTreeMap<Prediction, Vec<f32>>,
    pub reverse: Vec<Reverse>,
    pub losses: Vec<LossCase>,
}

impl Training {
    pub fn output(&self, prediction: Prediction, variance: Variance) -> &[f32] {
        match variance {
            Variance::Learned => &self.learned_outputs[&prediction],
            Variance::LearnedRange => &self.range_outputs[&prediction],
            Variance::FixedSmall | Variance::FixedLarge => &self.plain_outputs[&prediction],
        }
    }
}

/// What training draws.
#[derive(Deserialize)]
pub struct Drawn {
    pub seed: u64,
    pub first_sample: u64,
    pub t: Vec<usize>,
    pub noise: Vec<f64>,
}

#[derive(Deserialize)]
pub struct Reverse {
    pub prediction: Prediction,
    pub variance: Variance,
    pub clip: bool,
    pub mean: Vec<f64>,
    pub log_variance: Vec<f64>,
    pub pred_xstart: Vec<f64>,
}

#[derive(Deserialize)]
pub struct LossCase {
    pub loss: Loss,
    pub prediction: Prediction,
    pub variance: Variance,
    pub losses: Vec<f64>,
    pub gradient: Vec<f64>,
}

#[derive(Deserialize)]
pub struct Bound {
    pub process: Process,
    pub shape: [usize; 4],
    pub seed: u64,
    pub first_sample: u64,
    pub x_start: Vec<f32>,
    pub prior: Vec<f64>,
    pub cases: Vec<BoundCase>,
}

/// For each t, the term of each sample.
#[derive(Deserialize)]
pub struct BoundCase {
    pub cdf: NormalCdf,
    pub bits_per_dim: Vec<Vec<f64>>,
    pub xstart_mse: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
pub struct Kept {
    pub timesteps: usize,
    pub steps: usize,
    pub spacing: Spacing,
    pub kept: Vec<usize>,
}

#[derive(Deserialize)]
pub struct Sampling {
    pub shape: [usize; 4],
    pub seed: u64,
    pub first_sample: u64,
    pub ancestral: Vec<ReferenceChain>,
    pub ddim: Vec<ReferenceChain>,
}

#[derive(Deserialize)]
pub struct ReferenceChain {
    pub prediction: Prediction,
    /// Absent for DDIM.
    pub variance: Option<Variance>,
    /// Absent for ancestral sampling.
    pub eta: Option<f64>,
    pub clip: bool,
    pub spacing: Spacing,
    pub steps: usize,
    pub keep_every: usize,
    pub chain: Vec<ReferenceStep>,
}

#[derive(Deserialize)]
pub struct ReferenceStep {
    pub t: usize,
    pub x: Vec<f64>,
    pub pred_xstart: Vec<f64>,
}

pub fn load() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/diffusion.json")).unwrap()
}

pub fn image_shape([_, height, width, channels]: [usize; 4]) -> ImageShape {
    ImageShape::new(height, width, channels)
}
