//! Kernels over the channels of a pixel or the elements of a sample: softmax, sinusoids, squared error.

use super::attention::softmax_in_place;
use super::math::lane_sum;
use super::simd::Level;
use crate::ops::Sinusoid;
use rayon::prelude::*;

pub(crate) fn softmax(level: Level, channels: usize, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(channels).zip(x.par_chunks(channels)).for_each(|(y, x)| {
        y.copy_from_slice(x);
        level.vectorize(
            #[inline(always)]
            || softmax_in_place(y),
        );
    });
}

pub(crate) fn softmax_gradient(level: Level, channels: usize, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    let rows = dx.par_chunks_mut(channels).zip(y.par_chunks(channels)).zip(dy.par_chunks(channels));
    rows.for_each(|((dx, y), dy)| {
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
    let samples = y.par_iter_mut().zip(a.par_chunks(sample_len)).zip(b.par_chunks(sample_len));
    samples.for_each(|((y, a), b)| {
        let sum = level.vectorize(
            #[inline(always)]
            || {
                lane_sum(sample_len, |i| {
                    let difference = a[i] - b[i];
                    difference * difference
                })
            },
        );
        *y = sum / sample_len as f32;
    });
}

pub(crate) fn squared_error_gradient(sample_len: usize, a: &[f32], b: &[f32], dy: &[f32], da: &mut [f32]) {
    let samples = da.par_chunks_mut(sample_len).zip(a.par_chunks(sample_len)).zip(b.par_chunks(sample_len));
    samples.zip(dy.par_iter()).for_each(|(((da, a), b), &dy)| {
        let factor = 2.0 * dy / sample_len as f32;
        for ((da, &a), &b) in da.iter_mut().zip(a).zip(b) {
            *da = factor * (a - b);
        }
    });
}
