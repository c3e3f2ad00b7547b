//! The variational bound on the negative log likelihood, term by term, in bits/dim (§2, eq. 5; §4.3).

use std::f64::consts::LN_2;

use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::gaussian::{GaussianTerm, NormalCdf, decoder_nll, normal_kl};
use crate::noise;
use crate::pixels::PIXEL_VALUES_PER_UNIT;
use crate::process::{GaussianDiffusion, ReverseTransition, sample_len};

/// One term of a sample's bound.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BoundTerm {
    /// L_t in bits/dim: the decoder's for t = 0, else the divergence of p(x_{t-1} | x_t) from q(x_{t-1} | x_t, x_0).
    pub bits_per_dim: f64,
    /// Mean squared error of x̂0(x_t), on the [-1, 1] scale.
    pub xstart_mse: f64,
}

/// The whole bound of a sample.
#[derive(Clone, PartialEq, Debug)]
pub struct BitsPerDim {
    /// Terms t = 0, …, T-1 in code's count (the paper's L_0, …, L_{T-1}).
    pub terms: Vec<BoundTerm>,
    /// D_KL(q(x_T | x_0) || p(x_T)), the paper's L_T.
    pub prior: f64,
}

impl BitsPerDim {
    /// The bound on the negative log likelihood, in bits/dim.
    pub fn total(&self) -> f64 {
        self.rate() + self.distortion()
    }

    /// The rate of the lossless code (§4.3): all terms but the decoder's, in bits/dim.
    pub fn rate(&self) -> f64 {
        self.progressive_rate(0)
    }

    /// Its distortion: the decoder's term L_0, in bits/dim.
    pub fn distortion(&self) -> f64 {
        self.terms[0].bits_per_dim
    }

    /// Bits/dim sent when the receiver holds x_t of step `t` (Fig. 5, Table 4): the prior and the terms after t.
    pub fn progressive_rate(&self, t: usize) -> f64 {
        self.prior + self.terms[t + 1..].iter().map(|term| term.bits_per_dim).sum::<f64>()
    }

    /// The RMSE of x̂0(x_t) on the 0–255 scale, what the receiver then shows.
    pub fn progressive_distortion(&self, t: usize) -> f64 {
        PIXEL_VALUES_PER_UNIT * self.terms[t].xstart_mse.sqrt()
    }
}

impl GaussianDiffusion {
    /// D_KL(q(x_T | x_0) || N(0, I)) of each sample in bits/dim, the bound's L_T.
    pub fn prior_bits_per_dim(&self, x_start: &[f32], samples: usize) -> Vec<f64> {
        let t = vec![self.timesteps() - 1; samples];
        let len = sample_len(&t, x_start);
        let q = self.q_mean_variance(x_start, &t);
        (q.mean.chunks_exact(len).zip(&q.log_variance))
            .map(|(mean, &log_variance)| {
                let nats = mean.iter().map(|&mean| normal_kl(f64::from(mean), log_variance, 0.0, 0.0).value);
                nats.sum::<f64>() / len as f64 / LN_2
            })
            .collect()
    }

    /// The bound's term of every element in nats, with its derivatives by μ_θ and log σ²: D_KL(q || p) for t > 0, the
    /// decoder's negative log likelihood for t = 0. Calls `visit(sample, element of the batch, term)` in order.
    pub(crate) fn visit_bound_terms(
        &self,
        x_start: &[f32],
        x_t: &[f32],
        t: &[usize],
        p: &ReverseTransition,
        cdf: NormalCdf,
        mut visit: impl FnMut(usize, usize, GaussianTerm),
    ) {
        let len = sample_len(t, x_start);
        let q = self.q_posterior_mean_variance(x_start, x_t, t);
        for (element, &x) in x_start.iter().enumerate() {
            let sample = element / len;
            let (mean, log_variance) = (f64::from(p.mean[element]), p.log_variance.at(sample, element));
            let term = if t[sample] == 0 {
                decoder_nll(f64::from(x), mean, log_variance, cdf)
            } else {
                normal_kl(f64::from(q.mean[element]), q.log_variance[sample], mean, log_variance)
            };
            visit(sample, element, term);
        }
    }

