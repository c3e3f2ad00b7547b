//! MODEL on the command line, opened for predicting.

use crate::failure::Failure;
use checkpoint::{LocationKind, ModelLocation, StoredModel, Weights, WeightsHash};
use clap::ValueEnum;
use data::{ImageOptions, ResizeFilter};
use diffusion::{Denoiser, GaussianDiffusion};
use engine::{Hardware, ImageShape};
use eval::ModelFacts;
use models::{Unet, UnetDenoiser};
use std::path::{Path, PathBuf};
use train::training_run;

/// Which model, and which of its weights.
#[derive(clap::Args, Debug)]
pub struct ModelArgs {
    /// A run directory (its last checkpoint), a checkpoint, or a directory in diffusers' layout
    model: PathBuf,

    /// Which weights [default: ema; of a directory that holds one kind, that]
    #[arg(long, value_enum)]
    weights: Option<WeightsName>,
}

impl ModelArgs {
    /// The model at `model`, as if it had been the command's argument.
    pub fn new(model: PathBuf, weights: Option<WeightsName>) -> Self {
        Self { model, weights }
    }
}

/// The kinds of weights, as options name them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum WeightsName {
    /// The moving average over the training, which gives better images
    Ema,
    /// The weights as the last update left them
    Raw,
}

/// A model ready to predict.
pub struct Model {
    /// The network.
    pub denoiser: UnetDenoiser,
    /// What its files say about it.
    pub stored: StoredModel,
    /// Where it lies.
    pub directory: PathBuf,
    /// The run's directory, if the model was named by it.
    pub run: Option<PathBuf>,
    /// The fingerprint of its weights.
    pub fingerprint: String,
}

/// Opens the model and reads its weights, for `batch` images at a time.
///
/// # Errors
/// If it is not there, not whole, or memory is short.
pub fn open(args: &ModelArgs, batch: usize, hardware: Hardware) -> Result<Model, Failure> {
    open_at(&args.model, args.wanted(), batch, hardware)
}

/// [`open`], for as many images at a time as `batch` says of the model's images.
///
/// # Errors
/// If it is not there, not whole, or memory is short.
pub fn open_sized(
    args: &ModelArgs,
    batch: impl FnOnce(ImageShape) -> usize,
    hardware: Hardware,
) -> Result<Model, Failure> {
    let located = locate(&args.model, args.wanted())?;
    let batch = batch(located.1.unet.image_shape());
    load(&args.model, located, batch, hardware)
}

/// Opens the model at `path` with the weights `wanted`, or those it has.
///
/// # Errors
/// If it is not there, not whole, or memory is short.
pub fn open_at(
    path: &Path,
    wanted: Option<Weights>,
    batch: usize,
    hardware: Hardware,
) -> Result<Model, Failure> {
    load(path, locate(path, wanted)?, batch, hardware)
}

fn load(
    path: &Path,
    (location, mut stored): (ModelLocation, StoredModel),
    batch: usize,
    hardware: Hardware,
) -> Result<Model, Failure> {
    let layout = Unet::layout(&stored.unet);
    stored.check_parameters(&layout).map_err(checkpoint_failure)?;
    let backend = hardware.open().map_err(Failure::work)?;
    let mut denoiser = UnetDenoiser::without_weights(&stored.unet, batch, backend).map_err(Failure::work)?;
    let mut hash = WeightsHash::default();
    denoiser
        .read_weights(|set| {
            stored.for_each_parameter(&layout, |spec, values| {
                hash.update(values);
                set(spec, values);
            })
        })
        .map_err(checkpoint_failure)?;
    let run = (location.kind == LocationKind::Run).then(|| path.to_owned());
    Ok(Model { denoiser, stored, directory: location.directory, run, fingerprint: hash.fingerprint() })
}

/// Opens the model's files, reading no weight.
///
/// # Errors
/// If it is not there or not whole.
pub fn open_stored(args: &ModelArgs) -> Result<StoredModel, Failure> {
    locate(&args.model, args.wanted()).map(|(_, stored)| stored)
}

impl ModelArgs {
    fn wanted(&self) -> Option<Weights> {
        self.weights.map(Weights::from)
    }
}

impl From<WeightsName> for Weights {
    fn from(name: WeightsName) -> Self {
        match name {
            WeightsName::Ema => Self::Ema,
            WeightsName::Raw => Self::Raw,
        }
    }
}

fn locate(path: &Path, wanted: Option<Weights>) -> Result<(ModelLocation, StoredModel), Failure> {
    let location = ModelLocation::resolve(path).map_err(checkpoint_failure)?;
    let stored = location.open(wanted).map_err(checkpoint_failure)?;
    Ok((location, stored))
}

/// A checkpoint's error as the program's failure.
pub fn checkpoint_failure(error: checkpoint::Error) -> Failure {
    match error.is_input() {
        true => Failure::input(error),
        false => Failure::work(error),
    }
}

/// How the images that the model at `path` was trained on were resized, if that is a run's directory; else as
/// is usual.
///
/// # Errors
/// If the run's configuration cannot be read.
pub fn training_filter(path: &Path) -> Result<ResizeFilter, Failure> {
    let config = training_run::stored_config(path).map_err(Failure::input)?;
    Ok(config.map(|config| config.data.resize).unwrap_or_default())
}

impl Model {
    /// How images are brought to what it was trained on: its size and channels, and its run's way of resizing.
    ///
    /// # Errors
    /// As [`training_filter`].
    pub fn image_options(&self) -> Result<ImageOptions, Failure> {
        let image = self.denoiser.image_shape();
        let filter = self.run.as_deref().map_or(Ok(ResizeFilter::default()), training_filter)?;
        Ok(ImageOptions { size: Some(image.height), channels: Some(image.channels), filter })
    }

    /// The diffusion process it was trained for.
    ///
    /// # Errors
    /// If its files do not say.
    pub fn process(&self) -> Result<GaussianDiffusion, Failure> {
        let config = self.stored.diffusion.as_ref().ok_or_else(|| {
            Failure::input(format!(
                "{}: only a network, with no scheduler/ beside it: the diffusion process is not known; give the folder of \
                 the whole pipeline",
                self.directory.display()
            ))
        })?;
        GaussianDiffusion::new(config).map_err(Failure::input)
    }

    /// The same without the clipping of x̂0: what is clipped on the way from x_T cannot have been on the way there.
    ///
    /// # Errors
    /// If its files do not say.
    pub fn unclipped_process(&self) -> Result<GaussianDiffusion, Failure> {
        self.process().map(GaussianDiffusion::unclipped)
    }

    /// What measurements say of it.
    pub fn facts(&self) -> ModelFacts {
        ModelFacts {
            path: self.directory.clone(),
            weights: self.stored.weights.map(|weights| weights.to_string()),
            step: self.stored.step,
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// A name for files about these weights: `ema-00012000`.
    pub fn weights_slug(&self) -> String {
        let which = self.stored.weights.map_or_else(|| "weights".to_owned(), |weights| weights.to_string());
        format!("{which}-{:08}", self.stored.step.unwrap_or(0))
    }

    /// Which weights these are, in words.
    pub fn weights_name(&self) -> String {
        let which =
            self.stored.weights.map_or_else(|| "unlabelled".to_owned(), |weights| weights.to_string());
        match self.stored.step {
            Some(step) => format!("{which} weights after {step} updates"),
            None => format!("{which} weights"),
        }
    }
}
