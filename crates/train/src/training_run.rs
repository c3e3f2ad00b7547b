//! A training run: its directory, what lies where in it, and who may write to it.

use crate::config::Config;
use crate::config_text::{self, ConfigError};
use checkpoint::{RunDirectory, atomic};
use data::SourceSpec;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Held locked while a trainer writes to the run.
const LOCK_FILE: &str = ".lock";
/// The configuration, every key written out.
pub const CONFIG_FILE: &str = "config.toml";

/// Keys that a resumed run may have changed without being another run: its weights after a step stay the same bits.
const FREE_KEYS: [&str; 4] =
    ["train.steps", "train.recompute", "train.checkpoint_every", "train.keep_checkpoints"];

/// A run directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is something already.
    #[error(
        "{}: there is something in this directory already; go on with the run in it by --resume, or choose another --out",
        path.display()
    )]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// It is a file.
    #[error("{}: is a file, a run needs a directory; choose another --out", path.display())]
    IsFile {
        /// The file.
        path: PathBuf,
    },
    /// There is something else than a run in it.
    #[error("{}: holds no run of ddpm train (no config.toml), so there is nothing to resume; choose another --out", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
    /// Another process trains this run.
    #[error("{}: another process is training this run; wait for it, or stop it, first", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// The configuration in it cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration in it cannot be written, or its checkpoints cannot be listed.
    #[error(transparent)]
    Files(#[from] checkpoint::Error),
    /// The run has more updates than are asked for.
    #[error(
        "{}: the run is at update {completed} already, and train.steps is {steps} now: give more steps, or choose another --out",
        path.display()
    )]
    Beyond {
        /// The directory.
        path: PathBuf,
        /// Updates of its last checkpoint.
        completed: u64,
        /// Updates asked for.
        steps: u64,
    },
    /// The run was begun with another configuration.
    #[error(
        "{}: the run was begun with {key} = {before}, now it is {now}; a run can only be resumed as it was begun: \
         give the same value, or leave the configuration out to take the run's own, or choose another --out",
        path.display()
    )]
    Changed {
        /// The configuration file of the run.
        path: PathBuf,
        /// The dotted key.
        key: String,
        /// The run's value.
        before: String,
        /// The value given now.
        now: String,
    },
}

impl RunError {
    /// Whether the call or the input was wrong, as opposed to a disk that is full or broken.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Io { source, .. } => !atomic::is_full(source),
            Self::Files(error) => error.is_input(),
            _ => true,
        }
    }
}

/// The directory of a run, locked for writing.
#[derive(Debug)]
pub struct TrainingRun {
    path: PathBuf,
    _lock: File,
}

impl TrainingRun {
    /// Checks that a run can be at `path`, without writing anything: a new one, or with `resume` one to go on with.
    ///
    /// With `resume`, too, `path` may be empty or not exist: the run is then yet to be begun. That is how a
    /// kill in its first moment leaves it.
    ///
    /// # Errors
    /// If it is a file, or has something in it, and with `resume` something else than a run.
    pub fn check(path: &Path, resume: bool) -> Result<(), RunError> {
        match (is_vacant(path)?, resume) {
            (true, _) => Ok(()),
            (false, false) => Err(RunError::Occupied { path: path.to_owned() }),
            (false, true) if path.join(CONFIG_FILE).is_file() => Ok(()),
            (false, true) => Err(RunError::NotARun { path: path.to_owned() }),
        }
    }

