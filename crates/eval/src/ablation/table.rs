//! All variants side by side.

use super::variant::{Outcome, Variant, VariantResult, schedule_name};
use crate::inception_score::SPLITS;
use crate::whole_file::write_whole;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The table's file in its folder.
pub const TABLE_FILE: &str = "ablation.json";

/// What all variants had alike.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Budget {
    /// The images trained on, in words.
    pub data: String,
    /// The images measured on, in words.
    pub test_data: String,
    /// Numbers in the network (more with a learned variance).
    pub parameters: usize,
    /// Updates.
    pub steps: u64,
    /// Images in each.
    pub batch_size: usize,
    /// T.
    pub timesteps: usize,
    /// Images whose likelihood is measured.
    pub likelihood_images: u64,
    /// Terms of the bound evaluated of each.
    pub terms: usize,
    /// What sample quality was measured by; empty if it was not.
    pub quality: String,
}

/// An ablation, as far as it has come.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AblationTable {
    /// What is alike.
    pub budget: Budget,
    /// All variants, in the table's order.
    pub variants: Vec<Variant>,
    /// Results so far.
    pub results: Vec<VariantResult>,
}

/// A table that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The system refuses.
    #[error(transparent)]
    File(#[from] checkpoint::Error),
    /// Not a table.
    #[error("{}: not a table of ddpm ablate: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl AblationTable {
    /// Writes `ablation.json`, `.csv` and `.md` into `folder`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), TableError> {
        let path = folder.join(TABLE_FILE);
        let json = serde_json::to_string_pretty(self)
            .map_err(|source| TableError::Json { path: path.clone(), source })?;
        write_whole(&path, format!("{json}\n").as_bytes())?;
        write_whole(&folder.join("ablation.csv"), self.csv().as_bytes())?;
        write_whole(&folder.join("ablation.md"), self.markdown().as_bytes())?;
        Ok(())
    }

    /// Reads the table in `folder`; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is no table.
    pub fn read(folder: &Path) -> Result<Option<Self>, TableError> {
        let path = folder.join(TABLE_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                serde_json::from_str(&text).map(Some).map_err(|source| TableError::Json { path, source })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(checkpoint::Error::Read { path, source }.into()),
        }
    }

    fn result(&self, variant: &Variant) -> Option<&VariantResult> {
        self.results.iter().find(|result| result.variant == *variant)
    }

    /// The names of all scores of sample quality, in the order in which they came.
    fn scores(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for result in &self.results {
            if let Outcome::Finished { quality, .. } = &result.outcome {
                for score in quality {
                    if !names.contains(&score.name.as_str()) {
                        names.push(&score.name);
                    }
                }
            }
        }
        names
    }

    /// The table laid out like the paper's, with a line for each training, as Markdown.
    pub fn markdown(&self) -> String {
        let head = self.head();
        let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
        for row in self.rows() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        let _ = writeln!(text, "\n{}", self.words());
        text
    }

    /// The names of the columns.
    pub fn head(&self) -> Vec<String> {
        let mut head = vec!["predicts".to_owned(), "trained on".into()];
        if self.has_schedules() {
            head.insert(0, "β".into());
        }
        if self.has_seeds() {
            head.push("seed".into());
        }
        head.extend(self.scores().into_iter().map(str::to_owned));
        head.extend(["bits/dim", "rate", "distortion"].map(str::to_owned));
        head
    }

    /// A line for each training.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let scores = self.scores();
        let row = |variant: &Variant| {
            let mut cells =
                vec![variant.prediction.to_string(), variant.objective.words(variant.prediction).to_owned()];
            if self.has_schedules() {
                cells.insert(0, schedule_name(variant.schedule));
            }
            if self.has_seeds() {
                cells.push(variant.seed.to_string());
            }
            cells.extend(outcome_cells(self.result(variant).map(|result| &result.outcome), &scores));
            cells
        };
        self.variants.iter().map(row).collect()
    }

    /// What all trainings had alike, and how they were measured.
    pub fn words(&self) -> String {
        let Budget {
            data,
            test_data,
            parameters,
            steps,
            batch_size,
            timesteps,
            likelihood_images,
            terms,
            quality,
        } = &self.budget;
        let quality = if quality.is_empty() { String::new() } else { format!(" Samples: {quality}.") };
        let deviation = if self.has_deviations() {
            format!(" ± of an Inception Score is its standard deviation over {SPLITS} parts of the samples.")
        } else {
            String::new()
        };
        format!(
            "Each: {parameters} parameters, {steps} updates of {batch_size} images, T = {timesteps}; trained on {data}. \
             Likelihood: {likelihood_images} images of {test_data}, {terms} of {timesteps} terms; ± of bits/dim is half the 95 % \
             interval over images, not over trainings.{quality}{deviation}"
        )
    }

    /// Whether a score of sample quality has a ±.
    fn has_deviations(&self) -> bool {
        self.results.iter().any(|result| match &result.outcome {
            Outcome::Finished { quality, .. } => quality.iter().any(|score| score.deviation.is_some()),
            Outcome::Unstable { .. } => false,
        })
    }

    fn has_schedules(&self) -> bool {
        self.variants.iter().any(|variant| variant.schedule != self.variants[0].schedule)
    }

    fn has_seeds(&self) -> bool {
        self.variants.iter().any(|variant| variant.seed != self.variants[0].seed)
    }

    /// The table with a line for each training and all digits.
    pub fn csv(&self) -> String {
        let scores = self.scores();
        let mut text = "schedule,prediction,objective,seed,status,step,loss,bits_per_dim,bits_per_dim_standard_error,rate,distortion".to_owned();
        for score in &scores {
            let _ = write!(text, ",{score},{score}_deviation");
        }
        text.push('\n');
        let optional = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for variant in &self.variants {
            let objective = serde_json::to_value(variant.objective).unwrap_or_default();
            let _ = write!(
                text,
                "{},{},{},{},",
                schedule_name(variant.schedule),
                variant.prediction,
                objective.as_str().unwrap_or_default(),
                variant.seed
            );
            match self.result(variant).map(|result| &result.outcome) {
                None => text.push_str("missing,,,,,,"),
                Some(Outcome::Unstable { step, .. }) => {
                    let _ = write!(text, "unstable,{step},,,,,");
                }
                Some(Outcome::Finished { loss, bits_per_dim, rate, distortion, .. }) => {
                    let _ = write!(
                        text,
                        "finished,{},{loss},{},{},{},{}",
                        self.budget.steps,
                        bits_per_dim.mean,
                        optional(bits_per_dim.standard_error),
                        rate.mean,
                        distortion.mean
                    );
                }
            }
            for name in &scores {
                let score = self.result(variant).and_then(|result| match &result.outcome {
                    Outcome::Finished { quality, .. } => quality.iter().find(|score| score.name == *name),
                    Outcome::Unstable { .. } => None,
                });
                let _ = write!(
                    text,
                    ",{},{}",
                    optional(score.map(|score| score.value)),
                    optional(score.and_then(|score| score.deviation))
                );
            }
            text.push('\n');
        }
        text
    }
}

