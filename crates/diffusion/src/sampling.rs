//! Which way from noise to image, in how many steps, picked from which: what a sampler is made from.

use engine::ImageShape;

use crate::ancestral::AncestralSampler;
use crate::ddim::DdimSampler;
use crate::dpm_solver::DpmSolverSampler;
use crate::error::DiffusionError;
use crate::process::GaussianDiffusion;
use crate::respace::Spacing;
use crate::sampler::Sampler;

/// A way from noise to image.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum SamplerKind {
    /// The paper's (Algorithm 2): fresh noise at each step.
    Ancestral,
    /// DDIM with this η: no fresh noise (0) up to as much as the posterior's (1).
    Ddim {
        /// How much fresh noise, in [0, 1].
        eta: f64,
    },
    /// DPM-Solver++ (2M): no fresh noise, good images in 10 to 25 steps.
    DpmSolver,
}

impl SamplerKind {
    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ancestral => "ancestral",
            Self::Ddim { .. } => "ddim",
            Self::DpmSolver => "dpm-solver++",
        }
    }

    /// A sampler of this kind by all steps of `process`, of images number `first_sample`, …,
    /// `first_sample + samples - 1` of `seed`.
    ///
    /// # Errors
    /// If the process does not allow this sampler.
    pub fn sampler(
        self,
        process: GaussianDiffusion,
        image: ImageShape,
        seed: u64,
        first_sample: u64,
        samples: usize,
    ) -> Result<Box<dyn Sampler>, DiffusionError> {
        Ok(match self {
            Self::Ancestral => Box::new(AncestralSampler::new(process, image, seed, first_sample, samples)?),
            Self::Ddim { eta } => {
                Box::new(DdimSampler::new(process, image, seed, first_sample, samples, eta)?)
            }
            Self::DpmSolver => Box::new(DpmSolverSampler::new(process, image, seed, first_sample, samples)?),
        })
    }

    /// η of DDIM.
    pub fn eta(self) -> Option<f64> {
        match self {
            Self::Ddim { eta } => Some(eta),
            Self::Ancestral | Self::DpmSolver => None,
        }
    }

    /// Whether it adds noise on its way: then samples that have x_t in common may differ below.
    pub fn is_random(self) -> bool {
        match self {
            Self::Ancestral => true,
            Self::Ddim { eta } => eta > 0.0,
            Self::DpmSolver => false,
        }
    }

    /// The spacing that diffusers' scheduler of this kind has by default.
    pub fn default_spacing(self) -> Spacing {
        match self {
            Self::Ancestral | Self::Ddim { .. } => Spacing::Leading,
            Self::DpmSolver => Spacing::Linspace,
        }
    }
}

/// A sampler's settings.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// The sampler.
    pub kind: SamplerKind,
    /// Network calls per image, from 1 to T; `None`: T.
    pub steps: Option<usize>,
    /// Which of the T steps are kept; `None`: [`SamplerKind::default_spacing`].
    pub spacing: Option<Spacing>,
}

impl Sampling {
    /// Network calls per image for `process`.
    pub fn steps(&self, process: &GaussianDiffusion) -> usize {
        self.steps.unwrap_or(process.timesteps())
    }

    /// Which steps are kept when some are left out.
    pub fn spacing(&self) -> Spacing {
        self.spacing.unwrap_or(self.kind.default_spacing())
    }

    /// The process over the steps that are kept.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] for a number of steps not from 1 to T, and what
    /// [`GaussianDiffusion::keep`] reports.
    pub fn respace(&self, process: &GaussianDiffusion) -> Result<GaussianDiffusion, DiffusionError> {
        process.keep(&self.kept_steps(process)?)
    }

    fn kept_steps(&self, process: &GaussianDiffusion) -> Result<Vec<usize>, DiffusionError> {
        let (timesteps, steps) = (process.timesteps(), self.steps(process));
        match self.kind {
            SamplerKind::DpmSolver => self.spacing().solver_steps(timesteps, steps),
            SamplerKind::Ancestral | SamplerKind::Ddim { .. } => self.spacing().kept_steps(timesteps, steps),
        }
    }

    /// The process that leads from x_t back to x_0, t from 1 to T in the paper's count: over its first step, which is
    /// from x_t, and those of the kept ones that follow.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] for a t or a number of steps not from 1 to T, and what
    /// [`GaussianDiffusion::keep`] reports.
    pub fn respace_from(
        &self,
        process: &GaussianDiffusion,
        t: usize,
    ) -> Result<GaussianDiffusion, DiffusionError> {
        let until = process.until(t)?;
        let mut kept = self.kept_steps(process)?;
        kept.retain(|&step| step < t - 1);
        kept.push(t - 1);
        until.keep(&kept)
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
        self.kind.sampler(self.respace(process)?, image, seed, first_sample, samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiffusionConfig;

    #[test]
    fn a_sampler_takes_as_many_steps_as_asked() {
        let process = GaussianDiffusion::new(&DiffusionConfig::default()).unwrap();
        let image = ImageShape::new(2, 2, 1);
        for kind in [SamplerKind::Ancestral, SamplerKind::Ddim { eta: 0.3 }, SamplerKind::DpmSolver] {
            for spacing in [None, Some(Spacing::Leading), Some(Spacing::Trailing), Some(Spacing::Linspace)] {
                for (steps, taken) in [(None, 1000), (Some(1), 1), (Some(50), 50), (Some(999), 999)] {
                    let sampling = Sampling { kind, steps, spacing };
                    let sampler = sampling.sampler(&process, image, 1, 0, 3).unwrap();
                    assert_eq!(sampler.chain().steps_left(), taken, "{kind:?} {spacing:?}");
                }
                for steps in [0, 1001] {
                    let sampling = Sampling { kind, steps: Some(steps), spacing };
                    assert!(sampling.sampler(&process, image, 1, 0, 3).is_err());
                }
            }
        }
    }
}
