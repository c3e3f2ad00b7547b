//! The directory layout of the diffusers library (`DDPMPipeline`, `UNet2DModel`, `DDPMScheduler`).
//!
//! ```text
//! model_index.json                             which classes make up the pipeline
//! unet/config.json                             the network
//! unet/diffusion_pytorch_model.safetensors     its weights; labels inside say which (`weights`, `step`)
//! unet/ddpm.json                               the same network and process in this program's terms
//! scheduler/scheduler_config.json              the process
//! ```
//!
//! `ddpm.json` is ours: it keeps what diffusers has no words for (`block_size`, the loss). diffusers warns of unknown
//! keys in its own files but does not look at other files, hence a file apart. Where both speak, they must agree.

mod parameters;
mod scheduler_config;
mod unet_config;

pub use parameters::ParameterMismatch;
pub use scheduler_config::{scheduler_from_json, scheduler_to_json};
pub use unet_config::{beyond_diffusers, unet_from_json, unet_to_json};

pub(crate) use parameters::{file_shape, for_each_parameter, is_shape_of, load_parameter, match_names};

use scheduler_config::have_equal_betas;

use crate::atomic::Existing;
use crate::hash;
use crate::manifest::RecordedDirectory;
use crate::model_dir::Weights;
use crate::{Dtype, Error, json_file};
use diffusion::DiffusionConfig;
use engine::ParamLayout;
use models::{UnetConfig, UnetConfigError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The version of diffusers whose layout this is.
pub const DIFFUSERS_VERSION: &str = "0.42.1";

/// The pipeline's table of contents.
pub(crate) const INDEX_FILE: &str = "model_index.json";
/// The folder of the network.
pub(crate) const UNET_DIR: &str = "unet";
/// The network's configuration.
pub(crate) const CONFIG_FILE: &str = "config.json";
/// The network's weights.
pub(crate) const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";
/// The same as a PyTorch pickle, in older directories.
const PICKLE_FILE: &str = "diffusion_pytorch_model.bin";
/// The network and the process in this program's terms.
pub(crate) const DESCRIPTION_FILE: &str = "ddpm.json";
/// The folder of the process.
pub(crate) const SCHEDULER_DIR: &str = "scheduler";
/// The process.
pub(crate) const SCHEDULER_FILE: &str = "scheduler_config.json";

const DESCRIPTION_FORMAT: u32 = 1;

/// Largest block size read.
const MAX_BLOCK_SIZE: usize = 256;

/// A model but for its weights: the network and the process it was trained for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDescription {
    /// The network.
    pub model: UnetConfig,
    /// The process.
    pub diffusion: DiffusionConfig,
}

impl ModelDescription {
    /// Whether the model can be written in the diffusers layout; ask before training, not after.
    ///
    /// # Errors
    /// Names the setting that diffusers has no words for.
    pub fn check_expressible(&self) -> Result<(), Error> {
        unet_to_json(&self.model).map(drop)
    }
}

/// `ddpm.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DescriptionFile {
    format: u32,
    model: UnetConfig,
    diffusion: DiffusionConfig,
}

/// Weights and what is said about them inside their file.
#[derive(Clone, Copy, Debug)]
pub struct LabelledWeights<'a> {
    /// The parameters, in the layout's order.
    pub parameters: &'a [f32],
    /// Which weights they are.
    pub weights: Weights,
    /// Training steps done.
    pub step: u64,
}

/// Writes a model as a new diffusers directory, atomically.
///
/// # Errors
/// If `directory` exists and is not empty, diffusers has no words for the model, a weight is NaN, infinite or beyond
/// the range of `dtype`, or a write fails. Nothing is left at `directory` then.
///
/// # Panics
/// If the parameters are not of the layout's length.
pub fn export(
    directory: &Path,
    description: &ModelDescription,
    layout: &ParamLayout,
    weights: LabelledWeights<'_>,
    dtype: Dtype,
) -> Result<(), Error> {
    let mut out = RecordedDirectory::begin(directory, Existing::Keep)?;
    write_pipeline(&mut out, "", description, layout, weights, dtype)?;
    out.commit().map(drop)
}

