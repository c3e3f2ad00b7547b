//! Winograd's minimal filtering F(4×4, 3×3) for 3×3 convolutions of stride 1: 36 products for 16 results instead of 144.
//!
//! The result is covered by 4×4 tiles, each from 6×6 pixels of the image. Each tile's channels are transformed to 36 planes; in each plane the
//! channels are mixed by one matrix product over all tiles; the inverse transform gives 4×4 results. The error is about 1e-5 of
//! the result's size where direct summation has 1e-7: see the constants' growth in [`transform`].
//!
//! Tiles are processed in blocks whose planes stay in cache; which block a tile falls into, or which thread computes it, does
//! not change its result.

#![expect(
    clippy::needless_range_loop,
    reason = "squares of constant size: loops over indices are unrolled, iterators are not"
)]

mod convolution;
mod filter;
mod transform;
mod weight_gradient;

pub(crate) use convolution::{Product, convolve, scratch};
pub(crate) use weight_gradient::{weight_gradient, weight_gradient_scratch};

use crate::ops::{Conv, Padding};
use crate::shape::Shape;
use transform::{RESULT, TILE};

/// Whether a convolution, or its input gradient, of images of shape `source` to `result` is faster this way.
///
/// A rule of shapes alone, never of the batch, so that a batch's split does not change bits. On maps below 4×4 a tile is mostly
/// padding.
pub(crate) fn pays(conv: Conv, source: Shape, result: Shape) -> bool {
    let Conv { kernel_h, kernel_w, stride, padding } = conv;
    let possible = (kernel_h, kernel_w, stride) == (3, 3, 1)
        && padding.top <= 2
        && padding == Padding::symmetric(padding.top, padding.top);
    possible && [source, result].iter().all(|shape| shape.h >= 4 && shape.w >= 4 && shape.c >= 16)
}

/// Rows and columns of a tile before its first result: the convolution's padding, for its input gradient what is left of the filter.
pub(crate) fn before(conv: Conv, input_gradient: bool) -> usize {
    if input_gradient { 2 - conv.padding.top } else { conv.padding.top }
}

/// How tiles cover a batch of images.
#[derive(Clone, Copy)]
struct Tiling {
    shape: Shape,
    rows: usize,
    columns: usize,
}

impl Tiling {
    /// Images of `shape`, seen through the tiles that cover the results of a convolution.
    fn new(shape: Shape, results: Shape) -> Self {
        Self { shape, rows: results.h.div_ceil(RESULT), columns: results.w.div_ceil(RESULT) }
    }

    /// Tiles of the whole batch.
    fn count(&self) -> usize {
        self.shape.n * self.rows * self.columns
    }

    /// The image, and the row and column of the first result of tile `index`.
    fn place(&self, index: usize) -> (usize, usize, usize) {
        let (n, rest) = (index / (self.rows * self.columns), index % (self.rows * self.columns));
        (n, rest / self.columns * RESULT, rest % self.columns * RESULT)
    }

    /// The `SIDE × SIDE` pixels of tile `index` that begin `before` pixels above and to the left of its first result: `inside` of a
    /// pixel's offset, `outside` for those beyond the image.
    #[inline]
    fn pixels<const SIDE: usize, P: Copy>(
        &self,
        index: usize,
        before: usize,
        inside: impl Fn(usize) -> P,
        outside: P,
    ) -> [[P; SIDE]; SIDE] {
        let Shape { h, w, c, .. } = self.shape;
        let (n, top, left) = self.place(index);
        std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let (y, x) = ((top + i).wrapping_sub(before), (left + j).wrapping_sub(before));
                if y < h && x < w { inside(((n * h + y) * w + x) * c) } else { outside }
            })
        })
    }
}

/// Where channel `c` of tile `tile` lies in a plane `[chunk][tile][channel of the chunk]` of `tiles` tiles: chunks have `chunk` channels, the last
/// one what is left of all `channels`.
#[inline(always)]
fn chunk_offset(c: usize, tile: usize, chunk: usize, tiles: usize, channels: usize) -> usize {
    let first = c / chunk * chunk;
    first * tiles + tile * chunk.min(channels - first) + (c - first)
}

/// Elements from one plane of a block to the next, for `tiles` tiles of `channels` channels: off powers of two, so that the
/// planes of a tile do not fall on the same cache sets.
fn plane_stride(tiles: usize, channels: usize) -> usize {
    (tiles * channels).next_multiple_of(16) + 16
}

const _: () = assert!(TILE == RESULT + 2);
