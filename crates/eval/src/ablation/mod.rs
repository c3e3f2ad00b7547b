//! Table 2 of the paper, for any data and budget: what the network predicts and what it is trained on.
//!
//! A [`Variant`] is a cell of the table, a [`VariantResult`] what came of training it and measuring it by a
//! [`Measure`], an [`AblationTable`] all of them as Markdown, CSV and JSON. Training is not done here: this
//! crate stands beside the trainer.

mod measure;
mod table;
mod variant;

pub use measure::{Measure, SampleMeasure};
pub use table::{AblationTable, Budget, TABLE_FILE, TableError};
pub use variant::{Objective, Outcome, QualityScore, Variant, VariantResult};
