//! The training images nearest to samples in feature space: whether a model remembers or invents (the paper's
//! appendix shows them).

use crate::MeasureError;
use crate::distances::{Nearest, fold_distances};

/// A reference image near a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Neighbour {
    /// Its row among the references.
    pub reference: usize,
    /// The Euclidean distance of the features.
    pub distance: f64,
}

/// For each of `samples` `[n, dims]` the `k` nearest of `references`, the nearest first.
///
/// # Errors
/// [`MeasureError::TooFew`] if there are not `k` references.
pub fn nearest(
    samples: &[f32],
    references: &[f32],
    dims: usize,
    k: usize,
) -> Result<Vec<Vec<Neighbour>>, MeasureError> {
    let images = (references.len() / dims) as u64;
    if images < k as u64 {
        return Err(MeasureError::TooFew { what: format!("{k} neighbours"), images, needed: k as u64 });
    }
    let found = fold_distances(samples, references, dims, || Nearest::new(k), Nearest::add);
    let neighbour = |&(squared, reference): &(f64, usize)| Neighbour { reference, distance: squared.sqrt() };
    Ok(found.iter().map(|nearest| nearest.found().iter().map(neighbour).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first() {
        let references = [0.0, 0.0, 3.0, 4.0, 1.0, 0.0];
        let found = nearest(&[0.0, 0.0, 3.0, 3.0], &references, 2, 2).unwrap();
        let numbers: Vec<Vec<usize>> =
            found.iter().map(|row| row.iter().map(|neighbour| neighbour.reference).collect()).collect();
        assert_eq!(numbers, [[0, 2], [1, 2]]);
        assert_eq!(found[0][1].distance, 1.0);
        assert!(nearest(&[0.0, 0.0], &references, 2, 4).unwrap_err().to_string().contains("3 images, but 4"));
    }
}
