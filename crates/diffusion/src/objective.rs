//! What training minimises, and its gradient with respect to the network's output (§3.2–3.4; Algorithm 1).

use std::f64::consts::LN_2;

use engine::ImageShape;

use crate::config::{DiffusionConfig, Loss, Prediction};
use crate::error::DiffusionError;
use crate::gaussian::NormalCdf;
use crate::model_output::ModelOutput;
use crate::noise;
use crate::process::{GaussianDiffusion, sample_len};

/// λ of L_hybrid = L_simple + λ L_vlb (Nichol & Dhariwal 2021, §3.1). T times a uniformly drawn term estimates L_vlb.
const HYBRID_WEIGHT: f64 = 1e-3;

/// A training objective for images of one shape.
#[derive(Clone, Debug)]
pub struct Objective {
    pub(crate) process: GaussianDiffusion,
    pub(crate) loss: Loss,
    pub(crate) image: ImageShape,
}

/// What Algorithm 1 draws for a batch.
#[derive(Clone, PartialEq, Debug)]
pub struct TrainingInputs {
    /// The step t of each sample, uniform in 0, …, T-1.
    pub t: Vec<usize>,
    /// ε, in the batch's shape.
    pub noise: Vec<f32>,
    /// x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε, what the network is given.
    pub x_t: Vec<f32>,
}

impl TrainingInputs {
    /// t as the network takes it.
    pub fn timesteps(&self) -> Vec<f32> {
        self.t.iter().map(|&t| t as f32).collect()
    }
}

/// A batch's losses, and their gradient.
#[derive(Clone, PartialEq, Debug)]
pub struct LossGradient {
    /// The loss of each sample: mean squared error over dimensions, bits/dim, or a sum of them.
    pub losses: Vec<f64>,
    /// ∂(Σ losses / total batch) / ∂(network's output), in the output's layout.
    pub gradient: Vec<f32>,
}

impl Objective {
    /// The objective of a configuration.
    ///
    /// # Errors
    /// What [`GaussianDiffusion::new`] reports.
    pub fn new(config: &DiffusionConfig, image: ImageShape) -> Result<Self, DiffusionError> {
        Ok(Self { process: GaussianDiffusion::new(config)?, loss: config.loss, image })
    }

    /// The process that is trained for.
    pub fn process(&self) -> &GaussianDiffusion {
        &self.process
    }

    /// Draws t and ε for images `x_start`, `[n, height, width, channels]` in [-1, 1], and makes x_t. They
    /// depend on `seed` and the number of each sample, counted over the whole training from `first_sample`,
    /// and on nothing else.
    ///
    /// # Panics
    /// If `x_start` is not a whole number of images.
    pub fn draw(&self, seed: u64, first_sample: u64, x_start: &[f32]) -> TrainingInputs {
        let len = self.image.len();
        let samples = x_start.len() / len;
        assert_eq!(samples * len, x_start.len(), "x_start is not a whole number of images");
        let t = noise::uniform_timesteps(seed, first_sample, samples, self.process.timesteps());
        let noise = noise::forward_noise(seed, first_sample, &t, len);
        let x_t = self.process.q_sample(x_start, &t, &noise);
        TrainingInputs { t, noise, x_t }
    }

    /// The loss of each sample, given the network's output `[n, height, width, channels]` (twice the channels with a
    /// learned variance), and the gradient of their mean over `total_batch` samples, of which these are a part.
    ///
    /// `mse` is the squared error of the prediction; with `eps` that is L_simple (eq. 14). `kl` is one term
    /// of the bound in bits/dim, as uniformly drawn: not clipped, and not multiplied by T. `hybrid` is `mse`
    /// and T/1000 times `kl`, of which the prediction has no gradient.
    ///
    /// # Panics
    /// If the slices do not hold the same number of images.
    pub fn loss_and_gradient(
        &self,
        x_start: &[f32],
        inputs: &TrainingInputs,
        model_output: &[f32],
        total_batch: usize,
    ) -> LossGradient {
        let channels = self.image.channels;
        let output = ModelOutput::split(model_output, channels, self.process.variance.is_learned());
        for batch in [&inputs.noise, &inputs.x_t, &output.prediction] {
            assert_eq!(batch.len(), x_start.len(), "all batches have the same shape");
        }
        let (losses, gradient) = match self.loss {
            Loss::Mse => self.mse(x_start, inputs, &output, total_batch),
            Loss::Kl => self.kl(x_start, inputs, &output, total_batch),
            Loss::Hybrid => self.hybrid(x_start, inputs, &output, total_batch),
        };
        LossGradient { losses, gradient: gradient.join(channels) }
    }

