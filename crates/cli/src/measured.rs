//! Sets of images on the command line, and their features: what `stats`, `fid`, `inception-score` and `neighbours` share.

use crate::Global;
use crate::failure::Failure;
use crate::model::{self, ModelArgs, WeightsName};
use crate::model_samples::ModelSamples;
use crate::progress::{self, Progress};
use crate::sampler_args::SamplerArgs;
use crate::signals::Signals;
use checkpoint::{ModelLocation, Weights};
use clap::ValueEnum;
use data::{ImageOptions, SOURCE_KINDS, SourceSpec};
use diffusion::Sampling;
use engine::Cpu;
use eval::cache_folder::cache_folder;
use eval::feature_extractor::FeatureExtractor;
use eval::feature_store::FeatureStore;
use eval::image_set::{ImageSet, SourceImages, Unreadable};
use eval::inception_weights::{self, InceptionWeights};
use eval::moments::FeatureMoments;
use eval::{MeasureError, Provenance, ResizeMode, Statistics};
use models::inception::Tap;
use serde_json::{Value, json};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Samples drawn of a model when nobody says: what published figures have.
const SAMPLES: u64 = 50_000;

/// What a set of images may be, for the commands' help.
pub const INPUTS: &str = "A set of images is one of
  cifar10:DIR:test, mnist:DIR, images:DIR, npz:FILE, …   a data source (as for train)
  FOLDER                                                 a folder of image files
  FILE.npz, FILE.npy                                     an array of images, as openai's evaluator has them
  STATISTICS.npz                                         mu and sigma, of ddpm stats, pytorch-fid or TTUR
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
    inception: Option<PathBuf>,

    /// Number of features: where in the network they are taken. Published figures have 2048
    #[arg(long, value_name = "64|192|768|2048", default_value = "2048", value_parser = parse_tap)]
    pub dims: Tap,

    /// How images are brought to the network's 299x299 pixels. Figures of different ways cannot be compared
    #[arg(long, value_enum, default_value_t = ResizeName::PytorchFid)]
    resize: ResizeName,

    /// Bring images to this height and width first, as for training (usually by cropping to a square and resizing) [default: a
    /// model's, where one of the sets is a model; else as stored]
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<NonZeroUsize>,

    /// Images computed at once, at least 1: more take more memory. Results do not depend on it
    #[arg(long, value_name = "B", default_value = "16")]
    pub batch: NonZeroUsize,

    /// The folder that features are kept in [default: features/ in the cache folder]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,

    /// Keep no features
    #[arg(long)]
    no_cache: bool,

    /// Measure where the network's time goes, and say so
    #[arg(long)]
    profile: bool,
}

/// How samples are drawn where a set is a model.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Samples of a model")]
pub struct SamplingArgs {
    #[command(flatten)]
    sampler: SamplerArgs,

    /// Which weights [default: ema; of a directory that holds one kind, that]
    #[arg(long, value_enum)]
    weights: Option<WeightsName>,
}

impl SamplingArgs {
    /// The sampler's settings.
    ///
    /// # Errors
    /// In words, for options that the sampler does not have.
    pub fn sampling(&self) -> Result<Sampling, &'static str> {
        self.sampler.sampling()
    }

    /// The weights asked for.
    pub fn weights(&self) -> Option<Weights> {
        self.weights.map(Weights::from)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ResizeName {
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

/// A set of images with its features.
pub struct MeasuredSet {
    /// What the features depend on.
    pub about: Provenance,
    /// The features.
    pub store: FeatureStore,
    /// Images of the set, readable or not: the store may hold more.
    images: u64,
}

impl MeasuredSet {
    /// The mean and covariance.
    ///
    /// # Errors
    /// If there are fewer than 2 images, or the features cannot be read.
    pub fn statistics(&self) -> Result<Statistics, MeasureError> {
        let mut moments = FeatureMoments::new(self.store.dims());
        self.store.for_each_rows(self.images, |rows| moments.add(rows))?;
        let images = moments.count();
        let (mu, sigma) = moments.finish().ok_or_else(|| MeasureError::TooFew {
            what: self.about.description.clone(),
            images,
            needed: 2,
        })?;
        Ok(Statistics { mu, sigma, about: Some(self.about.clone()) })
    }

    /// Calls `visit` with the features, some rows at a time.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn for_each_rows(&self, visit: impl FnMut(&[f32])) -> Result<(), MeasureError> {
        self.store.for_each_rows(self.images, visit)
    }

    /// All features. Takes `4 · dims` bytes an image.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn rows(&self) -> Result<Vec<f32>, MeasureError> {
        self.store.read_rows(self.images)
    }
}

