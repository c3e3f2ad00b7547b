//! What a variant's numbers were measured by.

use crate::ResizeMode;
use serde::{Deserialize, Serialize};

/// All that a variant's numbers depend on but for its weights: numbers of equal measures can stand side by
/// side.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// The images whose likelihood is measured, in words.
    pub test_data: String,
    /// How many of them.
    pub images: u64,
    /// Terms of the bound evaluated of each.
    pub terms: usize,
    /// What samples are judged by; `None` if none are drawn.
    pub samples: Option<SampleMeasure>,
}

/// What samples by all T steps of the paper's sampler are judged by.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SampleMeasure {
    /// Samples drawn.
    pub count: u64,
    /// Inception features.
    pub dims: usize,
    /// SHA-256 of the Inception network's weights file, as hexadecimal digits.
    pub inception_sha256: String,
    /// The images that samples are compared with, in words.
    pub reference: String,
    /// How many of them.
    pub reference_images: u64,
}

impl SampleMeasure {
    /// All of it in words.
    pub fn words(&self) -> String {
        let Self { count, dims, inception_sha256, reference, reference_images } = self;
        format!(
            "{count} by the ancestral sampler in all T steps, {dims} Inception features ({} resize, weights {}) against \
             {reference_images} images of {reference}",
            ResizeMode::PytorchFid,
            inception_sha256.get(..8).unwrap_or(inception_sha256),
        )
    }
}
