//! What can go wrong with data, where, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a source could not be opened or an image not be read.
///
/// All but [`DataError::Io`] and [`DataError::LoaderStopped`] mean that the call or the data are wrong.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused to open or read a file.
    #[error("{}: cannot be {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted, as a past participle ("opened").
        action: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file or folder that is needed is not there.
    #[error("{}: {what}; {remedy}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What was looked for.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// A file's content is not what its format says: truncated, corrupted, of another kind, or too large.
    #[error("{}{}: {what}; {remedy}", path.display(), at_byte(offset))]
    Malformed {
        /// The file. A member of an archive is given as a path inside the archive.
        path: PathBuf,
        /// Where in the (unpacked) content, in bytes, when that is known.
        offset: Option<u64>,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The source has no image.
    #[error("{origin}: there is no image; {remedy}")]
    Empty {
        /// The folder, file or source.
        origin: String,
        /// What to do.
        remedy: String,
    },
    /// A source's name cannot be understood.
    #[error("data source `{spec}`: {what}; {remedy}")]
    Spec {
        /// The name as given.
        spec: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// An option has an impossible value.
    #[error("{option}: {what}; {remedy}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// An image was asked for that the source does not have.
    #[error("{origin}: there is no image {index}, only 0 to {}", len.saturating_sub(1))]
    OutOfRange {
        /// The source.
        origin: String,
        /// The image asked for.
        index: u64,
        /// How many there are.
        len: u64,
    },
    /// The loader's background thread ended without being asked to: a bug in a decoder.
    #[error("the thread that reads images stopped unexpectedly after sample {position}")]
    LoaderStopped {
        /// Samples handed out before.
        position: u64,
    },
}

/// Where the member `name` of an archive is, for messages. Unlike [`Path::join`], it does not leave out the
/// archive if the name is that of an absolute path.
pub(crate) fn member_path(archive: &Path, name: &str) -> PathBuf {
    archive.join(name.trim_start_matches('/'))
}

fn at_byte(offset: &Option<u64>) -> String {
    offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default()
}

impl DataError {
    /// An [`DataError::Io`] for `path`.
    pub(crate) fn io(path: impl AsRef<Path>, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), action, source }
    }

    /// A [`DataError::Malformed`] for a damaged download: the remedy is another copy.
    pub(crate) fn damaged(
        path: impl AsRef<Path>,
        offset: impl Into<Option<u64>>,
        what: impl Into<String>,
    ) -> Self {
        Self::malformed(path, offset, what, "the file is damaged or not what its name says: get it again")
    }

    /// A [`DataError::Malformed`].
    pub(crate) fn malformed(
        path: impl AsRef<Path>,
        offset: impl Into<Option<u64>>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Malformed {
            path: path.as_ref().to_path_buf(),
            offset: offset.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_inside_their_archive_whatever_they_are_called() {
        for name in ["etc/x.png", "/etc/x.png", "//etc/x.png"] {
            assert_eq!(member_path(Path::new("/data/a.zip"), name), Path::new("/data/a.zip/etc/x.png"));
        }
    }
}
