//! Pooling, forward and backward: see [`crate::ops::pool`].

use super::simd::Level;
use crate::ops::Pool;
use crate::shape::Shape;
use rayon::prelude::*;

/// The window's rows (or columns) inside an image of `len`, for position `index` of the result.
fn window(index: usize, stride: usize, before: usize, kernel: usize, len: usize) -> std::ops::Range<usize> {
    let start = index * stride;
    start.saturating_sub(before)..(start + kernel).saturating_sub(before).min(len)
}

/// Calls `f(pixel of x, pixel of y)` for each sample's pixels y and the pixels x of their windows, in order.
fn for_each_pair(pool: Pool, x: Shape, y: Shape, mut f: impl FnMut(usize, usize, usize)) {
    for out_y in 0..y.h {
        let rows = window(out_y, pool.stride, pool.padding.top, pool.kernel_h, x.h);
        for out_x in 0..y.w {
            let columns = window(out_x, pool.stride, pool.padding.left, pool.kernel_w, x.w);
            let count = rows.len() * columns.len();
            for in_y in rows.clone() {
                for in_x in columns.clone() {
                    f(in_y * x.w + in_x, out_y * y.w + out_x, count);
                }
            }
        }
    }
}

/// Sets each pixel of y to `finish` of what `add`ing the pixels of its window, row by row, to `initial` comes to, and of their number.
#[inline(always)]
fn fold_windows(
    level: Level,
    pool: Pool,
    (x, x_shape): (&[f32], Shape),
    (y, y_shape): (&mut [f32], Shape),
    initial: f32,
    add: impl Fn(f32, f32) -> f32 + Sync,
    finish: impl Fn(f32, usize) -> f32 + Sync,
) {
    let c = x_shape.c;
    y.par_chunks_mut(y_shape.w * c).enumerate().for_each(|(row, y)| {
        let (n, out_y) = (row / y_shape.h, row % y_shape.h);
        let image = &x[n * x_shape.sample_len()..][..x_shape.sample_len()];
        let rows = window(out_y, pool.stride, pool.padding.top, pool.kernel_h, x_shape.h);
        level.vectorize(
            #[inline(always)]
            || {
                for (out_x, y) in y.chunks_exact_mut(c).enumerate() {
                    let columns = window(out_x, pool.stride, pool.padding.left, pool.kernel_w, x_shape.w);
                    y.fill(initial);
                    for in_y in rows.clone() {
                        for in_x in columns.clone() {
                            let x = &image[(in_y * x_shape.w + in_x) * c..][..c];
                            for (y, &x) in y.iter_mut().zip(x) {
                                *y = add(*y, x);
                            }
                        }
                    }
                    let count = rows.len() * columns.len();
                    y.iter_mut().for_each(|y| *y = finish(*y, count));
                }
            },
        );
    });
}

pub(crate) fn max_pool(level: Level, pool: Pool, x: (&[f32], Shape), y: (&mut [f32], Shape)) {
    // A NaN in the window stays.
    let larger = |y: f32, x: f32| if x > y || x.is_nan() { x } else { y };
    fold_windows(level, pool, x, y, f32::NEG_INFINITY, larger, |y, _| y);
}

pub(crate) fn max_pool_gradient(
    pool: Pool,
    (x, x_shape): (&[f32], Shape),
    (dy, y_shape): (&[f32], Shape),
    dx: &mut [f32],
) {
    let c = x_shape.c;
    let samples = dx.par_chunks_mut(x_shape.sample_len()).zip(x.par_chunks(x_shape.sample_len()));
    samples.zip(dy.par_chunks(y_shape.sample_len())).for_each(|((dx, x), dy)| {
        dx.fill(0.0);
        for out_y in 0..y_shape.h {
            let rows = window(out_y, pool.stride, pool.padding.top, pool.kernel_h, x_shape.h);
            for out_x in 0..y_shape.w {
                let columns = window(out_x, pool.stride, pool.padding.left, pool.kernel_w, x_shape.w);
                for channel in 0..c {
                    let mut best =
                        (f32::NEG_INFINITY, (rows.start * x_shape.w + columns.start) * c + channel);
                    for in_y in rows.clone() {
                        for in_x in columns.clone() {
                            let index = (in_y * x_shape.w + in_x) * c + channel;
                            if x[index] > best.0 {
                                best = (x[index], index);
                            }
                        }
                    }
                    dx[best.1] += dy[(out_y * y_shape.w + out_x) * c + channel];
                }
            }
        }
    });
}

pub(crate) fn avg_pool(level: Level, pool: Pool, x: (&[f32], Shape), y: (&mut [f32], Shape)) {
    fold_windows(level, pool, x, y, 0.0, |y, x| y + x, |y, count| y / count as f32);
}

pub(crate) fn avg_pool_gradient(
    pool: Pool,
    (dy, y_shape): (&[f32], Shape),
    (dx, x_shape): (&mut [f32], Shape),
) {
    let c = x_shape.c;
    dx.par_chunks_mut(x_shape.sample_len()).zip(dy.par_chunks(y_shape.sample_len())).for_each(|(dx, dy)| {
        dx.fill(0.0);
        for_each_pair(pool, x_shape, y_shape, |to, from, count| {
            for (dx, &dy) in dx[to * c..][..c].iter_mut().zip(&dy[from * c..][..c]) {
                *dx += dy / count as f32;
            }
        });
    });
}