/// What computes features in a command: opened once for all its sets.
pub struct Measuring<'a> {
    args: &'a FeatureArgs,
    sampling: &'a SamplingArgs,
    global: &'a Global,
    signals: &'a Signals,
    sampler: Sampling,
    image_size: Option<usize>,
    weights: InceptionWeights,
    extractor: FeatureExtractor,
}

impl<'a> Measuring<'a> {
    /// Finds and opens the Inception network.
    ///
    /// # Errors
    /// If its weights are not there, not the right ones, or end before the features asked for.
    pub fn new(
        args: &'a FeatureArgs,
        sampling: &'a SamplingArgs,
        global: &'a Global,
        signals: &'a Signals,
    ) -> Result<Self, Failure> {
        let sampler = sampling.sampling().map_err(Failure::input)?;
        let image_size = args.image_size.map(NonZeroUsize::get);
        // Decoding, resizing and sums share these threads; that they were made before is no matter.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(global.cpu().threads).build_global();
        let path = inception_weights::locate(args.inception.as_deref()).map_err(failure)?;
        let mut weights = InceptionWeights::open(&path).map_err(failure)?;
        let backend = Box::new(Cpu::with_options(global.cpu()).map_err(Failure::work)?);
        let mut extractor =
            FeatureExtractor::new(&mut weights, args.dims, args.resize.into(), args.batch.get(), backend)
                .map_err(failure)?;
        if args.profile {
            extractor.start_profile();
        }
        if !weights.is_published() && !global.quiet {
            let (path, sha256) = (path.display(), weights.sha256());
            progress::say(&format!(
                "note: {path} is not the published weights file; its SHA-256 is {sha256}"
            ));
        }
        Ok(Self { args, sampling, global, signals, sampler, image_size, weights, extractor })
    }

    /// Brings the images of sources to a model's size, as for training, if one of the sets `inputs` is a model and the call gives
    /// no other size.
    ///
    /// # Errors
    /// If a set is not there.
    pub fn beside_models(mut self, inputs: &[&str]) -> Result<Self, Failure> {
        for input in inputs {
            if source_spec(input).map_err(Failure::input)?.is_none() && self.image_size.is_none() {
                let model = model::open_stored(&ModelArgs::new(input.into(), self.sampling.weights))?;
                self.image_size = Some(model.unet.image_size);
            }
        }
        Ok(self)
    }

    /// The Inception network's weights.
    pub fn weights(&mut self) -> &mut InceptionWeights {
        &mut self.weights
    }

    /// The features of a set of images.
    ///
    /// # Errors
    /// If it cannot be understood, opened or read, or the work was stopped.
    pub fn measure(&mut self, set: SetArgs) -> Result<MeasuredSet, Failure> {
        let spec = source_spec(set.input).map_err(Failure::input)?;
        match spec {
            Some(spec) => {
                let mut images = self.open_source(&spec, &set)?;
                let about = self.about(&set, &images, spec.split_name().map(str::to_owned), None);
                let measured = self.compute(&mut images, about)?;
                report_unreadable(&images, self.global.quiet);
                Ok(measured)
            }
            None => {
                let count = set.count.map_or(SAMPLES, NonZeroU64::get);
                let mut samples = self.open_samples(set.input, count, self.args.batch.get())?;
                let about = self.about(&set, &samples, None, Some(samples.facts()));
                self.compute(&mut samples, about)
            }
        }
    }

    /// Features of an image.
    pub fn dims(&self) -> usize {
        self.args.dims.dims()
    }

    /// What features depend on but for the images, for programs.
    pub fn settings(&self) -> Value {
        let resize = ResizeMode::from(self.args.resize);
        json!({ "dims": self.dims(), "resize": resize, "inception_sha256": self.weights.sha256() })
    }

