//! Folders that results are written into beside other results, which must not be folders of something else.

use crate::failure::Failure;
use std::io::ErrorKind;
use std::path::Path;

/// Checks that `path` is free, or in the words `whose`: that one of the files `marks` is in it, or nothing but what
/// `is_ours` knows. A source of images reads nested folders: what is written among photos becomes training data.
///
/// # Errors
/// If it is a file, has something else in it, or cannot be read.
pub fn check(
    path: &Path,
    whose: &str,
    marks: &[&str],
    is_ours: impl Fn(&Path) -> bool,
) -> Result<(), Failure> {
    let refuse = |problem: String| Err(Failure::input(format!("{}: {problem}", path.display())));
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return refuse("is a file, or lies in one; choose another --out".into());
        }
        Err(error) => return refuse(format!("{error}; choose another --out")),
    };
    if marks.iter().any(|mark| path.join(mark).is_file()) {
        return Ok(());
    }
    for entry in entries {
        let foreign = match entry {
            Ok(entry) if is_ours(&entry.path()) => continue,
            Ok(entry) => entry.file_name().to_string_lossy().into_owned(),
            Err(error) => return refuse(format!("{error}; choose another --out")),
        };
        return refuse(format!(
            "there is something in this folder ({foreign}), and it is not {whose}; choose another --out"
        ));
    }
    Ok(())
}
