//! Checkpoints: the directory layout of the diffusers library, and the state from which training resumes.
//!
//! - [`ModelLocation`] finds the model that a path stands for, [`StoredModel`] reads it.
//! - [`save_checkpoint`] and [`SavedTraining`] stop and resume a run, [`RunDirectory`] keeps its checkpoints.
//! - [`export`] writes a model for others, in single or half precision; [`inspect()`] says what is in one.
//!
//! - [`ForeignModel`] finds a model in what PyTorch or TensorFlow saved, by key maps that are data.
//!
//! Everything is written atomically ([`atomic`]), and files of checkpoints are checked against a [`Manifest`]
//! before use. No reader trusts a file: sizes are checked before memory is asked for, and whatever is not
//! understood is an error that names the file and the key.

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

pub use atomic::{Existing, check_vacant};
pub use diffusers::{LabelledWeights, ModelDescription, beyond_diffusers, export, replace_export};
pub use dtype::Dtype;
pub use error::Error;
pub use hash::{WeightsHash, layout_fingerprint, weights_fingerprint};
pub use import::{ForeignModel, Heads, ImportOptions, QkvOrder};
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