    /// One term of each sample's bound, with x̂0 clipped. `x_t` is [`Self::q_sample`] of `x_start` at `t`.
    ///
    /// # Errors
    /// What [`Self::model_output`] reports.
    pub fn bound_term(
        &self,
        denoiser: &mut dyn Denoiser,
        x_start: &[f32],
        x_t: &[f32],
        t: &[usize],
        cdf: NormalCdf,
    ) -> Result<Vec<BoundTerm>, DiffusionError> {
        let output = self.model_output(denoiser, x_t, t)?;
        let p = self.p_mean_variance(&output, x_t, t, true);
        let per_dim = 1.0 / sample_len(t, x_start) as f64;
        let mut terms = vec![BoundTerm { bits_per_dim: 0.0, xstart_mse: 0.0 }; t.len()];
        self.visit_bound_terms(x_start, x_t, t, &p, cdf, |sample, element, term| {
            let error = f64::from(x_start[element]) - f64::from(p.pred_xstart[element]);
            terms[sample].bits_per_dim += term.value;
            terms[sample].xstart_mse += error * error;
        });
        for term in &mut terms {
            term.bits_per_dim *= per_dim / LN_2;
            term.xstart_mse *= per_dim;
        }
        Ok(terms)
    }
}

/// The evaluation of whole bounds, one t at a time from T-1 to 0 (T network calls in all).
#[derive(Clone, Debug)]
pub struct BoundEvaluation {
    process: GaussianDiffusion,
    x_start: Vec<f32>,
    seed: u64,
    first_sample: u64,
    cdf: NormalCdf,
    /// From T-1 down, for each sample.
    terms: Vec<Vec<BoundTerm>>,
    steps_left: usize,
}

impl BoundEvaluation {
    /// Prepares the bounds of `samples` images `x_start`; noise is drawn afresh for each t from `seed` and
    /// the number of the sample, the first being `first_sample`.
    ///
    /// # Panics
    /// If `x_start` is not `samples` images of the same size.
    pub fn new(
        process: GaussianDiffusion,
        x_start: Vec<f32>,
        samples: usize,
        seed: u64,
        first_sample: u64,
        cdf: NormalCdf,
    ) -> Self {
        assert_eq!(x_start.len() % samples.max(1), 0, "{samples} samples are not {} elements", x_start.len());
        let steps_left = process.timesteps();
        let terms = vec![Vec::with_capacity(steps_left); samples];
        Self { process, x_start, seed, first_sample, cdf, terms, steps_left }
    }

    /// Steps that remain.
    pub fn steps_left(&self) -> usize {
        self.steps_left
    }

    /// Evaluates the next term of every sample; returns its t, or none when all are done.
    ///
    /// # Errors
    /// What [`GaussianDiffusion::model_output`] reports; the step can then be tried again.
    pub fn step(&mut self, denoiser: &mut dyn Denoiser) -> Result<Option<usize>, DiffusionError> {
        let Some(step) = self.steps_left.checked_sub(1) else {
            return Ok(None);
        };
        let t = vec![step; self.terms.len()];
        let timesteps = vec![self.process.network_timestep(step); self.terms.len()];
        let len = sample_len(&t, &self.x_start);
        let noise = noise::forward_noise(self.seed, self.first_sample, &timesteps, len);
        let x_t = self.process.q_sample(&self.x_start, &t, &noise);
        let terms = self.process.bound_term(denoiser, &self.x_start, &x_t, &t, self.cdf)?;
        for (of_sample, term) in self.terms.iter_mut().zip(terms) {
            of_sample.push(term);
        }
        self.steps_left = step;
        Ok(Some(step))
    }

    /// Takes the steps that remain, and gives the bound of each sample.
    ///
    /// # Errors
    /// What [`GaussianDiffusion::model_output`] reports.
    pub fn finish(mut self, denoiser: &mut dyn Denoiser) -> Result<Vec<BitsPerDim>, DiffusionError> {
        while self.step(denoiser)?.is_some() {}
        let priors = self.process.prior_bits_per_dim(&self.x_start, self.terms.len());
        Ok(self
            .terms
            .into_iter()
            .zip(priors)
            .map(|(mut terms, prior)| {
                terms.reverse();
                BitsPerDim { terms, prior }
            })
            .collect())
    }
}