    /// The features of images in memory, which are not kept: `[n, dims]`.
    ///
    /// # Errors
    /// If a feature is not finite, or the work was stopped.
    pub fn features_of(&mut self, images: &mut dyn ImageSet) -> Result<Vec<f32>, Failure> {
        let (total, signals) = (images.len(), self.signals);
        let mut store = FeatureStore::temporary(self.args.dims.dims()).map_err(failure)?;
        let mut shown = Progress::new("features", 0, total, self.global.quiet);
        let filled = self.extractor.fill(images, &mut store, &mut |done| {
            shown.update(done, "");
            !signals.stopped()
        });
        shown.finish();
        filled.map_err(|error| self.failure(error))?;
        store.read_rows(total).map_err(failure)
    }

    /// The images of a set, to be shown; a model's are drawn again.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn images(
        &self,
        set: &SetArgs,
        numbers: &[u64],
    ) -> Result<(engine::ImageShape, Vec<Vec<u8>>), Failure> {
        let read = |images: &mut dyn ImageSet| {
            let each = numbers.iter().map(|&number| images.read(number, 1).map(|batch| batch.pixels));
            let each: Result<Vec<_>, _> = each.collect();
            Ok((images.shape(), each.map_err(|error| self.failure(error))?))
        };
        match source_spec(set.input).map_err(Failure::input)? {
            Some(spec) => read(&mut self.open_source(&spec, set)?),
            None => read(&mut self.open_samples(set.input, u64::MAX, 1)?),
        }
    }

    fn open_samples(&self, model: &str, count: u64, batch: usize) -> Result<ModelSamples<'a>, Failure> {
        let args = ModelArgs::new(model.into(), self.sampling.weights);
        let model = model::open(&args, batch, self.global.cpu())?;
        let seed = self.global.seed.unwrap_or(0);
        ModelSamples::new(model, self.sampler, seed, count, self.signals.stop())
    }

    fn open_source(&self, spec: &SourceSpec, set: &SetArgs) -> Result<SourceImages, Failure> {
        let options = ImageOptions { size: self.image_size, channels: Some(3), ..ImageOptions::default() };
        let source = data::open(spec, &options).map_err(Failure::input)?;
        Ok(SourceImages::new(source, set.count.map(NonZeroU64::get), set.unreadable))
    }

    fn about(
        &self,
        set: &SetArgs,
        images: &dyn ImageSet,
        split: Option<String>,
        samples: Option<eval::statistics::Samples>,
    ) -> Provenance {
        Provenance {
            input: set.input.to_owned(),
            description: images.description(),
            split,
            images: images.len(),
            unreadable: 0,
            image: [images.shape().height, images.shape().width, images.shape().channels],
            samples,
            resize: self.args.resize.into(),
            dims: self.args.dims.dims(),
            inception_sha256: self.weights.sha256().to_owned(),
            program: concat!("ddpm ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    fn compute(&mut self, images: &mut dyn ImageSet, mut about: Provenance) -> Result<MeasuredSet, Failure> {
        let total = images.len();
        let signals = self.signals;
        let dims = self.args.dims.dims();
        let mut store = match (self.args.no_cache, self.args.cache.clone().or_else(default_cache)) {
            (false, Some(folder)) => {
                let mut shown = None;
                let key = images.content_key(&mut |done| {
                    let shown = shown.get_or_insert_with(|| {
                        Progress::new("looking at images", 0, total, self.global.quiet)
                    });
                    shown.update(done, "");
                    !signals.stopped()
                });
                if let Some(shown) = shown {
                    shown.finish();
                }
                let content = key.map_err(|error| self.failure(error))?;
                let key = format!(
                    "inception {} {dims} {} {} {content}",
                    about.inception_sha256,
                    about.resize,
                    self.global.conv.name()
                );
                FeatureStore::open(&folder, &key, dims).map_err(failure)?
            }
            _ => FeatureStore::temporary(dims).map_err(failure)?,
        };
        let first = store.images();
        let start = Instant::now();
        let mut shown = Progress::new("features", first.min(total), total, self.global.quiet);
        let filled = self.extractor.fill(images, &mut store, &mut |done| {
            if done > first {
                let rate = (done - first) as f64 / start.elapsed().as_secs_f64();
                shown.update(done, &format!("{rate:.1} images/s"));
            }
            !signals.stopped()
        });
        shown.finish();
        filled.map_err(|error| self.failure(error))?;
        if let Some(profile) = self.extractor.profile() {
            progress::say(&profile.table(start.elapsed()));
        }
        // A store of samples may hold more than were asked for; all of those could be read.
        about.unreadable = store.images() - store.rows();
        about.images = total - about.unreadable;
        Ok(MeasuredSet { about, store, images: total })
    }

    /// An error as the program's failure; work that a signal stopped has its status.
    pub fn failure(&self, error: MeasureError) -> Failure {
        match error {
            MeasureError::Stopped { images, total } => {
                let message = format!("stopped; the features of {images} of {total} images are kept");
                let message = match self.args.no_cache {
                    true => "stopped; nothing is kept (--no-cache)".to_owned(),
                    false => format!("{message}, call again to go on"),
                };
                let json = json!({ "status": "stopped", "images": images, "total": total });
                Failure::stopped(self.signals.exit_status(), message, json)
            }
            error => failure(error),
        }
    }
}

/// An error as the program's failure.
pub fn failure(error: MeasureError) -> Failure {
    match error.is_input() {
        true => Failure::input(error),
        false => Failure::work(error),
    }
}

fn default_cache() -> Option<PathBuf> {
    cache_folder().map(|folder| folder.join("features"))
}

/// The statistics file that `input` names, if it is one.
///
/// # Errors
/// If it is an archive that cannot be read.
pub fn statistics_file(input: &str) -> Result<Option<Statistics>, Failure> {
    let path = Path::new(input);
    if !has_extension(path, "npz") || !path.is_file() || !Statistics::is_file_of(path).map_err(failure)? {
        return Ok(None);
    }
    Statistics::read(path).map(Some).map_err(failure)
}

/// The data source that `input` names, also as a bare file or folder; `None` for a model.
fn source_spec(input: &str) -> Result<Option<SourceSpec>, String> {
    let kind = input.split(':').next().unwrap_or(input);
    if SOURCE_KINDS.iter().any(|known| known.name == kind) {
        return input.parse().map(Some).map_err(|error: data::DataError| error.to_string());
    }
    let path = Path::new(input);
    let source =
        |kind: &str| format!("{kind}:{input}").parse().map(Some).map_err(|e: data::DataError| e.to_string());
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            // A run without a checkpoint is a model too, if not yet one to sample.
            let model = ModelLocation::resolve(path).is_ok() || path.join("checkpoints").is_dir();
            if model { Ok(None) } else { source("images") }
        }
        Ok(_) if has_extension(path, "npz") => source("npz"),
        Ok(_) if has_extension(path, "npy") => source("npy"),
        Ok(_) => source("images"),
        Err(error) => {
            let forms: Vec<_> = SOURCE_KINDS.iter().map(|kind| kind.form).collect();
            Err(format!("{input}: {error}; give a file, a folder, a model, or one of {}", forms.join(", ")))
        }
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn report_unreadable(images: &SourceImages, quiet: bool) {
    if quiet {
        return;
    }
    for reason in images.reasons() {
        progress::say(&format!("passed over: {reason}"));
    }
}

/// Says so if the two sides' images differ in size: their figures then measure that too.
pub fn note_unlike_sizes(sides: [Option<&Provenance>; 2], quiet: bool) {
    if let [Some(first), Some(second)] = sides
        && first.image[..2] != second.image[..2]
        && !quiet
    {
        let [a, b] = [first, second].map(|about| format!("{}x{}", about.image[0], about.image[1]));
        progress::say(&format!(
            "warning: images of {a} against images of {b}: the figures also measure this difference; --image-size makes them alike"
        ));
    }
}

/// What a side of a comparison is, for people.
pub fn side_words(about: Option<&Provenance>, input: &str) -> String {
    let Some(about) = about else { return format!("{input}, statistics of another program") };
    let mut words = about.description.clone();
    if about.unreadable > 0 {
        words.push_str(&format!("; {} of them could not be read", about.unreadable));
    }
    if about.input != input {
        words.push_str(&format!(" (statistics in {input})"));
    }
    words
}

/// What a side of a comparison is, for programs.
pub fn side_json(about: Option<&Provenance>, input: &str) -> Value {
    match about {
        Some(about) => json!({ "input": input, "about": about }),
        None => json!({ "input": input, "about": null }),
    }
}

/// The way features were computed, in words.
pub fn settings_words(about: &Provenance) -> String {
    let published = about.inception_sha256 == inception_weights::PUBLISHED_SHA256;
    format!(
        "{} features, {} resize, Inception weights {} ({})",
        about.dims,
        about.resize,
        &about.inception_sha256[..about.inception_sha256.len().min(8)],
        if published { "the published ones" } else { "not the published ones" }
    )
}
