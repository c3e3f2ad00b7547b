//! What the paper measures of a trained model.
//!
//! Sample quality: an [`ImageSet`](image_set::ImageSet) goes through a [`FeatureExtractor`](feature_extractor::FeatureExtractor)
//! into a [`FeatureStore`](feature_store::FeatureStore); from its rows follow [`FeatureMoments`](moments::FeatureMoments) and
//! [`Statistics`], and from those the figures: [`frechet`] (FID), [`inception_score`], [`kid`], [`precision_recall`],
//! [`neighbours`].

#![forbid(unsafe_code)]

pub mod cache_folder;
pub mod chart;
mod distances;
pub mod estimate;
pub mod feature_extractor;
pub mod feature_store;
pub mod frechet;
pub mod image_set;
pub mod inception_score;
pub mod inception_weights;
pub mod kid;
pub mod likelihood;
pub mod measure_error;
pub mod model_facts;
pub mod moments;
pub mod neighbours;
pub mod precision_recall;
pub mod resize;
pub mod statistics;

pub use estimate::{Estimate, Moments};
pub use measure_error::MeasureError;
pub use model_facts::ModelFacts;
pub use resize::ResizeMode;
pub use statistics::{Provenance, Statistics};