fn outcome_cells(outcome: Option<&Outcome>, scores: &[&str]) -> Vec<String> {
    let missing = || "–".to_owned();
    match outcome {
        None => (0..scores.len())
            .map(|_| missing())
            .chain(["not yet trained".into(), missing(), missing()])
            .collect(),
        Some(Outcome::Unstable { step, reason }) => {
            let words = format!("unstable: {reason} (after {step} updates)");
            (0..scores.len()).map(|_| missing()).chain([words, missing(), missing()]).collect()
        }
        Some(Outcome::Finished { bits_per_dim, rate, distortion, quality, .. }) => {
            let score = |name: &&str| match quality.iter().find(|score| score.name == *name) {
                None => missing(),
                Some(score) => match score.deviation {
                    Some(deviation) => format!("{:.2} ± {deviation:.2}", score.value),
                    None => format!("{:.2}", score.value),
                },
            };
            let bits = match bits_per_dim.half_width() {
                Some(half) => format!("{:.3} ± {half:.3}", bits_per_dim.mean),
                None => format!("{:.3}", bits_per_dim.mean),
            };
            let rest = [bits, format!("{:.3}", rate.mean), format!("{:.3}", distortion.mean)];
            scores.iter().map(score).chain(rest).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::variant::{Objective, QualityScore};
    use super::*;
    use crate::estimate::Estimate;
    use diffusion::{BetaSchedule, Prediction};

    fn estimate(mean: f64) -> Estimate {
        Estimate {
            mean,
            standard_error: Some(0.01),
            low: Some(mean - 0.02),
            high: Some(mean + 0.02),
            count: 9,
        }
    }

    fn table() -> AblationTable {
        let variants = Variant::all(
            &[BetaSchedule::Linear, BetaSchedule::Quad],
            &[Prediction::Xprev, Prediction::Eps],
            &Objective::ALL,
            &[0],
        );
        let finished = Outcome::Finished {
            loss: 0.1,
            bits_per_dim: estimate(3.5),
            rate: estimate(1.5),
            distortion: estimate(2.0),
            quality: vec![QualityScore { name: "FID-192".into(), value: 1.234, deviation: None }],
        };
        let unstable = Outcome::Unstable { step: 12, reason: "the loss is inf".into() };
        let result = |variant: usize, outcome: &Outcome| VariantResult {
            variant: variants[variant],
            outcome: outcome.clone(),
            config: String::new(),
            measure: None,
        };
        AblationTable {
            budget: Budget {
                data: "digits".into(),
                test_data: "other digits".into(),
                parameters: 1000,
                steps: 300,
                batch_size: 8,
                timesteps: 50,
                likelihood_images: 9,
                terms: 20,
                quality: String::new(),
            },
            results: vec![result(0, &unstable), result(5, &finished)],
            variants,
        }
    }

    #[test]
    fn every_variant_has_its_line_whatever_came_of_it() {
        let table = table();
        let markdown = table.markdown();
        let lines: Vec<_> = markdown.lines().collect();
        assert_eq!(lines[0], "| β | predicts | trained on | FID-192 | bits/dim | rate | distortion |");
        let columns = lines[0].matches('|').count();
        assert!(lines[..14].iter().all(|line| line.matches('|').count() == columns), "{markdown}");
        assert!(lines[2].contains(
            "| linear | xprev | L, learned diagonal Σ | – | unstable: the loss is inf (after 12 updates)"
        ));
        assert!(lines[7].contains("| 1.23 | 3.500 ± 0.020 | 1.500 | 2.000 |"), "{markdown}");
        assert!(lines[8].contains("not yet trained"));

        assert!(
            markdown.contains("± of bits/dim is half") && !markdown.contains("Inception Score"),
            "{markdown}"
        );
        let mut scored = table.clone();
        if let Outcome::Finished { quality, .. } = &mut scored.results[1].outcome {
            quality.push(QualityScore { name: "Inception Score".into(), value: 9.0, deviation: Some(0.1) });
        }
        assert!(
            scored.markdown().contains("is its standard deviation over 10 parts"),
            "{}",
            scored.markdown()
        );

        let csv = table.csv();
        let rows: Vec<Vec<_>> = csv.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(rows.len(), 13);
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{csv}");
        assert_eq!(rows[1][..6], ["linear", "xprev", "bound_learned", "0", "unstable", "12"]);
        assert_eq!(rows[6][4..9], ["finished", "300", "0.1", "3.5", "0.01"]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(AblationTable::read(dir.path()).unwrap(), None);
        table().write(dir.path()).unwrap();
        assert_eq!(AblationTable::read(dir.path()).unwrap(), Some(table()));
    }
}
