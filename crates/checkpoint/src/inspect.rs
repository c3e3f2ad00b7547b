//! What is in a model, without reading a single weight.

use crate::Error;
use crate::manifest::Manifest;
use crate::model_dir::{LocationKind, ModelLocation, StoredModel, Weights};
use crate::tensor_file::StoredTensor;
use crate::training_state::{RAW_DIR, TrainingProgress, read_progress};
use diffusion::DiffusionConfig;
use models::UnetConfig;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A model at a glance.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// What the path was.
    pub kind: LocationKind,
    /// The checkpoint or diffusers directory.
    pub directory: PathBuf,
    /// The network.
    pub model: UnetConfig,
    /// The process, where it is known.
    pub diffusion: Option<DiffusionConfig>,
    /// The weights files: of a checkpoint the EMA and the raw weights, of a diffusers directory one.
    pub weights: Vec<WeightsSummary>,
    /// Where training stands, for a checkpoint.
    pub training: Option<TrainingProgress>,
    /// Total length of a checkpoint's files, in bytes.
    pub checkpoint_bytes: Option<u64>,
}

/// A weights file at a glance.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WeightsSummary {
    /// The file.
    pub path: PathBuf,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Which weights these are; files that other programs wrote do not say.
    pub weights: Option<Weights>,
    /// Training steps done; files that other programs wrote do not say.
    pub step: Option<u64>,
    /// Number of weights in all tensors.
    pub parameters: u64,
    /// The types of the tensors, in safetensors' terms.
    pub dtypes: BTreeSet<String>,
    /// All labels inside the file.
    pub labels: BTreeMap<String, String>,
    /// The tensors, in the file's order, with their dimensions there (convolutions `[out, in, kernel_h, kernel_w]`).
    pub tensors: Vec<StoredTensor>,
}

/// Summarises the model that `path` stands for: a run, checkpoint or diffusers directory.
///
/// Lengths of files are checked, contents of weights are not.
///
/// # Errors
/// If there is no model, or its files are not valid or not supported.
pub fn inspect(path: &Path) -> Result<Summary, Error> {
    let location = ModelLocation::resolve(path)?;
    let directory = location.directory;
    let model = StoredModel::open(&directory)?;
    let mut weights = vec![summarise(&model)?];
    let (mut training, mut checkpoint_bytes) = (None, None);
    if location.kind != LocationKind::Diffusers {
        checkpoint_bytes = Some(Manifest::open(&directory)?.total_bytes());
        training = Some(read_progress(&directory)?);
        weights.push(summarise(&StoredModel::open(&directory.join(RAW_DIR))?)?);
    }
    Ok(Summary {
        kind: location.kind,
        directory,
        model: model.unet,
        diffusion: model.diffusion,
        weights,
        training,
        checkpoint_bytes,
    })
}

fn summarise(model: &StoredModel) -> Result<WeightsSummary, Error> {
    let file = model.file();
    let bytes = file.bytes()?;
    let tensors = file.tensors();
    let elements = |tensor: &StoredTensor| {
        tensor.shape.iter().fold(1u64, |product, &len| product.saturating_mul(len as u64))
    };
    Ok(WeightsSummary {
        path: file.path().to_owned(),
        bytes,
        weights: model.weights,
        step: model.step,
        parameters: tensors.iter().map(elements).fold(0, u64::saturating_add),
        dtypes: tensors.iter().map(|tensor| tensor.dtype.clone()).collect(),
        labels: file.labels().clone(),
        tensors,
    })
}
