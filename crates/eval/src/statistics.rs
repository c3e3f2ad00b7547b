//! Statistics files: the mean and covariance of a set's features, as TTUR and pytorch-fid keep them, and what
//! they are of.
//!
//! An `.npz` with `mu` `[d]` and `sigma` `[d, d]`; ours also have `ddpm`, a JSON text, which other programs
//! pass over.

use crate::resize::ResizeMode;
use crate::{MeasureError, ModelFacts};
use numpy::{NpzFile, NpzWriter};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// The mean and covariance of a set of features.
#[derive(Clone, PartialEq, Debug)]
pub struct Statistics {
    /// The mean of each feature.
    pub mu: Vec<f64>,
    /// The unbiased covariance, row after row.
    pub sigma: Vec<f64>,
    /// What they are of; `None` in other programs' files.
    pub about: Option<Provenance>,
}

/// All that features depend on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Provenance {
    /// The set as it was named in the call.
    pub input: String,
    /// What it is, and what was done to its images.
    pub description: String,
    /// `train` or `test`, of a published data set.
    pub split: Option<String>,
    /// Images that gave features.
    pub images: u64,
    /// Images that could not be read and were passed over.
    pub unreadable: u64,
    /// Their height, width and channels.
    pub image: [usize; 3],
    /// The model they were drawn from, if they were.
    pub samples: Option<Samples>,
    /// How images were brought to the network's size and range.
    pub resize: ResizeMode,
    /// Number of features.
    pub dims: usize,
    /// The SHA-256 of the Inception network's weights file.
    pub inception_sha256: String,
    /// The program and its version.
    pub program: String,
}

/// Where samples come from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Samples {
    /// The model and which of its weights.
    pub model: ModelFacts,
    /// The sampler.
    pub sampler: String,
    /// Network calls per image.
    pub steps: usize,
    /// Which of the process's steps those are.
    pub spacing: String,
    /// The fresh noise that DDIM adds, where it is the sampler.
    pub eta: Option<f64>,
    /// What decided every random number.
    pub seed: u64,
}

/// The key of [`Provenance`] in a statistics file.
const ABOUT: &str = "ddpm";
/// A covariance of this many features takes 2 GiB.
const MAX_DIMS: usize = 1 << 14;

impl Statistics {
    /// Number of features.
    pub fn dims(&self) -> usize {
        self.mu.len()
    }

    /// Whether the archive at `path` is a statistics file.
    ///
    /// # Errors
    /// If it is no archive.
    pub fn is_file_of(path: &Path) -> Result<bool, MeasureError> {
        let archive = NpzFile::open(path)?;
        Ok(archive.has("mu") && archive.has("sigma"))
    }

    /// Reads a statistics file, ours or another program's.
    ///
    /// # Errors
    /// If it cannot be read, the shapes are not `[d]` and `[d, d]`, or a number is not finite.
    pub fn read(path: &Path) -> Result<Self, MeasureError> {
        let wrong = |problem: String| MeasureError::Statistics { path: path.to_owned(), problem };
        let mut archive = NpzFile::open(path)?;
        let (mu, sigma) = (archive.member("mu")?, archive.member("sigma")?);
        let (mu_shape, sigma_shape) = (mu.header().shape.clone(), sigma.header().shape.clone());
        let [dims] = mu_shape[..] else {
            return Err(wrong(format!("mu has the shape {mu_shape:?}; a mean has one dimension")));
        };
        if sigma_shape != [dims, dims] {
            return Err(wrong(format!("sigma has the shape {sigma_shape:?}, but mu {dims} elements")));
        }
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(wrong(format!("{dims} features; 1 to {MAX_DIMS} are read")));
        }
        let (mu, sigma) = (mu.read_f64()?, sigma.read_f64()?);
        for (name, values) in [("mu", &mu), ("sigma", &sigma)] {
            if let Some(place) = values.iter().position(|value| !value.is_finite()) {
                let value = values[place];
                return Err(wrong(format!(
                    "{name} is {value} at element {place}; such statistics are of no use"
                )));
            }
        }
        let about = match archive.has(ABOUT) {
            true => {
                let text = archive.member(ABOUT)?.read_text()?;
                let about = serde_json::from_str(&text);
                Some(
                    about
                        .map_err(|error| wrong(format!("what `{ABOUT}` says is not understood: {error}")))?,
                )
            }
            false => None,
        };
        Ok(Self { mu, sigma, about })
    }

    /// Writes a statistics file to `path`; it appears whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), MeasureError> {
        let dims = self.dims();
        let fill = |out: &mut dyn Write| -> std::io::Result<()> {
            let mut archive = NpzWriter::new(out);
            archive.add_f64("mu", &[dims], &self.mu)?;
            archive.add_f64("sigma", &[dims, dims], &self.sigma)?;
            if let Some(about) = &self.about {
                archive.add_text(ABOUT, &serde_json::to_string(about)?)?;
            }
            archive.finish()
        };
        let written = checkpoint::atomic::write_file(path, |out| {
            fill(out).map_err(|source| checkpoint::Error::Write { path: path.to_owned(), source })
        });
        written.map_err(|error| match error {
            checkpoint::Error::Write { path, source } => MeasureError::io(&path, "written")(source),
            other => MeasureError::Statistics { path: path.to_owned(), problem: other.to_string() },
        })
    }
}