    /// Takes the directory `path` for a run, and makes it if need be.
    ///
    /// # Errors
    /// As [`Self::check`], and if it cannot be written, or another process is training there.
    pub fn open(path: &Path, resume: bool) -> Result<Self, RunError> {
        Self::check(path, resume)?;
        let io = |action| {
            let path = path.to_owned();
            move |source| RunError::Io { path, action, source }
        };
        std::fs::create_dir_all(path).map_err(io("cannot make the run's directory"))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))
            .map_err(io("cannot write to the run's directory"))?;
        if !atomic::try_lock(&lock).map_err(io("cannot lock the run's directory"))? {
            return Err(RunError::Locked { path: path.to_owned() });
        }
        // Another process may have begun a run here since the first look.
        Self::check(path, resume)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        metrics_path(&self.path)
    }

    /// The unfinished lines of metrics, one for each checkpoint.
    pub fn windows(&self) -> PathBuf {
        self.path.join(".metrics-windows.jsonl")
    }

    /// `evaluations.jsonl`.
    pub fn evaluations(&self) -> PathBuf {
        evaluations_path(&self.path)
    }

    /// The folder of TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// The grid of images sampled after `step` updates.
    pub fn sample_grid(&self, step: u64) -> PathBuf {
        self.path.join("samples").join(format!("step-{step:08}.png"))
    }

    /// Writes the configuration of a run that begins.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&self, config: &Config) -> Result<(), RunError> {
        let text = config_text::render(config)?;
        let path = self.path.join(CONFIG_FILE);
        atomic::write_file(&path, |out| {
            out.write_all(text.as_bytes())
                .map_err(|source| checkpoint::Error::Write { path: path.clone(), source })
        })?;
        Ok(())
    }

    /// Checks that `config` is that of the run but for what may change (how long it runs, how it is logged, where the
    /// data lies), and writes it. A run that was not begun yet begins.
    ///
    /// # Errors
    /// If another setting differs, the run has more updates than `config` asks for (its weights would stay what they
    /// are, and the configuration say something else of them), or the file cannot be read or written.
    pub fn continue_with(&self, config: &Config) -> Result<(), RunError> {
        let Some(before) = stored_config(&self.path)? else { return self.begin(config) };
        if let Some((key, before, now)) = first_change(&before, config) {
            return Err(RunError::Changed { path: self.path.join(CONFIG_FILE), key, before, now });
        }
        check_steps(&self.path, config.train.steps)?;
        if before == *config { Ok(()) } else { self.begin(config) }
    }
}

/// Checks that the run at `path`, if there is one, has no more than `steps` updates.
///
/// # Errors
/// If it has, or its checkpoints cannot be listed.
pub fn check_steps(path: &Path, steps: u64) -> Result<(), RunError> {
    let checkpoints = RunDirectory::new(path).checkpoints()?;
    match checkpoints.last() {
        Some(last) if last.step > steps => {
            Err(RunError::Beyond { path: path.to_owned(), completed: last.step, steps })
        }
        _ => Ok(()),
    }
}

/// Where the evaluations of the run at `path` are.
pub fn evaluations_path(path: &Path) -> PathBuf {
    path.join("evaluations.jsonl")
}

/// Where the metrics of the run at `path` are.
pub fn metrics_path(path: &Path) -> PathBuf {
    path.join("metrics.jsonl")
}

/// Where the weights that were judged the best of the run at `path` are kept, in diffusers' layout.
pub fn best_path(path: &Path) -> PathBuf {
    path.join("best")
}

/// Where the configuration of the run at `path` is.
pub fn config_path(path: &Path) -> PathBuf {
    path.join(CONFIG_FILE)
}

