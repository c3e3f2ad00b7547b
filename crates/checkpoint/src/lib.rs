//! Checkpoints: the directory layout of the diffusers library, and the state from which training resumes.
//!
//! - [`ModelLocation`] finds the model that a path stands for, [`StoredModel`] reads it.
//! - [`save_checkpoint`] and [`SavedTraining`] stop and resume a run, [`RunDirectory`] keeps its checkpoints.
//! - [`export`] writes a model for others, in single or half precision; [`inspect()`] says what is in one.
//!
//! - [`ForeignModel`] finds a model in what PyTorch or TensorFlow saved, by key maps that are data.
//!
//! Load, sample, save:
//!
//! ```
//! use diffusion::{Denoiser, GaussianDiffusion, SamplerKind, Sampling};
//! # let (directory, out) = (concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/mnist32"), tempfile::tempdir()?);
//! # let (directory, out) = (std::path::Path::new(directory), out.path().join("digit.pgm"));
//! let mut model = checkpoint::ModelLocation::resolve(directory)?.open(None)?;
//! let weights = model.read_parameters(&models::Unet::layout(&model.unet))?;
//! let cpu = Box::new(engine::Cpu::with_options(engine::CpuOptions::default())?);
//! let mut network = models::UnetDenoiser::new(&model.unet, &weights, 1, cpu)?;
//! let process = GaussianDiffusion::new(&model.diffusion.ok_or("no scheduler")?)?;
//! let sampling = Sampling { kind: SamplerKind::DpmSolver, steps: Some(8), spacing: None };
//! let mut sampler = sampling.sampler(&process, network.image_shape(), 7, 0, 1)?;
//! let pixels: Vec<u8> = sampler.run(&mut network)?.iter().map(|x| ((x + 1.0) * 127.5).round() as u8).collect();
//! std::fs::write(&out, [b"P5 32 32 255\n", &pixels[..]].concat())?;
//! # let ink = pixels.iter().filter(|&&value| value > 127).count();
//! # assert!((20..350).contains(&ink), "{ink} bright pixels are no digit");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything is written atomically ([`atomic`]), and files of checkpoints are checked against a [`Manifest`] before use.
//! No reader trusts a file: sizes are checked before memory is asked for, and whatever is not understood is an error that
//! names the file and the key.

#![forbid(unsafe_code)]

pub mod atomic;
pub mod diffusers;
pub mod import;
pub mod inspect;
pub mod manifest;
pub mod model_dir;
pub mod run_directory;
pub mod tensor_bundle;
pub mod tensor_file;
pub mod torch_file;
pub mod training_state;
pub mod weights_file;

mod dtype;
mod error;
mod hash;
mod json_file;
mod key_map;
mod sstable;

pub use diffusers::{LabelledWeights, ModelDescription, export, replace_export};
pub use dtype::Dtype;
pub use error::Error;
pub use hash::{layout_fingerprint, weights_fingerprint};
pub use import::ForeignModel;
pub use inspect::{Summary, WeightsSummary, inspect};
pub use manifest::Manifest;
pub use model_dir::{LocationKind, ModelLocation, StoredModel, Weights};
pub use run_directory::{Checkpoint, RunDirectory};
pub use tensor_bundle::TensorBundle;
pub use tensor_file::{StoredTensor, TensorFile};
pub use torch_file::TorchFile;
pub use training_state::{
    SavedTraining, TrainingBuffers, TrainingBuffersMut, TrainingProgress, save_checkpoint,
};
pub use weights_file::WeightsFile;

/// The program and its version, as files name what wrote them.
pub(crate) const PROGRAM: &str = concat!("ddpm ", env!("CARGO_PKG_VERSION"));
