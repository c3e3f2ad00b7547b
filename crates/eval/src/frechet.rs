//! The Fréchet distance between two Gaussians, and so FID (Heusel et al., "GANs Trained by a Two Time-Scale
//! Update Rule Converge to a Local Nash Equilibrium", 2017, equation 6).
//!
//! `|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 √(Σ₁ Σ₂))`. With Σ₁ = W₁ W₁ᵀ and Σ₂ = W₂ W₂ᵀ, the eigenvalues of Σ₁ Σ₂ that
//! are not 0 are the squares of the singular values of W₁ᵀ W₂, whose sum is tr √(Σ₁ Σ₂): without a complex or
//! failing matrix root, also where covariances are singular (fewer images than features), and without
//! squares, of which rounding would lose the small ones.

use crate::{MeasureError, Statistics};
use faer::{Mat, MatRef, Side};

/// The distance between the Gaussians with these means and covariances, 0 or more.
///
/// # Errors
/// [`MeasureError::Unlike`] for different numbers of features, [`MeasureError::NotCovariance`] if a matrix is none.
pub fn frechet_distance(first: &Statistics, second: &Statistics) -> Result<f64, MeasureError> {
    let dims = first.dims();
    if dims != second.dims() {
        return Err(MeasureError::Unlike {
            what: "dimensions",
            first: dims.to_string(),
            second: second.dims().to_string(),
            remedy: "compute both with the same --dims",
        });
    }
    let means: f64 = first.mu.iter().zip(&second.mu).map(|(a, b)| (a - b) * (a - b)).sum();
    let trace = |sigma: &[f64]| (0..dims).map(|i| sigma[i * dims + i]).sum::<f64>();
    let root = trace_of_root(dims, &first.sigma, &second.sigma)?;
    let distance = means + trace(&first.sigma) + trace(&second.sigma) - 2.0 * root;
    // Below 0 it is rounding. What is not a number stays one.
    Ok(if distance < 0.0 { 0.0 } else { distance })
}

/// tr √(Σ₁ Σ₂).
fn trace_of_root(dims: usize, first: &[f64], second: &[f64]) -> Result<f64, MeasureError> {
    let first = factor(dims, first, "the first side's covariance")?;
    let second = factor(dims, second, "the second side's covariance")?;
    if first.ncols() == 0 || second.ncols() == 0 {
        return Ok(0.0);
    }
    let product = first.transpose() * &second;
    let what = "the product of the covariances";
    let values = product.singular_values().map_err(|_| MeasureError::NoEigenvalues { what })?;
    Ok(values.iter().sum())
}

/// W of Σ = W Wᵀ, with a column for each eigenvalue that is not 0 up to rounding; `what` the covariance is,
/// for errors.
fn factor(dims: usize, sigma: &[f64], what: &'static str) -> Result<Mat<f64>, MeasureError> {
    let sigma = symmetric(MatRef::from_row_major_slice(sigma, dims, dims));
    let eigen = sigma.self_adjoint_eigen(Side::Lower).map_err(|_| MeasureError::NoEigenvalues { what })?;
    let values: Vec<f64> = (0..dims).map(|i| eigen.S()[i]).collect();
    let floor = rounding(what, &values)?;
    let kept: Vec<usize> = (0..dims).filter(|&i| values[i] > floor).collect();
    let vectors = eigen.U();
    Ok(Mat::from_fn(dims, kept.len(), |row, column| {
        vectors[(row, kept[column])] * values[kept[column]].sqrt()
    }))
}

/// Half the sum with the transpose: what rounding or another program left asymmetric.
fn symmetric(matrix: MatRef<f64>) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| 0.5 * (matrix[(i, j)] + matrix[(j, i)]))
}

