//! Files and directories that appear whole or not at all.
//!
//! Everything is written under a temporary name beside its place, brought to the disk, and renamed. An error
//! or a kill at any moment leaves what stood there before, or all of what is new. Temporary names are
//! `.NAME.ddpm-partial`; one that a killed process left behind is removed by the next write to the same
//! place. One process at a time may write to a place.

use crate::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Being written.
const PARTIAL: &str = ".ddpm-partial";
/// Was at a place that another directory is just taking, where the system cannot exchange the two at once.
const PREVIOUS: &str = ".ddpm-previous";
/// Being deleted.
const DELETED: &str = ".ddpm-deleted";

/// What to do when something stands where a directory is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// An error, unless it is an empty directory.
    Keep,
    /// The new directory takes its place, once complete.
    Replace,
}

/// Writes the file `path` by `fill`, atomically; an existing file is replaced.
///
/// # Errors
/// Those of `fill`, and those of the file system. The old file is then untouched, unless what failed was the last
/// step, bringing the name to the disk: then the new file is in its place, whole, but a loss of power may yet bring
/// the old one back.
pub fn write_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<(), Error> {
    let temporary = sibling(path, PARTIAL)?;
    let written = write_and_sync(&temporary, fill)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::write(path)))
        .and_then(|()| sync_directory(parent(path)));
    if written.is_err() {
        // The error that is reported is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Takes the lock of an open file for this process; false if another has it. The system lets go of it when
/// the file is closed or the process ends, however it ends.
///
/// # Errors
/// If the file system cannot lock.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a disk is full, rather than the call wrong.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn write_and_sync(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<(), Error> {
    let mut out = io::BufWriter::new(File::create(path).map_err(Error::write(path))?);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|error| Error::write(path)(error.into_error()))?;
    file.sync_all().map_err(Error::write(path))
}

/// A directory that is being written under a temporary name. Dropped before [`PendingDirectory::commit`], it
/// vanishes.
#[derive(Debug)]
pub struct PendingDirectory {
    target: PathBuf,
    temporary: PathBuf,
    existing: Existing,
}

impl PendingDirectory {
    /// Begins to write the directory `target`; missing parents are made, a leftover of a killed write is removed.
    ///
    /// # Errors
    /// If `target` is a file, or stands and may not be replaced, or the file system refuses.
    pub fn begin(target: &Path, existing: Existing) -> Result<Self, Error> {
        let temporary = sibling(target, PARTIAL)?;
        recover(target)?;
        check_vacant(target, existing)?;
        create_directories(parent(target))?;
        remove_tree(&temporary)?;
        remove_tree(&sibling(target, DELETED)?)?;
        fs::create_dir(&temporary).map_err(Error::write(target))?;
        Ok(Self { target: target.to_owned(), temporary, existing })
    }

    /// The temporary directory, to be filled.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Where the directory will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Brings all files to the disk and puts the directory in its place.
    ///
    /// # Errors
    /// If the file system refuses. What stood at the place before is then still there, unless what failed was one of
    /// the steps after the exchange (bringing the names to the disk, removing the old directory): then the new
    /// directory is in its place, whole.
    pub fn commit(self) -> Result<(), Error> {
        check_vacant(&self.target, self.existing)?;
        sync_tree(&self.temporary).map_err(Error::write(&self.target))?;
        if self.target.exists() {
            replace(&self.temporary, &self.target)?;
        } else {
            fs::rename(&self.temporary, &self.target).map_err(Error::write(&self.target))?;
        }
        sync_directory(parent(&self.target))
    }
}

