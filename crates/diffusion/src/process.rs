//! The forward process q and the reverse process p (§2 and §3 of the paper).
//!
//! A batch is a flat slice of samples `[n, height, width, channels]`; `t` holds one step for each sample, counted
//! 0, …, T-1. Tables are f64; samples and their arithmetic are f32.

use rayon::prelude::*;

use crate::config::{DiffusionConfig, Prediction, Variance};
use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::model_output::ModelOutput;
use crate::schedule;
use crate::tables::Tables;

/// A Gaussian diffusion process, with what its network predicts.
///
/// Methods panic when slices do not hold the same number of whole samples, one for each `t`, or a `t` is not below T.
#[derive(Clone, PartialEq, Debug)]
pub struct GaussianDiffusion {
    pub(crate) prediction: Prediction,
    pub(crate) variance: Variance,
    pub(crate) clip_denoised: bool,
    pub(crate) tables: Tables,
    /// For each step, the t by which the network knows it; ascending.
    pub(crate) timestep_map: Vec<usize>,
    /// Whether steps of the network's process are left out.
    pub(crate) respaced: bool,
}

/// Gaussians with one variance for each sample: N(mean, variance·I).
#[derive(Clone, PartialEq, Debug)]
pub struct IsotropicGaussians {
    /// Means, in the batch's shape.
    pub mean: Vec<f32>,
    /// Variance of each sample.
    pub variance: Vec<f64>,
    /// log variance of each sample; clipped where the variance is 0.
    pub log_variance: Vec<f64>,
}

/// p(x_{t-1} | x_t) for a batch, and the x̂0 it came from.
#[derive(Clone, PartialEq, Debug)]
pub struct ReverseTransition {
    /// μ_θ(x_t, t), in the batch's shape.
    pub mean: Vec<f32>,
    /// log σ².
    pub log_variance: LogVariance,
    /// x̂0, in the batch's shape.
    pub pred_xstart: Vec<f32>,
}

/// log σ² of p(x_{t-1} | x_t).
#[derive(Clone, PartialEq, Debug)]
pub enum LogVariance {
    /// One value for each sample: a fixed variance.
    PerSample(Vec<f64>),
    /// One for each element, as the network gives it.
    PerElement(Vec<f32>),
}

impl LogVariance {
    /// That of `element`, counted over the whole batch, which belongs to `sample`.
    #[inline]
    pub fn at(&self, sample: usize, element: usize) -> f64 {
        match self {
            Self::PerSample(values) => values[sample],
            Self::PerElement(values) => f64::from(values[element]),
        }
    }
}

impl GaussianDiffusion {
    /// The process of a configuration.
    ///
    /// # Errors
    /// What [`DiffusionConfig::validate`] and [`Tables::from_betas`] report, and
    /// [`DiffusionError::UndeterminedXstart`] when the schedule destroys so much signal that x̂0 cannot be computed
    /// from the network's prediction in f32.
    pub fn new(config: &DiffusionConfig) -> Result<Self, DiffusionError> {
        config.validate()?;
        let process = Self {
            prediction: config.prediction,
            variance: config.variance,
            clip_denoised: config.clip_denoised,
            tables: Tables::from_betas(schedule::betas(config))?,
            timestep_map: (0..config.timesteps).collect(),
            respaced: false,
        };
        process.check_xstart_is_determined()?;
        Ok(process)
    }

    fn check_xstart_is_determined(&self) -> Result<(), DiffusionError> {
        let undetermined = (0..self.timesteps()).find(|&t| {
            let (a, b) = match self.prediction {
                Prediction::Eps => self.xstart_from_eps_coefs(t),
                Prediction::Xstart => (1.0, 0.0),
                Prediction::Xprev => self.xstart_from_xprev_coefs(t),
            };
            !((a as f32).is_finite() && (b as f32).is_finite())
        });
        match undetermined {
            None => Ok(()),
            Some(t) => Err(DiffusionError::UndeterminedXstart {
                prediction: self.prediction,
                t,
                alpha_cumprod: self.tables.alphas_cumprod[t],
            }),
        }
    }