/// Up to where eigenvalues of a matrix without negative ones are but rounding.
fn rounding(what: &'static str, values: &[f64]) -> Result<f64, MeasureError> {
    let largest = values.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let least = values.iter().copied().fold(0.0, f64::min);
    if !largest.is_finite() {
        return Err(MeasureError::NoEigenvalues { what });
    }
    // Covariances that were stored in single precision are off by 1e-7 of the largest.
    if least < -1e-5 * largest {
        return Err(MeasureError::NotCovariance { what, least, largest });
    }
    Ok(values.len() as f64 * f64::EPSILON * largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moments::FeatureMoments;
    use engine::random::{Purpose, Stream};

    fn gaussian(mu: &[f64], sigma: Vec<f64>) -> Statistics {
        Statistics { mu: mu.to_vec(), sigma, about: None }
    }

    fn diagonal(values: &[f64]) -> Vec<f64> {
        let dims = values.len();
        (0..dims * dims).map(|k| if k % (dims + 1) == 0 { values[k / (dims + 1)] } else { 0.0 }).collect()
    }

    fn normals(rows: usize, dims: usize, sample: u64) -> Vec<f32> {
        let mut values = vec![0.0; rows * dims];
        Stream::new(5, Purpose::Test, 0, sample).normals(0, &mut values);
        values
    }

    fn of_rows(rows: &[f32], dims: usize) -> Statistics {
        let mut moments = FeatureMoments::new(dims);
        moments.add(rows);
        let (mu, sigma) = moments.finish().unwrap();
        Statistics { mu, sigma, about: None }
    }

    #[test]
    fn commuting_covariances_have_a_closed_form() {
        let (a, b) = ([1.0, 4.0, 0.0, 9.0], [4.0, 1.0, 16.0, 0.0]);
        let first = gaussian(&[0.0, 1.0, 0.0, 0.0], diagonal(&a));
        let second = gaussian(&[2.0, 1.0, 0.0, -1.0], diagonal(&b));
        let roots: f64 = a.iter().zip(&b).map(|(a, b)| (a.sqrt() - b.sqrt()).powi(2)).sum();
        let distance = frechet_distance(&first, &second).unwrap();
        assert!((distance - (5.0 + roots)).abs() < 1e-12, "{distance}");
        assert!((frechet_distance(&second, &first).unwrap() - distance).abs() < 1e-12);
    }

    #[test]
    fn small_eigenvalues_beside_large_ones_count() {
        // Spectra as wide as features': from 12 to 1e-6, and from 10 to 3e-7, in one rotated basis.
        let dims = 200;
        let spectrum = |most: f64, least: f64| -> Vec<f64> {
            (0..dims).map(|i| most * (least / most).powf(i as f64 / (dims - 1) as f64)).collect()
        };
        let (a, b) = (spectrum(12.0, 1e-6), spectrum(10.0, 3e-7));
        let wide: Vec<f64> = normals(dims, dims, 3).iter().map(|&x| f64::from(x)).collect();
        let basis = MatRef::from_row_major_slice(&wide, dims, dims).qr().compute_Q();
        let rotated = |values: &[f64]| -> Vec<f64> {
            let scaled = Mat::from_fn(dims, dims, |i, j| basis[(i, j)] * values[j]);
            let sigma = &scaled * basis.transpose();
            (0..dims * dims).map(|k| sigma[(k / dims, k % dims)]).collect()
        };
        let zeros = vec![0.0; dims];
        let (first, second) = (gaussian(&zeros, rotated(&a)), gaussian(&zeros, rotated(&b)));
        let expected: f64 = a.iter().zip(&b).map(|(a, b)| (a.sqrt() - b.sqrt()).powi(2)).sum();
        let distance = frechet_distance(&first, &second).unwrap();
        assert!((distance - expected).abs() < 1e-10, "{distance} {expected}");
        assert!(frechet_distance(&first, &first).unwrap().abs() < 1e-10);
    }

    /// Rounding would make some of them -0.0000.
    #[test]
    fn equal_sets_are_at_no_distance_and_none_below() {
        for sample in 0..20 {
            let set = of_rows(&normals(50, 20, sample), 20);
            let distance = frechet_distance(&set, &set).unwrap();
            assert!(distance.is_sign_positive() && distance < 1e-10, "{sample}: {distance}");
        }
    }

    #[test]
    fn two_dimensions_have_a_closed_form() {
        // tr √M = √(tr M + 2 √det M) for 2×2.
        let (a, b) = ([2.0, 0.7, 0.7, 1.0], [1.0, -0.3, -0.3, 3.0]);
        let trace = a[0] * b[0] + 2.0 * a[1] * b[1] + a[3] * b[3];
        let det = |m: [f64; 4]| m[0] * m[3] - m[1] * m[2];
        let root = (trace + 2.0 * (det(a) * det(b)).sqrt()).sqrt();
        let expected = a[0] + a[3] + b[0] + b[3] - 2.0 * root;
        let distance =
            frechet_distance(&gaussian(&[0.0; 2], a.to_vec()), &gaussian(&[0.0; 2], b.to_vec())).unwrap();
        assert!((distance - expected).abs() < 1e-12, "{distance} {expected}");
    }

    #[test]
    fn fewer_images_than_features_are_no_difficulty() {
        // 12 images of 60 features; doubling all deviations gives |μ|² + tr Σ (2 - 1)².
        let dims = 60;
        let rows = normals(12, dims, 0);
        let first = of_rows(&rows, dims);
        assert!(frechet_distance(&first, &first).unwrap().abs() < 1e-9);
        let doubled: Vec<f32> = rows.iter().map(|value| 2.0 * value).collect();
        let second = of_rows(&doubled, dims);
        let means: f64 = first.mu.iter().map(|mu| mu * mu).sum();
        let trace: f64 = (0..dims).map(|i| first.sigma[i * dims + i]).sum();
        let distance = frechet_distance(&first, &second).unwrap();
        assert!((distance / (means + trace) - 1.0).abs() < 1e-6, "{distance} {}", means + trace);
        // Spaces that do not meet: the covariances' product is 0.
        let mut apart = vec![0.0; 12 * dims];
        for (row, values) in apart.chunks_exact_mut(dims).enumerate() {
            values[..dims / 2].copy_from_slice(&rows[row * dims..][..dims / 2]);
        }
        let mut beside = vec![0.0; 12 * dims];
        for (row, values) in beside.chunks_exact_mut(dims).enumerate() {
            values[dims / 2..].copy_from_slice(&rows[row * dims..][..dims / 2]);
        }
        let (first, second) = (of_rows(&apart, dims), of_rows(&beside, dims));
        let expected: f64 = [&first, &second]
            .iter()
            .map(|s| {
                s.mu.iter().map(|mu| mu * mu).sum::<f64>()
                    + (0..dims).map(|i| s.sigma[i * dims + i]).sum::<f64>()
            })
            .sum();
        let distance = frechet_distance(&first, &second).unwrap();
        assert!((distance / expected - 1.0).abs() < 1e-9, "{distance} {expected}");
    }

    #[test]
    fn what_has_no_distance_is_an_error() {
        let two = gaussian(&[0.0; 2], diagonal(&[1.0, 1.0]));
        let three = gaussian(&[0.0; 3], diagonal(&[1.0; 3]));
        let text = frechet_distance(&two, &three).unwrap_err().to_string();
        assert!(text.contains("dimensions: 2 and 3"), "{text}");
        let negative = gaussian(&[0.0; 2], diagonal(&[1.0, -0.5]));
        for (first, second) in [(&negative, &two), (&two, &negative)] {
            let error = frechet_distance(first, second).unwrap_err();
            assert!(matches!(error, MeasureError::NotCovariance { .. }), "{error}");
        }
    }
}