impl Provenance {
    /// Checks that figures of features with these origins can be compared.
    ///
    /// # Errors
    /// [`MeasureError::Unlike`] if they come from other networks or ways of resizing.
    pub fn check_comparable(&self, other: &Self) -> Result<(), MeasureError> {
        let unlike = |what, first: &dyn ToString, second: &dyn ToString| {
            Err(MeasureError::Unlike {
                what,
                first: first.to_string(),
                second: second.to_string(),
                remedy: "compute both with the same settings",
            })
        };
        if self.resize != other.resize {
            return unlike("resize mode", &self.resize, &other.resize);
        }
        if self.inception_sha256 != other.inception_sha256 {
            return unlike("Inception weights (SHA-256)", &self.inception_sha256, &other.inception_sha256);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> Provenance {
        Provenance {
            input: "cifar10:data:test".into(),
            description: "10,000 images".into(),
            split: Some("test".into()),
            images: 10_000,
            unreadable: 0,
            image: [32, 32, 3],
            samples: None,
            resize: ResizeMode::Clean,
            dims: 2,
            inception_sha256: "ab".into(),
            program: "ddpm 0.1.0".into(),
        }
    }

    fn read_archive(fill: impl FnOnce(&mut NpzWriter<&mut Vec<u8>>)) -> Result<Statistics, MeasureError> {
        let mut bytes = Vec::new();
        let mut archive = NpzWriter::new(&mut bytes);
        fill(&mut archive);
        archive.finish().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.npz");
        std::fs::write(&path, bytes).unwrap();
        Statistics::read(&path)
    }

    #[test]
    fn they_survive_with_what_they_are_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.npz");
        for about in [None, Some(about())] {
            let statistics = Statistics { mu: vec![1.0, -0.5], sigma: vec![2.0, 0.1, 0.1, 3.0], about };
            statistics.write(&path).unwrap();
            assert_eq!(Statistics::read(&path).unwrap(), statistics);
            assert!(Statistics::is_file_of(&path).unwrap());
        }
    }

    #[test]
    fn what_cannot_be_statistics_is_said() {
        let message = |fill: fn(&mut NpzWriter<&mut Vec<u8>>)| read_archive(fill).unwrap_err().to_string();
        let text = message(|archive| archive.add_f64("mu", &[2], &[0.0; 2]).unwrap());
        assert!(text.contains("no array `sigma`"), "{text}");
        let text = message(|archive| {
            archive.add_f64("mu", &[2], &[0.0; 2]).unwrap();
            archive.add_f64("sigma", &[3, 3], &[0.0; 9]).unwrap();
        });
        assert!(text.contains("[3, 3]") && text.contains("mu 2"), "{text}");
        let text = message(|archive| {
            archive.add_f64("mu", &[1, 2], &[0.0; 2]).unwrap();
            archive.add_f64("sigma", &[2, 2], &[0.0; 4]).unwrap();
        });
        assert!(text.contains("[1, 2]"), "{text}");
        let text = message(|archive| {
            archive.add_f64("mu", &[1], &[0.0]).unwrap();
            archive.add_f64("sigma", &[1, 1], &[f64::NAN]).unwrap();
        });
        assert!(text.contains("sigma is NaN at element 0"), "{text}");
    }

    #[test]
    fn unlike_settings_are_not_compared() {
        let other = Provenance { resize: ResizeMode::PytorchFid, ..about() };
        let text = about().check_comparable(&other).unwrap_err().to_string();
        assert!(text.contains("resize mode: clean and pytorch-fid"), "{text}");
        let other = Provenance { inception_sha256: "cd".into(), ..about() };
        assert!(about().check_comparable(&other).unwrap_err().to_string().contains("ab and cd"));
        let other = Provenance { images: 5, input: "images:x".into(), ..about() };
        assert!(about().check_comparable(&other).is_ok());
    }
}
