//! One dimension of a bound's term, with its derivatives: the divergence of two Gaussians, and the discretised
//! Gaussian decoder (§3.3, eq. 13).

use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

use serde::{Deserialize, Serialize};

/// Half the distance of two values of an 8-bit image scaled to [-1, 1].
const HALF_BIN: f64 = 1.0 / 255.0;
/// Beyond ± this, a pixel is black or white, and its bin reaches to infinity.
const EDGE: f64 = 0.999;
/// Probabilities are not taken to be less than this.
const MIN_PROBABILITY: f64 = 1e-12;

/// A number that depends on the mean and the log variance of a Gaussian p, in nats.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GaussianTerm {
    /// The number.
    pub value: f64,
    /// Its derivative by p's mean.
    pub by_mean: f64,
    /// Its derivative by p's log variance.
    pub by_log_variance: f64,
}

/// D_KL(q || p) of one-dimensional Gaussians given by mean and log variance, in nats.
pub fn normal_kl(q_mean: f64, q_log_variance: f64, p_mean: f64, p_log_variance: f64) -> GaussianTerm {
    let precision = libm::exp(-p_log_variance);
    let difference = q_mean - p_mean;
    let variance_ratio = libm::exp(q_log_variance - p_log_variance);
    let square = difference * difference * precision;
    GaussianTerm {
        value: 0.5 * (p_log_variance - q_log_variance - 1.0 + variance_ratio + square),
        by_mean: -difference * precision,
        by_log_variance: 0.5 * (1.0 - variance_ratio - square),
    }
}

/// The cumulative distribution function that the decoder integrates with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormalCdf {
    /// ½(1 + tanh(√(2/π)(z + 0.044715 z³))), the original code's approximation: published figures use it.
    #[default]
    Tanh,
    /// ½(1 + erf(z/√2)), exact.
    Erf,
}

const TANH_CUBIC: f64 = 0.044715;

impl NormalCdf {
    /// Probability of a value below `z`, precise also where it is tiny.
    pub fn cdf(self, z: f64) -> f64 {
        match self {
            // ½(1 + tanh u) = 1/(1 + exp(-2u)), which does not cancel for u ≪ 0.
            Self::Tanh => {
                1.0 / (1.0 + libm::exp(-2.0 * FRAC_2_SQRT_PI / SQRT_2 * (z + TANH_CUBIC * z * z * z)))
            }
            Self::Erf => 0.5 * libm::erfc(-z / SQRT_2),
        }
    }

    /// The derivative of [`Self::cdf`].
    pub fn density(self, z: f64) -> f64 {
        match self {
            Self::Tanh => {
                let below = self.cdf(z);
                let product = below * self.cdf(-z);
                // So far out that z² may overflow.
                if product == 0.0 {
                    return 0.0;
                }
                product * (2.0 * FRAC_2_SQRT_PI / SQRT_2) * (1.0 + 3.0 * TANH_CUBIC * z * z)
            }
            Self::Erf => FRAC_2_SQRT_PI / (2.0 * SQRT_2) * libm::exp(-0.5 * z * z),
        }
    }
}

