//! Interpolation between images in latent space (§4.4, Figs. 8 and 9).
//!
//! Both images go forward to x_t by the stochastic encoder q(x_t | x_0), their latents are mixed, and the
//! reverse process leads from there to an image. All mixtures of a pair have the same reverse noise, so that
//! only λ tells them apart.

use std::ops::RangeInclusive;

use engine::ImageShape;

use crate::denoiser::Denoiser;
use crate::error::DiffusionError;
use crate::known_region::{KnownRegion, q_sample_at};
use crate::process::GaussianDiffusion;
use crate::sampler::{Sampler, StepInfo};
use crate::sampling::Sampling;

/// The λ that can be asked for: below 0 and above 1, latents are extrapolated, as far again as they are apart.
pub const LAMBDAS: RangeInclusive<f64> = -1.0..=2.0;
/// Below this sine of the angle between them, latents are taken to have one direction.
const LEAST_SINE: f64 = 1e-6;

/// How latents are mixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mixing {
    /// (1-λ) x_t + λ x'_t, the paper's. In the middle there is less noise than the network expects at t.
    #[default]
    Linear,
    /// Along the arc between them, which keeps the size of the noise.
    Spherical,
}

impl Mixing {
    /// The mixture of `first` (λ = 0) and `second` (λ = 1), which it is to the bit at these ends.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] for a λ outside [`LAMBDAS`]; [`DiffusionError::Conflict`] for an arc
    /// between opposite latents, which is not determined.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn mix(self, first: &[f32], second: &[f32], lambda: f64) -> Result<Vec<f32>, DiffusionError> {
        assert_eq!(first.len(), second.len(), "latents of one shape");
        if !LAMBDAS.contains(&lambda) {
            let (low, high) = (LAMBDAS.start(), LAMBDAS.end());
            return Err(DiffusionError::OutOfRange {
                key: "lambda",
                value: lambda.to_string(),
                valid: format!("from {low} to {high}: 0 is the first image, 1 the second"),
            });
        }
        let (a, b) = match self {
            Self::Linear => (1.0 - lambda, lambda),
            Self::Spherical => arc(first, second, lambda)?,
        };
        let (a, b) = (a as f32, b as f32);
        Ok(first.iter().zip(second).map(|(x, y)| a * x + b * y).collect())
    }
}

/// The coefficients sin((1-λ)θ) / sin θ and sin(λθ) / sin θ, θ being the angle between the latents.
fn arc(first: &[f32], second: &[f32], lambda: f64) -> Result<(f64, f64), DiffusionError> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    let cosine = dot(first, second) / (dot(first, first) * dot(second, second)).sqrt();
    let angle = libm::acos(cosine.clamp(-1.0, 1.0));
    let sine = libm::sin(angle);
    if sine >= LEAST_SINE {
        return Ok((libm::sin((1.0 - lambda) * angle) / sine, libm::sin(lambda * angle) / sine));
    }
    match cosine > 0.0 {
        true => Ok((1.0 - lambda, lambda)),
        false => Err(DiffusionError::Conflict(
            "two images that are each other's negative have no arc between them: mix linearly, or at a larger t".into(),
        )),
    }
}

/// Two images to go between.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Decides its random numbers: ε of samples 2·number and 2·number + 1, and the reverse noise of sample `number`.
    pub number: u64,
    /// The image at λ = 0, `[height, width, channels]` in [-1, 1].
    pub first: &'a [f32],
    /// The image at λ = 1.
    pub second: &'a [f32],
}

/// A point between two images.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The images.
    pub pair: Pair<'a>,
    /// Where between them, in [`LAMBDAS`].
    pub lambda: f64,
}

/// A way to interpolate.
#[derive(Clone, Debug)]
pub struct Interpolation {
    /// The process of the network, with all its steps.
    pub process: GaussianDiffusion,
    /// How the reverse process is run.
    pub sampling: Sampling,
    /// The shape of the images.
    pub image: ImageShape,
    /// The seed of all random numbers.
    pub seed: u64,
    /// How latents are mixed.
    pub mixing: Mixing,
    /// For each element of an image, whether it is interpolated; the others follow the first image. `None`: all are.
    pub region: Option<Vec<bool>>,
}

