//! MODEL on the command line: a run directory, a checkpoint directory, or a diffusers directory.

use crate::Error;
use crate::diffusers::{self, INDEX_FILE, PipelineFiles};
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::run_directory::{CHECKPOINTS_DIR, RunDirectory};
use crate::tensor_bundle::is_tensor_bundle;
use crate::training_state::{RAW_DIR, STATE_FILE};
use crate::weights_file::WeightsFile;
use diffusion::DiffusionConfig;
use engine::{ParamLayout, ParamSpec};
use models::UnetConfig;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Which of a training run's weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// The exponential moving average, which samples are made with.
    Ema,
    /// The weights that the optimiser moves.
    Raw,
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ema => "ema",
            Self::Raw => "raw",
        })
    }
}

/// What a path turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LocationKind {
    /// A run's directory; its latest checkpoint is meant.
    Run,
    /// A checkpoint of a run: both kinds of weights and the training state.
    Checkpoint,
    /// A diffusers pipeline, or the folder of its network: one kind of weights.
    Diffusers,
}

/// Where a model lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelLocation {
    /// What the path given was.
    pub kind: LocationKind,
    /// The checkpoint or diffusers directory.
    pub directory: PathBuf,
}

impl ModelLocation {
    /// Finds the model that `path` stands for. Reads nothing but directories.
    ///
    /// # Errors
    /// If there is no model.
    pub fn resolve(path: &Path) -> Result<Self, Error> {
        let found = |kind, directory: &Path| Ok(Self { kind, directory: directory.to_owned() });
        if !path.is_dir() {
            let what = match path.metadata() {
                Ok(metadata) if metadata.is_file() => "a file",
                Ok(_) => "no directory",
                Err(_) if is_tensor_bundle(path) => "a TensorFlow checkpoint",
                Err(error) => return Err(Error::read(path)(error)),
            };
            let problem = format!(
                "is {what}; a model is a run, checkpoint or diffusers directory (`ddpm import` makes one of another program's file)"
            );
            return Err(Error::NoModel { path: path.to_owned(), problem });
        }
        if path.join(STATE_FILE).is_file() || path.join(MANIFEST_FILE).is_file() {
            return found(LocationKind::Checkpoint, path);
        }
        if path.join(INDEX_FILE).is_file() || path.join(diffusers::CONFIG_FILE).is_file() {
            return found(LocationKind::Diffusers, path);
        }
        if path.join(CHECKPOINTS_DIR).is_dir() {
            return match RunDirectory::new(path).latest()? {
                Some(checkpoint) => found(LocationKind::Run, &checkpoint.directory),
                None => {
                    let problem = "the run has no complete checkpoint yet".to_owned();
                    Err(Error::NoModel { path: path.to_owned(), problem })
                }
            };
        }
        let problem = format!(
            "no model here: neither {CHECKPOINTS_DIR}/ (a run), {MANIFEST_FILE} (a checkpoint), {INDEX_FILE} (a diffusers \
             pipeline) nor {} (a network of one) is in it",
            diffusers::CONFIG_FILE
        );
        Err(Error::NoModel { path: path.to_owned(), problem })
    }

    /// Opens the model with the weights `wanted`; with `None` a checkpoint's EMA weights, or whatever a diffusers
    /// directory has. Files of a checkpoint are checked against its manifest. No tensor is read.
    ///
    /// # Errors
    /// If the weights are of the other kind or (when one is asked for) unlabelled, a file is missing,
    /// damaged, or asks for something not supported, or the files contradict each other.
    pub fn open(&self, wanted: Option<Weights>) -> Result<StoredModel, Error> {
        let is_checkpoint = self.kind != LocationKind::Diffusers;
        let (directory, part) = match wanted {
            Some(Weights::Raw) if is_checkpoint => (self.directory.join(RAW_DIR), RAW_DIR),
            _ => (self.directory.clone(), diffusers::UNET_DIR),
        };
        if is_checkpoint {
            let manifest = Manifest::open(&self.directory)?;
            manifest.verify(&self.directory, part)?;
            manifest.verify(&self.directory, INDEX_FILE)?;
            manifest.verify(&self.directory, diffusers::SCHEDULER_DIR)?;
        }
        let model = StoredModel::open(&directory)?;
        match (wanted, model.weights) {
            (Some(wanted), Some(found)) if wanted != found => {
                Err(self.not_there(wanted, format!("the file holds the {found} weights")))
            }
            (Some(wanted), None) => {
                let found =
                    "the file does not say whether its weights are ema or raw; ask for neither".to_owned();
                Err(self.not_there(wanted, found))
            }
            _ => Ok(model),
        }
    }

