//! Ancestral sampling from p (Algorithm 2).

use engine::ImageShape;

use crate::config::Variance;
use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::model_output::ModelOutput;
use crate::process::{GaussianDiffusion, LogVariance};
use crate::sampler::{Chain, Sampler, StepInfo};

/// Draws x_{t-1} ~ p(x_{t-1} | x_t) for t = T-1, …, 0: the paper's sampler.
#[derive(Clone, Debug)]
pub struct AncestralSampler {
    chain: Chain,
}

impl AncestralSampler {
    /// A sampler of images number `first_sample`, …, `first_sample + samples - 1` of `seed`, which are the
    /// same images in whatever batches they are drawn.
    ///
    /// # Errors
    /// [`DiffusionError::Conflict`] when `process` leaves out steps and the network learned its variance,
    /// which is that of one original step.
    pub fn new(
        process: GaussianDiffusion,
        image: ImageShape,
        seed: u64,
        first_sample: u64,
        samples: usize,
    ) -> Result<Self, DiffusionError> {
        if process.is_respaced() && process.variance() == Variance::Learned {
            return Err(DiffusionError::Conflict(
                "a network with `diffusion.variance = \"learned\"` gives the variance of one original step: ancestral \
                 sampling needs all of them (leave out `steps`), or use the sampler `ddim`, which does without"
                    .into(),
            ));
        }
        Ok(Self { chain: Chain::new(process, image, seed, first_sample, samples) })
    }

    /// x_{t-1} = μ_θ(x_t, t) + σ_t z, with z = 0 in the last step.
    fn transition(chain: &Chain, t: &[usize], output: &ModelOutput) -> (Vec<f32>, Vec<f32>) {
        let process = chain.process();
        let p = process.p_mean_variance(output, chain.x_t(), t, process.clip_denoised());
        let mut x = p.mean;
        if let Some(&step) = t.first().filter(|&&step| step > 0) {
            let z = chain.noise(step);
            match p.log_variance {
                LogVariance::PerSample(log_variance) => {
                    // All samples are at the same step.
                    let sigma = libm::exp(0.5 * log_variance[0]) as f32;
                    x.iter_mut().zip(&z).for_each(|(x, z)| *x += sigma * z);
                }
                LogVariance::PerElement(log_variance) => {
                    for ((x, z), log_variance) in x.iter_mut().zip(&z).zip(log_variance) {
                        *x += libm::expf(0.5 * log_variance) * z;
                    }
                }
            }
        }
        (x, p.pred_xstart)
    }
}

impl Sampler for AncestralSampler {
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
