//! Mean and covariance of features, streamed: memory does not grow with the number of images.

use rayon::prelude::*;

/// Rows summed in one pass over the sums, which are read and written once for all of them.
const GROUP: usize = 8;
/// Rows of the matrix of products that one task owns.
const STRIP: usize = 16;

/// Σ x and Σ x xᵀ over rows of features, in double precision. Each element is one sum over the rows in their
/// order, so the result is the same for any number of threads and any split into batches.
#[derive(Clone, PartialEq, Debug)]
pub struct FeatureMoments {
    dims: usize,
    count: u64,
    sums: Vec<f64>,
    /// Row i holds the products x_i x_j for j ≥ i.
    products: Vec<f64>,
    /// Rows that do not fill a group yet, in double precision.
    waiting: Vec<f64>,
}

impl FeatureMoments {
    /// Of no row, with `dims` features.
    pub fn new(dims: usize) -> Self {
        let (sums, products) = (vec![0.0; dims], vec![0.0; dims * dims]);
        Self { dims, count: 0, sums, products, waiting: Vec::with_capacity(GROUP * dims) }
    }

    /// Rows added so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds `rows` `[n, dims]`.
    ///
    /// # Panics
    /// If they are not a whole number of rows.
    pub fn add(&mut self, rows: &[f32]) {
        assert!(rows.len().is_multiple_of(self.dims));
        for row in rows.chunks_exact(self.dims) {
            self.count += 1;
            for (sum, &value) in self.sums.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
            self.waiting.extend(row.iter().map(|&value| f64::from(value)));
            if self.waiting.len() == GROUP * self.dims {
                self.add_products();
            }
        }
    }

    fn add_products(&mut self) {
        let Self { dims, products, waiting, .. } = self;
        let dims = *dims;
        products.par_chunks_mut(STRIP * dims).enumerate().for_each(|(strip, products)| {
            for (offset, products) in products.chunks_exact_mut(dims).enumerate() {
                add_products_of(strip * STRIP + offset, waiting, products);
            }
        });
        waiting.clear();
    }

    /// The mean and the unbiased covariance (divided by n - 1); `None` of fewer than two rows.
    pub fn finish(mut self) -> Option<(Vec<f64>, Vec<f64>)> {
        if self.count < 2 {
            return None;
        }
        if !self.waiting.is_empty() {
            self.add_products();
        }
        let (dims, n) = (self.dims, self.count as f64);
        let mean: Vec<f64> = self.sums.iter().map(|sum| sum / n).collect();
        let mut covariance = self.products;
        for i in 0..dims {
            for j in i..dims {
                let value = (covariance[i * dims + j] - self.sums[i] * mean[j]) / (n - 1.0);
                covariance[i * dims + j] = value;
                covariance[j * dims + i] = value;
            }
        }
        Some((mean, covariance))
    }
}

/// Adds `x_i x_j` of every row of `rows`, one after the other, to `products[j]` for j ≥ i.
fn add_products_of(i: usize, rows: &[f64], products: &mut [f64]) {
    let dims = products.len();
    let products = &mut products[i..];
    let row = |k: usize| &rows[k * dims + i..(k + 1) * dims];
    if rows.len() == GROUP * dims {
        let all: [&[f64]; GROUP] = std::array::from_fn(row);
        let factors = all.map(|row| row[0]);
        for (j, product) in products.iter_mut().enumerate() {
            let mut sum = *product;
            for k in 0..GROUP {
                sum += factors[k] * all[k][j];
            }
            *product = sum;
        }
        return;
    }
    for k in 0..rows.len() / dims {
        let row = row(k);
        for (product, &value) in products.iter_mut().zip(row) {
            *product += row[0] * value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::random::{Purpose, Stream};

    fn rows(count: usize, dims: usize) -> Vec<f32> {
        let mut values = vec![0.0; count * dims];
        Stream::new(3, Purpose::Test, 0, 0).normals(0, &mut values);
        values.iter_mut().enumerate().for_each(|(i, value)| *value += (i % dims) as f32);
        values
    }

    fn of(rows: &[f32], dims: usize, batches: &[usize]) -> (Vec<f64>, Vec<f64>) {
        let mut moments = FeatureMoments::new(dims);
        let mut left = rows;
        for &batch in batches.iter().cycle() {
            if left.is_empty() {
                break;
            }
            let (now, rest) = left.split_at((batch * dims).min(left.len()));
            moments.add(now);
            left = rest;
        }
        moments.finish().unwrap()
    }

    #[test]
    fn they_are_the_mean_and_the_covariance() {
        let (count, dims) = (203, 37);
        let rows = rows(count, dims);
        let (mean, covariance) = of(&rows, dims, &[50]);
        let at = |row: usize, i: usize| f64::from(rows[row * dims + i]);
        for i in 0..dims {
            let expected = (0..count).map(|row| at(row, i)).sum::<f64>() / count as f64;
            assert!((mean[i] - expected).abs() < 1e-12);
            for j in 0..dims {
                let products = (0..count).map(|row| (at(row, i) - mean[i]) * (at(row, j) - mean[j]));
                let expected = products.sum::<f64>() / (count - 1) as f64;
                assert!((covariance[i * dims + j] - expected).abs() < 1e-11, "{i} {j}");
            }
        }
    }

    #[test]
    fn batches_and_threads_do_not_change_a_bit() {
        let (count, dims) = (71, 40);
        let rows = rows(count, dims);
        let reference = of(&rows, dims, &[count]);
        for batches in [&[1][..], &[3, 8, 5], &[16]] {
            assert!(of(&rows, dims, batches) == reference);
        }
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert!(one.install(|| of(&rows, dims, &[9])) == reference);
    }

    #[test]
    fn one_row_has_no_covariance() {
        let mut moments = FeatureMoments::new(2);
        moments.add(&[1.0, 2.0]);
        assert_eq!(moments.finish(), None);
    }
}
