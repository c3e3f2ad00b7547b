//! How far x̂0 is from x_0 on the average, as it depends on the signal-to-noise ratio of x_t: what both sides
//! plan the coded steps from. Carried in the file, as a few corrections to a curve that suits natural images.

use libm::{exp2, log2};

/// log₂ of the signal-to-noise ratios at which the curve is given; straight lines between them.
pub(crate) const KNOTS: [f64; 6] = [-9.0, -5.0, -2.0, 2.0, 6.0, 12.0];
/// log₂ of the squared error of a number on the [-1, 1] scale at each knot, with no correction.
const USUAL: [f64; 6] = [-1.5, -1.75, -2.75, -5.0, -7.5, -12.5];
/// Corrections are multiples of this, in log₂.
const STEP: f64 = 0.5;
/// The correction of the least code.
const LOWEST: f64 = -4.0;
/// Codes of a correction.
const CODES: u8 = 16;

/// Mean squared error of x̂0, a number, at any signal-to-noise ratio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ErrorCurve {
    codes: [u8; KNOTS.len()],
}

impl ErrorCurve {
    /// The curve nearest to `errors`, one for each of [`KNOTS`].
    pub fn nearest(errors: [f64; KNOTS.len()]) -> Self {
        let code = |k: usize| {
            let correction = log2(errors[k].max(1e-9)) - USUAL[k];
            ((correction - LOWEST) / STEP).round().clamp(0.0, f64::from(CODES - 1)) as u8
        };
        Self { codes: std::array::from_fn(code) }
    }

    /// Mean squared error at the signal-to-noise ratio `snr`.
    pub fn at(&self, snr: f64) -> f64 {
        let x = log2(snr).clamp(KNOTS[0], KNOTS[KNOTS.len() - 1]);
        let right = KNOTS[1..].iter().position(|&knot| x <= knot).map_or(KNOTS.len() - 1, |index| index + 1);
        let value = |k: usize| USUAL[k] + LOWEST + STEP * f64::from(self.codes[k]);
        let along = (x - KNOTS[right - 1]) / (KNOTS[right] - KNOTS[right - 1]);
        exp2(value(right - 1) + along * (value(right) - value(right - 1)))
    }

    /// In three bytes, the first knot in the low half of the first.
    pub fn to_bytes(self) -> [u8; 3] {
        std::array::from_fn(|byte| self.codes[2 * byte] | self.codes[2 * byte + 1] << 4)
    }

    /// The inverse of [`Self::to_bytes`]; any bytes are a curve.
    pub fn from_bytes(bytes: [u8; 3]) -> Self {
        Self { codes: std::array::from_fn(|k| bytes[k / 2] >> (4 * (k % 2)) & 15) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_at_the_knots_are_kept_to_half_a_step_and_survive_the_bytes() {
        let errors = [0.4, 0.31, 0.2, 0.02, 0.006, 0.0001];
        let curve = ErrorCurve::nearest(errors);
        for (knot, error) in KNOTS.iter().zip(errors) {
            let ratio = log2(curve.at(exp2(*knot)) / error);
            assert!(ratio.abs() <= 0.5 * STEP + 1e-9, "{knot} {ratio}");
        }
        assert_eq!(ErrorCurve::from_bytes(curve.to_bytes()), curve);
        // Between knots, in between; beyond them, as at the last.
        assert!(curve.at(1.0) < curve.at(0.25) && curve.at(1.0) > curve.at(4.0));
        assert_eq!(curve.at(1e9), curve.at(exp2(12.0)));
    }
}
