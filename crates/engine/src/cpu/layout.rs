//! Kernels that move pixels and channels, and the sums that undo them.

use super::parallel::{Shared, chunk, for_each_chunk, for_each_task};
use crate::shape::Shape;

/// Adds each sample's vector to all its pixels.
pub(crate) fn add_per_sample(shape: Shape, x: &[f32], vector: &[f32], y: &mut [f32]) {
    let row = shape.w * shape.c;
    for_each_chunk(y, row, |index, y| {
        let x = chunk(x, row, index);
        let vector = &vector[index / shape.h * shape.c..][..shape.c];
        for (y, x) in y.chunks_exact_mut(shape.c).zip(x.chunks_exact(shape.c)) {
            for ((y, &x), &v) in y.iter_mut().zip(x).zip(vector) {
                *y = x + v;
            }
        }
    });
}

/// Each sample's sum over its pixels, in order.
pub(crate) fn sum_pixels(shape: Shape, x: &[f32], sums: &mut [f32]) {
    for_each_chunk(sums, shape.c, |n, sums| {
        let x = chunk(x, shape.sample_len(), n);
        sums.fill(0.0);
        for pixel in x.chunks_exact(shape.c) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += value;
            }
        }
    });
}

/// Scales and shifts all of a sample's pixels by its vector.
pub(crate) fn scale_shift(shape: Shape, x: &[f32], vector: &[f32], y: &mut [f32]) {
    let row = shape.w * shape.c;
    for_each_chunk(y, row, |index, y| {
        let x = chunk(x, row, index);
        let (scale, shift) = vector[index / shape.h * 2 * shape.c..][..2 * shape.c].split_at(shape.c);
        for (y, x) in y.chunks_exact_mut(shape.c).zip(x.chunks_exact(shape.c)) {
            for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                *y = x * (1.0 + scale) + shift;
            }
        }
    });
}

/// The gradients of [`scale_shift`]; the vector's are summed over a sample's pixels in order.
pub(crate) fn scale_shift_gradient(
    shape: Shape,
    [x, vector, dy]: [&[f32]; 3],
    [dx, vector_gradient]: [&mut [f32]; 2],
) {
    let (sample, c) = (shape.sample_len(), shape.c);
    let dx = Shared::new(dx);
    for_each_chunk(vector_gradient, 2 * c, |n, vector_gradient| {
        // SAFETY: this sample is this task's.
        let dx = unsafe { dx.slice(n * sample, sample) };
        let (x, dy, vector) = (chunk(x, sample, n), chunk(dy, sample, n), chunk(vector, 2 * c, n));
        vector_gradient.fill(0.0);
        let (scale_gradient, shift_gradient) = vector_gradient.split_at_mut(c);
        let pixels = dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c));
        for ((dx, x), dy) in pixels {
            for i in 0..c {
                dx[i] = dy[i] * (1.0 + vector[i]);
                scale_gradient[i] += dy[i] * x[i];
                shift_gradient[i] += dy[i];
            }
        }
    });
}

/// Each pixel of `x` (`shape`) becomes 2×2.
pub(crate) fn upsample(shape: Shape, x: &[f32], y: &mut [f32]) {
    let row = shape.w * shape.c;
    for_each_chunk(y, 4 * row, |index, y| {
        let x = chunk(x, row, index);
        let (upper, lower) = y.split_at_mut(2 * row);
        for (pair, pixel) in upper.chunks_exact_mut(2 * shape.c).zip(x.chunks_exact(shape.c)) {
            pair[..shape.c].copy_from_slice(pixel);
            pair[shape.c..].copy_from_slice(pixel);
        }
        lower.copy_from_slice(upper);
    });
}

/// Sums each 2×2 block of dy into a pixel of `dx` (`shape`).
pub(crate) fn upsample_gradient(shape: Shape, dy: &[f32], dx: &mut [f32]) {
    let (row, c) = (shape.w * shape.c, shape.c);
    for_each_chunk(dx, row, |index, dx| {
        let dy = chunk(dy, 4 * row, index);
        let (upper, lower) = dy.split_at(2 * row);
        let blocks = upper.chunks_exact(2 * c).zip(lower.chunks_exact(2 * c));
        for (dx, (upper, lower)) in dx.chunks_exact_mut(c).zip(blocks) {
            for (i, dx) in dx.iter_mut().enumerate() {
                *dx = (upper[i] + upper[c + i]) + (lower[i] + lower[c + i]);
            }
        }
    });
}

