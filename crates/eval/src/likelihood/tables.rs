//! Results as CSV.

use super::summary::{ImageBound, Summary};
use crate::estimate::Estimate;
use std::fmt::Write;

/// The steps of a summary, one a line, from t = 0 on. Numbers are as precise as they are computed; what is unknown
/// (the error of a single image) is empty.
pub fn steps_csv(summary: &Summary) -> String {
    let mut text = "first_t,last_t,reverse_steps,images".to_owned();
    for name in ["bits_per_dim", "rate", "rmse"] {
        let _ = write!(text, ",{name},{name}_standard_error,{name}_low,{name}_high");
    }
    text.push('\n');
    for row in &summary.steps {
        let reverse_steps = reverse_steps(summary, row.first_t, row.last_t);
        let _ = write!(text, "{},{},{reverse_steps},{}", row.first_t, row.last_t, summary.images);
        for estimate in [&row.bits_per_dim, &row.rate, &row.rmse] {
            text.push_str(&cells(estimate));
        }
        text.push('\n');
    }
    text
}

/// Steps of the reverse process that a receiver has taken who holds x̂0(x_t): T - t in code's count, Fig. 5's axis.
/// Of several steps the mean.
pub(super) fn reverse_steps(summary: &Summary, first_t: usize, last_t: usize) -> f64 {
    summary.timesteps as f64 - (first_t + last_t) as f64 / 2.0
}

fn cells(estimate: &Estimate) -> String {
    let mut text = format!(",{}", estimate.mean);
    for value in [estimate.standard_error, estimate.low, estimate.high] {
        text.push(',');
        text.push_str(&value.map(|value| value.to_string()).unwrap_or_default());
    }
    text
}

/// The first line of a table of images.
pub const IMAGES_HEADER: &str = "image,bits_per_dim,rate,distortion,prior\n";

/// The line of an image.
pub fn image_line(image: u64, bound: &ImageBound) -> String {
    format!("{image},{},{},{},{}\n", bound.total(), bound.rate, bound.distortion, bound.prior)
}
