//! The Box–Muller transform of random words, one pair or many side by side: the same bits either way.
//!
//! One pair takes `libm`'s logarithm, sine and cosine, which are the same on every machine. Many take the same operations
//! in the same order (Sun's fdlibm: `e_log.c`, `e_rem_pio2.c`, `k_sin.c`, `k_cos.c`), without branches, for the ranges that
//! are needed here: a logarithm of (0, 1), angles of [0, 2π].

use std::f64::consts::TAU;

/// Upper halves of angles so near a multiple of π/2 that one round of reduction leaves them too few bits.
const NEAR: [u64; 4] = [0x3FF9_21FB, 0x4009_21FB, 0x4012_D97C, 0x4019_21FB];

/// 2⁻³².
const CELL: f64 = 1.0 / 4_294_967_296.0;

/// Two independent numbers of N(0, 1). All 32 bits of the radius count: the tail reaches 6.7 standard deviations.
pub(super) fn pair([radius, angle]: [u32; 2]) -> [f32; 2] {
    let radius = libm::sqrt(-2.0 * libm::log((f64::from(radius) + 0.5) * CELL));
    let (sin, cos) = libm::sincos(TAU * f64::from(angle) * CELL);
    [(radius * cos) as f32, (radius * sin) as f32]
}

/// The same of each of `N` pairs.
#[inline(always)]
pub(super) fn pairs<const N: usize>(words: &[[u32; 2]; N]) -> [[f32; 2]; N] {
    let mut normals = [[0.0; 2]; N];
    let mut is_near = 0u64;
    for (normals, &[radius, angle]) in normals.iter_mut().zip(words) {
        let radius = (-2.0 * logarithm((exact(radius.into()) + 0.5) * CELL)).sqrt();
        let angle = TAU * exact(angle.into()) * CELL;
        let high = angle.to_bits() >> 32;
        for near in NEAR {
            is_near |= u64::from(high == near);
        }
        let [sin, cos] = sine_and_cosine(angle);
        *normals = [(radius * cos) as f32, (radius * sin) as f32];
    }
    if is_near != 0 {
        return words.map(pair);
    }
    normals
}

/// A whole number below 2⁵² as a float, by vector instructions that every level has.
#[inline(always)]
fn exact(number: u64) -> f64 {
    const TWO_TO_52: f64 = 4_503_599_627_370_496.0;
    f64::from_bits(TWO_TO_52.to_bits() | number) - TWO_TO_52
}

#[inline(always)]
fn logarithm(x: f64) -> f64 {
    const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    const G: [f64; 7] = [
        6.666_666_666_666_735e-1,
        3.999_999_999_940_942e-1,
        2.857_142_874_366_239e-1,
        2.222_219_843_214_978_4e-1,
        1.818_357_216_161_805e-1,
        1.531_383_769_920_937_3e-1,
        1.479_819_860_511_658_6e-1,
    ];
    /// The upper halves of 1 and √½, as their difference.
    const SHIFT: u64 = (0x3FF0_0000 - 0x3FE6_A09E) << 32;
    // x = 2^k (1 + f), √½ < 1 + f < √2.
    let shifted = x.to_bits() + SHIFT;
    let k = exact(shifted >> 52) - 1023.0;
    let f = f64::from_bits((shifted & ((1 << 52) - 1)) + (0x3FE6_A09E << 32)) - 1.0;
    let half_square = 0.5 * f * f;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let even = w * (G[1] + w * (G[3] + w * G[5]));
    let odd = z * (G[0] + w * (G[2] + w * (G[4] + w * G[6])));
    s * (half_square + (odd + even)) + k * LN_2[1] - half_square + f + k * LN_2[0]
}

