//! The bound as a sum over what each step has to invent (eq. 16): L = D(q(x_T) || p(x_T)) + Σ E D(q(x_{t-1} |
//! x_t) || p(x_{t-1} | x_t)) + H(x_0).
//!
//! The usual terms (eq. 5) compare p with q(x_{t-1} | x_t, x_0), which knows x_0; these compare it with
//! q(x_{t-1} | x_t), which knows as much as p does. What lies between, I(x_0; x_{t-1} | x_t), is the
//! information about x_0 that comes to light at t, whatever the network; over all steps it sums to H(x_0).
//! That is the order in which a diffusion model, read as an autoregressive one, decodes its data.
//!
//! q(x_{t-1} | x_t) is known where the distribution of x_0 is. Here that is the uniform one over finitely
//! many images, so q(x_t) and q(x_{t-1} | x_t) are mixtures with a Gaussian for each image.

use std::f64::consts::LN_2;

use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::gaussian::NormalCdf;
use crate::known_region::q_sample_at;
use crate::noise;
use crate::process::GaussianDiffusion;

/// A term of both forms of the bound, in bits per image, as means over the images.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RewrittenTerm {
    /// The term of eq. 5: E D(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), or E -log p(x_0 | x_1), or E
    /// D(q(x_T | x_0) || p(x_T)).
    pub usual: f64,
    /// I(x_0; x_{t-1} | x_t); for the last H(x_0 | x_1), for the first I(x_0; x_T). It depends on the data
    /// and q alone.
    pub information: f64,
}

impl RewrittenTerm {
    /// The term of eq. 16, E D(q(x_{t-1} | x_t) || p(x_{t-1} | x_t)).
    pub fn divergence(&self) -> f64 {
        self.usual - self.information
    }
}

/// Both forms of the bound for the uniform distribution over some images, in bits per image.
#[derive(Clone, PartialEq, Debug)]
pub struct RewrittenBound {
    /// That of x_T.
    pub prior: RewrittenTerm,
    /// Those of t = 0, …, T-1 in code's count, from x_t to x_{t-1}.
    pub terms: Vec<RewrittenTerm>,
    /// H(x_0), the logarithm of the number of images.
    pub entropy: f64,
}

impl RewrittenBound {
    fn all(&self) -> impl Iterator<Item = &RewrittenTerm> {
        self.terms.iter().chain([&self.prior])
    }

    /// L as eq. 5 has it.
    pub fn usual(&self) -> f64 {
        self.all().map(|term| term.usual).sum()
    }

    /// L as eq. 16 has it.
    pub fn rewritten(&self) -> f64 {
        self.all().map(RewrittenTerm::divergence).sum::<f64>() + self.entropy
    }

    /// Σ I(x_0; x_{t-1} | x_t), what all steps together say about x_0: H(x_0).
    pub fn information(&self) -> f64 {
        self.all().map(|term| term.information).sum()
    }
}

/// The evaluation of both forms, from x_T down: each image goes one way x_T, x_{T-1}, …, x_1 of the forward
/// process, drawn backwards from q(x_{t-1} | x_t, x_0), on which both are measured.
#[derive(Clone, Debug)]
pub struct RewrittenBoundEvaluation {
    process: GaussianDiffusion,
    x_start: Vec<f32>,
    images: usize,
    seed: u64,
    cdf: NormalCdf,
    x_t: Vec<f32>,
    prior: RewrittenTerm,
    /// From T-1 down.
    terms: Vec<RewrittenTerm>,
}

impl RewrittenBoundEvaluation {
    /// Prepares both forms for `images` different images `x_start`; the way of each depends on `seed` and its number.
    ///
    /// # Panics
    /// If `x_start` is not `images` images of the same size, at least one.
    pub fn new(
        process: GaussianDiffusion,
        x_start: Vec<f32>,
        images: usize,
        seed: u64,
        cdf: NormalCdf,
    ) -> Self {
        assert!(images > 0 && x_start.len().is_multiple_of(images), "{images} images");
        let dims = (x_start.len() / images) as f64;
        let last = process.timesteps() - 1;
        let numbers: Vec<u64> = (0..images as u64).collect();
        let x_t = q_sample_at(&process, &x_start, seed, &numbers, last);
        let usual = process.prior_bits_per_dim(&x_start, images);
        let mut evaluation = Self {
            process,
            x_start,
            images,
            seed,
            cdf,
            x_t,
            prior: RewrittenTerm { usual: dims * mean(usual.into_iter()), information: 0.0 },
            terms: Vec::new(),
        };
        // log q(x_T | x_0) / q(x_T), q(x_T) being the mean of q(x_T | x_0) over the images.
        let posterior = evaluation.posterior(last);
        let n = images as f64;
        evaluation.prior.information = mean((0..images).map(|i| posterior[i][i] / LN_2 + n.log2()));
        evaluation
    }