impl Drop for PendingDirectory {
    fn drop(&mut self) {
        // After a commit nothing is there any more, or the directory that was replaced. A failure here
        // leaves a temporary that the next write removes.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Refuses a place for a directory where something is that may not be replaced; to be asked before long work.
///
/// # Errors
/// If `target` is a file, or stands, is not empty and may not be replaced, or cannot be looked at.
pub fn check_vacant(target: &Path, existing: Existing) -> Result<(), Error> {
    let occupied = |problem| Err(Error::Occupied { path: target.to_owned(), problem });
    let metadata = match fs::metadata(target) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::write(target)(error)),
    };
    if !metadata.is_dir() {
        return occupied("is a file, where a directory was to be written; choose another place");
    }
    if existing == Existing::Keep && fs::read_dir(target).map_err(Error::read(target))?.next().is_some() {
        return occupied("exists and is not empty; choose another place or remove it");
    }
    Ok(())
}

/// Puts `new` where the directory `old` is, and `old` (or nothing) where `new` was.
fn replace(new: &Path, old: &Path) -> Result<(), Error> {
    if exchange(new, old) { Ok(()) } else { replace_in_two_steps(new, old) }
}

/// The same where the system has no exchange. Killed between the steps, `recover` undoes the first.
fn replace_in_two_steps(new: &Path, old: &Path) -> Result<(), Error> {
    let previous = sibling(old, PREVIOUS)?;
    remove_tree(&previous)?;
    fs::rename(old, &previous).map_err(Error::write(old))?;
    if let Err(error) = fs::rename(new, old) {
        let _ = fs::rename(&previous, old);
        return Err(Error::write(old)(error));
    }
    sync_directory(parent(old))?;
    remove_tree(&previous)
}

/// Exchanges two directories in one step, where the system can.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(one: &Path, other: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_one: &Path, _other: &Path) -> bool {
    false
}

/// Restores `target` if a kill came while it was being replaced; removes what it replaced otherwise.
fn recover(target: &Path) -> Result<(), Error> {
    let previous = sibling(target, PREVIOUS)?;
    if target.exists() {
        return remove_tree(&previous);
    }
    match fs::rename(&previous, target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::write(target)(error)),
        _ => Ok(()),
    }
}

/// Deletes the directory `path` so that it is never seen half deleted under its name.
///
/// # Errors
/// If the file system refuses.
pub fn remove_directory(path: &Path) -> Result<(), Error> {
    let deleted = sibling(path, DELETED)?;
    remove_tree(&deleted)?;
    fs::rename(path, &deleted).map_err(Error::write(path))?;
    remove_tree(&deleted)
}

/// Clears `directory` of the temporaries of killed writes, and restores what one of them was replacing.
///
/// # Errors
/// If the file system refuses. A directory that does not exist is clear.
pub fn clean(directory: &Path) -> Result<(), Error> {
    for (name, suffix) in leftovers(directory)? {
        let target = directory.join(&name);
        match suffix {
            PREVIOUS => recover(&target)?,
            _ => remove_tree(&sibling(&target, suffix)?)?,
        }
    }
    Ok(())
}

/// The final names and the suffixes of all temporaries in `directory`.
fn leftovers(directory: &Path) -> Result<Vec<(String, &'static str)>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::read(directory)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::read(directory))?.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
        let suffix = [PARTIAL, PREVIOUS, DELETED].into_iter().find(|suffix| name.ends_with(suffix));
        found.extend(suffix.map(|suffix| (name[..name.len() - suffix.len()].to_owned(), suffix)));
    }
    Ok(found)
}

/// `.NAME<suffix>` beside `path`.
fn sibling(path: &Path, suffix: &str) -> Result<PathBuf, Error> {
    let no_name =
        || Error::Occupied { path: path.to_owned(), problem: "is not a place to write to; give it a name" };
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or_else(no_name)?);
    name.push(OsStr::new(suffix));
    Ok(parent(path).join(name))
}

/// The directory that `path` is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes `path` and its missing parents, and brings their names to the disk.
fn create_directories(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    create_directories(parent(path))?;
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(Error::write(path)(error)),
        Ok(()) => sync_directory(parent(path)),
    }
}

/// Removes a file or a directory with all that is in it; nothing there is fine.
fn remove_tree(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::write(path)(error)),
        _ => Ok(()),
    }
}

