//! A likelihood measurement with all it depends on, and the files it becomes.

use super::figures::rate_distortion;
use super::summary::Summary;
use super::tables::steps_csv;
use crate::chart::ChartError;
use crate::estimate::Estimate;
use crate::model_facts::ModelFacts;
use crate::whole_file::write_whole;
use diffusion::{DiffusionConfig, NormalCdf};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The report's file in its folder.
pub const REPORT_FILE: &str = "likelihood.json";

/// Bits/dim of a model on one or two sets of images.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LikelihoodReport {
    /// The model.
    pub model: ModelFacts,
    /// Its diffusion process.
    pub diffusion: DiffusionConfig,
    /// The cumulative distribution function of the decoder: published figures have `tanh`.
    pub decoder_cdf: NormalCdf,
    /// The seed of noise, choice of t and order of images.
    pub seed: u64,
    /// How convolutions were computed.
    pub convolutions: String,
    /// The sets of images: train before test.
    pub sets: Vec<SetReport>,
    /// How much worse the last set is than the first.
    pub gap: Option<Gap>,
}

/// Bits/dim on one set of images.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SetReport {
    /// `train`, `test` or `data`.
    pub name: String,
    /// The images, in words.
    pub data: String,
    /// How many images there are; `null` if there is no end.
    pub data_images: Option<u64>,
    /// Time for an image when it was last measured, in seconds; `null` if nothing was left to measure.
    pub seconds_per_image: Option<f64>,
    /// The bound.
    pub summary: Summary,
}

/// The difference of two sets, in bits/dim.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// The set that is worse if the model overfits.
    pub of: String,
    /// The set it is compared with.
    pub less: String,
    /// Of the bound.
    pub bits_per_dim: Estimate,
    /// Of the rate.
    pub rate: Estimate,
    /// Of L_0.
    pub distortion: Estimate,
}

impl Gap {
    /// The last set less the first, if there are two.
    pub fn between(sets: &[SetReport]) -> Option<Self> {
        let [less, of] = sets else { return None };
        let (a, b) = (&of.summary, &less.summary);
        Some(Self {
            of: of.name.clone(),
            less: less.name.clone(),
            bits_per_dim: a.bits_per_dim.minus(&b.bits_per_dim),
            rate: a.rate.minus(&b.rate),
            distortion: a.distortion.minus(&b.distortion),
        })
    }
}

/// A report that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The system refuses.
    #[error(transparent)]
    File(#[from] checkpoint::Error),
    /// The figure.
    #[error(transparent)]
    Chart(#[from] ChartError),
    /// Not a report.
    #[error("{}: not a report of ddpm likelihood: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl LikelihoodReport {
    /// Writes into `folder`: `likelihood.json`, a table of steps for each set (`test.csv`), and the figure
    /// `rate_distortion.svg` and `.png`. Returns the paths.
    ///
    /// # Errors
    /// If a file cannot be written; those written before are whole.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
        let mut files = Vec::new();
        let mut write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            write_whole(&path, bytes)?;
            files.push(path);
            Ok::<(), ReportError>(())
        };
        let json = serde_json::to_string_pretty(self)
            .map_err(|source| ReportError::Json { path: folder.join(REPORT_FILE), source })?;
        write(REPORT_FILE, format!("{json}\n").as_bytes())?;
        for set in &self.sets {
            write(&format!("{}.csv", set.name), steps_csv(&set.summary).as_bytes())?;
        }
        let summaries: Vec<_> = self.sets.iter().map(|set| (set.name.as_str(), &set.summary)).collect();
        let figure = rate_distortion(&summaries);
        write("rate_distortion.svg", figure.svg()?.as_bytes())?;
        write("rate_distortion.png", &figure.png()?)?;
        Ok(files)
    }

    /// Reads the report in `folder`; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is no report.
    pub fn read(folder: &Path) -> Result<Option<Self>, ReportError> {
        let path = folder.join(REPORT_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(checkpoint::Error::Read { path, source }.into()),
        };
        serde_json::from_str(&text).map(Some).map_err(|source| ReportError::Json { path, source })
    }

    /// The result in a few lines.
    pub fn words(&self) -> String {
        let mut lines = Vec::new();
        for SetReport { name, data_images, summary, seconds_per_image, .. } in &self.sets {
            let of = data_images.map_or_else(String::new, |all| format!(" of {all}"));
            let cost = seconds_per_image.map_or_else(String::new, |s| format!(", {s:.2} s an image"));
            lines.push(format!(
                "{name}: {} bits/dim (95 %; {}{of} images, {} of {} terms{cost})",
                summary.bits_per_dim.with_interval(4),
                summary.images,
                summary.terms,
                summary.timesteps,
            ));
            lines.push(format!(
                "  rate {} (of it prior {:.1e}), distortion {}",
                summary.rate.with_interval(4),
                summary.prior.mean,
                summary.distortion.with_interval(4)
            ));
            lines.extend(error_words(summary));
        }
        if let Some(Gap { of, less, bits_per_dim, .. }) = &self.gap {
            lines.push(format!("{of} less {less}: {} bits/dim (95 %)", bits_per_dim.with_interval(4)));
        }
        lines.join("\n")
    }
}

