//! What can go wrong when sets of images are measured, and what to do about it.

use data::DataError;
use engine::BackendError;
use numpy::NumpyError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a set of images could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// A source of images cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An archive of arrays cannot be read.
    #[error(transparent)]
    Numpy(#[from] NumpyError),
    /// The machine refuses to run the network.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Drawing samples from a model failed.
    #[error("the samples cannot be drawn: {reason}")]
    Sampling {
        /// What went wrong.
        reason: String,
    },
    /// The Inception network's weights are nowhere.
    #[error(
        "the Inception network's weights are not there; looked for {}.\n{}",
        list(looked_for),
        crate::inception_weights::REMEDY
    )]
    WeightsNotFound {
        /// Where they were looked for.
        looked_for: Vec<PathBuf>,
    },
    /// A weights file named like the published one has other content.
    #[error(
        "{}: not the published weights, or a damaged copy: its SHA-256 is {found}, expected {expected}; get it again, or \
         give a file of your own another name",
        path.display()
    )]
    WrongWeights {
        /// The file.
        path: PathBuf,
        /// Its SHA-256.
        found: String,
        /// The published file's.
        expected: &'static str,
    },
    /// A weights file does not hold what the network needs.
    #[error("{source} (SHA-256 {found}; the published file has {expected})")]
    UnreadableWeights {
        /// What is wrong, with the file's name.
        source: Box<checkpoint::Error>,
        /// The file's SHA-256.
        found: String,
        /// The published file's.
        expected: &'static str,
    },
    /// A weights file ends before the features asked for.
    #[error("{}: it lacks `{missing}`, which {wanted} needs; {remedy}", path.display())]
    PartialWeights {
        /// The file.
        path: PathBuf,
        /// The first tensor that is missing.
        missing: String,
        /// What was asked for.
        wanted: &'static str,
        /// What can be done with the file, and without.
        remedy: String,
    },
    /// There are not enough images for what is asked.
    #[error("{what}: {images} images, but {needed} are needed at least")]
    TooFew {
        /// The set.
        what: String,
        /// How many it has.
        images: u64,
        /// How many it would take.
        needed: u64,
    },
    /// A feature is NaN or infinite.
    #[error("{what}: feature {feature} of image {image} is {value}; the weights or the image are damaged")]
    NotFinite {
        /// The set.
        what: String,
        /// Which image, from 0.
        image: u64,
        /// Which feature, from 0.
        feature: usize,
        /// NaN or ±∞.
        value: f32,
    },
    /// A statistics file does not hold a mean and a covariance.
    #[error("{}: {problem}", path.display())]
    Statistics {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Two sets whose figures cannot be compared.
    #[error("the two sides differ in {what}: {first} and {second}; {remedy}")]
    Unlike {
        /// In what they differ.
        what: &'static str,
        /// The first side's.
        first: String,
        /// The second side's.
        second: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A matrix that should be a covariance has clearly negative eigenvalues.
    #[error("{what} is no covariance matrix: its least eigenvalue is {least:e}, its largest {largest:e}")]
    NotCovariance {
        /// Which one.
        what: &'static str,
        /// The least eigenvalue.
        least: f64,
        /// The largest eigenvalue.
        largest: f64,
    },
    /// The eigenvalues could not be found.
    #[error("the eigenvalues of {what} do not converge: it has elements that are not finite, or too large")]
    NoEigenvalues {
        /// Of which matrix.
        what: &'static str,
    },
    /// A cache, statistics or features file cannot be read or written.
    #[error("{}: cannot be {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted, as a past participle.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A features file does not hold what is asked of it.
    #[error("{}: {problem}; delete the file, and its features are computed again", path.display())]
    Features {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another process computes the same features.
    #[error("{}: another process is computing these features; wait for it, or give another cache folder", path.display())]
    Busy {
        /// The features file.
        path: PathBuf,
    },
    /// The work was asked to stop.
    #[error("stopped after {images} of {total} images")]
    Stopped {
        /// Images done.
        images: u64,
        /// Images there are.
        total: u64,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl MeasureError {
    /// Whether the call or the input was wrong (exit status 2), as opposed to work that failed (exit status 1).
    pub fn is_input(&self) -> bool {
        match self {
            Self::Backend(_) | Self::Sampling { .. } | Self::Stopped { .. } | Self::Busy { .. } => false,
            Self::Io { action, .. } => *action != "written",
            _ => true,
        }
    }

    pub(crate) fn io<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }
}
