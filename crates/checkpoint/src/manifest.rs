//! `manifest.json`: the length and fingerprint of every file of a checkpoint, so that damage is found before use.

use crate::atomic::{Existing, PendingDirectory};
use crate::hash::{self, HashingWriter};
use crate::{Error, json_file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

/// The name of the manifest in a checkpoint directory.
pub const MANIFEST_FILE: &str = "manifest.json";

const FORMAT: u32 = 1;

/// What a file had when it was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRecord {
    bytes: u64,
    xxh3: String,
}

/// The files of a checkpoint directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// By path relative to the directory, with `/`.
    files: BTreeMap<String, FileRecord>,
}

impl Manifest {
    /// Reads the manifest of a checkpoint directory and compares every file's length with it, which finds truncation.
    ///
    /// # Errors
    /// If it is missing or not valid, or a file is missing or of another length.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(MANIFEST_FILE);
        let manifest: Self = json_file::read(&path)?;
        if manifest.format != FORMAT {
            let problem =
                format!("format {} is not known; this program reads format {FORMAT}", manifest.format);
            return Err(Error::damaged(&path, problem));
        }
        for (name, record) in &manifest.files {
            let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                return Err(Error::damaged(&path, format!("`{name}` is not a file of this checkpoint")));
            }
            let file = directory.join(name);
            let bytes = fs::metadata(&file).map_err(Error::read(&file))?.len();
            if bytes != record.bytes {
                let what = if bytes < record.bytes { "truncated" } else { "altered" };
                let problem = format!("{what}: {bytes} bytes, was saved with {}; {REMEDY}", record.bytes);
                return Err(Error::damaged(&file, problem));
            }
        }
        Ok(manifest)
    }

    /// Compares the contents of the files below `part` (`""`: of all) with their fingerprints.
    ///
    /// # Errors
    /// Names the first file that differs.
    pub fn verify(&self, directory: &Path, part: &str) -> Result<(), Error> {
        for (name, record) in self.files.iter().filter(|(name, _)| Path::new(name).starts_with(part)) {
            let path = directory.join(name);
            let found = hash::file(&path).map_err(Error::read(&path))?;
            if found != (record.bytes, record.xxh3.clone()) {
                return Err(Error::damaged(
                    &path,
                    format!("corrupted: its contents are not those saved; {REMEDY}"),
                ));
            }
        }
        Ok(())
    }

    /// Whether the file `name` (relative, with `/`) is recorded.
    pub fn contains(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Total length of the recorded files, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.values().fold(0, |total, record| total.saturating_add(record.bytes))
    }
}

const REMEDY: &str = "restore it, or use another checkpoint";

/// A directory being written whose files are recorded on the way.
pub(crate) struct RecordedDirectory {
    pending: PendingDirectory,
    files: BTreeMap<String, FileRecord>,
}

impl RecordedDirectory {
    pub fn begin(target: &Path, existing: Existing) -> Result<Self, Error> {
        Ok(Self { pending: PendingDirectory::begin(target, existing)?, files: BTreeMap::new() })
    }

    /// Writes the file `name` (relative, with `/`); `fill` gets the name it will have, for messages.
    pub fn write(
        &mut self,
        name: &str,
        fill: impl FnOnce(&Path, &mut dyn Write) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (path, final_path) = (self.pending.path().join(name), self.pending.target().join(name));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(Error::write(&final_path))?;
        }
        let file = File::create_new(&path).map_err(Error::write(&final_path))?;
        let mut out = HashingWriter::new(file);
        fill(&final_path, &mut out)?;
        let (bytes, xxh3) = out.finish();
        self.files.insert(name.to_owned(), FileRecord { bytes, xxh3 });
        Ok(())
    }

    /// Writes the file `name` with these contents.
    pub fn write_bytes(&mut self, name: &str, contents: &[u8]) -> Result<(), Error> {
        self.write(name, |path, out| out.write_all(contents).map_err(Error::write(path)))
    }

    /// Writes the file `name` with `value` as JSON.
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let text = json_file::text(&self.pending.target().join(name), value)?;
        self.write_bytes(name, &text)
    }

    /// Writes the manifest of the files so far.
    pub fn write_manifest(&mut self) -> Result<(), Error> {
        let manifest = Manifest { format: FORMAT, files: std::mem::take(&mut self.files) };
        self.write_json(MANIFEST_FILE, &manifest)
    }

    /// Puts the directory in its place; returns the place.
    pub fn commit(self) -> Result<PathBuf, Error> {
        let target = self.pending.target().to_owned();
        self.pending.commit()?;
        Ok(target)
    }
}
