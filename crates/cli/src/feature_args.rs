//! Options of the commands that measure sets of images by Inception features.

use crate::model::WeightsName;
use crate::sampler_args::SamplerArgs;
use checkpoint::Weights;
use clap::ValueEnum;
use data::ImageSource;
use diffusion::Sampling;
use eval::ResizeMode;
use eval::image_set::{SourceImages, Unreadable};
use models::inception::Tap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;

/// What a set of images may be, for the commands' help.
pub const INPUTS: &str = "A set of images is one of
  cifar10:DIR:test, mnist:DIR, images:DIR, npz:FILE, …   a data source (as for train)
  FOLDER                                                 a folder of image files
  FILE.npz, FILE.npy                                     an array of images, as openai's evaluator has them
  STATISTICS.npz                                         mu and sigma, of ddpm stats, pytorch-fid or TTUR (fid alone)
  MODEL                                                  a run, checkpoint or diffusers directory: samples are drawn

Features are kept in the cache folder ($XDG_CACHE_HOME/ddpm or ~/.cache/ddpm), under the images' content and all else they
depend on: they are computed once, and a call that was stopped goes on where it was.

The Inception network's weights are pytorch-fid's file pt_inception-2015-12-05-6726825d.pth, or a safetensors file with its
keys; without --inception, the file that the environment variable DDPM_INCEPTION names, or the one in the cache folder.";

/// How features are computed.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Features")]
pub struct FeatureArgs {
    /// The Inception network's weights [default: $DDPM_INCEPTION, else from the cache folder]
    #[arg(long, value_name = "FILE")]
    pub inception: Option<PathBuf>,

    /// Number of features: where in the network they are taken. Published figures have 2048, and
    /// the Inception Score is made from no other
    #[arg(long, value_name = "64|192|768|2048", default_value = "2048", value_parser = parse_tap)]
    pub dims: Tap,

    /// How images are brought to the network's 299x299 pixels. Figures of different ways cannot be compared
    #[arg(long, value_enum, default_value_t = ResizeName::PytorchFid)]
    pub resize: ResizeName,

    /// Bring images to this height and width first, as for training (usually by cropping to a square and
    /// resizing) [default: a model's, where one of the sets is a model; else as stored]
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<NonZeroUsize>,

    /// Images computed at once, at least 1: more take more memory. Results do not depend on it
    #[arg(long, value_name = "B", default_value = "16")]
    pub batch: NonZeroUsize,

    /// The folder that features are kept in [default: features/ in the cache folder]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub cache: Option<PathBuf>,

    /// Keep no features
    #[arg(long)]
    pub no_cache: bool,

    /// Measure where the network's time goes, and say so
    #[arg(long)]
    pub profile: bool,
}

/// How samples are drawn where a set is a model.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Samples of a model")]
pub struct SamplingArgs {
    #[command(flatten)]
    sampler: SamplerArgs,

    /// Which weights [default: ema; of a directory that holds one kind, that]
    #[arg(long, value_enum)]
    pub weights: Option<WeightsName>,
}

impl SamplingArgs {
    /// The sampler's settings.
    ///
    /// # Errors
    /// In words, for options that the sampler does not have.
    pub fn sampling(&self) -> Result<Sampling, &'static str> {
        self.sampler.sampling()
    }

    /// The options that are not the published protocol's, for a model of `timesteps` steps.
    ///
    /// # Errors
    /// As [`Self::sampling`].
    pub fn changed(&self, timesteps: usize) -> Result<Vec<String>, &'static str> {
        let mut changed = self.sampler.changed(timesteps)?;
        if self.weights == Some(WeightsName::Raw) {
            changed.push("--weights raw".into());
        }
        Ok(changed)
    }

    /// The weights asked for.
    pub fn weights(&self) -> Option<Weights> {
        self.weights.map(Weights::from)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ResizeName {
    /// Bilinear between pixels' centres, 2x - 1: as pytorch-fid
    PytorchFid,
    /// Bilinear between pixels' corners, (x - 128) / 128: as TensorFlow 1 and torch-fidelity
    TorchFidelity,
    /// Bicubic without aliasing, (x - 128) / 128: as clean-fid
    Clean,
}

impl From<ResizeName> for ResizeMode {
    fn from(name: ResizeName) -> Self {
        match name {
            ResizeName::PytorchFid => Self::PytorchFid,
            ResizeName::TorchFidelity => Self::TorchFidelity,
            ResizeName::Clean => Self::Clean,
        }
    }
}

fn parse_tap(text: &str) -> Result<Tap, String> {
    let tap = text.parse().ok().and_then(Tap::with_dims);
    tap.ok_or_else(|| "the network gives 64, 192, 768 or 2048 features".to_owned())
}

/// How much of a set of images is taken.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ImagesArgs {
    /// Take the set's first COUNT images; of a model, draw so many [default: all; of a model 50000]
    #[arg(long, value_name = "COUNT")]
    pub n: Option<NonZeroU64>,

    /// Pass over images that cannot be read, and count them
    #[arg(long)]
    skip_bad: bool,
}

impl ImagesArgs {
    /// So much of `input`.
    pub fn set(self, input: &str) -> SetArgs<'_> {
        let unreadable = if self.skip_bad { Unreadable::Skip } else { Unreadable::Refuse };
        SetArgs { input, count: self.n, unreadable }
    }
}

/// Which set of images, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct SetArgs<'a> {
    /// As it stands in the call.
    pub input: &'a str,
    /// Its first so many images; of a model, samples.
    pub count: Option<NonZeroU64>,
    /// What becomes of images that cannot be read.
    pub unreadable: Unreadable,
}

impl SetArgs<'_> {
    /// The images of `source` that are meant.
    pub fn images_of(&self, source: Arc<dyn ImageSource>) -> SourceImages {
        SourceImages::new(source, self.count.map(NonZeroU64::get), self.unreadable)
    }
}
