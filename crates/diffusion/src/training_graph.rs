//! Algorithm 1 recorded on the network's own graph: ε, x_t and the loss are computed where the network is, and nothing has
//! to come back before its gradient is.

use engine::random::Purpose;
use engine::{Graph, Session, Shape, Var};

use crate::config::{Loss, Prediction};
use crate::noise;
use crate::objective::Objective;

/// What is recorded before the network: x_t from images and what [`Objective::draw_steps`] draws for them.
#[derive(Clone, Copy, Debug)]
pub struct TrainingGraph {
    x_start: Var,
    /// Input: [`DrawnSteps::timesteps`], `[n, 1, 1, 1]`, which the network is given as well.
    pub timesteps: Var,
    weights: Var,
    /// x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε, which the network is given.
    pub x_t: Var,
    target: Var,
}

/// The steps of a batch, as [`TrainingGraph`] takes them.
#[derive(Clone, PartialEq, Debug)]
pub struct DrawnSteps {
    /// t of each sample, uniform in 0, …, T-1.
    pub timesteps: Vec<f32>,
    /// √ᾱ_t and √(1-ᾱ_t) of each sample.
    pub weights: Vec<f32>,
}

impl Objective {
    /// Records x_t of `batch` images: what [`Self::draw`] gives. `None` if the loss cannot be recorded: all but the
    /// squared error of ε or x_0 is left to [`Self::loss_and_gradient`].
    pub fn record(&self, graph: &mut Graph, batch: usize) -> Option<TrainingGraph> {
        if self.loss != Loss::Mse || self.process.prediction == Prediction::Xprev {
            return None;
        }
        let shape = Shape::new(batch, self.image.height, self.image.width, self.image.channels);
        let x_start = graph.input(shape);
        let timesteps = graph.input(Shape::vectors(batch, 1));
        let weights = graph.input(Shape::vectors(batch, 2));
        let noise = graph.normals(Purpose::ForwardNoise, timesteps, shape);
        let x_t = graph.weighted_sum(x_start, noise, weights);
        let target = if self.process.prediction == Prediction::Eps { noise } else { x_start };
        Some(TrainingGraph { x_start, timesteps, weights, x_t, target })
    }

    /// The steps that [`Self::draw`] draws for as many samples.
    pub fn draw_steps(&self, seed: u64, first_sample: u64, samples: usize) -> DrawnSteps {
        let t = noise::uniform_timesteps(seed, first_sample, samples, self.process.timesteps());
        let tables = self.process.tables();
        let weights = t.iter().flat_map(|&t| {
            [tables.sqrt_alphas_cumprod[t], tables.sqrt_one_minus_alphas_cumprod[t]]
                .map(|weight| weight as f32)
        });
        DrawnSteps { weights: weights.collect(), timesteps: t.iter().map(|&t| t as f32).collect() }
    }
}

impl TrainingGraph {
    /// Sets images x_0, `[n, height, width, channels]` in [-1, 1], and what was drawn for them, before a run.
    ///
    /// # Panics
    /// If they are not as many as the graph is for.
    pub fn set(&self, session: &mut Session, x_start: &[f32], steps: &DrawnSteps) {
        session.set(self.x_start, x_start);
        session.set(self.timesteps, &steps.timesteps);
        session.set(self.weights, &steps.weights);
    }

    /// Records the loss of each sample, `[n, 1, 1, 1]`, from the network's output. Its gradient for the mean over a batch
    /// comes from a gradient of one over that batch's size for each loss.
    pub fn loss(&self, graph: &mut Graph, output: Var) -> Var {
        graph.squared_error(output, self.target)
    }
}
