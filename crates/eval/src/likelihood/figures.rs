//! Fig. 5 of the paper, for any model: distortion and rate over the reverse process, and one against the other.

use super::summary::{StepRow, Summary};
use super::tables::reverse_steps;
use crate::chart::{Axis, Chart, Figure, Scale, Series};
use crate::estimate::Estimate;

/// The figure of named summaries: distortion against reverse steps, rate against reverse steps, distortion
/// against rate, and the terms of the bound by t. Shaded: 95 % confidence intervals.
pub fn rate_distortion(summaries: &[(&str, &Summary)]) -> Figure {
    let axis = |label: &str, scale, from_zero| Axis { label: label.into(), scale, from_zero };
    let steps = || axis("reverse process steps (T − t)", Scale::Linear, false);
    let rmse = || axis("distortion (RMSE, 0–255)", Scale::Linear, true);
    let rate = || axis("rate (bits/dim)", Scale::Linear, true);
    let chart = |title: &str, x: Axis, y: Axis, series: &dyn Fn(&Summary) -> Vec<(f64, Estimate)>| Chart {
        title: title.into(),
        x,
        y,
        series: summaries
            .iter()
            .map(|(name, summary)| {
                let points = series(summary);
                Series::estimates(name, &points, points.len() < 40)
            })
            .collect(),
    };
    let by_steps = |value: fn(&StepRow) -> Estimate| {
        move |summary: &Summary| -> Vec<(f64, Estimate)> {
            let row = |row: &StepRow| (reverse_steps(summary, row.first_t, row.last_t), value(row));
            summary.steps.iter().map(row).collect()
        }
    };
    let by_t = |summary: &Summary| -> Vec<(f64, Estimate)> {
        // The paper counts t from 1, which a logarithmic axis can show.
        let t = |row: &StepRow| 1.0 + (row.first_t + row.last_t) as f64 / 2.0;
        summary.steps.iter().map(|row| (t(row), row.bits_per_dim)).collect()
    };
    let by_rate = |summary: &Summary| -> Vec<(f64, Estimate)> {
        summary.steps.iter().map(|row| (row.rate.mean, row.rmse)).collect()
    };
    Figure {
        charts: vec![
            chart("Distortion", steps(), rmse(), &by_steps(|row| row.rmse)),
            chart("Rate", steps(), rate(), &by_steps(|row| row.rate)),
            chart("Rate–distortion", rate(), rmse(), &by_rate),
            chart(
                "Terms of the bound",
                axis("t", Scale::Log, false),
                axis("Lₜ₋₁ (bits/dim)", Scale::Log, false),
                &by_t,
            ),
        ],
        columns: 2,
    }
}
