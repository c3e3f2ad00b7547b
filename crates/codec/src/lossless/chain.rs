//! The chain of latents that lossless images are coded with, on grids.

use super::gaussian::Grid;
use crate::error::CodecError;
use crate::model::Model;
use crate::schedule::Schedule;
use diffusion::{GaussianDiffusion, NormalCdf, gaussian::decoder_nll};
use std::f64::consts::LN_2;

/// What a step is taken to cost besides its relative entropy, in bits: more makes shorter chains.
const STEP_COST: f64 = 1.0;
/// Latents are at most this far from 0: the image's 1 and eight standard deviations.
const REACH: f64 = 9.0;
/// Cells of a grid, at most.
const MAX_CELLS: f64 = (1 << 26) as f64;
/// Slots that every value of a pixel has, so that none takes more than 24 bits.
const PIXEL_FLOOR: u64 = 1 << 8;

/// The chain x_0, …, x_{K-1} of the process that keeps K steps of the model's, and pixels before it.
pub(crate) struct LatentChain {
    process: GaussianDiffusion,
    grids: Vec<Grid>,
    pixels: Grid,
    len: usize,
}

/// Gaussians of one standard deviation, a mean for each number.
pub(crate) struct Gaussians {
    pub mean: Vec<f64>,
    pub sigma: f64,
}

impl LatentChain {
    /// The chain that suits `schedule`.
    pub fn new(model: &Model, schedule: &Schedule) -> Result<Self, CodecError> {
        let mut kept = schedule.chain(STEP_COST);
        kept.reverse();
        let process = model.process.keep(&kept)?;
        let tables = process.tables();
        let last = kept.len() - 1;
        let grids: Vec<Grid> = (0..=last)
            .map(|k| {
                let forward = tables.betas[k].sqrt();
                let reverse = if k < last { tables.posterior_variance[k + 1].sqrt() } else { 1.0 };
                Grid::finer_than(forward.min(reverse), REACH)
            })
            .collect();
        if grids.iter().any(|grid| 2.0 * REACH / grid.width > MAX_CELLS) {
            let problem = "the process has steps too small for the grid of a lossless file: use a model whose noise begins \
                           above 0.000001";
            return Err(CodecError::Model(problem.into()));
        }
        let pixels = Grid { first: -1.0, width: 2.0 / 255.0, cells: 256, floor: PIXEL_FLOOR };
        Ok(Self { process, grids, pixels, len: model.image_len() })
    }

    /// K.
    pub fn steps(&self) -> usize {
        self.grids.len()
    }

    /// The grid of x_k.
    pub fn grid(&self, k: usize) -> &Grid {
        &self.grids[k]
    }

    /// The values of pixels, 0 to 255.
    pub fn pixels(&self) -> &Grid {
        &self.pixels
    }

    /// Bits that drawing the first latent takes.
    pub fn initial_bits(&self) -> f64 {
        let cells = self.process.tables().betas[0].sqrt() / self.grids[0].width;
        // The entropy of a Gaussian on a grid.
        self.len as f64 * libm::log2(cells * libm::sqrt(2.0 * std::f64::consts::PI * std::f64::consts::E))
    }

    /// q(x_k | x_{k-1}), and for k = 0 q(x_0 | pixels), given the values before.
    pub fn forward(&self, k: usize, before: &[f64]) -> Gaussians {
        let beta = self.process.tables().betas[k];
        let scale = (1.0 - beta).sqrt();
        Gaussians { mean: before.iter().map(|x| scale * x).collect(), sigma: beta.sqrt() }
    }

    /// p(x_{K-1}).
    pub fn prior(&self) -> Gaussians {
        Gaussians { mean: vec![0.0; self.len], sigma: 1.0 }
    }

    /// p(x_{k-1} | x_k), and for k = 0 p(pixels | x_0).
    pub fn reverse(&self, model: &mut Model, k: usize, x_k: &[f64]) -> Result<Gaussians, CodecError> {
        let x: Vec<f32> = x_k.iter().map(|&x| x as f32).collect();
        let t = self.process.network_timestep(k);
        let predicted = model.predict(&x, &vec![t; x.len() / self.len])?;
        let tables = self.process.tables();
        let (a, b) = (tables.posterior_mean_coef1[k], tables.posterior_mean_coef2[k]);
        let mean =
            predicted.x_start.iter().zip(x_k).map(|(&x_start, x)| a * f64::from(x_start) + b * x).collect();
        Ok(Gaussians { mean, sigma: self.reverse_sigma(k) })
    }

    fn reverse_sigma(&self, k: usize) -> f64 {
        libm::exp(0.5 * self.process.tables().posterior_log_variance_clipped[k])
    }

    /// The term of the variational bound that `p`, [`Self::reverse`] of x_k, stands for, in bits; `x_start` are the
    /// pixels' values.
    pub fn bound_bits(&self, k: usize, x_start: &[f64], x_k: &[f64], p: &Gaussians) -> f64 {
        let tables = self.process.tables();
        if k == 0 {
            let log_variance = tables.posterior_log_variance_clipped[0];
            let nll = |(&x, &mean): (&f64, &f64)| decoder_nll(x, mean, log_variance, NormalCdf::Erf).value;
            return x_start.iter().zip(&p.mean).map(nll).sum::<f64>() / LN_2;
        }
        let (a, b) = (tables.posterior_mean_coef1[k], tables.posterior_mean_coef2[k]);
        let squares =
            x_start.iter().zip(x_k).zip(&p.mean).map(|((x, x_k), mean)| (a * x + b * x_k - mean).powi(2));
        squares.sum::<f64>() / (2.0 * p.sigma * p.sigma * LN_2)
    }

    /// The bound's term of the prior, in bits.
    pub fn prior_bits(&self, x_start: &[f64]) -> f64 {
        let signal = self.process.tables().alphas_cumprod[self.steps() - 1];
        let nats = |x: &f64| 0.5 * (signal * x * x - signal - libm::log(1.0 - signal));
        x_start.iter().map(nats).sum::<f64>() / LN_2
    }
}
