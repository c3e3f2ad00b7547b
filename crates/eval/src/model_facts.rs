//! What a measurement says of the model it measured.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which model, and which of its weights.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Where it lies.
    pub path: PathBuf,
    /// `ema` or `raw`; files that other programs wrote do not say.
    pub weights: Option<String>,
    /// Training updates done; files that other programs wrote do not say.
    pub step: Option<u64>,
    /// The fingerprint of the weights, bit for bit.
    pub fingerprint: String,
}
