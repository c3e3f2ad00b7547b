//! Kernels whose elements are independent of each other.

use super::math::sigmoid;
use super::parallel::CHUNK;
use super::simd::{Level, Vector};
use crate::kernel::Run;
use crate::ops::Dropout;
use crate::random::{Purpose, Stream};
use rayon::prelude::*;

/// `y[i] = f(a[i])`.
pub(crate) fn map(level: Level, a: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(y, a)| {
        level.vectorize(
            #[inline(always)]
            || {
                for (y, &a) in y.iter_mut().zip(a) {
                    *y = f(a);
                }
            },
        );
    });
}

/// `y[i] = f(a[i], b[i])`.
pub(crate) fn zip(level: Level, a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((y, a), b)| {
        level.vectorize(
            #[inline(always)]
            || {
                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                    *y = f(a, b);
                }
            },
        );
    });
}

/// `a[i] = 0`.
pub(crate) fn clear(a: &mut [f32]) {
    a.par_chunks_mut(CHUNK).for_each(|a| a.fill(0.0));
}

/// `a[i] += b[i]`.
pub(crate) fn accumulate(level: Level, b: &[f32], a: &mut [f32]) {
    a.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(a, b)| {
        level.vectorize(
            #[inline(always)]
            || {
                for (a, &b) in a.iter_mut().zip(b) {
                    *a += b;
                }
            },
        );
    });
}

pub(crate) fn silu(level: Level, x: &[f32], y: &mut [f32]) {
    map(level, x, y, |x| x * sigmoid(x));
}

pub(crate) fn silu_gradient(level: Level, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    zip(level, x, dy, dx, |x, dy| {
        let s = sigmoid(x);
        dy * (s * (x * (1.0 - s) + 1.0))
    });
}

pub(crate) fn relu(level: Level, x: &[f32], y: &mut [f32]) {
    map(level, x, y, Vector::rectified);
}

/// [`relu`] whose result takes x's place.
pub(crate) fn relu_in_place(level: Level, x: &mut [f32]) {
    x.par_chunks_mut(CHUNK).for_each(|x| {
        level.vectorize(
            #[inline(always)]
            || {
                for x in x {
                    *x = x.rectified();
                }
            },
        );
    });
}

pub(crate) fn relu_gradient(level: Level, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    zip(level, x, dy, dx, |x, dy| if x > 0.0 { dy } else { 0.0 });
}

/// Sample after sample: `y = x / (1 - rate)` where the element's word reaches the rate, else 0.
pub(crate) fn dropout(
    level: Level,
    run: &Run,
    dropout: Dropout,
    sample_len: usize,
    x: &[f32],
    y: &mut [f32],
) {
    /// Random blocks computed side by side, of four words each.
    const BLOCKS: usize = 16;
    let (threshold, scale) = (dropout.threshold(), dropout.scale());
    y.par_chunks_mut(sample_len).zip(x.par_chunks(sample_len)).enumerate().for_each(|(n, (y, x))| {
        let stream = Stream::new(run.seed, Purpose::Dropout, dropout.layer, run.first_sample + n as u64);
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
            level.vectorize(
                #[inline(always)]
                || {
                    // Values of its own: read through the closure again and again, they would be gathered.
                    let (threshold, scale) = (threshold, scale);
                    let first = chunk * (CHUNK / 4);
                    for (group, (y, x)) in y.chunks_mut(4 * BLOCKS).zip(x.chunks(4 * BLOCKS)).enumerate() {
                        let blocks = stream.blocks::<BLOCKS>((first + group * BLOCKS) as u32);
                        for ((y, &x), &word) in y.iter_mut().zip(x).zip(blocks.as_flattened()) {
                            *y = if word >= threshold { x * scale } else { 0.0 };
                        }
                    }
                },
            );
        });
    });
}