    fn not_there(&self, wanted: Weights, found: String) -> Error {
        Error::WeightsNotThere { path: self.directory.clone(), wanted, found }
    }
}

/// A model whose configuration has been read and whose weights are ready to be.
#[derive(Debug)]
pub struct StoredModel {
    /// The network.
    pub unet: UnetConfig,
    /// The process; a foreign network's folder alone does not say.
    pub diffusion: Option<DiffusionConfig>,
    /// Which weights these are; files that other programs wrote do not say.
    pub weights: Option<Weights>,
    /// Training steps done; files that other programs wrote do not say.
    pub step: Option<u64>,
    file: WeightsFile,
}

impl StoredModel {
    /// Opens a diffusers directory or network folder.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let files = PipelineFiles::locate(directory)?;
        let (unet, diffusion) = files.read_description()?;
        let file = WeightsFile::open(&files.weights()?)?;
        let label = |key: &str| file.labels().get(key).map(String::as_str);
        let weights = match label("weights") {
            Some("ema") => Some(Weights::Ema),
            Some("raw") => Some(Weights::Raw),
            _ => None,
        };
        let step = label("step").and_then(|step| step.parse().ok());
        Ok(Self { unet, diffusion, weights, step, file })
    }

    /// The weights file.
    pub fn file(&self) -> &WeightsFile {
        &self.file
    }

    /// Checks names and shapes of the tensors against the network's parameters, and that the file is long
    /// enough for them, without reading any.
    ///
    /// # Errors
    /// Lists what is missing, unexpected or of another shape.
    pub fn check_parameters(&self, layout: &ParamLayout) -> Result<(), Error> {
        diffusers::match_names(&self.file, layout)?;
        self.file.check_holds(layout.len())
    }

    /// Reads the parameters in the layout's order.
    ///
    /// # Errors
    /// If tensors are missing, unexpected, of another shape or an unsupported type, or a weight is NaN or infinite.
    pub fn read_parameters(&mut self, layout: &ParamLayout) -> Result<Vec<f32>, Error> {
        self.check_parameters(layout)?;
        let mut parameters = vec![0.0; layout.len()];
        self.read_parameters_into(layout, &mut parameters)?;
        Ok(parameters)
    }

    /// Reads the parameters into a buffer of the layout's length.
    ///
    /// # Errors
    /// Those of [`StoredModel::read_parameters`]; the buffer may then be partly filled.
    ///
    /// # Panics
    /// If the buffer is not of the layout's length.
    pub fn read_parameters_into(
        &mut self,
        layout: &ParamLayout,
        parameters: &mut [f32],
    ) -> Result<(), Error> {
        assert_eq!(parameters.len(), layout.len(), "the buffer is not of this layout");
        self.for_each_parameter(layout, |spec, values| parameters[spec.range()].copy_from_slice(values))
    }

    /// Reads the parameters in the layout's order, and calls `visit` with each and its values: to put them
    /// where they are needed, with memory for the largest of them alone.
    ///
    /// # Errors
    /// Those of [`StoredModel::read_parameters`], after some have been visited.
    pub fn for_each_parameter(
        &mut self,
        layout: &ParamLayout,
        visit: impl FnMut(&ParamSpec, &[f32]),
    ) -> Result<(), Error> {
        diffusers::for_each_parameter(&mut self.file, layout, visit)
    }
}
