//! From images to rows of features.

use crate::MeasureError;
use crate::feature_store::FeatureStore;
use crate::image_set::ImageSet;
use crate::inception_weights::InceptionWeights;
use crate::resize::{NETWORK_IMAGE, ResizeMode, Resizer};
use engine::{Backend, BackendError, Profile};
use models::inception::{FeatureNetwork, Tap};
use rayon::prelude::*;

/// The Inception network up to a tap, and the way images are brought to it.
pub struct FeatureExtractor {
    network: FeatureNetwork,
    mode: ResizeMode,
    /// A batch as the network sees it.
    inputs: Vec<f32>,
}

impl FeatureExtractor {
    /// The network of `weights` up to `tap`, for `batch` images at a time. Features do not depend on `batch`.
    ///
    /// # Errors
    /// If the weights do not reach that far or are damaged, or memory is short.
    pub fn new(
        weights: &mut InceptionWeights,
        tap: Tap,
        mode: ResizeMode,
        batch: usize,
        backend: Box<dyn Backend>,
    ) -> Result<Self, MeasureError> {
        let parameters = weights.features(tap)?;
        let network = FeatureNetwork::new(tap, &parameters, batch, backend)?;
        Ok(Self { network, mode, inputs: Vec::new() })
    }

    /// Where features are taken.
    pub fn tap(&self) -> Tap {
        self.network.tap()
    }

    /// Images computed at a time.
    pub fn batch(&self) -> usize {
        self.network.batch()
    }

    /// The features `[n, dims]` of `pixels`, a whole number of images of the resizer's shape.
    fn features(
        &mut self,
        resizer: &Resizer,
        pixels: &[u8],
        image_bytes: usize,
    ) -> Result<Vec<f32>, BackendError> {
        let images = pixels.len() / image_bytes;
        self.inputs.resize(images * NETWORK_IMAGE, 0.0);
        let resized = self.inputs.par_chunks_exact_mut(NETWORK_IMAGE);
        resized.zip(pixels.par_chunks_exact(image_bytes)).for_each(|(out, image)| resizer.resize(image, out));
        self.network.features(&self.inputs)
    }

    /// Computes the features of `set` that `store` does not have yet, in order, and appends them. `progress`
    /// is told how many images are done, and answers whether to go on.
    ///
    /// # Errors
    /// If an image cannot be read, a feature is not finite, the store cannot be written, or the work was
    /// stopped; what the store has by then, it keeps.
    pub fn fill(
        &mut self,
        set: &mut dyn ImageSet,
        store: &mut FeatureStore,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), MeasureError> {
        let resizer = Resizer::new(self.mode, set.shape());
        let (total, dims) = (set.len(), self.tap().dims());
        let batch = set.batch().unwrap_or(self.batch()) as u64;
        while store.images() < total {
            let first = store.images();
            if !progress(first) {
                return Err(MeasureError::Stopped { images: first, total });
            }
            let count = batch.min(total - first) as usize;
            let batch = set.read(first, count)?;
            let rows = self.features(&resizer, &batch.pixels, set.shape().len())?;
            if let Some(place) = rows.iter().position(|value| !value.is_finite()) {
                return Err(MeasureError::NotFinite {
                    what: set.description(),
                    image: first + (place / dims) as u64,
                    feature: place % dims,
                    value: rows[place],
                });
            }
            store.append(count as u64, &rows)?;
        }
        progress(total);
        Ok(())
    }

    /// Begins to measure where the network's time goes.
    pub fn start_profile(&mut self) {
        self.network.start_profile();
    }

    /// Where the network's time went, if it is measured.
    pub fn profile(&self) -> Option<&Profile> {
        self.network.profile()
    }
}
