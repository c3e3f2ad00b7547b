//! Precision and recall (Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative
//! Models", 2019): how many generated images lie within the real ones' neighbourhoods, and how many real ones
//! within the generated ones'.
//!
//! An image's neighbourhood is the ball in feature space that reaches to its k-th nearest neighbour in its
//! own set. The paper has k = 3 and VGG features; those of Inception, as here, are what evaluations of
//! diffusion models have. Figures of different numbers of images cannot be compared.

use crate::MeasureError;
use crate::distances::{Nearest, fold_distances};

/// Neighbours that a neighbourhood reaches to in published figures.
pub const NEIGHBOURS: usize = 3;

/// Both figures, from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PrecisionRecall {
    /// Share of generated images within the real ones' neighbourhoods.
    pub precision: f64,
    /// Share of real images within the generated ones' neighbourhoods.
    pub recall: f64,
}

/// Both figures for rows of features `[n, dims]`, with neighbourhoods to the `k`-th neighbour. Takes time in
/// proportion to the square of the number of images.
///
/// # Errors
/// [`MeasureError::TooFew`] if a set has no `k` neighbours.
pub fn precision_recall(
    generated: &[f32],
    real: &[f32],
    dims: usize,
    k: usize,
) -> Result<PrecisionRecall, MeasureError> {
    for (what, rows) in [("generated images", generated), ("real images", real)] {
        let images = (rows.len() / dims) as u64;
        if images <= k as u64 || k == 0 {
            let what = format!("{what} for neighbourhoods to neighbour {k}");
            return Err(MeasureError::TooFew { what, images, needed: k as u64 + 1 });
        }
    }
    let precision = share_within(generated, real, &squared_radii(real, dims, k), dims);
    let recall = share_within(real, generated, &squared_radii(generated, dims, k), dims);
    Ok(PrecisionRecall { precision, recall })
}

/// The squared distance of each row to its `k`-th nearest other row.
fn squared_radii(rows: &[f32], dims: usize, k: usize) -> Vec<f64> {
    // The nearest of all is the row itself, at a distance of 0.
    let start = || Nearest::new(k + 1);
    let nearest = fold_distances(rows, rows, dims, start, Nearest::add);
    nearest.iter().map(|nearest| nearest.found().last().map_or(0.0, |&(squared, _)| squared)).collect()
}

/// The share of `queries` that lie within a ball around one of `centres`.
fn share_within(queries: &[f32], centres: &[f32], squared_radii: &[f64], dims: usize) -> f64 {
    let within = fold_distances(
        queries,
        centres,
        dims,
        || false,
        |within, centre, squared| {
            *within |= squared <= squared_radii[centre];
        },
    );
    within.iter().filter(|&&within| within).count() as f64 / within.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_on_a_line() {
        // Real 0 1 2 3, k = 1: radii 1. Generated 0.5 (inside), 4 (at the edge), 10, 20 (outside); radii 3.5,
        // 3.5, 6, 10.
        let (generated, real) = ([0.5, 4.0, 10.0, 20.0], [0.0, 1.0, 2.0, 3.0]);
        let result = precision_recall(&generated, &real, 1, 1).unwrap();
        assert_eq!(result, PrecisionRecall { precision: 0.5, recall: 1.0 });
        let result = precision_recall(&[0.4, 0.5, 0.6, 0.7], &real, 1, 2).unwrap();
        assert_eq!(result, PrecisionRecall { precision: 1.0, recall: 0.0 });
    }

    #[test]
    fn a_set_is_within_itself_and_needs_neighbours() {
        let rows: Vec<f32> = (0..20).map(|i| (i * i % 13) as f32).collect();
        let same = precision_recall(&rows, &rows, 2, 3).unwrap();
        assert_eq!(same, PrecisionRecall { precision: 1.0, recall: 1.0 });
        let text = precision_recall(&rows[..6], &rows, 2, 3).unwrap_err().to_string();
        assert!(text.contains("generated images") && text.contains("3 images, but 4"), "{text}");
    }
}