    /// T, the number of steps.
    pub fn timesteps(&self) -> usize {
        self.tables.timesteps()
    }

    /// The coefficients of every step.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The variance of the reverse process.
    pub fn variance(&self) -> Variance {
        self.variance
    }

    /// Whether samplers clip x̂0 to [-1, 1].
    pub fn clip_denoised(&self) -> bool {
        self.clip_denoised
    }

    /// The same process without that clipping.
    #[must_use]
    pub fn unclipped(self) -> Self {
        Self { clip_denoised: false, ..self }
    }

    /// The t by which the network knows step `t`: the same, unless the process is [respaced](Self::respace).
    pub fn network_timestep(&self, t: usize) -> usize {
        self.timestep_map[t]
    }

    // The forward process.

    /// q(x_t | x_0) = N(√ᾱ_t x_0, (1-ᾱ_t) I) (eq. 4).
    pub fn q_mean_variance(&self, x_start: &[f32], t: &[usize]) -> IsotropicGaussians {
        let tables = &self.tables;
        let samples = x_start.chunks_exact(sample_len(t, x_start)).zip(t);
        let scaled = samples.flat_map(|(x_start, &t)| {
            let signal = tables.sqrt_alphas_cumprod[t] as f32;
            x_start.iter().map(move |&x| signal * x)
        });
        IsotropicGaussians {
            mean: scaled.collect(),
            variance: t.iter().map(|&t| 1.0 - tables.alphas_cumprod[t]).collect(),
            log_variance: look_up(&tables.log_one_minus_alphas_cumprod, t),
        }
    }

    /// A sample of q(x_t | x_0) with noise ε: x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε (eq. 4).
    pub fn q_sample(&self, x_start: &[f32], t: &[usize], noise: &[f32]) -> Vec<f32> {
        let tables = &self.tables;
        combine(t, x_start, noise, |t| {
            (tables.sqrt_alphas_cumprod[t], tables.sqrt_one_minus_alphas_cumprod[t])
        })
    }

    /// q(x_{t-1} | x_t, x_0) = N(μ̃_t(x_t, x_0), β̃_t I) (eqs. 6 and 7).
    pub fn q_posterior_mean_variance(&self, x_start: &[f32], x_t: &[f32], t: &[usize]) -> IsotropicGaussians {
        IsotropicGaussians {
            mean: self.q_posterior_mean(x_start, x_t, t),
            variance: look_up(&self.tables.posterior_variance, t),
            log_variance: look_up(&self.tables.posterior_log_variance_clipped, t),
        }
    }

    /// μ̃_t(x_t, x_0) = β_t √ᾱ_{t-1} / (1-ᾱ_t) x_0 + (1-ᾱ_{t-1}) √α_t / (1-ᾱ_t) x_t (eq. 7).
    pub fn q_posterior_mean(&self, x_start: &[f32], x_t: &[f32], t: &[usize]) -> Vec<f32> {
        let tables = &self.tables;
        combine(t, x_start, x_t, |t| (tables.posterior_mean_coef1[t], tables.posterior_mean_coef2[t]))
    }

    // From one prediction to another.

    /// x̂0 = √(1/ᾱ_t) x_t - √(1/ᾱ_t - 1) ε (eq. 15).
    pub fn predict_xstart_from_eps(&self, x_t: &[f32], t: &[usize], eps: &[f32]) -> Vec<f32> {
        combine(t, x_t, eps, |t| self.xstart_from_eps_coefs(t))
    }

    /// The x̂0 whose μ̃_t(x_t, x̂0) is `xprev` (eq. 7, solved for x_0).
    pub fn predict_xstart_from_xprev(&self, x_t: &[f32], t: &[usize], xprev: &[f32]) -> Vec<f32> {
        combine(t, xprev, x_t, |t| self.xstart_from_xprev_coefs(t))
    }

    /// ε = (x_t - √ᾱ_t x̂0) / √(1-ᾱ_t) (eq. 4, solved for ε).
    pub fn predict_eps_from_xstart(&self, x_t: &[f32], t: &[usize], xstart: &[f32]) -> Vec<f32> {
        let tables = &self.tables;
        combine(t, x_t, xstart, |t| {
            let sigma = tables.sqrt_one_minus_alphas_cumprod[t];
            (1.0 / sigma, -tables.sqrt_alphas_cumprod[t] / sigma)
        })
    }

