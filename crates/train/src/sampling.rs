//! Which sampler draws images, in how many steps.

use diffusion::ancestral::AncestralSampler;
use diffusion::ddim::DdimSampler;
use diffusion::respace::Spacing;
use diffusion::{DiffusionError, GaussianDiffusion, Sampler};
use engine::ImageShape;

/// A way from noise to an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SamplerKind {
    /// The paper's (Algorithm 2): fresh noise at each step.
    Ancestral,
    /// Without fresh noise (Song, Meng, Ermon 2021, η = 0): better than ancestral when few steps are taken.
    Ddim,
}

impl SamplerKind {
    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ancestral => "ancestral",
            Self::Ddim => "ddim",
        }
    }
}

/// A sampler and its number of steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sampling {
    /// The sampler.
    pub kind: SamplerKind,
    /// Network calls per image, from 1 to T; `None`: T.
    pub steps: Option<usize>,
}

impl Sampling {
    /// What grids drawn while training use: the paper's sampler for all T steps, DDIM for fewer.
    pub fn preview(steps: usize, timesteps: usize) -> Self {
        let kind = if steps < timesteps { SamplerKind::Ddim } else { SamplerKind::Ancestral };
        Self { kind, steps: Some(steps) }
    }

    /// Network calls per image for `process`.
    pub fn steps(&self, process: &GaussianDiffusion) -> usize {
        self.steps.unwrap_or(process.timesteps())
    }

    /// A sampler of images number `first_sample`, …, `first_sample + samples - 1` of `seed`, each the same image in
    /// whatever batches they are drawn.
    ///
    /// # Errors
    /// If the process does not allow this sampler or this number of steps.
    pub fn sampler(
        &self,
        process: &GaussianDiffusion,
        image: ImageShape,
        seed: u64,
        first_sample: u64,
        samples: usize,
    ) -> Result<Box<dyn Sampler>, DiffusionError> {
        let process = process.respace(self.steps(process), Spacing::default())?;
        Ok(match self.kind {
            SamplerKind::Ancestral => {
                Box::new(AncestralSampler::new(process, image, seed, first_sample, samples)?)
            }
            SamplerKind::Ddim => {
                Box::new(DdimSampler::new(process, image, seed, first_sample, samples, 0.0)?)
            }
        })
    }
}

/// Images from [-1, 1] to bytes: (x + 1) · 127.5, rounded, and clipped to 0…255.
pub fn to_bytes(images: &[f32]) -> Vec<u8> {
    images.iter().map(|x| ((x + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::DiffusionConfig;

    #[test]
    fn bytes_survive_the_way_to_the_network_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let images: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect();
        assert_eq!(to_bytes(&images), bytes);
        assert_eq!(to_bytes(&[-1.7, 1.3, -2.0 / 255.0]), [0, 255, 127]);
    }

    #[test]
    fn a_sampler_takes_as_many_steps_as_asked() {
        let process = GaussianDiffusion::new(&DiffusionConfig::default()).unwrap();
        let image = ImageShape::new(2, 2, 1);
        for kind in [SamplerKind::Ancestral, SamplerKind::Ddim] {
            for (steps, taken) in [(None, 1000), (Some(1), 1), (Some(50), 50), (Some(999), 999)] {
                let sampler = Sampling { kind, steps }.sampler(&process, image, 1, 0, 3).unwrap();
                assert_eq!(sampler.chain().steps_left(), taken, "{kind:?}");
            }
            for steps in [0, 1001] {
                assert!(Sampling { kind, steps: Some(steps) }.sampler(&process, image, 1, 0, 3).is_err());
            }
        }
    }
}