/// -log p(x_0 | x_1) of the discretised Gaussian decoder (eq. 13), in nats: the probability that N(mean, σ²) gives to
/// the bin of `x`, ±1/255 around it, open to -∞ for black (x < -0.999) and to +∞ for white (x > 0.999).
pub fn decoder_nll(x: f64, mean: f64, log_variance: f64, cdf: NormalCdf) -> GaussianTerm {
    let inverse_sigma = libm::exp(-0.5 * log_variance);
    let lower = if x < -EDGE { f64::NEG_INFINITY } else { (x - HALF_BIN - mean) * inverse_sigma };
    let upper = if x > EDGE { f64::INFINITY } else { (x + HALF_BIN - mean) * inverse_sigma };
    // Above the mean, the mirrored bin: differences of small numbers instead of numbers close to 1.
    let probability =
        if lower + upper > 0.0 { cdf.cdf(-lower) - cdf.cdf(-upper) } else { cdf.cdf(upper) - cdf.cdf(lower) };
    if probability < MIN_PROBABILITY {
        return GaussianTerm { value: -libm::log(MIN_PROBABILITY), by_mean: 0.0, by_log_variance: 0.0 };
    }
    let (density_upper, density_lower) = (cdf.density(upper), cdf.density(lower));
    // At an open end, and for a tiny σ, the density's 0 meets an infinite factor, and wins.
    let times = |density: f64, factor: f64| if density == 0.0 { 0.0 } else { density * factor };
    GaussianTerm {
        value: -libm::log(probability),
        // ∂z/∂mean = -1/σ and ∂z/∂log σ² = -z/2 at both ends of the bin.
        by_mean: times(density_upper - density_lower, inverse_sigma) / probability,
        by_log_variance: 0.5 * (times(density_upper, upper) - times(density_lower, lower)) / probability,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [NormalCdf; 2] = [NormalCdf::Tanh, NormalCdf::Erf];

    fn assert_close(a: f64, b: f64, relative: f64) {
        assert!((a - b).abs() <= relative * a.abs().max(b.abs()).max(1e-3), "{a} {b}");
    }

    fn check_derivatives(term: impl Fn(f64, f64) -> GaussianTerm, mean: f64, log_variance: f64) {
        let h = 1e-5;
        let sigma = libm::exp(0.5 * log_variance);
        let GaussianTerm { by_mean, by_log_variance, .. } = term(mean, log_variance);
        let change = term(mean + h * sigma, log_variance).value - term(mean - h * sigma, log_variance).value;
        assert_close(by_mean * sigma, change / (2.0 * h), 1e-6);
        let change = term(mean, log_variance + h).value - term(mean, log_variance - h).value;
        assert_close(by_log_variance, change / (2.0 * h), 1e-6);
    }

    #[test]
    fn divergence_is_zero_only_for_equal_gaussians() {
        let same = normal_kl(0.3, -2.0, 0.3, -2.0);
        assert_eq!((same.value, same.by_mean, same.by_log_variance), (0.0, 0.0, 0.0));
        // D(N(1, 1) || N(0, 4)) = ½(ln 4 - 1 + ¼ + ¼).
        assert_close(normal_kl(1.0, 0.0, 0.0, 4.0f64.ln()).value, 0.5 * (4.0f64.ln() - 0.5), 1e-15);
    }

    #[test]
    fn derivatives_of_the_divergence() {
        for (mean, log_variance) in [(0.0, 0.0), (0.5, -3.0), (-0.2, 1.5)] {
            check_derivatives(|m, v| normal_kl(0.1, -1.0, m, v), mean, log_variance);
        }
    }

    #[test]
    fn derivatives_of_the_decoder() {
        for cdf in BOTH {
            for x in [-1.0, -0.5, 0.0, 1.0] {
                for (offset, log_variance) in
                    [(0.0, -9.0), (0.02, -9.0), (-0.03, -8.0), (0.3, -2.0), (0.003, -14.0)]
                {
                    check_derivatives(|m, v| decoder_nll(x, m, v, cdf), x + offset, log_variance);
                }
            }
        }
    }

    #[test]
    fn the_256_bins_make_a_distribution() {
        for cdf in BOTH {
            for (mean, log_variance) in [(0.0, -2.0), (0.97, -6.0), (-3.0, 0.0)] {
                let total: f64 = (0..256)
                    .map(|v| {
                        libm::exp(-decoder_nll(f64::from(v) / 127.5 - 1.0, mean, log_variance, cdf).value)
                    })
                    .sum();
                assert_close(total, 1.0, 1e-9);
            }
        }
    }

    #[test]
    fn both_sides_of_the_mean_are_equally_precise() {
        for cdf in BOTH {
            // 6.4 standard deviations away, a probability of about 1e-10.
            let (below, above) = (decoder_nll(0.0, 0.5, -5.1, cdf), decoder_nll(0.0, -0.5, -5.1, cdf));
            assert_close(below.value, above.value, 1e-14);
            assert_close(below.by_mean, -above.by_mean, 1e-12);
            assert_close(below.by_log_variance, above.by_log_variance, 1e-12);
        }
    }

    #[test]
    fn the_approximation_is_close_to_the_exact_function_and_density_is_its_derivative() {
        for i in -60..=60 {
            let z = f64::from(i) / 10.0;
            assert!((NormalCdf::Tanh.cdf(z) - NormalCdf::Erf.cdf(z)).abs() < 4e-4);
            for cdf in BOTH {
                let numeric = (cdf.cdf(z + 1e-5) - cdf.cdf(z - 1e-5)) / 2e-5;
                assert!((cdf.density(z) - numeric).abs() < 1e-9, "{cdf:?} {z}");
            }
        }
    }

    #[test]
    fn far_from_the_mean_the_floor_holds_and_nothing_is_nan() {
        for cdf in BOTH {
            let far = decoder_nll(0.5, -0.5, -12.0, cdf);
            assert_eq!(far, GaussianTerm { value: -libm::log(1e-12), by_mean: 0.0, by_log_variance: 0.0 });
            for log_variance in [-2000.0, -900.0, -100.0, 100.0, 900.0] {
                for x in [-1.0, 0.0, 1.0] {
                    let term = decoder_nll(x, x, log_variance, cdf);
                    assert!(
                        term.value.is_finite() && term.by_mean.is_finite(),
                        "{x} {log_variance} {term:?}"
                    );
                    assert!(term.by_log_variance.is_finite(), "{x} {log_variance} {term:?}");
                }
            }
        }
    }
}
