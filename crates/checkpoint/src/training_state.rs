//! A checkpoint: everything from which training goes on as if it had never stopped.
//!
//! ```text
//! step-00001000/
//!   model_index.json, unet/…, scheduler/…    the EMA weights, in the diffusers layout
//!   raw/model_index.json, raw/unet/…, …      the raw weights, likewise
//!   training/moments.safetensors             Adam's first and second moments, in the layout's order
//!   training/state.json                      step, samples consumed, seed, configuration
//!   manifest.json                            length and fingerprint of each file
//! ```
//!
//! All numbers are single precision: what is read back has the bits of what was saved.

use crate::atomic::Existing;
use crate::diffusers::{self, LabelledWeights, ModelDescription, write_pipeline};
use crate::hash::layout_fingerprint;
use crate::manifest::{Manifest, RecordedDirectory};
use crate::model_dir::{StoredModel, Weights};
use crate::run_directory::RunDirectory;
use crate::tensor_file::{Elements, TensorFile, TensorToWrite, write_tensors};
use crate::{Dtype, Error, json_file};
use engine::ParamLayout;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder of the raw weights in a checkpoint.
pub(crate) const RAW_DIR: &str = "raw";
/// Where training stands.
pub(crate) const STATE_FILE: &str = "training/state.json";

const MOMENTS_FILE: &str = "training/moments.safetensors";
const FIRST_MOMENT: &str = "first_moment";
const SECOND_MOMENT: &str = "second_moment";
const FORMAT: u32 = 1;

/// Where a training run stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingProgress {
    /// Training steps done.
    pub step: u64,
    /// Training images consumed so far; says where in the data the next batch begins.
    pub samples: u64,
    /// Seed of all randomness.
    pub seed: u64,
    /// The run's configuration: the text of a TOML file, kept as it is.
    pub config: String,
}

/// `training/state.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    format: u32,
    written_by: String,
    parameters: usize,
    layout_xxh3: String,
    progress: TrainingProgress,
}

/// The buffers of a training run, each of the layout's length.
#[derive(Clone, Copy, Debug)]
pub struct TrainingBuffers<'a> {
    /// The weights that the optimiser moves.
    pub raw: &'a [f32],
    /// Their exponential moving average.
    pub ema: &'a [f32],
    /// Adam's running mean of the gradient.
    pub first_moment: &'a [f32],
    /// Adam's running mean of the squared gradient.
    pub second_moment: &'a [f32],
}

/// The buffers of a training run, to be filled.
#[derive(Debug)]
pub struct TrainingBuffersMut<'a> {
    /// The weights that the optimiser moves.
    pub raw: &'a mut [f32],
    /// Their exponential moving average.
    pub ema: &'a mut [f32],
    /// Adam's running mean of the gradient.
    pub first_moment: &'a mut [f32],
    /// Adam's running mean of the squared gradient.
    pub second_moment: &'a mut [f32],
}

/// Saves a checkpoint of a run, atomically: a kill or an error at any moment leaves the run's earlier
/// checkpoints, and one of the same step, as they were. Older checkpoints stay; see [`RunDirectory::prune`].
///
/// Returns the checkpoint's directory.
///
/// # Errors
/// If a number is NaN or infinite, diffusers has no words for the model, or the file system refuses.
///
/// # Panics
/// If a buffer is not of the layout's length.
pub fn save_checkpoint(
    run: &RunDirectory,
    description: &ModelDescription,
    layout: &ParamLayout,
    buffers: TrainingBuffers<'_>,
    progress: &TrainingProgress,
) -> Result<PathBuf, Error> {
    let step = progress.step;
    let mut out = RecordedDirectory::begin(&run.checkpoint(step), Existing::Replace)?;
    let kinds =
        [(Weights::Ema, "".to_owned(), buffers.ema), (Weights::Raw, format!("{RAW_DIR}/"), buffers.raw)];
    for (weights, prefix, parameters) in kinds {
        let weights = LabelledWeights { parameters, weights, step };
        write_pipeline(&mut out, &prefix, description, layout, weights, Dtype::F32)?;
    }
    let layout_xxh3 = layout_fingerprint(layout);
    let labels = BTreeMap::from([
        ("layout_xxh3".to_owned(), layout_xxh3.clone()),
        ("step".to_owned(), step.to_string()),
        ("written_by".to_owned(), crate::PROGRAM.to_owned()),
    ]);
    let moments = [(FIRST_MOMENT, buffers.first_moment), (SECOND_MOMENT, buffers.second_moment)];
    let moments = moments.map(|(name, moment)| {
        assert_eq!(moment.len(), layout.len(), "the buffer is not of this layout");
        TensorToWrite { name: name.to_owned(), shape: vec![moment.len()], elements: Elements::Ready(moment) }
    });
    out.write(MOMENTS_FILE, |path, out| write_tensors(path, out, &labels, Dtype::F32, &moments))?;
    let state = StateFile {
        format: FORMAT,
        written_by: crate::PROGRAM.to_owned(),
        parameters: layout.len(),
        layout_xxh3,
        progress: progress.clone(),
    };
    out.write_json(STATE_FILE, &state)?;
    out.write_manifest()?;
    out.commit()
}

