//! The Kernel Inception Distance (Bińkowski et al., "Demystifying MMD GANs", 2018): the squared maximum mean
//! discrepancy between two sets of features under the kernel (x·y / d + 1)³, estimated without bias on random
//! subsets.

use crate::MeasureError;
use engine::random::{Purpose, Stream};
use faer::{Mat, MatRef};
use rayon::prelude::*;

/// How the distance is estimated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KidOptions {
    /// Number of subsets.
    pub subsets: usize,
    /// Images of each set in a subset, at least 2; fewer where a set has fewer.
    pub subset_size: usize,
    /// Decides the subsets.
    pub seed: u64,
}

impl Default for KidOptions {
    fn default() -> Self {
        Self { subsets: 100, subset_size: 1000, seed: 0 }
    }
}

/// A distance; may be below 0, being without bias.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Kid {
    /// Mean over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets.
    pub std: f64,
    /// Number of subsets; 1 where a subset is all images of both sets.
    pub subsets: usize,
    /// Images of each set in a subset.
    pub subset_size: usize,
}

/// The distance between two sets of rows `[n, dims]`.
///
/// # Errors
/// [`MeasureError::TooFew`] if a set or a subset has fewer than 2 rows, or there is no subset.
pub fn kernel_distance(
    first: &[f32],
    second: &[f32],
    dims: usize,
    options: &KidOptions,
) -> Result<Kid, MeasureError> {
    let (rows, other_rows) = (first.len() / dims, second.len() / dims);
    let size = options.subset_size.min(rows).min(other_rows);
    if size < 2 || options.subsets == 0 {
        let images = size.min(options.subsets) as u64;
        return Err(MeasureError::TooFew { what: "a subset for KID".into(), images, needed: 2 });
    }
    let distance = |subset: usize| {
        let x = gather(first, dims, &choose(rows, size, options.seed, subset, 0));
        let y = gather(second, dims, &choose(other_rows, size, options.seed, subset, 1));
        squared_discrepancy(&x, &y, size, dims)
    };
    let subsets = if size == rows && size == other_rows { 1 } else { options.subsets };
    let distances: Vec<f64> = (0..subsets).into_par_iter().map(distance).collect();
    let n = distances.len() as f64;
    let mean = distances.iter().sum::<f64>() / n;
    let variance = distances.iter().map(|distance| (distance - mean).powi(2)).sum::<f64>() / n;
    Ok(Kid { mean, std: variance.sqrt(), subsets, subset_size: size })
}

/// `size` different numbers below `count`, in random order.
fn choose(count: usize, size: usize, seed: u64, subset: usize, set: u64) -> Vec<usize> {
    let stream = Stream::new(seed, Purpose::Shuffle, subset as u32, set);
    let mut numbers: Vec<usize> = (0..count).collect();
    for place in 0..size {
        let other = place + stream.below(place as u32, (count - place) as u64) as usize;
        numbers.swap(place, other);
    }
    numbers.truncate(size);
    numbers
}

fn gather(rows: &[f32], dims: usize, numbers: &[usize]) -> Vec<f64> {
    numbers.iter().flat_map(|&row| rows[row * dims..][..dims].iter().map(|&value| f64::from(value))).collect()
}

/// Σ_{i≠j} k(x_i, x_j) / m(m-1) + the same of y - 2 Σ_{ij} k(x_i, y_j) / m².
fn squared_discrepancy(x: &[f64], y: &[f64], size: usize, dims: usize) -> f64 {
    let x = MatRef::from_row_major_slice(x, size, dims);
    let y = MatRef::from_row_major_slice(y, size, dims);
    let kernel = |product: f64| (product / dims as f64 + 1.0).powi(3);
    let sum = |products: &Mat<f64>, with_diagonal: bool| -> f64 {
        let column = |j: usize| {
            let others = (0..size).filter(|&i| with_diagonal || i != j);
            others.map(|i| kernel(products[(i, j)])).sum::<f64>()
        };
        (0..size).map(column).sum()
    };
    let (m, pairs) = (size as f64, (size * (size - 1)) as f64);
    let within = sum(&(x * x.transpose()), false) + sum(&(y * y.transpose()), false);
    within / pairs - 2.0 * sum(&(x * y.transpose()), true) / (m * m)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normals(rows: usize, dims: usize, sample: u64, shift: f32) -> Vec<f32> {
        let mut values = vec![0.0; rows * dims];
        Stream::new(9, Purpose::Test, 0, sample).normals(0, &mut values);
        values.iter_mut().for_each(|value| *value += shift);
        values
    }

    #[test]
    fn subsets_are_drawn_without_repetition() {
        let mut seen = vec![0; 50];
        for subset in 0..200 {
            let mut numbers = choose(50, 10, 3, subset, 0);
            numbers.iter().for_each(|&number| seen[number] += 1);
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), 10);
        }
        // 40 expected, deviation 5.7.
        assert!(seen.iter().all(|&count| (15..70).contains(&count)), "{seen:?}");
        assert_ne!(choose(50, 10, 3, 0, 0), choose(50, 10, 3, 0, 1));
    }

    #[test]
    fn a_small_case_by_hand() {
        // One dimension, x = {0, 1}, y = {2, 3}: k(a, b) = (ab + 1)³.
        let options = KidOptions { subsets: 3, subset_size: 1000, seed: 0 };
        let kid = kernel_distance(&[0.0, 1.0], &[2.0, 3.0], 1, &options).unwrap();
        let expected = 1.0 + 343.0 - 2.0 * (1.0 + 1.0 + 27.0 + 64.0) / 4.0;
        assert!((kid.mean - expected).abs() < 1e-9 && kid.std < 1e-9, "{kid:?}");
        assert_eq!((kid.subsets, kid.subset_size), (1, 2));
    }

    #[test]
    fn like_sets_are_near_zero_and_unlike_ones_are_not() {
        let dims = 16;
        let options = KidOptions { subsets: 20, subset_size: 200, seed: 1 };
        let reference = normals(600, dims, 0, 0.0);
        let like = kernel_distance(&normals(500, dims, 1, 0.0), &reference, dims, &options).unwrap();
        assert!(like.mean.abs() < 0.02, "{like:?}");
        let unlike = kernel_distance(&normals(500, dims, 1, 0.5), &reference, dims, &options).unwrap();
        assert!(unlike.mean > 0.2, "{unlike:?}");
        assert_eq!(unlike, kernel_distance(&normals(500, dims, 1, 0.5), &reference, dims, &options).unwrap());
    }

    #[test]
    fn a_subset_needs_two() {
        let options = KidOptions::default();
        assert!(kernel_distance(&[0.0], &[1.0, 2.0], 1, &options).is_err());
    }
}