/// Mixtures on their way to images; a step at a time, so that it can be looked at or dropped.
pub struct Decoding {
    x: Decoded,
    known: Option<KnownRegion>,
}

enum Decoded {
    /// Mixtures of images: nothing is to be decoded.
    Images(Vec<f32>),
    Chain(Box<dyn Sampler>),
}

impl Interpolation {
    /// Encodes the members' images to x_t, t from 0 (the images themselves) to T, and mixes them. What
    /// becomes of a member does not depend on those beside it.
    ///
    /// # Errors
    /// What [`Mixing::mix`] and [`Sampling::respace_from`] report, and if the process does not allow the sampler.
    ///
    /// # Panics
    /// If images or region are not of the shape `image`.
    pub fn start(&self, t: usize, members: &[Member]) -> Result<Decoding, DiffusionError> {
        let len = self.image.len();
        let process = match t {
            0 => None,
            t => Some(self.sampling.respace_from(&self.process, t)?),
        };
        let encode = |x_start: &[f32], number: u64| match &process {
            None => x_start.to_vec(),
            Some(process) => q_sample_at(process, x_start, self.seed, &[number], process.timesteps() - 1),
        };
        let mut mixed = Vec::with_capacity(members.len() * len);
        for &Member { pair: Pair { number, first, second }, lambda } in members {
            assert_eq!((first.len(), second.len()), (len, len), "images of {}", self.image);
            let x = self.mixing.mix(&encode(first, 2 * number), &encode(second, 2 * number + 1), lambda)?;
            mixed.extend(x);
        }
        let known = self.region.as_ref().map(|region| {
            assert_eq!(region.len(), len, "a region of {}", self.image);
            KnownRegion {
                x_start: members.iter().flat_map(|member| member.pair.first).copied().collect(),
                is_known: region.iter().map(|inside| !inside).collect::<Vec<_>>().repeat(members.len()),
                noise_of: members.iter().map(|member| 2 * member.pair.number).collect(),
                seed: self.seed,
            }
        });
        let x = match process {
            None => {
                if let Some(known) = &known {
                    known.replace(&mut mixed, &known.x_start);
                }
                Decoded::Images(mixed)
            }
            Some(process) => {
                let mut sampler =
                    self.sampling.kind.sampler(process, self.image, self.seed, 0, members.len())?;
                let chain = sampler.chain_mut();
                chain.set_latents(mixed);
                chain.set_noise_of(members.iter().map(|member| member.pair.number).collect());
                if let Some(known) = &known {
                    known.impose(chain);
                }
                Decoded::Chain(sampler)
            }
        };
        Ok(Decoding { x, known })
    }
}

impl Decoding {
    /// Takes one step of the reverse process for all members; none when x_0 is reached.
    ///
    /// # Errors
    /// As [`Sampler::step`].
    pub fn step(&mut self, denoiser: &mut dyn Denoiser) -> Result<Option<StepInfo>, DiffusionError> {
        let Decoded::Chain(sampler) = &mut self.x else {
            return Ok(None);
        };
        let info = sampler.step(denoiser)?;
        if info.is_some()
            && let Some(known) = &self.known
        {
            known.impose(sampler.chain_mut());
        }
        Ok(info)
    }

    /// Takes all steps that remain, and gives the images, `[n, height, width, channels]`.
    ///
    /// # Errors
    /// As [`Sampler::step`].
    pub fn run(&mut self, denoiser: &mut dyn Denoiser) -> Result<&[f32], DiffusionError> {
        while self.step(denoiser)?.is_some() {}
        Ok(self.x_t())
    }

    /// The members' current x_t; the images when no steps are left.
    pub fn x_t(&self) -> &[f32] {
        match &self.x {
            Decoded::Images(images) => images,
            Decoded::Chain(sampler) => sampler.chain().x_t(),
        }
    }

    /// Steps that remain.
    pub fn steps_left(&self) -> usize {
        match &self.x {
            Decoded::Images(_) => 0,
            Decoded::Chain(sampler) => sampler.chain().steps_left(),
        }
    }
}
