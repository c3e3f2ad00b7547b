//! Distances between all rows of two sets of features, in blocks: memory grows with neither product.

use faer::{Accum, Mat, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

/// Rows on each side of a block of distances.
const BLOCK: usize = 256;

/// For each of `queries` `[n, dims]`: `start()`, to which `visit` adds every reference's number and squared
/// distance, in order.
pub(crate) fn fold_distances<A: Send>(
    queries: &[f32],
    references: &[f32],
    dims: usize,
    start: impl Fn() -> A + Sync,
    visit: impl Fn(&mut A, usize, f64) + Sync,
) -> Vec<A> {
    let block_of = |rows: &[f32]| {
        let values: Vec<f64> = rows.iter().map(|&value| f64::from(value)).collect();
        let norms: Vec<f64> =
            values.chunks_exact(dims).map(|row| row.iter().map(|value| value * value).sum()).collect();
        (values, norms)
    };
    let blocks = queries.par_chunks(BLOCK * dims).map(|queries| {
        let (queries, query_norms) = block_of(queries);
        let queries = MatRef::from_row_major_slice(&queries, query_norms.len(), dims);
        let mut results: Vec<A> = query_norms.iter().map(|_| start()).collect();
        let mut products = Mat::zeros(BLOCK, query_norms.len());
        for (block, references) in references.chunks(BLOCK * dims).enumerate() {
            let (references, norms) = block_of(references);
            let references = MatRef::from_row_major_slice(&references, norms.len(), dims);
            let mut products = products.as_mut().subrows_mut(0, norms.len());
            matmul(products.as_mut(), Accum::Replace, references, queries.transpose(), 1.0, Par::Seq);
            for (query, result) in results.iter_mut().enumerate() {
                for (reference, norm) in norms.iter().enumerate() {
                    let squared = query_norms[query] + norm - 2.0 * products[(reference, query)];
                    visit(result, block * BLOCK + reference, squared.max(0.0));
                }
            }
        }
        results
    });
    blocks.flatten_iter().collect()
}

/// The `k` least distances seen, with the number of the reference each is to; of equal ones the first seen.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Nearest {
    k: usize,
    found: Vec<(f64, usize)>,
}

impl Nearest {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(k + 1) }
    }

    pub(crate) fn add(&mut self, reference: usize, squared: f64) {
        if self.found.len() == self.k && self.found.last().is_some_and(|&(most, _)| squared >= most) {
            return;
        }
        let place = self.found.partition_point(|&(distance, _)| distance <= squared);
        self.found.insert(place, (squared, reference));
        self.found.truncate(self.k);
    }

    /// Squared distances and references, the nearest first.
    pub(crate) fn found(&self) -> &[(f64, usize)] {
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::random::{Purpose, Stream};

    #[test]
    fn every_pair_is_visited_once_with_its_distance() {
        let dims = 5;
        let mut values = vec![0.0; (300 + 520) * dims];
        Stream::new(1, Purpose::Test, 0, 0).normals(0, &mut values);
        let (queries, references) = values.split_at(300 * dims);
        let all = fold_distances(queries, references, dims, Vec::new, |seen, reference, squared| {
            seen.push((reference, squared));
        });
        assert_eq!(all.len(), 300);
        for (query, seen) in queries.chunks_exact(dims).zip(all) {
            assert_eq!(seen.len(), 520);
            for (index, (reference, squared)) in seen.into_iter().enumerate() {
                assert_eq!(index, reference);
                let row = &references[reference * dims..][..dims];
                let exact: f64 =
                    query.iter().zip(row).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
                assert!((squared - exact).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_nearest_are_kept_in_order() {
        let mut nearest = Nearest::new(3);
        for (reference, squared) in [5.0, 1.0, 4.0, 1.0, 0.5, 9.0].into_iter().enumerate() {
            nearest.add(reference, squared);
        }
        assert_eq!(nearest.found(), [(0.5, 4), (1.0, 1), (1.0, 3)]);
    }
}