    fn xstart_from_eps_coefs(&self, t: usize) -> (f64, f64) {
        (self.tables.sqrt_recip_alphas_cumprod[t], -self.tables.sqrt_recipm1_alphas_cumprod[t])
    }

    fn xstart_from_xprev_coefs(&self, t: usize) -> (f64, f64) {
        let (coef1, coef2) = (self.tables.posterior_mean_coef1[t], self.tables.posterior_mean_coef2[t]);
        (1.0 / coef1, -coef2 / coef1)
    }

    /// x̂0 from whatever the network predicts, not clipped.
    pub fn predict_xstart(&self, prediction: &[f32], x_t: &[f32], t: &[usize]) -> Vec<f32> {
        match self.prediction {
            Prediction::Eps => self.predict_xstart_from_eps(x_t, t, prediction),
            Prediction::Xstart => prediction.to_vec(),
            Prediction::Xprev => self.predict_xstart_from_xprev(x_t, t, prediction),
        }
    }

    /// ε from whatever the network predicts, with the `xstart` that [`Self::predict_xstart`] made of it.
    pub fn predict_eps(&self, prediction: &[f32], xstart: &[f32], x_t: &[f32], t: &[usize]) -> Vec<f32> {
        match self.prediction {
            Prediction::Eps => prediction.to_vec(),
            Prediction::Xstart | Prediction::Xprev => self.predict_eps_from_xstart(x_t, t, xstart),
        }
    }

    // The reverse process.

    /// p(x_{t-1} | x_t) = N(μ_θ(x_t, t), Σ_θ(x_t, t)) (eq. 1) from the network's output; `clip` clips x̂0 to [-1, 1].
    ///
    /// With `eps` and `xstart`, μ_θ = μ̃_t(x_t, x̂0), which without clipping is eq. 11. With `xprev`, the
    /// output itself is the mean, and x̂0 is for reporting only.
    ///
    /// # Panics
    /// If the variance is learned and the output has no second half.
    pub fn p_mean_variance(
        &self,
        output: &ModelOutput,
        x_t: &[f32],
        t: &[usize],
        clip: bool,
    ) -> ReverseTransition {
        let mut pred_xstart = self.predict_xstart(&output.prediction, x_t, t);
        if clip {
            pred_xstart.par_iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        }
        let mean = match self.prediction {
            Prediction::Eps | Prediction::Xstart => self.q_posterior_mean(&pred_xstart, x_t, t),
            Prediction::Xprev => output.prediction.clone(),
        };
        ReverseTransition { mean, log_variance: self.p_log_variance(output, t), pred_xstart }
    }

    fn p_log_variance(&self, output: &ModelOutput, t: &[usize]) -> LogVariance {
        match (self.variance, &output.log_variance) {
            (Variance::FixedSmall, _) => {
                LogVariance::PerSample(look_up(&self.tables.posterior_log_variance_clipped, t))
            }
            (Variance::FixedLarge, _) => {
                LogVariance::PerSample(look_up(&self.tables.fixed_large_log_variance, t))
            }
            (Variance::Learned, Some(log_variance)) => LogVariance::PerElement(log_variance.clone()),
            (Variance::LearnedRange, Some(position)) => {
                LogVariance::PerElement(self.log_variance_in_range(position, t))
            }
            (Variance::Learned | Variance::LearnedRange, None) => {
                panic!("a learned variance needs the output's second half")
            }
        }
    }

    /// log σ² = f log β_t + (1-f) log β̃_t with f = (v+1)/2 (Nichol & Dhariwal 2021, eq. 15), of this
    /// process's own β: hence a respaced one has the variances of its longer steps.
    fn log_variance_in_range(&self, position: &[f32], t: &[usize]) -> Vec<f32> {
        let tables = &self.tables;
        let samples = position.chunks_exact(sample_len(t, position)).zip(t);
        let log_variances = samples.flat_map(|(position, &t)| {
            let (low, high) = tables.log_variance_range(t);
            let (middle, half) = ((0.5 * (low + high)) as f32, (0.5 * (high - low)) as f32);
            position.iter().map(move |&v| middle + half * v)
        });
        log_variances.collect()
    }