/// The configuration of the run at `path`; `None` if there is no run.
///
/// # Errors
/// If it cannot be read.
pub fn stored_config(path: &Path) -> Result<Option<Config>, ConfigError> {
    let path = config_path(path);
    match config_text::read_text(&path) {
        Ok(text) => config_text::parse(&text, &path.display().to_string(), &[]).map(Some),
        Err(ConfigError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether nothing is at `path`, or a directory with nothing in it but what a killed start may leave.
fn is_vacant(path: &Path) -> Result<bool, RunError> {
    let error = |source: std::io::Error| match source.kind() {
        ErrorKind::NotADirectory => RunError::IsFile { path: path.to_owned() },
        _ => RunError::Io { path: path.to_owned(), action: "cannot look into the directory", source },
    };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(true),
        Err(other) => return Err(error(other)),
    };
    for entry in entries {
        let name = entry.map_err(error)?.file_name();
        let name = name.to_string_lossy();
        // A temporary of the configuration's first writing begins with a dot and its name.
        if name != LOCK_FILE && !name.starts_with(&format!(".{CONFIG_FILE}")) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first key that may not change and did: its name, and both values.
fn first_change(before: &Config, now: &Config) -> Option<(String, String, String)> {
    let table = |config: &Config| Table::try_from(config).unwrap_or_default();
    let (before, now) = (table(before), table(now));
    for (section, keys) in &before {
        for (key, before) in keys.as_table().into_iter().flatten() {
            let now = now.get(section)?.get(key)?;
            let dotted = format!("{section}.{key}");
            let free = section == "log" || FREE_KEYS.contains(&dotted.as_str());
            if before != now && !free && !(dotted == "data.source" && same_data(before, now)) {
                return Some((dotted, before.to_string(), now.to_string()));
            }
        }
    }
    None
}

/// Whether two sources differ in nothing but where they lie.
fn same_data(one: &Value, other: &Value) -> bool {
    let spec = |value: &Value| value.as_str().and_then(|text| text.parse::<SourceSpec>().ok());
    match (spec(one), spec(other)) {
        (Some(one), Some(other)) => one.kind().name == other.kind().name && one.split() == other.split(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(sets: &[&str]) -> Config {
        let sets: Vec<String> = sets.iter().map(|text| text.to_string()).collect();
        config_text::load("cifar10", &sets).unwrap()
    }

    #[test]
    fn a_directory_with_something_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
        assert!(matches!(TrainingRun::open(dir.path(), false), Err(RunError::Occupied { .. })));
        assert!(matches!(TrainingRun::open(dir.path(), true), Err(RunError::NotARun { .. })));
        let file = dir.path().join("thesis.txt");
        assert!(matches!(TrainingRun::open(&file, false), Err(RunError::IsFile { .. })));
        assert!(matches!(TrainingRun::open(&file, true), Err(RunError::IsFile { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "years of work");
    }

    #[test]
    fn one_trainer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let run = TrainingRun::open(&path, false).unwrap();
        run.begin(&config(&[])).unwrap();
        assert!(matches!(TrainingRun::open(&path, false), Err(RunError::Occupied { .. })));
        assert!(matches!(TrainingRun::open(&path, true), Err(RunError::Locked { .. })));
        drop(run);
        TrainingRun::open(&path, true).unwrap().continue_with(&config(&[])).unwrap();
    }

    #[test]
    fn a_start_killed_at_once_can_begin_again() {
        let dir = tempfile::tempdir().unwrap();
        drop(TrainingRun::open(dir.path(), false).unwrap());
        std::fs::write(dir.path().join(".config.toml.ddpm-partial"), "[da").unwrap();
        assert!(stored_config(dir.path()).unwrap().is_none());
        drop(TrainingRun::open(dir.path(), false).unwrap());
        TrainingRun::open(dir.path(), true).unwrap().continue_with(&config(&[])).unwrap();
        assert_eq!(stored_config(dir.path()).unwrap(), Some(config(&[])));
    }

    #[test]
    fn a_run_is_resumed_as_it_was_begun() {
        let dir = tempfile::tempdir().unwrap();
        let run = TrainingRun::open(dir.path(), false).unwrap();
        run.begin(&config(&[])).unwrap();
        for (set, key) in [
            ("model.dropout=0.2", "model.dropout"),
            ("train.batch_size=64", "train.batch_size"),
            ("train.seed=1", "train.seed"),
            ("train.micro_batch=16", "train.micro_batch"),
            ("data.source=mnist:x", "data.source"),
            ("data.source=cifar10:data/cifar10:test", "data.source"),
            ("diffusion.timesteps=999", "diffusion.timesteps"),
        ] {
            let error = run.continue_with(&config(&[set])).unwrap_err();
            assert!(
                matches!(&error, RunError::Changed { key: changed, .. } if changed == key),
                "{set}: {error}"
            );
            assert_eq!(stored_config(dir.path()).unwrap(), Some(config(&[])));
        }
        let allowed = [
            "train.steps=900000",
            "train.keep_checkpoints=9",
            "train.recompute=convolutions",
            "log.every=7",
            "data.source=cifar10:/elsewhere",
        ];
        run.continue_with(&config(&allowed)).unwrap();
        assert_eq!(stored_config(dir.path()).unwrap(), Some(config(&allowed)));
    }
}