    /// Steps that remain.
    pub fn steps_left(&self) -> usize {
        self.process.timesteps() - self.terms.len()
    }

    /// For each x_t, log q(x_0 | x_t) in nats for every image as x_0.
    fn posterior(&self, t: usize) -> Vec<Vec<f64>> {
        let tables = self.process.tables();
        let (signal, variance) = (tables.sqrt_alphas_cumprod[t], 1.0 - tables.alphas_cumprod[t]);
        let of_sample = |x_t: &[f32]| {
            let logs = self
                .each_image()
                .map(|x_start| log_density(x_t, variance, |k| signal * f64::from(x_start[k])));
            normalised(logs.collect())
        };
        self.x_t.chunks_exact(self.len()).map(of_sample).collect()
    }

    fn len(&self) -> usize {
        self.x_start.len() / self.images
    }

    fn each_image(&self) -> impl Iterator<Item = &[f32]> {
        self.x_start.chunks_exact(self.len())
    }

    /// Measures the next term of both forms; returns its t, or none when all are done.
    ///
    /// # Errors
    /// What [`GaussianDiffusion::model_output`] reports; the step can then be tried again.
    pub fn step(&mut self, denoiser: &mut dyn Denoiser) -> Result<Option<usize>, DiffusionError> {
        let Some(step) = self.steps_left().checked_sub(1) else {
            return Ok(None);
        };
        let (len, t) = (self.len(), vec![step; self.images]);
        let terms = self.process.bound_term(denoiser, &self.x_start, &self.x_t, &t, self.cdf)?;
        let usual = len as f64 * mean(terms.iter().map(|term| term.bits_per_dim));
        let posterior = self.posterior(step);
        if step == 0 {
            // x_0 is one of the images: no density, but a probability.
            let information = mean((0..self.images).map(|i| -posterior[i][i] / LN_2));
            self.terms.push(RewrittenTerm { usual, information });
            return Ok(Some(step));
        }

        let timestep = self.process.network_timestep(step - 1);
        let numbers: Vec<u64> = (0..self.images as u64).collect();
        let q = self.process.q_posterior_mean_variance(&self.x_start, &self.x_t, &t);
        let sigma = q.variance[0].sqrt() as f32;
        let noise = noise::forward_noise_of(self.seed, &numbers, timestep, len);
        let x_prev: Vec<f32> = q.mean.iter().zip(noise).map(|(mean, z)| mean + sigma * z).collect();

        let tables = self.process.tables();
        let (c1, c2) = (tables.posterior_mean_coef1[step], tables.posterior_mean_coef2[step]);
        let variance = tables.posterior_variance[step];
        let samples = x_prev.chunks_exact(len).zip(self.x_t.chunks_exact(len)).zip(&posterior);
        let information = mean(samples.enumerate().map(|(own, ((x_prev, x_t), posterior))| {
            let of_image = |x_start: &[f32]| {
                log_density(x_prev, variance, |k| c1 * f64::from(x_start[k]) + c2 * f64::from(x_t[k]))
            };
            let densities: Vec<f64> = self.each_image().map(of_image).collect();
            let mixture =
                log_sum_exp(densities.iter().zip(posterior).map(|(density, weight)| density + weight));
            (densities[own] - mixture) / LN_2
        }));
        self.terms.push(RewrittenTerm { usual, information });
        self.x_t = x_prev;
        Ok(Some(step))
    }

    /// Takes the steps that remain, and gives both forms.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn finish(mut self, denoiser: &mut dyn Denoiser) -> Result<RewrittenBound, DiffusionError> {
        while self.step(denoiser)?.is_some() {}
        self.terms.reverse();
        Ok(RewrittenBound { prior: self.prior, terms: self.terms, entropy: (self.images as f64).log2() })
    }
}

/// log N(x; mean, variance I) in nats, but for a constant that all densities of this variance share.
fn log_density(x: &[f32], variance: f64, mean: impl Fn(usize) -> f64) -> f64 {
    let square: f64 = x.iter().enumerate().map(|(k, &x)| (f64::from(x) - mean(k)).powi(2)).sum();
    -0.5 * square / variance
}

fn log_sum_exp(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + libm::log(logs.map(|log| libm::exp(log - largest)).sum::<f64>())
}

/// Logarithms of weights that sum to 1.
fn normalised(logs: Vec<f64>) -> Vec<f64> {
    let all = log_sum_exp(logs.iter().copied());
    logs.into_iter().map(|log| log - all).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    sum / f64::from(count)
}