/// How far off the bound may be, where it was estimated from some of its terms.
fn error_words(summary: &Summary) -> Option<String> {
    let choice = summary.standard_error_of_choice;
    if choice <= 0.0 {
        return None;
    }
    Some(match summary.bits_per_dim.standard_error {
        // Both are estimates: that of a part may come out larger than that of the whole.
        Some(all) if choice <= all => {
            format!("  standard error {all:.4}, of it {choice:.4} by the choice of terms")
        }
        Some(all) => format!("  standard error {all:.4}, most of it by the choice of terms"),
        // One image says nothing of the others.
        None => format!("  standard error {choice:.4} by the choice of terms"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::RunningMean;
    use crate::likelihood::StepRow;

    fn estimate(values: &[f64]) -> Estimate {
        let mut sums = RunningMean::default();
        values.iter().for_each(|&value| sums.add(value));
        sums.estimate()
    }

    fn set(name: &str, shift: f64) -> SetReport {
        let value = |mean: f64| estimate(&[mean - 0.1, mean, mean + 0.1]);
        let row = |t: usize| StepRow {
            first_t: t,
            last_t: t,
            bits_per_dim: value(2.0 / (1.0 + t as f64) + shift),
            rate: value(1.0 / (1.0 + t as f64)),
            rmse: value(t as f64 + 0.5),
        };
        SetReport {
            name: name.into(),
            data: "images".into(),
            data_images: Some(10),
            seconds_per_image: Some(1.5),
            summary: Summary {
                images: 3,
                timesteps: 60,
                terms: 60,
                bits_per_dim: value(3.75 + shift),
                rate: value(1.78),
                distortion: value(1.97 + shift),
                prior: value(1e-5),
                standard_error_of_choice: 0.0,
                steps: (0..60).map(row).collect(),
            },
        }
    }

    fn report() -> LikelihoodReport {
        let sets = vec![set("train", 0.0), set("test", 0.25)];
        LikelihoodReport {
            model: ModelFacts {
                path: "m".into(),
                weights: Some("ema".into()),
                step: Some(3),
                fingerprint: "f".into(),
            },
            diffusion: DiffusionConfig::default(),
            decoder_cdf: NormalCdf::Tanh,
            seed: 0,
            convolutions: "fast".into(),
            gap: Gap::between(&sets),
            sets,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LikelihoodReport::read(dir.path()).unwrap(), None);
        let files = report().write(dir.path()).unwrap();
        let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        let expected =
            ["likelihood.json", "train.csv", "test.csv", "rate_distortion.svg", "rate_distortion.png"];
        assert_eq!(names, expected);
        assert_eq!(LikelihoodReport::read(dir.path()).unwrap(), Some(report()));
        let csv = std::fs::read_to_string(dir.path().join("test.csv")).unwrap();
        let lines: Vec<_> = csv.lines().map(|line| line.split(',').collect::<Vec<_>>()).collect();
        assert_eq!(lines.len(), 61);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        assert_eq!(
            lines[0][..6],
            ["first_t", "last_t", "reverse_steps", "images", "bits_per_dim", "bits_per_dim_standard_error"]
        );
        assert_eq!(lines[1][..5], ["0", "0", "60", "3", "2.25"]);
        std::fs::write(dir.path().join(REPORT_FILE), "{}").unwrap();
        assert!(matches!(LikelihoodReport::read(dir.path()), Err(ReportError::Json { .. })));
    }

    #[test]
    fn words_have_the_numbers_and_their_errors() {
        let words = report().words();
        // t(2) = 4.303 times 0.1/√3.
        assert!(
            words.contains("test: 4.0000 ± 0.2484 bits/dim (95 %; 3 of 10 images, 60 of 60 terms, 1.50 s"),
            "{words}"
        );
        assert!(words.contains("test less train: 0.2500 ±"), "{words}");
        assert!(!words.contains("standard error"), "{words}");
        let mut one = report();
        one.sets.truncate(1);
        let summary = &mut one.sets[0].summary;
        for (values, choice, expected) in [
            // The standard error is 0.0577.
            (&[3.9, 4.0, 4.1][..], 0.02, "standard error 0.0577, of it 0.0200 by the choice"),
            (&[3.9, 4.0, 4.1], 0.06, "standard error 0.0577, most of it by the choice"),
            (&[4.0], 0.0266, "  standard error 0.0266 by the choice"),
        ] {
            (summary.bits_per_dim, summary.standard_error_of_choice) = (estimate(values), choice);
            let words = error_words(summary).unwrap();
            assert!(words.contains(expected), "{words}");
        }
        assert_eq!(Gap::between(&one.sets), None);
    }
}