    /// ∂μ_θ / ∂prediction at step t, the same for every element (x̂0 not clipped).
    pub(crate) fn mean_slope(&self, t: usize) -> f64 {
        match self.prediction {
            Prediction::Eps => self.tables.posterior_mean_coef1[t] * self.xstart_from_eps_coefs(t).1,
            Prediction::Xstart => self.tables.posterior_mean_coef1[t],
            Prediction::Xprev => 1.0,
        }
    }

    /// ∂ log σ² / ∂(second half of the output) at step t, the same for every element.
    pub(crate) fn log_variance_slope(&self, t: usize) -> f64 {
        match self.variance {
            Variance::LearnedRange => {
                let (low, high) = self.tables.log_variance_range(t);
                0.5 * (high - low)
            }
            Variance::Learned => 1.0,
            Variance::FixedSmall | Variance::FixedLarge => 0.0,
        }
    }

    /// Asks the network about a batch; `t` are this process's steps.
    ///
    /// # Errors
    /// [`DiffusionError::OutputChannels`] when the network is not for this process,
    /// [`DiffusionError::Denoiser`] when it fails, and [`DiffusionError::NonFiniteOutput`] when its output is
    /// no number.
    pub fn model_output(
        &self,
        denoiser: &mut dyn Denoiser,
        x_t: &[f32],
        t: &[usize],
    ) -> Result<ModelOutput, DiffusionError> {
        let image = denoiser.image_shape();
        let learned = self.variance.is_learned();
        let (found, expected) = (denoiser.output_channels(), image.channels * if learned { 2 } else { 1 });
        if found != expected {
            return Err(DiffusionError::OutputChannels { found, expected, image });
        }
        assert_eq!(x_t.len(), t.len() * image.len(), "one t for each image");
        let timesteps: Vec<f32> = t.iter().map(|&t| self.timestep_map[t] as f32).collect();
        let mut raw = vec![0.0; x_t.len() / image.channels * expected];
        denoiser.denoise(x_t, &timesteps, &mut raw).map_err(DiffusionError::Denoiser)?;
        if let Some(first) = raw.iter().position(|value| !value.is_finite()) {
            return Err(DiffusionError::NonFiniteOutput {
                timestep: self.timestep_map[t[first * t.len() / raw.len()]],
                count: raw.iter().filter(|value| !value.is_finite()).count(),
                len: raw.len(),
            });
        }
        Ok(ModelOutput::split(&raw, image.channels, learned))
    }
}

/// Elements of one sample, in a batch with one `t` for each.
pub(crate) fn sample_len(t: &[usize], batch: &[f32]) -> usize {
    let len = batch.len() / t.len().max(1);
    assert_eq!(len * t.len(), batch.len(), "{} samples are not {} elements", t.len(), batch.len());
    // An empty batch has samples of any length; 1 lets it be chunked.
    len.max(1)
}

fn look_up(table: &[f64], t: &[usize]) -> Vec<f64> {
    t.iter().map(|&t| table[t]).collect()
}

/// a_t x + b_t y for each sample; `coefs` gives (a_t, b_t).
fn combine(t: &[usize], x: &[f32], y: &[f32], coefs: impl Fn(usize) -> (f64, f64) + Sync) -> Vec<f32> {
    assert_eq!(x.len(), y.len(), "both batches have the same shape");
    let len = sample_len(t, x);
    let mut out = vec![0.0; x.len()];
    let samples = x.par_chunks_exact(len).zip(y.par_chunks_exact(len)).zip(t);
    out.par_chunks_exact_mut(len).zip(samples).for_each(|(out, ((x, y), &t))| {
        let (a, b) = coefs(t);
        let (a, b) = (a as f32, b as f32);
        for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
            *out = a * x + b * y;
        }
    });
    out
}
