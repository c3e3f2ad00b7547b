//! DDIM backwards: from an image to the latents that DDIM (η = 0) would draw it from (Song, Meng, Ermon 2021, §4.3).

use engine::ImageShape;

use crate::config::Prediction;
use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::process::GaussianDiffusion;

/// The encoding of images to x_T, one step of the process at a time.
///
/// A step of DDIM is x_{t-1} = α_{t-1} x̂0 + σ_{t-1} ε with ε = ε_θ(x_t, t). Its inverse is x_t = α_t
/// (x_{t-1} - σ_{t-1} ε) / α_{t-1} + σ_t ε, in which ε depends on the x_t sought: ε is taken at x_{t-1}
/// first, and then, as often as asked, at the x_t found so. x̂0 is never clipped, for clipping cannot be
/// undone.
#[derive(Clone, Debug)]
pub struct DdimInversion {
    process: GaussianDiffusion,
    image: ImageShape,
    samples: usize,
    iterations: usize,
    x_t: Vec<f32>,
    steps_done: usize,
}

impl DdimInversion {
    /// Prepares the encoding of `x_start`, `[n, height, width, channels]` in [-1, 1], with `iterations` network calls
    /// per step: 1 is the method as published, more come closer to an exact inverse.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] for no iteration; [`DiffusionError::Conflict`] for a network that
    /// predicts `xprev`.
    ///
    /// # Panics
    /// If `x_start` is not a whole number of images.
    pub fn new(
        process: GaussianDiffusion,
        image: ImageShape,
        x_start: Vec<f32>,
        iterations: usize,
    ) -> Result<Self, DiffusionError> {
        if iterations == 0 {
            return Err(DiffusionError::OutOfRange {
                key: "iterations",
                value: iterations.to_string(),
                valid: "at least 1".into(),
            });
        }
        if process.prediction() == Prediction::Xprev {
            return Err(DiffusionError::Conflict(
                "a network with `diffusion.prediction = \"xprev\"` gives no usable ε for the inversion of DDIM".into(),
            ));
        }
        let samples = x_start.len() / image.len();
        assert_eq!(samples * image.len(), x_start.len(), "x_start is not a whole number of images");
        Ok(Self { process, image, samples, iterations, x_t: x_start, steps_done: 0 })
    }

    /// Where the encoding is: x_0 before the first step, x_T after the last. `[n, height, width, channels]`.
    pub fn x_t(&self) -> &[f32] {
        &self.x_t
    }

    /// Steps that remain.
    pub fn steps_left(&self) -> usize {
        self.process.timesteps() - self.steps_done
    }

    /// Takes one step towards x_T; says the t of the network's own count that it reached, or none at the end.
    ///
    /// # Errors
    /// [`DiffusionError::ImageShape`] when the network is for other images, and what
    /// [`GaussianDiffusion::model_output`] reports. The encoding is then as it was before.
    pub fn step(&mut self, denoiser: &mut dyn Denoiser) -> Result<Option<usize>, DiffusionError> {
        if self.steps_left() == 0 {
            return Ok(None);
        }
        if denoiser.image_shape() != self.image {
            return Err(DiffusionError::ImageShape { network: denoiser.image_shape(), samples: self.image });
        }
        let step = self.steps_done;
        let t = vec![step; self.samples];
        let tables = self.process.tables();
        let signal_prev = tables.alphas_cumprod_prev[step];
        let scale = tables.sqrt_alphas_cumprod[step] / signal_prev.sqrt();
        let of_eps = tables.sqrt_one_minus_alphas_cumprod[step] - scale * (1.0 - signal_prev).sqrt();
        let (scale, of_eps) = (scale as f32, of_eps as f32);

        let mut found = self.x_t.clone();
        for _ in 0..self.iterations {
            let prediction = self.process.model_output(denoiser, &found, &t)?.prediction;
            let x_start = self.process.predict_xstart(&prediction, &found, &t);
            let eps = self.process.predict_eps(&prediction, &x_start, &found, &t);
            found = self.x_t.iter().zip(&eps).map(|(x, eps)| scale * x + of_eps * eps).collect();
        }
        self.x_t = found;
        self.steps_done += 1;
        Ok(Some(self.process.network_timestep(step)))
    }

    /// Takes all steps that remain, and gives x_T.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn run(mut self, denoiser: &mut dyn Denoiser) -> Result<Vec<f32>, DiffusionError> {
        while self.step(denoiser)?.is_some() {}
        Ok(self.x_t)
    }
}
