//! Winograd's minimal filtering F(4×4, 3×3) for 3×3 convolutions of stride 1: 36 products for 16 results instead of 144.
//!
//! An image is covered by 6×6 tiles, 4 pixels apart. Each tile's channels are transformed to 36 planes; in each plane the
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

use crate::ops::Conv;
use crate::shape::Shape;
use transform::{RESULT, TILE};

/// Whether a convolution of images of `h × w` from `input` to `output` channels is faster this way.
///
/// A rule of shapes alone, never of the batch, so that a batch's split does not change bits. On maps below 4×4 a tile is mostly
/// padding.
pub(crate) fn pays(conv: Conv, h: usize, w: usize, input: usize, output: usize) -> bool {
    conv == Conv::SAME_3X3 && h >= 4 && w >= 4 && input >= 16 && output >= 16
}

/// How tiles cover a batch of images.
#[derive(Clone, Copy)]
struct Tiling {
    shape: Shape,
    rows: usize,
    columns: usize,
}

impl Tiling {
    fn new(shape: Shape) -> Self {
        Self { shape, rows: shape.h.div_ceil(RESULT), columns: shape.w.div_ceil(RESULT) }
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
