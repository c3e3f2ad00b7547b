//! The method of "Denoising Diffusion Probabilistic Models" (Ho, Jain, Abbeel 2020), readable as code.
//!
//! | in the paper | here |
//! |---|---|
//! | β_t, ᾱ_t, β̃_t (eqs. 2, 4, 7) | [`schedule::betas`], [`Tables`] |
//! | q(x_t \| x_0) (eq. 4) | [`GaussianDiffusion::q_sample`] |
//! | q(x_{t-1} \| x_t, x_0) (eqs. 6, 7) | [`GaussianDiffusion::q_posterior_mean_variance`] |
//! | x̂0 from ε (eq. 15) | [`GaussianDiffusion::predict_xstart_from_eps`] |
//! | p_θ(x_{t-1} \| x_t) (eqs. 1, 11) | [`GaussianDiffusion::p_mean_variance`] |
//! | training, L_simple (Algorithm 1, eqs. 8, 14) | [`Objective`] |
//! | sampling (Algorithm 2) | [`AncestralSampler`] |
//! | fewer steps: DDIM, DPM-Solver++ | [`DdimSampler`], [`DpmSolverSampler`] |
//! | the bound L (eq. 5), its decoder (eq. 13) | [`BoundEvaluation`], [`gaussian::decoder_nll`] |
//! | rate and distortion (§4.3) | [`BitsPerDim`] |
//! | the bound as an autoregressive model's (§4.3, eq. 16) | [`RewrittenBoundEvaluation`] |
//! | samples that share x_t (Fig. 7) | [`branches`] |
//! | interpolation (§4.4, Figs. 8 and 9) | [`Interpolation`] |
//!
//! Code counts t from 0: its t is the paper's t+1. There is no IO here and no network type: what needs a trained
//! network sees a [`Denoiser`].
//!
//! ```
//! use diffusion::{AncestralSampler, DenoiseError, Denoiser, DiffusionConfig, GaussianDiffusion, Sampler};
//! use engine::ImageShape;
//!
//! /// The best possible network when every image is gray 0: all there is in x_t is noise.
//! struct AllGray(GaussianDiffusion);
//!
//! impl Denoiser for AllGray {
//!     fn image_shape(&self) -> ImageShape {
//!         ImageShape::new(2, 2, 3)
//!     }
//!     fn output_channels(&self) -> usize {
//!         3
//!     }
//!     fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], eps: &mut [f32]) -> Result<(), DenoiseError> {
//!         for ((x_t, eps), &t) in x_t.chunks(12).zip(eps.chunks_mut(12)).zip(timesteps) {
//!             let sigma = self.0.tables().sqrt_one_minus_alphas_cumprod[t as usize] as f32;
//!             eps.iter_mut().zip(x_t).for_each(|(eps, x)| *eps = x / sigma);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let process = GaussianDiffusion::new(&DiffusionConfig { timesteps: 100, ..DiffusionConfig::default() })?;
//! let mut sampler = AncestralSampler::new(process.clone(), ImageShape::new(2, 2, 3), 0, 0, 4)?;
//! let images = sampler.run(&mut AllGray(process))?;
//! assert!(images.iter().all(|x| x.abs() < 1e-3));
//! # Ok::<(), diffusion::DiffusionError>(())
//! ```

#![forbid(unsafe_code)]

pub mod ancestral;
pub mod autoregressive_view;
pub mod config;
pub mod ddim;
pub mod ddim_inversion;
pub mod denoiser;
pub mod dpm_solver;
pub mod error;
pub mod gaussian;
pub mod interpolation;
pub mod known_region;
pub mod likelihood;
pub mod model_output;
pub mod noise;
pub mod objective;
pub mod pixels;
pub mod process;
pub mod respace;
pub mod sampler;
pub mod sampling;
pub mod schedule;
pub mod shared_latents;
pub mod tables;
pub mod training_graph;

pub use ancestral::AncestralSampler;
pub use autoregressive_view::{RewrittenBound, RewrittenBoundEvaluation, RewrittenTerm};
pub use config::{BetaSchedule, DiffusionConfig, Loss, Prediction, Variance};
pub use ddim::DdimSampler;
pub use ddim_inversion::DdimInversion;
pub use denoiser::{DenoiseError, Denoiser};
pub use dpm_solver::DpmSolverSampler;
pub use error::DiffusionError;
pub use gaussian::NormalCdf;
pub use interpolation::{Decoding, Interpolation, LAMBDAS, Member, Mixing, Pair};
pub use known_region::KnownRegion;
pub use likelihood::{BitsPerDim, BoundEvaluation, BoundTerm};
pub use model_output::ModelOutput;
pub use objective::{LossGradient, Objective, TrainingInputs};
pub use process::{GaussianDiffusion, IsotropicGaussians, LogVariance, ReverseTransition};
pub use respace::Spacing;
pub use sampler::{Chain, Sampler, StepInfo};
pub use sampling::{SamplerKind, Sampling};
pub use shared_latents::branches;
pub use tables::Tables;
pub use training_graph::{DrawnSteps, TrainingGraph};
