//! Pooling, forward and backward: see [`crate::ops::pool`].

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

pub(crate) fn max_pool(pool: Pool, (x, x_shape): (&[f32], Shape), (y, y_shape): (&mut [f32], Shape)) {
    let c = x_shape.c;
    y.par_chunks_mut(y_shape.sample_len()).zip(x.par_chunks(x_shape.sample_len())).for_each(|(y, x)| {
        y.fill(f32::NEG_INFINITY);
        for_each_pair(pool, x_shape, y_shape, |from, to, _| {
            for (y, &x) in y[to * c..][..c].iter_mut().zip(&x[from * c..][..c]) {
                // A NaN in the window stays.
                *y = if x > *y || x.is_nan() { x } else { *y };
            }
        });
    });
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

pub(crate) fn avg_pool(pool: Pool, (x, x_shape): (&[f32], Shape), (y, y_shape): (&mut [f32], Shape)) {
    let c = x_shape.c;
    y.par_chunks_mut(y_shape.sample_len()).zip(x.par_chunks(x_shape.sample_len())).for_each(|(y, x)| {
        y.fill(0.0);
        let mut seen = 0;
        for_each_pair(pool, x_shape, y_shape, |from, to, count| {
            let y = &mut y[to * c..][..c];
            for (y, &x) in y.iter_mut().zip(&x[from * c..][..c]) {
                *y += x;
            }
            seen += 1;
            if seen == count {
                y.iter_mut().for_each(|y| *y /= count as f32);
                seen = 0;
            }
        });
    });
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
