//! What a model is worth, as the paper reports it: sample quality and likelihood, with all they depend on.

use crate::inception_score::SPLITS;
use crate::likelihood::LikelihoodReport;
use crate::model_facts::ModelFacts;
use crate::statistics::Provenance;
use crate::whole_file::write_whole;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The report's file in its folder.
pub const EVALUATION_FILE: &str = "evaluation.json";

/// One number about samples.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct QualityMeasure {
    /// `FID train`, `FID test`, `Inception Score`.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its standard deviation over [`SPLITS`] parts of the samples, where it has one.
    pub deviation: Option<f64>,
    /// The samples and how their features were computed.
    pub samples: Provenance,
    /// What they were compared with, if with anything.
    pub reference: Option<Provenance>,
}

/// An evaluation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// The preset it was begun with, `paper` or `quick`; and `, changed: ` with the options that the call changed.
    pub protocol: String,
    /// The model.
    pub model: ModelFacts,
    /// Sample quality.
    pub quality: Vec<QualityMeasure>,
    /// Likelihood.
    pub likelihood: LikelihoodReport,
}

/// An evaluation that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationReportError {
    /// The system refuses.
    #[error(transparent)]
    File(#[from] checkpoint::Error),
    /// Not an evaluation.
    #[error("{}: not a report of ddpm evaluate: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl QualityMeasure {
    /// The number, with its deviation.
    pub fn value_words(&self) -> String {
        match self.deviation {
            Some(deviation) => format!("{:.3} ± {deviation:.3}", self.value),
            None => format!("{:.3}", self.value),
        }
    }

    /// All it depends on.
    pub fn words(&self) -> String {
        let Self { samples, reference, .. } = self;
        let against = reference.as_ref().map_or_else(String::new, |reference| {
            let split = reference.split.as_deref().map_or_else(String::new, |split| format!(" ({split})"));
            format!(" against {} images of {}{split}", reference.images, reference.description)
        });
        // What other ± of this program are, half an interval, this one is not.
        let deviation = self.deviation.map_or_else(String::new, |_| {
            format!("; ± is the standard deviation over {SPLITS} parts of the samples")
        });
        format!(
            "{}{against}; {} features, {} resize, Inception weights {}{deviation}",
            samples.description,
            samples.dims,
            samples.resize,
            samples.inception_sha256.get(..8).unwrap_or(&samples.inception_sha256)
        )
    }
}

impl EvaluationReport {
    /// Writes `evaluation.json` into `folder`, which is made.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, EvaluationReportError> {
        let path = folder.join(EVALUATION_FILE);
        std::fs::create_dir_all(folder)
            .map_err(|source| checkpoint::Error::Write { path: folder.to_owned(), source })?;
        let json = serde_json::to_string_pretty(self)
            .map_err(|source| EvaluationReportError::Json { path: path.clone(), source })?;
        write_whole(&path, format!("{json}\n").as_bytes())?;
        Ok(path)
    }

    /// Reads the evaluation in `folder`; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is no evaluation.
    pub fn read(folder: &Path) -> Result<Option<Self>, EvaluationReportError> {
        let path = folder.join(EVALUATION_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|source| EvaluationReportError::Json { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(checkpoint::Error::Read { path, source }.into()),
        }
    }

    /// The result in a few lines.
    pub fn words(&self) -> String {
        let mut lines = vec![format!("protocol: {}", self.protocol)];
        for measure in &self.quality {
            lines.push(format!("{}: {}\n  {}", measure.name, measure.value_words(), measure.words()));
        }
        lines.push(self.likelihood.words());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ResizeMode;
    use diffusion::{DiffusionConfig, NormalCdf};

    fn about(description: &str, split: Option<&str>) -> Provenance {
        Provenance {
            input: "m".into(),
            description: description.into(),
            split: split.map(str::to_owned),
            images: 50_000,
            unreadable: 0,
            image: [32, 32, 3],
            samples: None,
            resize: ResizeMode::PytorchFid,
            dims: 2048,
            inception_sha256: "6726825d0af5f729".into(),
            program: "ddpm".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_says_what_it_depends_on() {
        let model = ModelFacts { path: "m".into(), weights: None, step: None, fingerprint: "f".into() };
        let measure = |name: &str, deviation, reference| QualityMeasure {
            name: name.into(),
            value: 3.17,
            deviation,
            samples: about("50000 samples of m", None),
            reference,
        };
        let report = EvaluationReport {
            protocol: "paper".into(),
            model: model.clone(),
            quality: vec![
                measure("FID train", None, Some(about("CIFAR-10", Some("train")))),
                measure("Inception Score", Some(0.11), None),
            ],
            likelihood: LikelihoodReport {
                model,
                diffusion: DiffusionConfig::default(),
                decoder_cdf: NormalCdf::Tanh,
                seed: 0,
                convolutions: "fast".into(),
                sets: Vec::new(),
                gap: None,
            },
        };
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(EvaluationReport::read(dir.path()).unwrap(), None);
        let folder = dir.path().join("deep");
        report.write(&folder).unwrap();
        assert_eq!(EvaluationReport::read(&folder).unwrap(), Some(report.clone()));
        let words = report.words();
        for word in [
            "protocol: paper\n",
            "FID train: 3.170\n  50000 samples of m against 50000 images of CIFAR-10 (train); 2048 features",
            "Inception Score: 3.170 ± 0.110",
            "pytorch-fid resize, Inception weights 6726825d; ± is the standard deviation over 10 parts of the samples",
        ] {
            assert!(words.contains(word), "{words}");
        }
    }
}
