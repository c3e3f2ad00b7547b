//! A run in one page: samples, loss, scores over training, bits/dim, rate and distortion, the ablation; laid
//! out like the paper's section 4, with what each figure depends on beside it.

mod figures;
mod html;
mod page;

use crate::ablation::AblationTable;
use crate::chart::{ChartError, Figure};
use crate::likelihood::LikelihoodReport;
use crate::whole_file::write_whole;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The page's name in its folder.
pub const PAGE_FILE: &str = "report.html";

/// Everything there is to show of a run. Parts that are missing are left out of the page, and it says so.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RunReport {
    /// The run's name.
    pub title: String,
    /// When, how far, by which program: a line.
    pub subtitle: String,
    /// What was trained and how: names and values.
    pub setup: Vec<(String, String)>,
    /// Samples.
    pub samples: Option<Pictures>,
    /// Updates done and the mean loss since the line before.
    pub loss: Vec<(u64, f64)>,
    /// What the loss is.
    pub loss_words: String,
    /// Scores on the way.
    pub scores: Vec<ScoreLine>,
    /// How they were computed.
    pub scores_words: String,
    /// Measurements of likelihood, the one to show first first.
    pub likelihood: Vec<LikelihoodReport>,
    /// Measurements of sample quality: what, its value, and all it depends on.
    pub quality: Vec<QualityLine>,
    /// The ablation.
    pub ablation: Option<AblationTable>,
    /// The run's whole configuration, as TOML.
    pub config: String,
}

/// A PNG and what it shows.
#[derive(Clone, PartialEq, Debug)]
pub struct Pictures {
    /// A PNG file's bytes.
    pub png: Vec<u8>,
    /// Which weights, sampler, steps and seed.
    pub words: String,
}

/// Scores after some updates.
#[derive(Clone, PartialEq, Debug)]
pub struct ScoreLine {
    /// Updates done.
    pub step: u64,
    /// Names and values.
    pub scores: Vec<(String, f64)>,
}

/// A measurement of sample quality.
#[derive(Clone, PartialEq, Debug)]
pub struct QualityLine {
    /// FID, Inception Score, …
    pub name: String,
    /// With its deviation, where it has one.
    pub value: String,
    /// All it depends on.
    pub words: String,
}

/// A report that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RunReportError {
    /// The system refuses.
    #[error(transparent)]
    File(#[from] checkpoint::Error),
    /// A figure.
    #[error(transparent)]
    Chart(#[from] ChartError),
}

impl RunReport {
    /// Writes `report.html`, which needs nothing beside it, and the figures' SVG, PNG and CSV into `folder`,
    /// which is made. Returns the paths, the page first.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, RunReportError> {
        let mut files = vec![folder.join(PAGE_FILE)];
        std::fs::create_dir_all(folder)
            .map_err(|source| checkpoint::Error::Write { path: folder.to_owned(), source })?;
        let mut write = |name: String, bytes: &[u8]| {
            let path = folder.join(name);
            write_whole(&path, bytes)?;
            files.push(path);
            Ok::<(), RunReportError>(())
        };
        let mut svgs = Vec::new();
        for (name, figure) in self.figures() {
            let svg = figure.svg()?;
            write(format!("{name}.svg"), svg.as_bytes())?;
            write(format!("{name}.png"), &figure.png()?)?;
            svgs.push((name, svg));
        }
        for (name, table) in self.tables() {
            write(format!("{name}.csv"), table.as_bytes())?;
        }
        if let Some(samples) = &self.samples {
            write("samples.png".into(), &samples.png)?;
        }
        write_whole(&files[0], page::page(self, &svgs).as_bytes())?;
        Ok(files)
    }

    /// Figures by the name of their files.
    fn figures(&self) -> Vec<(&'static str, Figure)> {
        let mut all = Vec::new();
        if !self.loss.is_empty() {
            all.push(("loss", figures::loss(&self.loss)));
        }
        if !self.scores.is_empty() {
            all.push(("scores", figures::scores(&self.scores)));
        }
        if let Some(report) = self.likelihood.first() {
            let sets: Vec<_> = report.sets.iter().map(|set| (set.name.as_str(), &set.summary)).collect();
            all.push(("rate_distortion", crate::likelihood::rate_distortion(&sets)));
        }
        all
    }

    /// CSV by the name of the file.
    fn tables(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        if !self.loss.is_empty() {
            let mut text = "step,loss\n".to_owned();
            for (step, loss) in &self.loss {
                let _ = writeln!(text, "{step},{loss}");
            }
            all.push(("loss".into(), text));
        }
        if !self.scores.is_empty() {
            let names = figures::score_names(&self.scores);
            let mut text = format!("step,{}\n", names.join(","));
            for line in &self.scores {
                let _ = write!(text, "{}", line.step);
                for name in &names {
                    let value = line.scores.iter().find(|(found, _)| found == name);
                    let _ =
                        write!(text, ",{}", value.map(|(_, value)| value.to_string()).unwrap_or_default());
                }
                text.push('\n');
            }
            all.push(("scores".into(), text));
        }
        if let Some(report) = self.likelihood.first() {
            for set in &report.sets {
                let table = crate::likelihood::steps_csv(&set.summary);
                all.push((format!("rate_distortion_{}", set.name), table));
            }
        }
        if let Some(ablation) = &self.ablation {
            all.push(("ablation".into(), ablation.csv()));
        }
        all
    }
}

#[cfg(test)]
mod tests;
