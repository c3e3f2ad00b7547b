//! How far images are from those they stand beside, one by one: in pixels, and in features.

use crate::estimate::{Estimate, RunningMean};

/// The RMSE between images and their counterparts, on the 0–255 scale: the root of the mean over images of
/// their mean squared error.
///
/// # Panics
/// If the sets do not hold the same number of images of `len` values.
pub fn pixel_rmse(images: &[u8], others: &[u8], len: usize) -> Estimate {
    assert!(images.len() == others.len() && images.len().is_multiple_of(len), "as many images on both sides");
    let mut mean = RunningMean::default();
    for (image, other) in images.chunks_exact(len).zip(others.chunks_exact(len)) {
        let squares = image.iter().zip(other).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum::<u64>();
        mean.add(squares as f64 / len as f64);
    }
    mean.estimate().root()
}

/// The mean Euclidean distance between rows of `dims` features and their counterparts.
///
/// # Panics
/// If the sets do not hold the same number of rows.
pub fn feature_distance(rows: &[f32], others: &[f32], dims: usize) -> Estimate {
    assert!(rows.len() == others.len() && rows.len().is_multiple_of(dims), "as many rows on both sides");
    let mut mean = RunningMean::default();
    for (row, other) in rows.chunks_exact(dims).zip(others.chunks_exact(dims)) {
        let squares = row.iter().zip(other).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        mean.add(squares.sum::<f64>().sqrt());
    }
    mean.estimate()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_counterparts() {
        // Mean squared errors 4 and 100.
        let rmse = pixel_rmse(&[10, 20, 0, 255], &[12, 18, 10, 245], 2);
        assert!((rmse.mean - 52f64.sqrt()).abs() < 1e-12 && rmse.count == 2);
        let distance = feature_distance(&[0.0, 0.0, 1.0, 1.0], &[3.0, 4.0, 1.0, 2.0], 2);
        assert_eq!((distance.mean, distance.count), (3.0, 2));
    }
}