/// Writes a model in single precision as a diffusers directory, which takes the place of one that is there at once.
///
/// # Errors
/// As [`export`], but for what is at `directory`: that stays as it was.
///
/// # Panics
/// If the parameters are not of the layout's length.
pub fn replace_export(
    directory: &Path,
    description: &ModelDescription,
    layout: &ParamLayout,
    weights: LabelledWeights<'_>,
) -> Result<(), Error> {
    let mut out = RecordedDirectory::begin(directory, Existing::Replace)?;
    write_pipeline(&mut out, "", description, layout, weights, Dtype::F32)?;
    out.commit().map(drop)
}

/// Writes the files of a diffusers directory at `prefix` (empty, or ending in `/`) of `out`.
pub(crate) fn write_pipeline(
    out: &mut RecordedDirectory,
    prefix: &str,
    description: &ModelDescription,
    layout: &ParamLayout,
    weights: LabelledWeights<'_>,
    dtype: Dtype,
) -> Result<(), Error> {
    let unet = unet_to_json(&description.model)?;
    let index = json!({
        "_class_name": "DDPMPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    });
    let ModelDescription { model, diffusion } = description.clone();
    let description_file = DescriptionFile { format: DESCRIPTION_FORMAT, model, diffusion };
    let description_text = json_file::text(Path::new(DESCRIPTION_FILE), &description_file)?;
    let labels = BTreeMap::from([
        // diffusers refuses a file without this one.
        ("format".to_owned(), "pt".to_owned()),
        ("weights".to_owned(), weights.weights.to_string()),
        ("step".to_owned(), weights.step.to_string()),
        ("config_xxh3".to_owned(), hash::bytes(&description_text)),
        ("written_by".to_owned(), crate::PROGRAM.to_owned()),
    ]);
    out.write_json(&format!("{prefix}{INDEX_FILE}"), &index)?;
    let scheduler = scheduler_to_json(&description.diffusion);
    out.write_json(&format!("{prefix}{SCHEDULER_DIR}/{SCHEDULER_FILE}"), &scheduler)?;
    out.write_json(&format!("{prefix}{UNET_DIR}/{CONFIG_FILE}"), &unet)?;
    out.write_bytes(&format!("{prefix}{UNET_DIR}/{DESCRIPTION_FILE}"), &description_text)?;
    out.write(&format!("{prefix}{UNET_DIR}/{WEIGHTS_FILE}"), |path, out| {
        parameters::write_parameters(path, out, &labels, dtype, layout, weights.parameters)
    })
}

/// The files of a model in the diffusers layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PipelineFiles {
    /// The folder with the network's files.
    pub unet: PathBuf,
    /// The process; a network's folder alone has none.
    pub scheduler: Option<PathBuf>,
}

impl PipelineFiles {
    /// Looks for a pipeline, a pipeline without subfolders, or a network's folder alone.
    ///
    /// # Errors
    /// If there is none, or its parts are of classes not supported.
    pub fn locate(directory: &Path) -> Result<Self, Error> {
        if directory.join(INDEX_FILE).is_file() {
            check_index(&directory.join(INDEX_FILE))?;
            let part = |name| match directory.join(name) {
                folder if folder.is_dir() => folder,
                _ => directory.to_owned(),
            };
            let scheduler = part(SCHEDULER_DIR).join(SCHEDULER_FILE);
            return Ok(Self { unet: part(UNET_DIR), scheduler: Some(scheduler) });
        }
        if directory.join(CONFIG_FILE).is_file() {
            let scheduler = Some(directory.join(SCHEDULER_FILE)).filter(|path| path.is_file());
            return Ok(Self { unet: directory.to_owned(), scheduler });
        }
        let problem = format!(
            "no model here: neither {INDEX_FILE} (a pipeline) nor {CONFIG_FILE} (a network) is in it"
        );
        Err(Error::NoModel { path: directory.to_owned(), problem })
    }

    /// The network's configuration file.
    pub fn config(&self) -> PathBuf {
        self.unet.join(CONFIG_FILE)
    }

    /// The weights file.
    ///
    /// # Errors
    /// If the weights are there in a form that is not read here, or not at all.
    pub fn weights(&self) -> Result<PathBuf, Error> {
        let path = self.unet.join(WEIGHTS_FILE);
        if path.is_file() {
            return Ok(path);
        }
        let sharded = self.unet.join(format!("{WEIGHTS_FILE}.index.json"));
        if sharded.exists() {
            let form = "weights in several files (shards) are";
            let remedy = "save the model again with diffusers' save_pretrained(…, max_shard_size=\"100GB\")";
            return Err(Error::UnsupportedForm { path: sharded, form, remedy });
        }
        let pickle = self.unet.join(PICKLE_FILE);
        if pickle.is_file() {
            return Ok(pickle);
        }
        match self.variants()?.as_slice() {
            [only] => Ok(self.unet.join(only)),
            [] => {
                let problem = format!("the weights are missing: there is no {WEIGHTS_FILE} or {PICKLE_FILE}");
                Err(Error::NoModel { path: self.unet.clone(), problem })
            }
            several => {
                let problem = format!(
                    "its weights are there as {}; rename the one that is meant to {WEIGHTS_FILE} or {PICKLE_FILE}",
                    several.join(" and ")
                );
                Err(Error::NoModel { path: self.unet.clone(), problem })
            }
        }
    }

    /// The files of weights that were saved as a variant (`diffusion_pytorch_model.fp16.safetensors`),
    /// sorted; of a variant that is there in both forms, the safetensors file.
    fn variants(&self) -> Result<Vec<String>, Error> {
        let stem = WEIGHTS_FILE.split_once('.').map_or(WEIGHTS_FILE, |(stem, _)| stem);
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.unet).map_err(Error::read(&self.unet))? {
            let entry = entry.map_err(Error::read(&self.unet))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let parts: Vec<&str> = name.split('.').collect();
            if let [first, variant, form @ ("safetensors" | "bin")] = parts[..]
                && first == stem
                && (form == "safetensors" || !found.contains_key(variant))
            {
                found.insert(variant.to_owned(), name);
            }
        }
        Ok(found.into_values().collect())
    }

    /// The network and, where it is known, the process.
    ///
    /// # Errors
    /// If a setting is not supported or impossible, or the files contradict each other.
    pub fn read_description(&self) -> Result<(UnetConfig, Option<DiffusionConfig>), Error> {
        let description = self.unet.join(DESCRIPTION_FILE);
        let (model, diffusion, process) = if description.is_file() {
            let own = read_own(&description)?;
            self.check_agreement(&own, &description)?;
            (own.model, Some(own.diffusion), Some(&description))
        } else {
            let diffusion = self.scheduler.as_deref().map(scheduler_from_json).transpose()?;
            (unet_from_json(&self.config(), 1)?, diffusion, self.scheduler.as_ref())
        };
        let impossible = |UnetConfigError { key, value, reason }| Error::Unsupported {
            path: self.config(),
            key: format!("model.{key}"),
            value,
            supported: reason,
        };
        model.validate().map_err(impossible)?;
        if let (Some(diffusion), Some(path)) = (&diffusion, process) {
            diffusion.validate().map_err(|source| Error::Process { path: path.clone(), source })?;
            check_variance(&self.config(), &model, path, diffusion)?;
        }
        Ok((model, diffusion))
    }

    /// Compares `ddpm.json` with what diffusers' files say.
    fn check_agreement(&self, own: &ModelDescription, description: &Path) -> Result<(), Error> {
        let model = unet_from_json(&self.config(), own.model.block_size)?;
        agree(&self.config(), &model, description, &as_stored(&own.model))?;
        if let Some(path) = &self.scheduler {
            let own = &own.diffusion;
            own.validate().map_err(|source| Error::Process { path: description.to_owned(), source })?;
            // The loss is not in diffusers' file, whose reader guesses it.
            let mut diffusion = DiffusionConfig { loss: own.loss, ..scheduler_from_json(path)? };
            if have_equal_betas(own, &diffusion) {
                // In a short process, two schedules may be one.
                let DiffusionConfig { schedule, beta_start, beta_end, .. } = *own;
                diffusion = DiffusionConfig { schedule, beta_start, beta_end, ..diffusion };
            }
            agree(path, &diffusion, description, own)?;
        }
        Ok(())
    }
}

