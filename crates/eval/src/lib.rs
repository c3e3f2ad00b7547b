//! What the paper measures of a trained model.
//!
//! Sample quality: an [`ImageSet`](image_set::ImageSet) goes through a
//! [`FeatureExtractor`](feature_extractor::FeatureExtractor) into a
//! [`FeatureStore`](feature_store::FeatureStore); from its rows follow
//! [`FeatureMoments`](moments::FeatureMoments) and [`Statistics`], and from those the figures: [`frechet`]
//! (FID), [`inception_score`], [`kid`], [`precision_recall`], [`neighbours`]. Likelihood: [`likelihood`].
//! Table 2: [`ablation`]. A run on one page: [`run_report`].

#![forbid(unsafe_code)]

pub mod ablation;
pub mod cache_folder;
pub mod chart;
mod distances;
pub mod estimate;
pub mod evaluation_report;
pub mod feature_extractor;
pub mod feature_store;
pub mod frechet;
pub mod image_distances;
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
pub mod progressive_quality;
pub mod reconstruction;
pub mod resize;
pub mod run_report;
pub mod statistics;
mod whole_file;

pub use estimate::{Estimate, RunningMean};
pub use measure_error::MeasureError;
pub use model_facts::ModelFacts;
pub use resize::ResizeMode;
pub use statistics::{Provenance, Statistics};