/// Of an angle from 0 to 2π.
#[inline(always)]
fn sine_and_cosine(angle: f64) -> [f64; 2] {
    const HALF_PI: [f64; 2] = [1.570_796_326_734_125_6, 6.077_100_506_506_192e-11];
    const S: [f64; 6] = [
        -1.666_666_666_666_663_2e-1,
        8.333_333_333_322_49e-3,
        -1.984_126_982_985_795e-4,
        2.755_731_370_707_006_8e-6,
        -2.505_076_025_340_686_3e-8,
        1.589_690_995_211_55e-10,
    ];
    const C: [f64; 6] = [
        4.166_666_666_666_66e-2,
        -1.388_888_888_887_411e-3,
        2.480_158_728_947_673e-5,
        -2.755_731_435_139_066_3e-7,
        2.087_572_321_298_175e-9,
        -1.135_964_755_778_819_5e-11,
    ];
    // Which multiple of π/2 is nearest: from the odd multiples of π/4 on, as far as their upper halves tell.
    let passed = |high: u64| if angle < f64::from_bits(high << 32) { 0.0 } else { 1.0 };
    let [first, second, third, fourth] = [0x3FE9_21FC, 0x4002_D97D, 0x400F_6A7B, 0x4015_FDBD].map(passed);
    let n = first + second + third + fourth;
    let rough = angle - n * HALF_PI[0];
    let x = rough - n * HALF_PI[1];
    let rest = (rough - x) - n * HALF_PI[1];
    let z = x * x;
    let w = z * z;

    let r = S[1] + z * (S[2] + z * S[3]) + z * w * (S[4] + z * S[5]);
    let v = z * x;
    let reduced = x - ((z * (0.5 * rest - v * r) - rest) - v * S[0]);
    let sin = if n == 0.0 { x + v * (S[0] + z * r) } else { reduced };

    let r = z * (C[0] + z * (C[1] + z * C[2])) + w * w * (C[3] + z * (C[4] + z * C[5]));
    let half = 0.5 * z;
    let near_1 = 1.0 - half;
    let cos = near_1 + (((1.0 - near_1) - half) + (z * r - x * rest));

    let is_odd = (n == 1.0) | (n == 3.0);
    let [a, b] = if is_odd { [cos, sin] } else { [sin, cos] };
    let a = if (n == 2.0) | (n == 3.0) { -a } else { a };
    let b = if (n == 1.0) | (n == 2.0) { -b } else { b };
    [a, b]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;
    use crate::random::{Purpose, Stream};

    fn check(words: [[u32; 2]; 16]) {
        let bits = |pairs: [[f32; 2]; 16]| pairs.map(|pair| pair.map(f32::to_bits));
        let expected = bits(words.map(pair));
        for level in Level::available() {
            let found = level.vectorize(
                #[inline(always)]
                || pairs(&words),
            );
            assert_eq!(bits(found), expected, "{} {words:?}", level.name());
        }
    }

    #[test]
    fn logarithms_and_angles_have_the_bits_of_libm() {
        let stream = Stream::new(7, Purpose::Test, 0, 0);
        for block in 0..200_000 {
            let [a, b, c, d] = stream.block(block);
            for [radius, angle] in [[a, b], [c, d], [a >> (b % 32), c], [!(a >> (b % 32)), d >> (c % 32)]] {
                let u = (exact(radius.into()) + 0.5) * CELL;
                assert_eq!(logarithm(u).to_bits(), libm::log(u).to_bits(), "{u}");
                let angle = TAU * exact(angle.into()) * CELL;
                let is_near = NEAR.contains(&(angle.to_bits() >> 32));
                let (sin, cos) = libm::sincos(angle);
                if !is_near {
                    assert_eq!(
                        sine_and_cosine(angle).map(f64::to_bits),
                        [sin, cos].map(f64::to_bits),
                        "{angle}"
                    );
                }
            }
        }
    }

    #[test]
    fn many_pairs_are_the_pairs() {
        let stream = Stream::new(9, Purpose::Test, 0, 0);
        for block in 0..20_000u32 {
            check(std::array::from_fn(|i| {
                let [a, b, ..] = stream.block(16 * block + i as u32);
                [a, b]
            }));
        }
        // Around every multiple of π/4, where branches are taken, and the least and the largest radius.
        for eighth in 0..8u32 {
            for distance in 0..40 {
                let step =
                    [0, 1, 2, 3, 1 << (distance % 30), (1 << (distance % 30)) - 1][distance as usize % 6];
                let centre = eighth << 29;
                for angle in [centre.wrapping_add(step), centre.wrapping_sub(step)] {
                    check(std::array::from_fn(|i| match i % 4 {
                        0 => [0, angle],
                        1 => [u32::MAX, angle.wrapping_add(i as u32)],
                        2 => [1 << (2 * i), angle.wrapping_sub(i as u32)],
                        _ => [u32::MAX >> i, angle],
                    }));
                }
            }
        }
    }
}
