//! Likelihood over a data set: the bound in bits/dim, its rate and distortion (§4.3, Fig. 5, Tables 1 and 4).
//!
//! [`Strata`] says which terms are evaluated, [`Measurement`] evaluates them into a [`TermFile`], [`Summary`]
//! adds them up, a [`LikelihoodReport`] writes them down; a [`LikelihoodJob`] is all of it.

mod figures;
mod job;
mod measurement;
mod report;
mod strata;
mod summary;
mod tables;
mod term_file;

pub use figures::rate_distortion;
pub use job::{ImageGroup, LikelihoodError, LikelihoodJob, Progress};
pub use measurement::{Measurement, MeasurementError, SourceError};
pub use report::{Gap, LikelihoodReport, REPORT_FILE, ReportError, SetReport};
pub use strata::{Strata, Stratum, TermsError};
pub use summary::{ImageBound, StepRow, Summary};
pub use tables::{IMAGES_HEADER, image_line, steps_csv};
pub use term_file::{Identity, TermFile, TermFileError};
