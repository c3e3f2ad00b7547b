//! The discretised Gaussian decoder.

use diffusion::NormalCdf;
use diffusion::gaussian::decoder_nll;

use crate::fixture;

#[test]
fn both_decoders() {
    let rows = fixture::load().decoder;
    assert!(rows.len() >= 60);
    for [x, mean, log_variance, tanh, erf] in rows {
        for (cdf, expected) in [(NormalCdf::Tanh, tanh), (NormalCdf::Erf, erf)] {
            let found = decoder_nll(x, mean, log_variance, cdf).value;
            // The published tanh formula, in float64, is good to 1e-10 of these probabilities.
            assert!(
                (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
                "{cdf:?}({x}, {mean}, {log_variance}) is {found} instead of {expected}"
            );
        }
    }
}
