//! Result files that appear whole or not at all.

use checkpoint::{Error, atomic};
use std::path::Path;

/// Writes `bytes` to `path`, replacing what is there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    atomic::write_file(path, |out| out.write_all(bytes).map_err(failed))
}
