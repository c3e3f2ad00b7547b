//! DPM-Solver++ (Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models"),
//! the multistep solver of second order, 2M: good images in 10 to 25 steps.

use engine::ImageShape;

use crate::config::Prediction;
use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::model_output::ModelOutput;
use crate::process::GaussianDiffusion;
use crate::sampler::{Chain, Sampler, StepInfo};
use crate::tables::Tables;

/// Solves the diffusion's ordinary differential equation for x_0, of x̂0 as a function of the log
/// signal-to-noise ratio. Meant for a process over [`crate::Spacing::solver_steps`]. No noise is added; a
/// learned variance is not used.
#[derive(Clone, Debug)]
pub struct DpmSolverSampler {
    chain: Chain,
}

impl DpmSolverSampler {
    /// A sampler of images number `first_sample`, …, `first_sample + samples - 1` of `seed`, which are the
    /// same images in whatever batches they are drawn.
    ///
    /// # Errors
    /// [`DiffusionError::Conflict`] for a network that predicts `xprev`, of which x̂0 is too small a part to
    /// be recovered.
    pub fn new(
        process: GaussianDiffusion,
        image: ImageShape,
        seed: u64,
        first_sample: u64,
        samples: usize,
    ) -> Result<Self, DiffusionError> {
        if process.prediction() == Prediction::Xprev {
            return Err(DiffusionError::Conflict(
                "a network with `diffusion.prediction = \"xprev\"` gives no usable x̂0 for the sampler `dpm-solver++`: use \
                 `ancestral`"
                    .into(),
            ));
        }
        Ok(Self { chain: Chain::new(process, image, seed, first_sample, samples) })
    }

    /// x_{t-1} = (σ_{t-1}/σ_t) x_t - α_{t-1} (e^{-h} - 1) D (Algorithm 2 there), with α = √ᾱ, σ = √(1-ᾱ) and
    /// α_{t-1} (e^{-h} - 1) = σ_{t-1} α_t / σ_t - α_{t-1}, which holds no infinity where σ_{t-1} = 0.
    ///
    /// D is x̂0, extrapolated from this step's and the one's before; in the first and the last step x̂0 itself.
    fn transition(chain: &Chain, t: &[usize], output: &ModelOutput) -> (Vec<f32>, Vec<f32>) {
        let (process, x_t) = (chain.process(), chain.x_t());
        let mut x_start = process.predict_xstart(&output.prediction, x_t, t);
        if process.clip_denoised() {
            x_start.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        }
        let Some(&step) = t.first() else {
            return (Vec::new(), Vec::new());
        };
        let tables = process.tables();
        let signal_prev = tables.alphas_cumprod_prev[step];
        let (alpha, alpha_prev) = (tables.sqrt_alphas_cumprod[step], signal_prev.sqrt());
        let ratio = (1.0 - signal_prev).sqrt() / tables.sqrt_one_minus_alphas_cumprod[step];

        let (of_x_t, of_x_start) = (ratio as f32, (alpha_prev - ratio * alpha) as f32);
        let slope = extrapolation(chain, step).map(|slope| slope as f32);
        let x = match slope {
            None => x_t.iter().zip(&x_start).map(|(x, x_start)| of_x_t * x + of_x_start * x_start).collect(),
            Some(slope) => (x_t.iter().zip(&x_start).zip(chain.pred_xstart()))
                .map(|((x, now), before)| of_x_t * x + of_x_start * (now + slope * (now - before)))
                .collect(),
        };
        (x, x_start)
    }
}

/// h / (2 h_before), how far to go on from the x̂0 of the step before beyond this one's: none in the first
/// step, which has none before, and in the last.
fn extrapolation(chain: &Chain, step: usize) -> Option<f64> {
    if step == 0 || !chain.has_begun() {
        return None;
    }
    let tables = chain.process().tables();
    let (next, now, before) =
        (half_log_snr(tables, step - 1), half_log_snr(tables, step), half_log_snr(tables, step + 1));
    Some((next - now) / (2.0 * (now - before)))
}

/// λ_t = log(α_t/σ_t); -∞ where no signal is left.
fn half_log_snr(tables: &Tables, t: usize) -> f64 {
    0.5 * (libm::log(tables.alphas_cumprod[t]) - tables.log_one_minus_alphas_cumprod[t])
}

impl Sampler for DpmSolverSampler {
    fn step(&mut self, denoiser: &mut dyn Denoiser) -> Result<Option<StepInfo>, DiffusionError> {
        self.chain.step(denoiser, Self::transition)
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn chain_mut(&mut self) -> &mut Chain {
        &mut self.chain
    }
}
