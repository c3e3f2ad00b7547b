//! What can be wrong with NumPy's files.

use std::io;
use std::path::{Path, PathBuf};

/// A file that does not hold what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum NumpyError {
    /// The file cannot be read.
    #[error("{}: cannot read the array: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The content is not what it should be.
    #[error("{}, byte {offset}: {reason}", path.display())]
    Format {
        /// The file; an archive's member is given as a path inside it.
        path: PathBuf,
        /// Where in the file or member.
        offset: u64,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The archive cannot be read as one.
    #[error("{}: not an .npz archive, or a damaged one: {reason}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The archive has no such array.
    #[error("{}: there is no array `{name}` in it; it has {found}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The array looked for.
        name: String,
        /// The arrays that are there.
        found: String,
    },
}

impl NumpyError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn format(path: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), offset, reason: reason.into() }
    }

    /// Tells content that is damaged from a disk that fails.
    pub(crate) fn content(path: &Path, offset: u64, error: io::Error) -> Self {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match error.kind() {
            UnexpectedEof => Self::format(path, offset, "the file ends within the array; get it again"),
            InvalidData | InvalidInput => {
                Self::format(path, offset, format!("damaged: {error}; get it again"))
            }
            _ => Self::Read { path: path.to_owned(), source: error },
        }
    }
}
