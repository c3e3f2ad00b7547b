//! Sets of images on the command line, and their features: what `stats`, `fid`, `inception-score` and
//! `neighbours` share.

use crate::Global;
use crate::failure::Failure;
use crate::feature_args::{FeatureArgs, SamplingArgs, SetArgs};
use crate::model::{self, ModelArgs};
use crate::model_samples::ModelSamples;
use crate::progress::{self, Progress};
use crate::signals::Signals;
use checkpoint::ModelLocation;
use data::{ImageOptions, ImageSource, ResizeFilter, SOURCE_KINDS, SourceSpec};
use diffusion::Sampling;
use eval::cache_folder::cache_folder;
use eval::feature_extractor::FeatureExtractor;
use eval::feature_store::{FeatureStore, features_key};
use eval::image_set::{ImageSet, SourceImages};
use eval::inception_score::{InceptionScore, inception_score};
use eval::inception_weights::{self, InceptionWeights};
use eval::{MeasureError, Provenance, ResizeMode, Statistics};
use models::inception::Classifier;
use serde_json::{Value, json};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Samples drawn of a model when nobody says: what published figures have.
const SAMPLES: u64 = 50_000;

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
        let statistics = self.store.statistics(self.images, &self.about.description)?;
        Ok(Statistics { about: Some(self.about.clone()), ..statistics })
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
    filter: ResizeFilter,
    weights: InceptionWeights,
    extractor: FeatureExtractor,
    classifier: Option<Classifier>,
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
        let filter = ResizeFilter::default();
        let path = inception_weights::locate(args.inception.as_deref()).map_err(failure)?;
        let mut weights = InceptionWeights::open(&path).map_err(failure)?;
        let backend = global.hardware().open().map_err(Failure::work)?;
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
        Ok(Self {
            args,
            sampling,
            global,
            signals,
            sampler,
            image_size,
            filter,
            weights,
            extractor,
            classifier: None,
        })
    }

    /// Brings the images of sources to a model's size, as for its training, if one of the sets `inputs` is a
    /// model and the call gives no other size.
    ///
    /// # Errors
    /// If a set is not there.
    pub fn beside_models(mut self, inputs: &[&str]) -> Result<Self, Failure> {
        for input in inputs {
            if source_spec(input).map_err(Failure::input)?.is_none() && self.image_size.is_none() {
                let model = model::open_stored(&ModelArgs::new(input.into(), self.sampling.weights))?;
                self.image_size = Some(model.unet.image_size);
                self.filter = model::training_filter(Path::new(input))?;
            }
        }
        Ok(self)
    }

    /// Opens the network's last layer, which the Inception Score needs.
    ///
    /// # Errors
    /// If the weights end before it, or memory is short.
    pub fn open_classifier(&mut self) -> Result<&mut Classifier, Failure> {
        let classifier = match self.classifier.take() {
            Some(classifier) => classifier,
            None => {
                let weights = self.weights.classifier().map_err(failure)?;
                let backend = self.global.hardware().open().map_err(Failure::work)?;
                Classifier::new(&weights, backend).map_err(Failure::work)?
            }
        };
        Ok(self.classifier.insert(classifier))
    }

    /// The Inception Score of a set with 2048 features, over `splits` parts.
    ///
    /// # Errors
    /// As [`Self::open_classifier`]; and if there are fewer images than parts.
    pub fn inception_score(&mut self, set: &MeasuredSet, splits: usize) -> Result<InceptionScore, Failure> {
        let classifier = self.open_classifier()?;
        inception_score(&set.store, set.images, set.about.images, splits, classifier).map_err(failure)
    }

    /// The features of a set of images.
    ///
    /// # Errors
    /// If it cannot be understood, opened or read, or the work was stopped.
    pub fn measure(&mut self, set: SetArgs) -> Result<MeasuredSet, Failure> {
        let spec = source_spec(set.input).map_err(Failure::input)?;
        match spec {
            Some(spec) => {
                let source = self.open_source(&spec)?;
                // Every image counts in a result, so that none may be another than the one that was published.
                source.verify_checksums().map_err(Failure::input)?;
                let mut images = set.images_of(source);
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

    /// The features of images in memory, in a store that nothing remains of.
    ///
    /// # Errors
    /// If a feature is not finite, or the work was stopped.
    pub fn features_of(&mut self, images: &mut dyn ImageSet) -> Result<FeatureStore, Failure> {
        let (total, signals) = (images.len(), self.signals);
        let mut store = FeatureStore::temporary(self.args.dims.dims()).map_err(failure)?;
        let mut shown = Progress::new("features", 0, total, self.global.quiet);
        let filled = self.extractor.fill(images, &mut store, &mut |done| {
            shown.update(done, "");
            !signals.stopped()
        });
        shown.finish();
        filled.map_err(|error| self.failure(error))?;
        Ok(store)
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
            Some(spec) => read(&mut set.images_of(self.open_source(&spec)?)),
            None => read(&mut self.open_samples(set.input, u64::MAX, 1)?),
        }
    }

    fn open_samples(&self, model: &str, count: u64, batch: usize) -> Result<ModelSamples<'a>, Failure> {
        let args = ModelArgs::new(model.into(), self.sampling.weights);
        let model = model::open(&args, batch, self.global.hardware())?;
        let seed = self.global.seed.unwrap_or(0);
        ModelSamples::new(model, self.sampler, seed, count, self.signals.stop())
    }

    fn open_source(&self, spec: &SourceSpec) -> Result<Arc<dyn ImageSource>, Failure> {
        let options = ImageOptions { size: self.image_size, channels: Some(3), filter: self.filter };
        data::open(spec, &options).map_err(Failure::input)
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
                let (sha256, convolutions) = (&about.inception_sha256, self.global.convolutions());
                let key = features_key(sha256, dims, about.resize, convolutions, &content);
                FeatureStore::open(&folder, &key, dims).map_err(failure)?
            }
            _ => FeatureStore::temporary(dims).map_err(failure)?,
        };
        if store.replaces_earlier() && !self.global.quiet {
            progress::say("features that an earlier version kept are computed again");
        }
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
        // Another set may be the same images.
        store.release().map_err(failure)?;
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
pub fn source_spec(input: &str) -> Result<Option<SourceSpec>, String> {
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

/// Says what a FID of so few images is, if one of `sides` has fewer than its features need: a covariance has full
/// rank only of more images than features.
pub fn note_few_images(sides: [Option<&Provenance>; 2], quiet: bool) {
    let is_few = |about: &&Provenance| about.images <= about.dims as u64;
    if let Some(few) = sides.into_iter().flatten().filter(is_few).min_by_key(|about| about.images)
        && !quiet
    {
        progress::say(&format!(
            "note: {} images are fewer than {} features need: their covariance is singular and the FID biased upwards; compare \
             it with none of another number of images",
            few.images, few.dims
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
