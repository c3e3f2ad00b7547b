//! Kernels whose elements are independent of each other.

use super::math::sigmoid;
use super::parallel::{CHUNK, Shared, chunk, for_each_chunk, for_each_task};
use super::simd::{Level, Vector};
use crate::kernel::Run;
use crate::ops::Dropout;
use crate::random::{Purpose, Stream};

/// `y[i] = f(a[i])`.
pub(crate) fn map(level: Level, a: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    for_each_chunk(y, CHUNK, |index, y| {
        let a = chunk(a, CHUNK, index);
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
    for_each_chunk(y, CHUNK, |index, y| {
        let (a, b) = (chunk(a, CHUNK, index), chunk(b, CHUNK, index));
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
    for_each_chunk(a, CHUNK, |_, a| a.fill(0.0));
}

/// `a[i] += b[i]`.
pub(crate) fn accumulate(level: Level, b: &[f32], a: &mut [f32]) {
    for_each_chunk(a, CHUNK, |index, a| {
        let b = chunk(b, CHUNK, index);
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
    for_each_chunk(x, CHUNK, |_, x| {
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

/// Runs `body` for each sample's parts of [`CHUNK`] elements, the last of which may be shorter, with the sample's number
/// and that of the part's first element in it.
fn for_each_part(sample_len: usize, y: &mut [f32], body: impl Fn(usize, usize, &mut [f32]) + Sync + Send) {
    let (samples, parts) = (y.len() / sample_len, sample_len.div_ceil(CHUNK));
    let y = Shared::new(y);
    for_each_task(samples * parts, |task| {
        let (n, first) = (task / parts, task % parts * CHUNK);
        // SAFETY: this part of this sample is this task's.
        body(n, first, unsafe { y.slice(n * sample_len + first, CHUNK.min(sample_len - first)) });
    });
}

/// Sample after sample: standard normal numbers, those of step `t` of each.
pub(crate) fn normals(run: &Run, purpose: Purpose, t: &[f32], sample_len: usize, y: &mut [f32]) {
    for_each_part(sample_len, y, |n, first, y| {
        let stream = Stream::new(run.seed, purpose, t[n] as u32, run.first_sample.wrapping_add(n as u64));
        stream.normals(first as u32, y);
    });
}

/// Sample after sample: `weights[n, 0] · x + weights[n, 1] · y`.
pub(crate) fn weighted_sum(
    level: Level,
    sample_len: usize,
    x: &[f32],
    y: &[f32],
    weights: &[f32],
    sum: &mut [f32],
) {
    for_each_part(sample_len, sum, |n, first, sum| {
        let start = n * sample_len + first;
        let (x, y) = (&x[start..start + sum.len()], &y[start..start + sum.len()]);
        let (a, b) = (weights[2 * n], weights[2 * n + 1]);
        level.vectorize(
            #[inline(always)]
            || {
                for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
                    *sum = a * x + b * y;
                }
            },
        );
    });
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
    for_each_part(sample_len, y, |n, first, y| {
        let stream = Stream::new(run.seed, Purpose::Dropout, dropout.layer, run.first_sample + n as u64);
        let x = &x[n * sample_len + first..][..y.len()];
        level.vectorize(
            #[inline(always)]
            || {
                // Values of its own: read through the closure again and again, they would be gathered.
                let (threshold, scale) = (threshold, scale);
                let first = first / 4;
                for (group, (y, x)) in y.chunks_mut(4 * BLOCKS).zip(x.chunks(4 * BLOCKS)).enumerate() {
                    let blocks = stream.blocks::<BLOCKS>((first + group * BLOCKS) as u32);
                    for ((y, &x), &word) in y.iter_mut().zip(x).zip(blocks.as_flattened()) {
                        *y = if word >= threshold { x * scale } else { 0.0 };
                    }
                }
            },
        );
    });
}