    fn mse(
        &self,
        x_start: &[f32],
        inputs: &TrainingInputs,
        output: &ModelOutput,
        total_batch: usize,
    ) -> (Vec<f64>, ModelOutput) {
        let TrainingInputs { t, noise, x_t } = inputs;
        let posterior_mean;
        let target = match self.process.prediction {
            Prediction::Eps => noise,
            Prediction::Xstart => x_start,
            Prediction::Xprev => {
                posterior_mean = self.process.q_posterior_mean(x_start, x_t, t);
                &posterior_mean
            }
        };
        let errors: Vec<f32> =
            output.prediction.iter().zip(target).map(|(output, target)| output - target).collect();
        let len = sample_len(t, x_start);
        let losses = errors
            .chunks_exact(len)
            .map(|errors| {
                errors.iter().map(|&error| f64::from(error) * f64::from(error)).sum::<f64>() / len as f64
            })
            .collect();
        let scale = (2.0 / (len as f64 * total_batch as f64)) as f32;
        let prediction = errors.into_iter().map(|error| scale * error).collect();
        (losses, ModelOutput { prediction, log_variance: None })
    }

    fn kl(
        &self,
        x_start: &[f32],
        inputs: &TrainingInputs,
        output: &ModelOutput,
        total_batch: usize,
    ) -> (Vec<f64>, ModelOutput) {
        let TrainingInputs { t, x_t, .. } = inputs;
        let bits_per_dim = 1.0 / (LN_2 * sample_len(t, x_start) as f64);
        let scale = bits_per_dim / total_batch as f64;
        let slopes = |slope: fn(&GaussianDiffusion, usize) -> f64| -> Vec<f64> {
            t.iter().map(|&t| slope(&self.process, t)).collect()
        };
        let mean_slopes = slopes(GaussianDiffusion::mean_slope);
        let log_variance_slopes = slopes(GaussianDiffusion::log_variance_slope);

        let p = self.process.p_mean_variance(output, x_t, t, false);
        let mut losses = vec![0.0; t.len()];
        let mut prediction = Vec::with_capacity(x_t.len());
        let mut log_variance = output.log_variance.as_ref().map(|_| Vec::with_capacity(x_t.len()));
        self.process.visit_bound_terms(x_start, x_t, t, &p, NormalCdf::Tanh, |sample, _, term| {
            losses[sample] += bits_per_dim * term.value;
            prediction.push((scale * term.by_mean * mean_slopes[sample]) as f32);
            if let Some(log_variance) = &mut log_variance {
                log_variance.push((scale * term.by_log_variance * log_variance_slopes[sample]) as f32);
            }
        });
        (losses, ModelOutput { prediction, log_variance })
    }

    fn hybrid(
        &self,
        x_start: &[f32],
        inputs: &TrainingInputs,
        output: &ModelOutput,
        total_batch: usize,
    ) -> (Vec<f64>, ModelOutput) {
        let weight = HYBRID_WEIGHT * self.process.timesteps() as f64;
        let (mut losses, ModelOutput { prediction, .. }) = self.mse(x_start, inputs, output, total_batch);
        let (bound, ModelOutput { log_variance, .. }) = self.kl(x_start, inputs, output, total_batch);
        losses.iter_mut().zip(bound).for_each(|(loss, bound)| *loss += weight * bound);
        let weighted = |values: Vec<f32>| values.iter().map(|value| weight as f32 * value).collect();
        (losses, ModelOutput { prediction, log_variance: log_variance.map(weighted) })
    }
}
