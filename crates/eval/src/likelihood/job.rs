//! A whole measurement of likelihood: sets of images in, a report and its files out.

use super::measurement::{Measurement, MeasurementError, SourceError};
use super::report::{Gap, LikelihoodReport, ReportError, SetReport};
use super::strata::{Strata, TermsError};
use super::summary::Summary;
use super::tables::{IMAGES_HEADER, image_line};
use super::term_file::{Identity, TermFile, TermFileError};
use crate::model_facts::ModelFacts;
use crate::whole_file::write_whole;
use data::ImageSource;
use diffusion::{Denoiser, DiffusionConfig, DiffusionError, GaussianDiffusion, NormalCdf};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What to measure, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct LikelihoodJob {
    /// The model.
    pub model: ModelFacts,
    /// Its diffusion process.
    pub diffusion: DiffusionConfig,
    /// Terms to evaluate of each image; `None`: all.
    pub terms: Option<usize>,
    /// The cumulative distribution function of the decoder.
    pub decoder_cdf: NormalCdf,
    /// The seed of noise, choice of t and order of images.
    pub seed: u64,
    /// How convolutions are computed, for the record.
    pub convolutions: String,
    /// Calls of the network made at once, at least 1.
    pub batch: usize,
}

/// A set of images to measure.
pub struct ImageGroup {
    /// `train`, `test` or `data`: the name of its files.
    pub name: String,
    /// The images.
    pub source: Arc<dyn ImageSource>,
    /// How many of them.
    pub images: u64,
}

/// How far a measurement is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Progress<'a> {
    /// The set.
    pub set: &'a str,
    /// Terms done of it.
    pub terms: u64,
    /// Terms of it in all.
    pub all_terms: u64,
    /// Images done of it.
    pub images: u64,
    /// Images of it in all.
    pub all_images: u64,
}