fn check_index(path: &Path) -> Result<(), Error> {
    let mut fields = json_file::Fields::read(path)?;
    let alone = format!(" (the network alone is the folder {UNET_DIR} in it)");
    let class = fields.required("_class_name")?;
    if class != "DDPMPipeline" {
        let supported = format!("only DDPMPipeline is supported{alone}");
        return Err(fields.unsupported("_class_name", &class, supported));
    }
    for (key, class, remedy) in [("unet", "UNet2DModel", ""), ("scheduler", "DDPMScheduler", &*alone)] {
        let value = fields.required(key)?;
        if value.get(1).and_then(Value::as_str) != Some(class) {
            return Err(fields.unsupported(key, &value, format!("only {class} is supported{remedy}")));
        }
    }
    fields.finish()
}

fn read_own(path: &Path) -> Result<ModelDescription, Error> {
    let file: DescriptionFile = json_file::read(path)?;
    let unsupported = |key: &str, value: String, supported: String| {
        Err(Error::Unsupported { path: path.to_owned(), key: key.to_owned(), value, supported })
    };
    if file.format != DESCRIPTION_FORMAT {
        let supported = format!("this program reads format {DESCRIPTION_FORMAT}");
        return unsupported("format", file.format.to_string(), supported);
    }
    if !(1..=MAX_BLOCK_SIZE).contains(&file.model.block_size) {
        let supported = format!("must be from 1 to {MAX_BLOCK_SIZE}");
        return unsupported("model.block_size", file.model.block_size.to_string(), supported);
    }
    Ok(ModelDescription { model: file.model, diffusion: file.diffusion })
}