/// A checkpoint from which training can go on, checked whole against its manifest.
#[derive(Clone, PartialEq, Debug)]
pub struct SavedTraining {
    /// Where training stood.
    pub progress: TrainingProgress,
    /// The program that saved it, with its version.
    pub written_by: String,
    /// The model.
    pub description: ModelDescription,
    directory: PathBuf,
    layout_xxh3: String,
}

impl SavedTraining {
    /// Opens a checkpoint directory and checks every file's length and fingerprint.
    ///
    /// # Errors
    /// Names the file that is missing, truncated, corrupted or not valid.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let manifest = Manifest::open(directory)?;
        manifest.verify(directory, "")?;
        let state = read_state(directory)?;
        let model = StoredModel::open(directory)?;
        let Some(diffusion) = model.diffusion else {
            let path = directory.join(diffusers::SCHEDULER_DIR).join(diffusers::SCHEDULER_FILE);
            return Err(Error::damaged(&path, "missing"));
        };
        Ok(Self {
            progress: state.progress,
            written_by: state.written_by,
            description: ModelDescription { model: model.unet, diffusion },
            directory: directory.to_owned(),
            layout_xxh3: state.layout_xxh3,
        })
    }

    /// The checkpoint directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Fills the buffers of a run with those saved, bit for bit.
    ///
    /// # Errors
    /// If the checkpoint is of another network, or a file cannot be read. The buffers may then be partly filled.
    ///
    /// # Panics
    /// If a buffer is not of the layout's length.
    pub fn restore(&self, layout: &ParamLayout, buffers: TrainingBuffersMut<'_>) -> Result<(), Error> {
        let expected = layout_fingerprint(layout);
        if self.layout_xxh3 != expected {
            // Which parameters differ says more than two fingerprints, where it can be told.
            StoredModel::open(&self.directory)?.check_parameters(layout)?;
            let path = self.directory.join(STATE_FILE);
            return Err(Error::OtherNetwork { path, found: self.layout_xxh3.clone(), expected });
        }
        let mut ema = StoredModel::open(&self.directory)?;
        ema.read_parameters_into(layout, buffers.ema)?;
        let mut raw = StoredModel::open(&self.directory.join(RAW_DIR))?;
        raw.read_parameters_into(layout, buffers.raw)?;
        let mut moments = TensorFile::open(&self.directory.join(MOMENTS_FILE))?;
        moments.read(FIRST_MOMENT, buffers.first_moment)?;
        moments.read(SECOND_MOMENT, buffers.second_moment)
    }
}

fn read_state(directory: &Path) -> Result<StateFile, Error> {
    let path = directory.join(STATE_FILE);
    let state: StateFile = json_file::read(&path)?;
    if state.format != FORMAT {
        let problem = format!("format {} is not known; this program reads format {FORMAT}", state.format);
        return Err(Error::damaged(&path, problem));
    }
    Ok(state)
}

/// Where training stood at a checkpoint, without a check of the other files.
pub(crate) fn read_progress(directory: &Path) -> Result<TrainingProgress, Error> {
    Ok(read_state(directory)?.progress)
}