/// Brings every file and directory below `directory`, and itself, to the disk.
fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            // Windows flushes only files open for writing.
            File::options().append(true).open(&path)?.sync_all()?;
        }
    }
    sync_names(directory)
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    sync_names(path).map_err(Error::write(path))
}

/// Brings the names in a directory to the disk, where the system has the notion.
fn sync_names(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(path).and_then(|directory| directory.sync_all()) {
        // Some network file systems do not offer this for directories.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(path: &Path, contents: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join("file"), contents).unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_is_replaced_with_and_without_an_exchange() {
        for replace in [replace, replace_in_two_steps] {
            let parent = tempfile::tempdir().unwrap();
            let (new, old) = (parent.path().join("new"), parent.path().join("old"));
            directory_with(&new, "new");
            directory_with(&old, "old");
            replace(&new, &old).unwrap();
            assert_eq!(fs::read_to_string(old.join("file")).unwrap(), "new");
            remove_tree(&new).unwrap();
            assert_eq!(names(parent.path()), ["old"]);
        }
    }

    #[test]
    fn a_replacement_that_was_killed_half_way_is_undone() {
        for by_cleaning in [false, true] {
            let parent = tempfile::tempdir().unwrap();
            let target = parent.path().join("model");
            // As after the first of the two steps.
            directory_with(&parent.path().join(".model.ddpm-previous"), "old");
            directory_with(&parent.path().join(".model.ddpm-partial"), "new");
            if by_cleaning {
                clean(parent.path()).unwrap();
            } else {
                drop(PendingDirectory::begin(&target, Existing::Replace).unwrap());
            }
            assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "old");
            assert_eq!(names(parent.path()), ["model"]);
        }
    }

    #[test]
    fn a_replacement_that_was_killed_at_its_end_is_finished() {
        let parent = tempfile::tempdir().unwrap();
        directory_with(&parent.path().join("model"), "new");
        directory_with(&parent.path().join(".model.ddpm-previous"), "old");
        clean(parent.path()).unwrap();
        assert_eq!(fs::read_to_string(parent.path().join("model/file")).unwrap(), "new");
        assert_eq!(names(parent.path()), ["model"]);
    }

    #[test]
    fn only_our_own_temporaries_are_cleaned() {
        let parent = tempfile::tempdir().unwrap();
        for name in [".a.ddpm-partial", ".b.ddpm-deleted", ".c.partial", "d.ddpm-partial", ".e"] {
            fs::write(parent.path().join(name), "").unwrap();
        }
        clean(parent.path()).unwrap();
        assert_eq!(names(parent.path()), [".c.partial", ".e", "d.ddpm-partial"]);
        clean(&parent.path().join("absent")).unwrap();
    }

    #[test]
    fn a_file_is_replaced_or_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        let write = |text: &'static str| {
            write_file(&path, |out| out.write_all(text.as_bytes()).map_err(Error::write(Path::new("file"))))
        };
        write("one").unwrap();
        write("two").unwrap();
        let failed = write_file(&path, |out| {
            out.write_all(b"three").map_err(Error::write(Path::new("file")))?;
            Err(Error::write(Path::new("file"))(io::ErrorKind::StorageFull.into()))
        });
        assert!(!failed.unwrap_err().is_input());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(names(parent.path()), ["file"]);
        // A folder is not replaced by a file, nor something in a file.
        assert!(write_file(parent.path(), |_| Ok(())).is_err());
        assert!(write_file(&path.join("below"), |_| Ok(())).unwrap_err().is_input());
        assert_eq!(names(parent.path()), ["file"]);
    }

    #[test]
    fn an_abandoned_directory_vanishes() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("deep/model");
        let pending = PendingDirectory::begin(&target, Existing::Keep).unwrap();
        fs::write(pending.path().join("file"), "half").unwrap();
        assert!(!target.exists());
        drop(pending);
        assert_eq!(names(&parent.path().join("deep")), Vec::<String>::new());
    }
}
