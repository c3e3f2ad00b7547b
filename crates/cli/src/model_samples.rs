//! A network's samples as a set of images to measure: drawn when they are read.

use crate::failure::Failure;
use crate::model::Model;
use diffusion::pixels::to_bytes;
use diffusion::{Denoiser, GaussianDiffusion, Sampling};
use engine::ImageShape;
use eval::MeasureError;
use eval::image_set::{ImageBatch, ImageSet};
use eval::statistics::Samples;
use models::UnetDenoiser;
use std::sync::atomic::{AtomicBool, Ordering};

/// Samples number 0, 1, … of a seed and a stored model. Sample k is the same image whatever is drawn beside it.
pub struct ModelSamples<'a> {
    model: Model,
    process: GaussianDiffusion,
    sampling: Sampling,
    seed: u64,
    count: u64,
    stop: &'a AtomicBool,
}

impl<'a> ModelSamples<'a> {
    /// The first `count` samples of `seed`; `stop` ends the drawing.
    ///
    /// # Errors
    /// If the model's process is not known, or does not allow so many steps.
    pub fn new(
        model: Model,
        sampling: Sampling,
        seed: u64,
        count: u64,
        stop: &'a AtomicBool,
    ) -> Result<Self, Failure> {
        let process = model.process()?;
        let image = model.denoiser.image_shape();
        sampling.sampler(&process, image, seed, 0, 0).map_err(Failure::input)?;
        Ok(Self { model, process, sampling, seed, count, stop })
    }

    /// Where the samples come from.
    pub fn facts(&self) -> Samples {
        Samples {
            model: self.model.facts(),
            sampler: self.sampling.kind.name().to_owned(),
            steps: self.sampling.steps(&self.process),
            spacing: self.sampling.spacing().name().to_owned(),
            eta: self.sampling.kind.eta(),
            seed: self.seed,
        }
    }
}

impl ImageSet for ModelSamples<'_> {
    fn len(&self) -> u64 {
        self.count
    }

    fn shape(&self) -> ImageShape {
        self.model.denoiser.image_shape()
    }

    fn batch(&self) -> Option<usize> {
        Some(self.model.denoiser.batch())
    }

    fn description(&self) -> String {
        let steps = self.sampling.steps(&self.process);
        format!(
            "{} samples of {} ({}; {} sampler, {steps} steps, seed {})",
            self.count,
            self.model.directory.display(),
            self.model.weights_name(),
            self.sampling.kind.name(),
            self.seed
        )
    }

    /// The number of samples is not part of it: fewer are the first of more.
    fn content_key(&mut self, _progress: &mut dyn FnMut(u64) -> bool) -> Result<String, MeasureError> {
        let facts = self.facts();
        let process = serde_json::to_string(&self.model.stored.diffusion)
            .map_err(|error| MeasureError::Sampling { reason: error.to_string() })?;
        Ok(samples_key(&facts, &process))
    }

    fn read(&mut self, first: u64, count: usize) -> Result<ImageBatch, MeasureError> {
        let Self { model, process, sampling, seed, count: total, stop } = self;
        let (denoiser, sampling) = (&mut model.denoiser, *sampling);
        NetworkSamples { denoiser, process, sampling, seed: *seed, count: *total, stop }.read(first, count)
    }
}

/// What features of such samples are kept under. Other words, and all would be computed again.
fn samples_key(facts: &Samples, process: &str) -> String {
    let eta = facts.eta.map_or_else(|| "None".to_owned(), |eta| format!("Some({eta:?})"));
    format!(
        "samples {} {process} {} {} {} {eta} {}",
        facts.model.fingerprint, facts.sampler, facts.steps, facts.spacing, facts.seed
    )
}

/// Samples number 0, 1, … of a seed and a network in memory.
pub struct NetworkSamples<'a> {
    /// The network.
    pub denoiser: &'a mut UnetDenoiser,
    /// Its process.
    pub process: &'a GaussianDiffusion,
    /// The way from noise to image.
    pub sampling: Sampling,
    /// What decides every random number.
    pub seed: u64,
    /// How many samples.
    pub count: u64,
    /// Ends the drawing.
    pub stop: &'a AtomicBool,
}

impl ImageSet for NetworkSamples<'_> {
    fn len(&self) -> u64 {
        self.count
    }

    fn shape(&self) -> ImageShape {
        self.denoiser.image_shape()
    }

    /// What the network draws at once: for fewer it takes as long.
    fn batch(&self) -> Option<usize> {
        Some(self.denoiser.batch())
    }

    fn description(&self) -> String {
        let steps = self.sampling.steps(self.process);
        format!("{} samples ({}, {steps} steps, seed {})", self.count, self.sampling.kind.name(), self.seed)
    }

    /// Never asked for: such samples are not kept.
    fn content_key(&mut self, _progress: &mut dyn FnMut(u64) -> bool) -> Result<String, MeasureError> {
        Err(MeasureError::Sampling { reason: "samples of weights in memory have no key".into() })
    }

    fn read(&mut self, first: u64, count: usize) -> Result<ImageBatch, MeasureError> {
        let failed = |error: diffusion::DiffusionError| MeasureError::Sampling { reason: error.to_string() };
        let shape = self.denoiser.image_shape();
        let mut sampler =
            self.sampling.sampler(self.process, shape, self.seed, first, count).map_err(failed)?;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(MeasureError::Stopped { images: first, total: self.count });
            }
            if sampler.step(self.denoiser).map_err(failed)?.is_none() {
                break;
            }
        }
        Ok(ImageBatch { pixels: to_bytes(sampler.chain().x_t()), unreadable: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::Spacing;
    use eval::ModelFacts;

    #[test]
    fn keys_are_what_they_were() {
        let model = ModelFacts { path: "m".into(), weights: None, step: None, fingerprint: "f".into() };
        let mut facts = Samples {
            model,
            sampler: "ddim".into(),
            steps: 20,
            spacing: Spacing::Leading.name().to_owned(),
            eta: Some(0.0),
            seed: 3,
        };
        assert_eq!(samples_key(&facts, "{}"), "samples f {} ddim 20 leading Some(0.0) 3");
        facts.eta = None;
        facts.spacing = Spacing::Linspace.name().to_owned();
        assert_eq!(samples_key(&facts, "{}"), "samples f {} ddim 20 linspace None 3");
    }
}
