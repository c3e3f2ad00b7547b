//! What samplers have in common: a chain from x_T to x_0, driven one step at a time.

use engine::ImageShape;

use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::model_output::ModelOutput;
use crate::noise;
use crate::process::GaussianDiffusion;

/// A sampler in the middle of its work. Between steps it can be looked at, or dropped.
pub trait Sampler {
    /// Takes one step of the reverse process for the whole batch, with one network call; none when x_0 is reached.
    ///
    /// # Errors
    /// [`DiffusionError::ImageShape`] when the network is for other images, and what
    /// [`GaussianDiffusion::model_output`] reports. The chain is then as it was before.
    fn step(&mut self, denoiser: &mut dyn Denoiser) -> Result<Option<StepInfo>, DiffusionError>;

    /// Where the chain is.
    fn chain(&self) -> &Chain;

    /// The chain, to begin it elsewhere or to change its x_t between steps.
    fn chain_mut(&mut self) -> &mut Chain;

    /// Takes all steps that remain, and gives x_0, `[n, height, width, channels]`.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn run(&mut self, denoiser: &mut dyn Denoiser) -> Result<&[f32], DiffusionError> {
        while self.step(denoiser)?.is_some() {}
        Ok(self.chain().x_t())
    }
}

/// A step just taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepInfo {
    /// The t at which the network was asked, in its own count 0, …, T-1.
    pub timestep: usize,
    /// Steps that remain.
    pub steps_left: usize,
}

/// A batch of Markov chains x_T, …, x_0, each with its own random numbers.
#[derive(Clone, Debug)]
pub struct Chain {
    process: GaussianDiffusion,
    image: ImageShape,
    seed: u64,
    /// For each sample, the number of the one whose reverse noise it has.
    noise_of: Vec<u64>,
    x_t: Vec<f32>,
    pred_xstart: Vec<f32>,
    steps_left: usize,
}

impl Chain {
    /// Chains at x_T ~ N(0, I) for samples `first_sample`, …, `first_sample + samples - 1` of `seed`.
    pub(crate) fn new(
        process: GaussianDiffusion,
        image: ImageShape,
        seed: u64,
        first_sample: u64,
        samples: usize,
    ) -> Self {
        let x_t = noise::latents(seed, first_sample, samples, image.len());
        let pred_xstart = vec![0.0; x_t.len()];
        let steps_left = process.timesteps();
        let noise_of = (0..samples as u64).map(|i| first_sample.wrapping_add(i)).collect();
        Self { process, image, seed, noise_of, x_t, pred_xstart, steps_left }
    }

    /// Begins at given x_T, `[n, height, width, channels]`.
    ///
    /// # Panics
    /// If a step has been taken, or `latents` is of another length.
    pub fn set_latents(&mut self, latents: Vec<f32>) {
        assert!(!self.has_begun(), "a chain that has begun keeps its latents");
        assert_eq!(latents.len(), self.x_t.len(), "latents for {} samples of {}", self.samples(), self.image);
        self.x_t = latents;
    }

    /// Gives each sample the reverse noise of the sample numbered so in `samples`; equal numbers share it.
    ///
    /// # Panics
    /// If it is not one number for each sample.
    pub fn set_noise_of(&mut self, samples: Vec<u64>) {
        assert_eq!(samples.len(), self.samples(), "one number for each sample");
        self.noise_of = samples;
    }

    /// Chains in the batch.
    pub fn samples(&self) -> usize {
        self.noise_of.len()
    }

    /// The seed of its random numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether a step has been taken.
    pub(crate) fn has_begun(&self) -> bool {
        self.steps_left < self.process.timesteps()
    }

    /// The current x_t, `[n, height, width, channels]`; x_0 when no steps are left.
    pub fn x_t(&self) -> &[f32] {
        &self.x_t
    }

    /// The current x_t, to be changed: what is known of it can be imposed between steps.
    pub fn x_t_mut(&mut self) -> &mut [f32] {
        &mut self.x_t
    }

    /// x̂0 of the last step, clipped if the process clips; zeros before the first.
    pub fn pred_xstart(&self) -> &[f32] {
        &self.pred_xstart
    }

    /// Steps that remain.
    pub fn steps_left(&self) -> usize {
        self.steps_left
    }

    /// The shape of one sample.
    pub fn image_shape(&self) -> ImageShape {
        self.image
    }

    /// The process that is run backwards.
    pub fn process(&self) -> &GaussianDiffusion {
        &self.process
    }

    /// Asks the network at the next step, and has `transition` make (x_{t-1}, x̂0) of its output.
    pub(crate) fn step(
        &mut self,
        denoiser: &mut dyn Denoiser,
        transition: impl FnOnce(&Self, &[usize], &ModelOutput) -> (Vec<f32>, Vec<f32>),
    ) -> Result<Option<StepInfo>, DiffusionError> {
        let Some(step) = self.steps_left.checked_sub(1) else {
            return Ok(None);
        };
        if denoiser.image_shape() != self.image {
            return Err(DiffusionError::ImageShape { network: denoiser.image_shape(), samples: self.image });
        }
        let t = vec![step; self.samples()];
        let output = self.process.model_output(denoiser, &self.x_t, &t)?;
        (self.x_t, self.pred_xstart) = transition(self, &t, &output);
        self.steps_left = step;
        Ok(Some(StepInfo { timestep: self.process.network_timestep(step), steps_left: step }))
    }

    /// The noise z ~ N(0, I) of step `t`.
    pub(crate) fn noise(&self, t: usize) -> Vec<f32> {
        let timestep = self.process.network_timestep(t);
        noise::reverse_noise_of(self.seed, &self.noise_of, timestep, self.image.len())
    }
}