/// Writes a part of a concatenation: channels `start ..` of `y` (with `channels` in all) from `x` (with `part`).
pub(crate) fn concat_part(x: &[f32], part: usize, start: usize, channels: usize, y: &mut [f32]) {
    for_pixels(x, part, y, channels, |x, y| y[start..start + part].copy_from_slice(x));
}

/// Channels `start ..` of `x` (with `channels` in all) as `y` (with `part`).
pub(crate) fn channel_slice(x: &[f32], channels: usize, start: usize, part: usize, y: &mut [f32]) {
    for_pixels(x, channels, y, part, |x, y| y.copy_from_slice(&x[start..start + part]));
}

fn for_pixels(
    x: &[f32],
    x_channels: usize,
    y: &mut [f32],
    y_channels: usize,
    copy: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    const PIXELS: usize = 64;
    for_each_chunk(y, PIXELS * y_channels, |index, y| {
        let x = chunk(x, PIXELS * x_channels, index);
        for (y, x) in y.chunks_exact_mut(y_channels).zip(x.chunks_exact(x_channels)) {
            copy(x, y);
        }
    });
}

/// Writes each head's channels as a sample of their own (`shape`: all heads').
pub(crate) fn split_heads(shape: Shape, heads: usize, x: &[f32], y: &mut [f32]) {
    for_each_chunk(y, shape.sample_len(), |sample, y| {
        let x = &x[sample / heads * heads * shape.sample_len()..];
        let start = sample % heads * shape.c;
        for (y, x) in y.chunks_exact_mut(shape.c).zip(x.chunks_exact(heads * shape.c)) {
            y.copy_from_slice(&x[start..start + shape.c]);
        }
    });
}

/// Puts the heads (`shape`: all of them) of a sample beside each other in its channels.
pub(crate) fn merge_heads(shape: Shape, heads: usize, x: &[f32], y: &mut [f32]) {
    let of_sample = heads * shape.sample_len();
    for_each_chunk(y, of_sample, |sample, y| {
        let x = chunk(x, of_sample, sample);
        for (head, x) in x.chunks_exact(shape.sample_len()).enumerate() {
            let start = head * shape.c;
            for (y, x) in y.chunks_exact_mut(heads * shape.c).zip(x.chunks_exact(shape.c)) {
                y[start..start + shape.c].copy_from_slice(x);
            }
        }
    });
}

/// Gathers blocks of pixels of `image` (`shape`) into channels.
pub(crate) fn space_to_depth(shape: Shape, block: usize, image: &[f32], deep: &mut [f32]) {
    let deep = Shared::new(deep);
    for_each_block_row(shape, block, |image_start, deep_start, len| {
        // SAFETY: rows of blocks do not overlap.
        unsafe { deep.slice(deep_start, len) }.copy_from_slice(&image[image_start..image_start + len]);
    });
}

/// Lays out channels as blocks of pixels of `image` (`shape`).
pub(crate) fn depth_to_space(shape: Shape, block: usize, deep: &[f32], image: &mut [f32]) {
    let image = Shared::new(image);
    for_each_block_row(shape, block, |image_start, deep_start, len| {
        // SAFETY: rows of blocks do not overlap.
        unsafe { image.slice(image_start, len) }.copy_from_slice(&deep[deep_start..deep_start + len]);
    });
}

/// Calls `copy(place in the image, place among the channels, length)` for each row of each block.
fn for_each_block_row(shape: Shape, block: usize, copy: impl Fn(usize, usize, usize) + Sync + Send) {
    let Shape { n, h, w, c } = shape;
    let len = block * c;
    for_each_task(n * h, |row| {
        let (sample, y) = (row / h, row % h);
        for x in 0..w / block {
            let image_start = (row * w + x * block) * c;
            let deep_pixel = (sample * (h / block) + y / block) * (w / block) + x;
            copy(image_start, (deep_pixel * block + y % block) * len, len);
        }
    });
}
