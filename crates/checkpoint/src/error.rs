//! What can be wrong with a checkpoint, in words that name the file, the key or tensor, and the remedy.

use crate::diffusers::ParameterMismatch;
use crate::model_dir::Weights;
use diffusion::DiffusionError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The operating system refused a write (a full disk, no permission). What stood there before is untouched, or
    /// what is new has wholly taken its place.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A place to write to holds something that may not be replaced.
    #[error("{}: {problem}", path.display())]
    Occupied {
        /// The file or directory.
        path: PathBuf,
        /// What stands there, and what to do.
        problem: &'static str,
    },
    /// A file is truncated, corrupted or not of the format its name says.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place in the file where there is one.
        problem: String,
    },
    /// A configuration file asks for something that this program does not do.
    #[error("{}: `{key}` is {value}, but {supported}", path.display())]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, as JSON; for a key that is left out, the default it then has.
        value: String,
        /// What would be supported.
        supported: String,
    },
    /// A configuration file has a key that this program does not know.
    #[error("{}: unknown key `{key}` with the value {value}; it may change what the model means", path.display())]
    UnknownKey {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
    },
    /// A configuration file lacks a key that has no default.
    #[error("{}: `{key}` is missing", path.display())]
    MissingKey {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// Two files of one model contradict each other.
    #[error("{}: `{key}` is {value}, but {} says {other_value}", path.display(), other.display())]
    Contradiction {
        /// One file.
        path: PathBuf,
        /// The key, in this program's terms.
        key: String,
        /// Its value in the one file, as JSON.
        value: String,
        /// The other file.
        other: PathBuf,
        /// Its value in the other file, as JSON.
        other_value: String,
    },
    /// A configuration that the diffusers layout has no words for.
    #[error("the diffusers layout cannot express `{key}` = {value}: {reason}")]
    NotExpressible {
        /// The key of [`models::UnetConfig`] or [`diffusion::DiffusionConfig`].
        key: &'static str,
        /// Its value.
        value: String,
        /// Why it cannot be expressed.
        reason: &'static str,
    },
    /// A configuration file with an impossible process.
    #[error("{}: {source}", path.display())]
    Process {
        /// The file.
        path: PathBuf,
        /// What is impossible.
        source: DiffusionError,
    },
    /// The tensors of a file are not the parameters of the network.
    #[error("{}: not the weights of this network: {mismatch}", path.display())]
    Parameters {
        /// The weights file.
        path: PathBuf,
        /// Which tensors are missing, unexpected or of another shape.
        mismatch: Box<ParameterMismatch>,
    },
    /// A tensor of a type that weights do not have here.
    #[error("{}: tensor `{tensor}` is stored as {dtype}; supported are F32, F16 and BF16", path.display())]
    UnsupportedDtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type, in safetensors' terms.
        dtype: String,
    },
    /// A weight that is NaN or infinite.
    #[error("{}: tensor `{tensor}` has the value {value} at element {element}; such weights are of no use", path.display())]
    NotFinite {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Position in the tensor, counted in memory order.
        element: usize,
        /// NaN or ±∞.
        value: f32,
    },
    /// A weight beyond the range of the type asked for.
    #[error(
        "tensor `{tensor}` has the value {value} at element {element}, which {dtype} cannot hold; use f32 or bf16"
    )]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// Position in the tensor, counted in memory order.
        element: usize,
        /// The value.
        value: f32,
        /// The type asked for.
        dtype: &'static str,
    },
    /// A storage form that exists in the world but is not read here.
    #[error("{}: {form} not supported yet; {remedy}", path.display())]
    UnsupportedForm {
        /// The file.
        path: PathBuf,
        /// What it is, with its verb.
        form: &'static str,
        /// How to get a form that is.
        remedy: &'static str,
    },
    /// A path that holds no model.
    #[error("{}: {problem}", path.display())]
    NoModel {
        /// The path.
        path: PathBuf,
        /// What was looked for.
        problem: String,
    },
    /// The model is there, but not the kind of weights asked for.
    #[error("{}: no {wanted} weights here: {found}", path.display())]
    WeightsNotThere {
        /// The model.
        path: PathBuf,
        /// The kind asked for.
        wanted: Weights,
        /// What there is, and what to do.
        found: String,
    },
    /// A training state that belongs to another network.
    #[error("{}: the training state is of another network (parameters {found}, this network's are {expected}); resume with the configuration it was saved with", path.display())]
    OtherNetwork {
        /// The state file.
        path: PathBuf,
        /// Fingerprint of the layout in the file.
        found: String,
        /// Fingerprint of the layout asked for.
        expected: String,
    },
}

impl Error {
    /// Whether the call or the input was wrong (exit status 2), as opposed to work that failed (exit status 1).
    ///
    /// A place that cannot be written to at all was a wrong choice; a full or broken disk was not.
    pub fn is_input(&self) -> bool {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        match self {
            Self::Write { source, .. } => {
                matches!(source.kind(), NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem)
            }
            _ => true,
        }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Write { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.into() }
    }
}
