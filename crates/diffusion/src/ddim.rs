//! DDIM sampling (Song, Meng, Ermon 2021, "Denoising Diffusion Implicit Models").

use engine::ImageShape;

use crate::config::Prediction;
use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::model_output::ModelOutput;
use crate::process::GaussianDiffusion;
use crate::sampler::{Chain, Sampler, StepInfo};

/// Steps towards x̂0 with as much fresh noise as η says: none (η = 0) to as much as the posterior's (η = 1).
/// Meant for a [respaced](GaussianDiffusion::respace) process. A learned variance is not used.
#[derive(Clone, Debug)]
pub struct DdimSampler {
    chain: Chain,
    eta: f64,
}

impl DdimSampler {
    /// A sampler of images number `first_sample`, …, `first_sample + samples - 1` of `seed`, which are the
    /// same images in whatever batches they are drawn.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] for `eta` outside [0, 1]; [`DiffusionError::Conflict`] for a network
    /// that predicts `xprev`, of which ε is too small a part to be recovered.
    pub fn new(
        process: GaussianDiffusion,
        image: ImageShape,
        seed: u64,
        first_sample: u64,
        samples: usize,
        eta: f64,
    ) -> Result<Self, DiffusionError> {
        if !(0.0..=1.0).contains(&eta) {
            return Err(DiffusionError::OutOfRange {
                key: "eta",
                value: eta.to_string(),
                valid: "from 0 to 1, both included".into(),
            });
        }
        if process.prediction() == Prediction::Xprev {
            return Err(DiffusionError::Conflict(
                "a network with `diffusion.prediction = \"xprev\"` gives no usable ε for the sampler `ddim`: use `ancestral`"
                    .into(),
            ));
        }
        Ok(Self { chain: Chain::new(process, image, seed, first_sample, samples), eta })
    }

    /// The same from given latents x_T, `[n, height, width, channels]`, such as [`crate::DdimInversion`] finds.
    ///
    /// # Panics
    /// If a step has been taken, or `latents` are not as many samples.
    #[must_use]
    pub fn from_latents(mut self, latents: Vec<f32>) -> Self {
        self.chain.set_latents(latents);
        self
    }

    /// x_{t-1} = √ᾱ_{t-1} x̂0 + √(1-ᾱ_{t-1}-σ²) ε + σ z with σ = η √β̃_t (eqs. 12 and 16 there).
    ///
    /// ε is the network's own, also where x̂0 is clipped, as in the original DDIM code and diffusers.
    fn transition(chain: &Chain, t: &[usize], output: &ModelOutput, eta: f64) -> (Vec<f32>, Vec<f32>) {
        let (process, x_t) = (chain.process(), chain.x_t());
        let mut x_start = process.predict_xstart(&output.prediction, x_t, t);
        let eps = process.predict_eps(&output.prediction, &x_start, x_t, t);
        if process.clip_denoised() {
            x_start.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        }
        let Some(&step) = t.first() else {
            return (Vec::new(), Vec::new());
        };
        let (tables, sigma) = (process.tables(), eta * process.tables().posterior_variance[step].sqrt());
        let signal = tables.alphas_cumprod_prev[step];
        let direction = (1.0 - signal - sigma * sigma).max(0.0).sqrt();

        let (signal, direction) = (signal.sqrt() as f32, direction as f32);
        let mut x: Vec<f32> = x_start.iter().zip(&eps).map(|(x, eps)| signal * x + direction * eps).collect();
        if sigma > 0.0 {
            let sigma = sigma as f32;
            x.iter_mut().zip(chain.noise(step)).for_each(|(x, z)| *x += sigma * z);
        }
        (x, x_start)
    }
}

impl Sampler for DdimSampler {
    fn step(&mut self, denoiser: &mut dyn Denoiser) -> Result<Option<StepInfo>, DiffusionError> {
        let eta = self.eta;
        self.chain.step(denoiser, |chain, t, output| Self::transition(chain, t, output, eta))
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn chain_mut(&mut self) -> &mut Chain {
        &mut self.chain
    }
}
