//! The grids of samples that a run draws with its averaged weights.

use crate::config::Config;
use crate::grid::{Picture, grid};
use crate::sampling::sampling_in;
use diffusion::pixels::to_bytes;
use diffusion::{DiffusionError, GaussianDiffusion, Sampling};
use engine::{Backend, BackendError};
use models::UnetDenoiser;
use std::sync::atomic::{AtomicBool, Ordering};

/// A network that draws samples beside the one in training. Its noise is the same each time, so that grids of one run
/// show the same images getting better.
pub struct Preview {
    denoiser: UnetDenoiser,
    process: GaussianDiffusion,
    sampling: Sampling,
    count: usize,
    seed: u64,
}

impl Preview {
    /// For the runs of a valid `config`, at first with `weights`.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(
        config: &Config,
        process: &GaussianDiffusion,
        weights: &[f32],
        backend: Box<dyn Backend>,
    ) -> Result<Self, BackendError> {
        let count = config.log.sample_count;
        let batch = config.train.pass_size().min(count);
        Ok(Self {
            denoiser: UnetDenoiser::new(&config.unet(), weights, batch, backend)?,
            process: process.clone(),
            sampling: sampling_in(config.log.sample_steps, process.timesteps()),
            count,
            seed: config.train.seed,
        })
    }

    /// Draws a grid with `weights`; none if `stop` is set on the way.
    ///
    /// # Errors
    /// If the network's output is not finite.
    pub fn draw(&mut self, weights: &[f32], stop: &AtomicBool) -> Result<Option<Picture>, DiffusionError> {
        self.denoiser.set_weights(weights);
        let image = diffusion::Denoiser::image_shape(&self.denoiser);
        let batch = self.denoiser.batch();
        let mut images = Vec::with_capacity(self.count * image.len());
        for first in (0..self.count).step_by(batch) {
            let samples = batch.min(self.count - first);
            let mut sampler =
                self.sampling.sampler(&self.process, image, self.seed, first as u64, samples)?;
            while sampler.step(&mut self.denoiser)?.is_some() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
            }
            images.extend(to_bytes(sampler.chain().x_t()));
        }
        Ok(Some(grid(&images, image)))
    }
}
