//! Elementary functions and sums whose bits are the same at every vector width.
//!
//! They are branch-free, so that the compiler vectorises loops over them; sums use a fixed number of virtual lanes.

/// eˣ within 1.5 units in the last place; 0 below -87.3, NaN for NaN, saturating at e^88.3 above.
///
/// Cody–Waite reduction by ln 2 and a polynomial of degree 6 on ±ln 2 / 2 (Taylor's, minimax-adjusted in the
/// last terms).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOW: f32 = -87.336_54;
    const HIGH: f32 = 88.376_26;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 · 2²³ rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons that are false for NaN keep it.
    let clamped = if x > HIGH { HIGH } else { x };
    let clamped = if clamped < LOW { LOW } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_HIGH, clamped);
    let r = n.mul_add(-LN2_LOW, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 0.166_666_66);
    p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r) + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < LOW { 0.0 } else { p * scale }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Virtual lanes of a sum, whatever the vector's real width.
pub(crate) const LANES: usize = 16;

/// Σ f(index), for `index` in `0..len`: lane l takes the indices ≡ l (mod 16) in order, then the lanes are
/// folded in halves.
#[inline(always)]
pub(crate) fn lane_sum(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
        start += LANES;
    }
    for (lane, sum) in lanes.iter_mut().enumerate().take(len - whole) {
        *sum += f(whole + lane);
    }
    fold(lanes, |a, b| a + b)
}

/// The largest element; -∞ for none. NaN is passed over (what is computed from the elements shows it).
#[inline(always)]
pub(crate) fn lane_max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = values.chunks_exact(LANES);
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    for chunk in &mut chunks {
        for (max, &value) in lanes.iter_mut().zip(chunk) {
            *max = larger(*max, value);
        }
    }
    for (max, &value) in lanes.iter_mut().zip(chunks.remainder()) {
        *max = larger(*max, value);
    }
    fold(lanes, larger)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Level;

    #[test]
    fn exp_is_accurate_and_keeps_the_special_values() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 1.5e-7, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(1000.0) > 1e38);
    }

    #[test]
    fn every_level_has_the_same_bits() {
        let inputs: Vec<f32> = (0..10_000).map(|i| (i as f32 - 5000.0) * 0.0137).collect();
        let run = |level: Level| {
            let mut out = inputs.clone();
            level.vectorize(
                #[inline(always)]
                || out.iter_mut().for_each(|x| *x = sigmoid(*x)),
            );
            let sum = level.vectorize(
                #[inline(always)]
                || lane_sum(inputs.len(), |i| inputs[i] * inputs[i]),
            );
            (out.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), sum.to_bits())
        };
        for level in Level::available() {
            assert!(run(level) == run(Level::Scalar), "{}", level.name());
        }
    }

    #[test]
    fn lane_sums_and_maxima_take_every_element_once() {
        for len in 0..70 {
            let values: Vec<f32> = (0..len).map(|i| (i * 7 % 31) as f32).collect();
            assert_eq!(lane_sum(len, |i| values[i]), values.iter().sum::<f32>());
            assert_eq!(lane_max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
