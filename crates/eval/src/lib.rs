//! What the paper measures of a trained model.

#![forbid(unsafe_code)]

pub mod chart;
pub mod estimate;
pub mod likelihood;
pub mod model_facts;

pub use estimate::{Estimate, Moments};
pub use model_facts::ModelFacts;
