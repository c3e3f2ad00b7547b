//! Pooling, forward and backward: see [`crate::ops::pool`].

use super::parallel::{chunk, for_each_chunk};
use super::simd::Level;
use crate::ops::Pool;
use crate::shape::Shape;

/// The window's rows (or columns) inside an image of `len`, for position `index` of the result.
fn window(index: usize, stride: usize, before: usize, kernel: usize, len: usize) -> std::ops::Range<usize> {
    let start = index * stride;
    start.saturating_sub(before)..(start + kernel).saturating_sub(before).min(len)
}

/// Calls `f(pixel of x, pixel of y, pixels of the window)` for a sample's pixels y and the pixels x of their
/// windows, in order.
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

/// Sets each pixel of y to `finish` of what `add`ing the pixels of its window, row by row, to `initial` comes
/// to, and of their number.
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
    for_each_chunk(y, y_shape.w * c, |row, y| {
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
    for_each_chunk(dx, x_shape.sample_len(), |n, dx| {
        let (x, dy) = (chunk(x, x_shape.sample_len(), n), chunk(dy, y_shape.sample_len(), n));
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
    for_each_chunk(dx, x_shape.sample_len(), |n, dx| {
        let dy = chunk(dy, y_shape.sample_len(), n);
        dx.fill(0.0);
        for_each_pair(pool, x_shape, y_shape, |to, from, count| {
            for (dx, &dy) in dx[to * c..][..c].iter_mut().zip(&dy[from * c..][..c]) {
                *dx += dy / count as f32;
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Padding;

    #[test]
    fn every_width_pools_alike_and_a_maximum_keeps_nan() {
        let pool = Pool { kernel_h: 3, kernel_w: 3, stride: 2, padding: Padding::symmetric(1, 1) };
        // Channels that are not whole vectors.
        let (x_shape, y_shape) = (Shape::new(2, 5, 6, 37), Shape::new(2, 3, 3, 37));
        let mut x: Vec<f32> = (0..x_shape.len()).map(|i| (i * 61 % 127) as f32 / 7.0 - 20.0).collect();
        let nan = (x_shape.w + 1) * x_shape.c + 5;
        x[nan] = f32::NAN;
        let pooled = |level| {
            let mut results = [vec![0.0; y_shape.len()], vec![0.0; y_shape.len()]];
            let [max, mean] = &mut results;
            max_pool(level, pool, (&x, x_shape), (max, y_shape));
            avg_pool(level, pool, (&x, x_shape), (mean, y_shape));
            results.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let plain = pooled(Level::Scalar);
        for result in &plain {
            let nans: Vec<_> = (0..y_shape.len()).filter(|&i| f32::from_bits(result[i]).is_nan()).collect();
            let windows = [0, 1, 3, 4].map(|pixel| pixel * y_shape.c + 5);
            assert_eq!(nans, windows, "those that have the pixel in row 1 and column 1");
        }
        for level in Level::available() {
            assert!(pooled(level) == plain, "{level:?}");
        }
    }
}
