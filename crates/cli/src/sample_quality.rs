//! The FID of a network's samples against fixed reference images: what training and ablations judge weights by.

use crate::failure::Failure;
use crate::measured::failure;
use diffusion::{Denoiser, GaussianDiffusion, Sampling};
use engine::{Backend, ImageShape};
use eval::cache_folder::cache_folder;
use eval::feature_extractor::FeatureExtractor;
use eval::feature_store::FeatureStore;
use eval::frechet::frechet_distance;
use eval::image_set::{ImageBatch, ImageSet};
use eval::inception_weights::{self, InceptionWeights};
use eval::moments::FeatureMoments;
use eval::{MeasureError, ResizeMode, Statistics};
use models::inception::Tap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use train::sampling::to_bytes;

/// Images that go through the Inception network at once.
const BATCH: usize = 16;

/// How FIDs against one reference are computed.
pub struct QualityProbe {
    extractor: FeatureExtractor,
    reference: Statistics,
    reference_images: u64,
    reference_words: String,
    inception_sha256: String,
}

/// Features before anything is measured: which network, how deep.
pub struct Features<'a> {
    /// The weights file, or where it is looked for.
    pub inception: Option<&'a Path>,
    /// 64, 192, 768 or 2048.
    pub dims: usize,
    /// How convolutions are computed, for the cache.
    pub convolutions: &'static str,
}

impl QualityProbe {
    /// Opens the Inception network and computes the statistics of `reference`, whose features are kept in the cache
    /// folder. `tell` hears how many images are done; `None` if `stop` was set.
    ///
    /// # Errors
    /// If the weights are not there or not right, or an image cannot be read.
    pub fn new(
        features: &Features<'_>,
        reference: &mut dyn ImageSet,
        backend: Box<dyn Backend>,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Option<Self>, Failure> {
        let path = inception_weights::locate(features.inception).map_err(failure)?;
        let mut weights = InceptionWeights::open(&path).map_err(failure)?;
        let tap = Tap::with_dims(features.dims).ok_or_else(|| {
            Failure::input(format!("{} features: give 64, 192, 768 or 2048", features.dims))
        })?;
        let mode = ResizeMode::PytorchFid;
        let mut extractor =
            FeatureExtractor::new(&mut weights, tap, mode, BATCH, backend).map_err(failure)?;
        let going = |_: u64| !stop.load(Ordering::Relaxed);
        let content = match reference.content_key(&mut { going }) {
            Err(MeasureError::Stopped { .. }) => return Ok(None),
            other => other.map_err(failure)?,
        };
        let sha256 = weights.sha256().to_owned();
        // The key of `ddpm fid`: features computed there are found here.
        let key = format!("inception {sha256} {} {mode} {} {content}", features.dims, features.convolutions);
        let mut store = match cache_folder() {
            Some(folder) => FeatureStore::open(&folder.join("features"), &key, features.dims),
            None => FeatureStore::temporary(features.dims),
        }
        .map_err(failure)?;
        let filled = extractor.fill(reference, &mut store, &mut |done| {
            tell(done);
            !stop.load(Ordering::Relaxed)
        });
        match filled {
            Err(MeasureError::Stopped { .. }) => return Ok(None),
            other => other.map_err(failure)?,
        }
        let images = reference.len();
        let statistics = statistics(&store, images, &reference.description()).map_err(failure)?;
        Ok(Some(Self {
            extractor,
            reference: statistics,
            reference_images: images,
            reference_words: reference.description(),
            inception_sha256: sha256,
        }))
    }

    /// The FID of `samples` against the reference.
    ///
    /// # Errors
    /// If samples cannot be drawn, are fewer than 2, or the work was stopped.
    pub fn fid(
        &mut self,
        samples: &mut dyn ImageSet,
        tell: &mut dyn FnMut(u64),
    ) -> Result<f64, MeasureError> {
        let mut store = FeatureStore::temporary(self.reference.dims())?;
        self.extractor.fill(samples, &mut store, &mut |done| {
            tell(done);
            true
        })?;
        let statistics = statistics(&store, samples.len(), &samples.description())?;
        frechet_distance(&statistics, &self.reference)
    }

    /// What its numbers are called: `FID`, or with the number of features where that is not the published one.
    pub fn name(&self) -> String {
        match self.reference.dims() {
            2048 => "FID".to_owned(),
            dims => format!("FID-{dims}"),
        }
    }

    /// All that its numbers depend on but for the samples.
    pub fn words(&self) -> String {
        format!(
            "{} Inception features ({} resize, weights {}) against {} images of {}",
            self.reference.dims(),
            ResizeMode::PytorchFid,
            &self.inception_sha256[..self.inception_sha256.len().min(8)],
            self.reference_images,
            self.reference_words
        )
    }
}

fn statistics(store: &FeatureStore, images: u64, what: &str) -> Result<Statistics, MeasureError> {
    let mut moments = FeatureMoments::new(store.dims());
    store.for_each_rows(images, |rows| moments.add(rows))?;
    let images = moments.count();
    let too_few = || MeasureError::TooFew { what: what.to_owned(), images, needed: 2 };
    let (mu, sigma) = moments.finish().ok_or_else(too_few)?;
    Ok(Statistics { mu, sigma, about: None })
}

/// Samples number 0, 1, … of a seed, drawn from a network when they are read.
pub struct NetworkSamples<'a> {
    /// The network.
    pub denoiser: &'a mut dyn Denoiser,
    /// Its process.
    pub process: &'a GaussianDiffusion,
    /// The way from noise to image.
    pub sampling: Sampling,
    /// What decides every random number.
    pub seed: u64,
    /// How many samples.
    pub count: u64,
    /// Ends the drawing.
    pub stop: &'a AtomicBool,
}

impl ImageSet for NetworkSamples<'_> {
    fn len(&self) -> u64 {
        self.count
    }

    fn shape(&self) -> ImageShape {
        self.denoiser.image_shape()
    }

    fn description(&self) -> String {
        let steps = self.sampling.steps(self.process);
        format!("{} samples ({}, {steps} steps, seed {})", self.count, self.sampling.kind.name(), self.seed)
    }

    /// Never asked for: such samples are not kept.
    fn content_key(&mut self, _progress: &mut dyn FnMut(u64) -> bool) -> Result<String, MeasureError> {
        Err(MeasureError::Sampling { reason: "samples of weights in memory have no key".into() })
    }

    fn read(&mut self, first: u64, count: usize) -> Result<ImageBatch, MeasureError> {
        let failed = |error: diffusion::DiffusionError| MeasureError::Sampling { reason: error.to_string() };
        let shape = self.denoiser.image_shape();
        let mut sampler =
            self.sampling.sampler(self.process, shape, self.seed, first, count).map_err(failed)?;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(MeasureError::Stopped { images: first, total: self.count });
            }
            if sampler.step(self.denoiser).map_err(failed)?.is_none() {
                break;
            }
        }
        Ok(ImageBatch { pixels: to_bytes(sampler.chain().x_t()), unreadable: Vec::new() })
    }
}