/// Why a measurement did not finish.
#[derive(Debug, thiserror::Error)]
pub enum LikelihoodError {
    /// The number of terms.
    #[error("terms: {0}")]
    Terms(#[from] TermsError),
    /// The process.
    #[error(transparent)]
    Process(#[from] DiffusionError),
    /// The images.
    #[error("{name}: {source}")]
    Source {
        /// The set.
        name: String,
        /// What is wrong with it.
        source: SourceError,
    },
    /// The measurement.
    #[error(transparent)]
    Measurement(#[from] MeasurementError),
    /// The file of terms.
    #[error(transparent)]
    TermFile(#[from] TermFileError),
    /// The results.
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl LikelihoodError {
    /// Whether the call or the input was wrong, as opposed to work that failed.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Terms(_) | Self::Process(_) | Self::Source { .. } => true,
            Self::Measurement(MeasurementError::Data(_) | MeasurementError::TooMany { .. }) => true,
            Self::Measurement(MeasurementError::Terms(error)) | Self::TermFile(error) => error.is_input(),
            Self::Report(ReportError::File(error)) => error.is_input(),
            Self::Measurement(_) | Self::Report(_) => false,
        }
    }

    /// Whether the model gives numbers that are not finite: its training diverged.
    pub fn is_divergence(&self) -> bool {
        matches!(
            self,
            Self::Measurement(
                MeasurementError::NotFinite { .. }
                    | MeasurementError::Diffusion(DiffusionError::NonFiniteOutput { .. })
            )
        )
    }
}

/// Where the terms of `set` are in the folder `out`.
fn terms_path(out: &Path, set: &ImageGroup) -> PathBuf {
    out.join(format!("{}.terms", set.name))
}

impl LikelihoodJob {
    /// Whether [`Self::run`] would go on in the folder `out` or begin there, rather than refuse it for
    /// holding the terms of something else.
    fn can_use(
        &self,
        denoiser: &dyn Denoiser,
        sets: &[ImageGroup],
        out: &Path,
    ) -> Result<bool, LikelihoodError> {
        let process = GaussianDiffusion::new(&self.diffusion)?;
        let strata = Strata::new(&process, self.terms.unwrap_or(process.timesteps()))?;
        for set in sets {
            if !TermFile::is_of(&terms_path(out, set), &self.identity(set, &strata, denoiser))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The folder for these measurements: `out`, or if it holds the terms of something else, the first of
    /// `out-2`, `out-3` and so on that does not. So terms that were measured in another way stay, to be gone
    /// on with when they are asked for again.
    ///
    /// # Errors
    /// [`LikelihoodError`] of the process, the terms or the files that are there.
    pub fn folder(
        &self,
        denoiser: &dyn Denoiser,
        sets: &[ImageGroup],
        out: &Path,
    ) -> Result<PathBuf, LikelihoodError> {
        let (mut folder, mut number) = (out.to_owned(), 1);
        while !self.can_use(denoiser, sets, &folder)? {
            number += 1;
            let mut name = out.file_name().unwrap_or_default().to_owned();
            name.push(format!("-{number}"));
            folder = out.with_file_name(name);
        }
        Ok(folder)
    }

    /// Measures `sets` (train before test) into the folder `out`, going on with what is there, and writes the report.
    /// `None` if `stop` was set: what is measured is kept.
    ///
    /// # Errors
    /// [`LikelihoodError`]. What is wrong with the call is found before anything is measured.
    pub fn run(
        &self,
        denoiser: &mut dyn Denoiser,
        sets: &[ImageGroup],
        out: &Path,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Option<LikelihoodReport>, LikelihoodError> {
        let process = GaussianDiffusion::new(&self.diffusion)?;
        let strata = Strata::new(&process, self.terms.unwrap_or(process.timesteps()))?;
        let shape = denoiser.image_shape();
        let mut prepared = Vec::new();
        for set in sets {
            let source = set.source.as_ref();
            let measurement = Measurement::new(&process, &strata, source, shape, self.decoder_cdf, self.seed)
                .map_err(|source| LikelihoodError::Source { name: set.name.clone(), source })?;
            measurement.entries(set.images)?;
            prepared.push((set, measurement));
        }
        std::fs::create_dir_all(out)
            .map_err(|source| ReportError::from(checkpoint::Error::Write { path: out.to_owned(), source }))?;
        let mut opened = Vec::new();
        for (set, measurement) in prepared {
            let file = TermFile::open(&terms_path(out, set), &self.identity(set, &strata, denoiser))?;
            opened.push((set, measurement, file));
        }
        let mut reports = Vec::new();
        for (set, mut measurement, mut file) in opened {
            let Some(seconds_per_image) =
                self.measure(set, &mut measurement, &mut file, &strata, denoiser, stop, tell)?
            else {
                return Ok(None);
            };
            let mut table = IMAGES_HEADER.to_owned();
            let summary = Summary::of(
                &file,
                &strata,
                self.seed,
                set.images,
                |place| measurement.image(place),
                |image, bound| table.push_str(&image_line(image, bound)),
            )?;
            write_whole(&out.join(format!("{}.images.csv", set.name)), table.as_bytes())
                .map_err(ReportError::from)?;
            reports.push(SetReport {
                name: set.name.clone(),
                data: set.source.description(),
                data_images: (!set.source.is_endless()).then(|| set.source.len()),
                seconds_per_image,
                summary,
            });
        }
        let report = LikelihoodReport {
            model: self.model.clone(),
            diffusion: self.diffusion.clone(),
            decoder_cdf: self.decoder_cdf,
            seed: self.seed,
            convolutions: self.convolutions.clone(),
            gap: Gap::between(&reports),
            sets: reports,
        };
        report.write(out)?;
        Ok(Some(report))
    }

    fn identity(&self, set: &ImageGroup, strata: &Strata, denoiser: &dyn Denoiser) -> Identity {
        let shape = denoiser.image_shape();
        Identity {
            model: self.model.fingerprint.clone(),
            diffusion: self.diffusion.clone(),
            data: set.source.description(),
            data_images: set.source.len(),
            image: [shape.height, shape.width, shape.channels],
            decoder_cdf: self.decoder_cdf,
            terms: strata.terms(),
            seed: self.seed,
            convolutions: self.convolutions.clone(),
        }
    }

    /// Measures a set; returns the seconds an image took (none if none was left), or `None` if stopped.
    #[expect(clippy::too_many_arguments, reason = "the parts of one set, borrowed apart")]
    fn measure(
        &self,
        set: &ImageGroup,
        measurement: &mut Measurement<'_>,
        file: &mut TermFile,
        strata: &Strata,
        denoiser: &mut dyn Denoiser,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Option<Option<f64>>, MeasurementError> {
        let per_image = strata.terms() as u64;
        let (start, mut first, mut last) = (Instant::now(), None, 0);
        let finished =
            measurement.run(denoiser, set.images, self.batch, file, stop, &mut |terms, all_terms| {
                first.get_or_insert(terms);
                last = terms;
                let (images, all_images) = (terms / per_image, set.images);
                tell(Progress { set: &set.name, terms, all_terms, images, all_images });
            })?;
        let measured = last - first.unwrap_or(last);
        let seconds = start.elapsed().as_secs_f64() * per_image as f64 / measured as f64;
        Ok(finished.then_some((measured > 0).then_some(seconds)))
    }
}
