//! FID and Inception Score of a network's samples: what training and ablations judge weights by.

use crate::failure::Failure;
use crate::measured::failure;
use engine::Hardware;
use eval::ablation::QualityScore;
use eval::cache_folder::cache_folder;
use eval::feature_extractor::FeatureExtractor;
use eval::feature_store::{FeatureStore, features_key};
use eval::frechet::frechet_distance;
use eval::image_set::ImageSet;
use eval::inception_score::{SPLITS, inception_score};
use eval::inception_weights::{self, InceptionWeights};
use eval::{MeasureError, ResizeMode, Statistics};
use models::inception::{Classifier, Tap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Images that go through the Inception network at once.
const BATCH: usize = 16;

/// What `samples` samples are scored by from `dims` features: FID, named by the number of features where that
/// is not the published one, and the Inception Score, which is made from 2048 features of at least as many
/// samples as it has parts.
pub fn score_names(dims: usize, samples: u64) -> Vec<String> {
    match dims {
        2048 if samples >= SPLITS as u64 => vec!["FID".into(), "Inception Score".into()],
        2048 => vec!["FID".into()],
        dims => vec![format!("FID-{dims}")],
    }
}

/// Where in the Inception network `dims` features are.
///
/// # Errors
/// If nowhere.
pub fn tap(dims: usize) -> Result<Tap, Failure> {
    Tap::with_dims(dims).ok_or_else(|| Failure::input(format!("{dims} features: give 64, 192, 768 or 2048")))
}

/// How scores against one reference are computed.
pub struct QualityProbe {
    extractor: FeatureExtractor,
    /// For the Inception Score; there if the features are those that it is made from.
    classifier: Option<Classifier>,
    reference: Statistics,
}

/// Features before anything is measured: which network, how deep.
pub struct Features<'a> {
    /// The weights file, or where it is looked for.
    pub inception: Option<&'a Path>,
    /// 64, 192, 768 or 2048.
    pub dims: usize,
    /// How convolutions are computed, for the cache.
    pub convolutions: &'static str,
    /// What computes.
    pub hardware: Hardware,
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
        stop: &AtomicBool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Option<Self>, Failure> {
        let path = inception_weights::locate(features.inception).map_err(failure)?;
        let mut weights = InceptionWeights::open(&path).map_err(failure)?;
        let tap = tap(features.dims)?;
        let mode = ResizeMode::PytorchFid;
        let backend = || features.hardware.open().map_err(Failure::work);
        let mut extractor =
            FeatureExtractor::new(&mut weights, tap, mode, BATCH, backend()?).map_err(failure)?;
        let classifier = match tap {
            Tap::Pool3 => {
                let weights = weights.classifier().map_err(failure)?;
                Some(Classifier::new(&weights, backend()?).map_err(Failure::work)?)
            }
            _ => None,
        };
        let going = |_: u64| !stop.load(Ordering::Relaxed);
        let content = match reference.content_key(&mut { going }) {
            Err(MeasureError::Stopped { .. }) => return Ok(None),
            other => other.map_err(failure)?,
        };
        let sha256 = weights.sha256().to_owned();
        // The key of `ddpm fid`: features computed there are found here.
        let key = features_key(&sha256, features.dims, mode, features.convolutions, &content);
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
        let statistics = store.statistics(images, &reference.description()).map_err(failure)?;
        Ok(Some(Self { extractor, classifier, reference: statistics }))
    }

    /// The FID of `samples` against the reference; from 2048 features of 10 samples or more, the Inception
    /// Score as well.
    ///
    /// # Errors
    /// If samples cannot be drawn, are fewer than 2, or the work was stopped.
    pub fn scores(
        &mut self,
        samples: &mut dyn ImageSet,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Vec<QualityScore>, MeasureError> {
        let mut store = FeatureStore::temporary(self.reference.dims())?;
        self.extractor.fill(samples, &mut store, &mut |done| {
            tell(done);
            true
        })?;
        let statistics = store.statistics(samples.len(), &samples.description())?;
        let fid = frechet_distance(&statistics, &self.reference)?;
        let names = score_names(self.reference.dims(), samples.len());
        let mut scores = vec![(fid, None)];
        if let Some(classifier) = self.classifier.as_mut().filter(|_| names.len() > scores.len()) {
            let score = inception_score(&store, samples.len(), store.rows(), SPLITS, classifier)?;
            scores.push((score.mean, Some(score.std)));
        }
        let scores = names.into_iter().zip(scores);
        Ok(scores.map(|(name, (value, deviation))| QualityScore { name, value, deviation }).collect())
    }
}
