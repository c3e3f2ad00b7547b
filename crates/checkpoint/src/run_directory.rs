//! A run's checkpoints: `RUN/checkpoints/step-00001000`.

use crate::manifest::MANIFEST_FILE;
use crate::{Error, atomic};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of checkpoints in a run directory.
pub(crate) const CHECKPOINTS_DIR: &str = "checkpoints";

const STEP_PREFIX: &str = "step-";

/// The directory of a training run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunDirectory {
    root: PathBuf,
}

/// A complete checkpoint of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Training steps done.
    pub step: u64,
    /// Its directory.
    pub directory: PathBuf,
}

impl RunDirectory {
    /// The run at `root`, which need not exist yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory of the checkpoint after `step` training steps, whether or not it exists.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.root.join(CHECKPOINTS_DIR).join(format!("{STEP_PREFIX}{step:08}"))
    }

    /// The complete checkpoints, oldest first. What is being written, or was when the process was killed, is
    /// not among them: it has another name. Nor is a directory without a manifest, which only
    /// [`Self::latest`] refuses.
    ///
    /// # Errors
    /// If the directory cannot be read. A run without checkpoints has an empty list.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, Error> {
        let mut checkpoints = self.named()?;
        checkpoints.retain(|checkpoint| checkpoint.check_manifest().is_ok());
        Ok(checkpoints)
    }

    /// What bears the name of a checkpoint, oldest first.
    fn named(&self) -> Result<Vec<Checkpoint>, Error> {
        let path = self.root.join(CHECKPOINTS_DIR);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::read(&path)(error)),
        };
        let mut checkpoints = Vec::new();
        for entry in entries {
            let directory = entry.map_err(Error::read(&path))?.path();
            let step = directory.file_name().and_then(|name| step_of(name.to_str()?));
            let Some(step) = step else { continue };
            checkpoints.push(Checkpoint { step, directory });
        }
        checkpoints.sort_by_key(|checkpoint| checkpoint.step);
        Ok(checkpoints)
    }

    /// The checkpoint with the most training steps.
    ///
    /// # Errors
    /// If the directory cannot be read, or the checkpoint has no manifest that can be: it got its name when it
    /// was whole, so it has been damaged since, and to go on from an older one is for the user to decide.
    pub fn latest(&self) -> Result<Option<Checkpoint>, Error> {
        let Some(latest) = self.named()?.pop() else { return Ok(None) };
        latest.check_manifest()?;
        Ok(Some(latest))
    }

    /// Removes what killed writes left behind. For the one process that trains here; not while another does.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn clean(&self) -> Result<(), Error> {
        atomic::clean(&self.root.join(CHECKPOINTS_DIR))
    }

    /// Removes all but the last `keep` checkpoints up to and including `newest`, which itself always stays;
    /// later ones (of a run resumed from an earlier step) are not touched.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn prune(&self, newest: u64, keep: usize) -> Result<(), Error> {
        let mut older = self.checkpoints()?;
        older.retain(|checkpoint| checkpoint.step < newest);
        let excess = older.len().saturating_sub(keep.saturating_sub(1));
        older[..excess].iter().try_for_each(|checkpoint| atomic::remove_directory(&checkpoint.directory))
    }
}

impl Checkpoint {
    /// Refuses one whose manifest is not there, or cannot be got at.
    fn check_manifest(&self) -> Result<(), Error> {
        let problem = match fs::metadata(self.directory.join(MANIFEST_FILE)) {
            Ok(found) if found.is_file() => return Ok(()),
            Ok(_) => format!("{MANIFEST_FILE} in it is no file"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => format!("it has no {MANIFEST_FILE}"),
            Err(error) => format!("{MANIFEST_FILE} in it cannot be read ({error})"),
        };
        let remedy = "restore this checkpoint, or remove it to go on from the one before";
        Err(Error::damaged(&self.directory, format!("{problem}; {remedy}")))
    }
}

/// The step in a checkpoint's name.
fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(STEP_PREFIX)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
