//! Kernels over the channels of a pixel or the elements of a sample: softmax, sinusoids, squared error.

use super::attention::softmax_in_place;
use super::math::lane_sum;
use super::parallel::{chunk, for_each_chunk};
use super::simd::Level;
use crate::ops::Sinusoid;

pub(crate) fn softmax(level: Level, channels: usize, x: &[f32], y: &mut [f32]) {
    for_each_chunk(y, channels, |row, y| {
        y.copy_from_slice(chunk(x, channels, row));
        level.vectorize(
            #[inline(always)]
            || softmax_in_place(y),
        );
    });
}

pub(crate) fn softmax_gradient(level: Level, channels: usize, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    for_each_chunk(dx, channels, |row, dx| {
        let (y, dy) = (chunk(y, channels, row), chunk(dy, channels, row));
        level.vectorize(
            #[inline(always)]
            || {
                let mean = lane_sum(channels, |i| y[i] * dy[i]);
                for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx = y * (dy - mean);
                }
            },
        );
    });
}

/// See [`crate::ops::sinusoid`]; in `f64` with `libm`'s functions, the same on every machine.
pub(crate) fn sinusoid(sinusoid: Sinusoid, t: &[f32], channels: usize, y: &mut [f32]) {
    let half = channels / 2;
    let decay = libm::log(f64::from(sinusoid.max_period)) / (half - sinusoid.shift) as f64;
    let (sines, cosines) = if sinusoid.cosines_first { (half, 0) } else { (0, half) };
    for (y, &t) in y.chunks_exact_mut(channels).zip(t) {
        let t = f64::from(t * sinusoid.scale);
        for i in 0..half {
            let (sin, cos) = libm::sincos(t * libm::exp(-decay * i as f64));
            y[sines + i] = sin as f32;
            y[cosines + i] = cos as f32;
        }
    }
}

pub(crate) fn squared_error(level: Level, sample_len: usize, a: &[f32], b: &[f32], y: &mut [f32]) {
    for_each_chunk(y, 1, |n, y| {
        let (a, b) = (chunk(a, sample_len, n), chunk(b, sample_len, n));
        let sum = level.vectorize(
            #[inline(always)]
            || {
                lane_sum(sample_len, |i| {
                    let difference = a[i] - b[i];
                    difference * difference
                })
            },
        );
        y[0] = sum / sample_len as f32;
    });
}

pub(crate) fn squared_error_gradient(sample_len: usize, a: &[f32], b: &[f32], dy: &[f32], da: &mut [f32]) {
    for_each_chunk(da, sample_len, |n, da| {
        let (a, b) = (chunk(a, sample_len, n), chunk(b, sample_len, n));
        let factor = 2.0 * dy[n] / sample_len as f32;
        for ((da, &a), &b) in da.iter_mut().zip(a).zip(b) {
            *da = factor * (a - b);
        }
    });
}
