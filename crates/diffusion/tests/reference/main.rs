//! Every part of the method against an independent implementation in float64 (`tools/diffusion_fixtures.py`).

mod bound;
mod decoder;
mod fixture;
mod sampling;
mod solvers;
mod tables;
mod toy_denoiser;
mod training;

/// Fails unless every number of `found` is within `tolerance` of `expected`, relative where that exceeds 1.
#[track_caller]
fn assert_close<T: Copy + Into<f64>>(what: &str, found: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let found: f64 = found.into();
        let error = (found - expected).abs();
        assert!(
            error <= tolerance * expected.abs().max(1.0),
            "{what} [{i}]: {found} instead of {expected}, off by {error:e}"
        );
    }
}