/// `config` as it comes back from diffusers' file: attention only at resolutions that the network has, highest first.
fn as_stored(config: &UnetConfig) -> UnetConfig {
    let sample_size = config.image_size / config.block_size;
    let levels = 0..config.channel_mult.len() as u32;
    let resolutions = levels.map(|level| sample_size.checked_shr(level).unwrap_or(0));
    let attends = |resolution: &usize| config.attention_resolutions.contains(resolution);
    UnetConfig { attention_resolutions: resolutions.filter(attends).collect(), ..config.clone() }
}

/// Compares what two files say, key by key.
fn agree(path: &Path, stored: &impl Serialize, other: &Path, own: &impl Serialize) -> Result<(), Error> {
    let json = |value: Result<Value, serde_json::Error>| {
        value.map_err(|error| Error::damaged(other, format!("holds a value that JSON does not: {error}")))
    };
    let (stored, own) = (json(serde_json::to_value(stored))?, json(serde_json::to_value(own))?);
    let keys = own.as_object().into_iter().flatten();
    for (key, own_value) in keys {
        let value = &stored[key];
        if value != own_value {
            return Err(Error::Contradiction {
                path: path.to_owned(),
                key: key.clone(),
                value: json_file::brief(value),
                other: other.to_owned(),
                other_value: json_file::brief(own_value),
            });
        }
    }
    Ok(())
}

/// The output has a second half of channels exactly if the process takes its variance from there.
fn check_variance(
    unet: &Path,
    model: &UnetConfig,
    process: &Path,
    diffusion: &DiffusionConfig,
) -> Result<(), Error> {
    if model.learned_variance == diffusion.variance.is_learned() {
        return Ok(());
    }
    Err(Error::Contradiction {
        path: unet.to_owned(),
        key: "learned_variance".to_owned(),
        value: model.learned_variance.to_string(),
        other: process.to_owned(),
        other_value: json!(diffusion.variance).to_string(),
    })
}
