//! Winograd's minimal filtering F(4×4, 3×3) for 3×3 convolutions of stride 1: 36 products for 16 results
//! instead of 144.
//!
//! The result is covered by 4×4 tiles, each from 6×6 pixels of the image. Each tile's channels are
//! transformed to 36 planes; in each plane the channels are mixed by one matrix product over all tiles; the
//! inverse transform gives 4×4 results. The error is about 1e-5 of the result's size where direct summation
//! has 1e-7: see the constants' growth in [`transform`].
//!
//! Tiles are processed in parts whose planes stay in cache; which part a tile falls into, or which thread
//! computes it, does not change its result.

#![expect(
    clippy::needless_range_loop,
    reason = "squares of constant size: loops over indices are unrolled, iterators are not"
)]

mod convolution;
mod few_tiles;
mod filter;
mod results;
mod transform;
mod weight_gradient;

pub(crate) use convolution::Product;
pub(crate) use filter::Filter;
pub(crate) use weight_gradient::{weight_gradient, weight_gradient_scratch};

use super::simd::Level;
use super::tile::Tiles;
use crate::kernel::Scratch;
use crate::ops::{Conv, Padding};
use crate::shape::Shape;
use transform::{RESULT, TILE};

/// Whether a convolution, or its input gradient, of images of shape `source` to `result` is faster this way.
///
/// A rule of shapes alone, never of the batch, so that a batch's split does not change bits. On maps below
/// 4×4 a tile is mostly padding.
pub(crate) fn pays(conv: Conv, source: Shape, result: Shape) -> bool {
    let Conv { kernel_h, kernel_w, stride, padding } = conv;
    let possible = (kernel_h, kernel_w, stride) == (3, 3, 1)
        && padding.top <= 2
        && padding == Padding::symmetric(padding.top, padding.top);
    possible && [source, result].iter().all(|shape| shape.h >= 4 && shape.w >= 4 && shape.c >= 16)
}

/// Rows and columns of a tile before its first result: the convolution's padding, for its input gradient what
/// is left of the filter.
pub(crate) fn before(conv: Conv, input_gradient: bool) -> usize {
    if input_gradient { 2 - conv.padding.top } else { conv.padding.top }
}

/// Scratch for a convolution from `source` to `result`. What is prepared is for [`pack`], and only wanted
/// where one `keeps` it.
pub(crate) fn scratch(source: Shape, result: Shape, tiles: Tiles, threads: usize, keeps: bool) -> Scratch {
    if few_tiles::applies(source, result, keeps) {
        few_tiles::scratch(tiles.level, source, result, threads, keeps)
    } else {
        convolution::scratch(source, result, tiles, threads)
    }
}

/// Packs the filter of a convolution from `source` to `result` that wants it.
pub(crate) fn pack(level: Level, filter: Filter, source: Shape, result: Shape, packed: &mut [f32]) {
    filter.pack(level, few_tiles::width(level, source, result), packed);
}

/// Convolves.
pub(crate) fn convolve(level: Level, tiles: Tiles, product: Product) {
    if few_tiles::applies(product.source.1, product.result.1, !product.packed.is_empty()) {
        few_tiles::convolve(level, product);
    } else {
        convolution::convolve(level, tiles, product);
    }
}

/// Tasks that there should be for each thread, so that no thread waits long for the last one.
const TASKS: usize = 2;

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

    /// The `SIDE × SIDE` pixels of tile `index` that begin `before` pixels above and to the left of its first
    /// result: `inside` of a pixel's offset, `outside` for those beyond the image.
    #[inline(always)]
    fn pixels<const SIDE: usize, P: Copy>(
        &self,
        index: usize,
        before: usize,
        inside: impl Fn(usize) -> P,
        outside: P,
    ) -> [[P; SIDE]; SIDE] {
        let Shape { h, w, c, .. } = self.shape;
        let (n, top, left) = self.place(index);
        let mut pixels = [[outside; SIDE]; SIDE];
        for i in 0..SIDE {
            let y = (top + i).wrapping_sub(before);
            if y < h {
                for j in 0..SIDE {
                    let x = (left + j).wrapping_sub(before);
                    if x < w {
                        pixels[i][j] = inside(((n * h + y) * w + x) * c);
                    }
                }
            }
        }
        pixels
    }
}

/// Where channel `c` of tile `tile` lies in a plane `[chunk][tile][channel of the chunk]` of `tiles` tiles:
/// chunks have `chunk` channels, the last one what is left of all `channels`.
#[inline(always)]
fn chunk_offset(c: usize, tile: usize, chunk: usize, tiles: usize, channels: usize) -> usize {
    let first = c / chunk * chunk;
    first * tiles + tile * chunk.min(channels - first) + (c - first)
}

/// Elements from one plane of a block to the next, for `tiles` tiles of `channels` channels: off powers of
/// two, so that the planes of a tile do not fall on the same cache sets.
const fn plane_stride(tiles: usize, channels: usize) -> usize {
    (tiles * channels).next_multiple_of(16) + 16
}

const _: () = assert!(TILE == RESULT + 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::epilogue::Epilogue;
    use crate::random::noise;

    /// Cases of few tiles: lines and pieces that are not whole, as many tiles as are multiplied at a time by
    /// any registers.
    const CASES: [(usize, usize, usize, usize); 9] = [
        (1, 4, 16, 16),
        (2, 4, 20, 37),
        (3, 4, 33, 70),
        (1, 7, 48, 32),
        (1, 8, 70, 33),
        (5, 4, 18, 20),
        (3, 6, 40, 17),
        (1, 15, 50, 48),
        (31, 4, 16, 33),
    ];

    /// The ways to convolve.
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Many,
        Few,
        Packed,
    }

    /// The tensors of a convolution.
    struct Tensors {
        source: (Vec<f32>, Shape),
        weight: Vec<f32>,
        bias: Vec<f32>,
        result: Shape,
    }

    impl Tensors {
        fn new(index: usize) -> Self {
            let (n, size, from, to) = CASES[index];
            let (source, result) = (Shape::new(n, size, size, from), Shape::new(n, size, size, to));
            assert!(few_tiles::applies(source, result, false));
            let x = noise(index as u32, source.len());
            Self { source: (x, source), weight: noise(100, 9 * from * to), bias: noise(200, to), result }
        }

        /// The result in a place where `there` has been.
        fn convolve(
            &self,
            way: Way,
            level: Level,
            transposed: bool,
            epilogue: Epilogue,
            there: &[f32],
        ) -> Vec<f32> {
            let (threads, tiles) = (rayon::current_num_threads(), Tiles::new(level));
            let (source, result) = (self.source.1, self.result);
            let scratch = match way {
                Way::Many => convolution::scratch(source, result, tiles, threads),
                way => few_tiles::scratch(level, source, result, threads, way == Way::Packed),
            };
            let filter = Filter::new(&self.weight, source, result, transposed);
            let mut packed = vec![f32::NAN; scratch.prepared];
            if way == Way::Packed {
                pack(level, filter, source, result, &mut packed);
            }
            let mut values = there.to_vec();
            let product = Product {
                source: (&self.source.0, source),
                filter,
                packed: &packed,
                before: 1,
                bias: (!transposed).then_some(&self.bias),
                epilogue,
                workspace: &mut vec![f32::NAN; scratch.workspace],
                result: (&mut values, result),
            };
            if way == Way::Many {
                convolution::convolve(level, tiles, product);
            } else {
                few_tiles::convolve(level, product);
            }
            values
        }
    }

    fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn few_tiles_have_the_bits_of_many() {
        for index in 0..CASES.len() {
            let tensors = Tensors::new(index);
            let there = vec![f32::NAN; tensors.result.len()];
            for level in Level::available() {
                for transposed in [false, true] {
                    let [many, few, packed] = [Way::Many, Way::Few, Way::Packed]
                        .map(|way| bits(tensors.convolve(way, level, transposed, Epilogue::Nothing, &there)));
                    let case = format!("{:?}, {level:?}, transposed {transposed}", CASES[index]);
                    assert!(few == many, "{case}");
                    assert!(packed == many, "{case}");
                    assert!(few.iter().all(|&bits| f32::from_bits(bits).is_finite()));
                }
            }
        }
    }

    #[test]
    fn what_follows_is_done_to_every_element() {
        for index in 0..CASES.len() {
            let tensors = Tensors::new(index);
            let result = tensors.result;
            let there = noise(300, result.len());
            let vectors = noise(400, result.n * result.c);
            let vector = |i: usize| vectors[i / result.sample_len() * result.c + i % result.c];
            for level in Level::available() {
                for way in [Way::Many, Way::Few, Way::Packed] {
                    let convolve = |epilogue| tensors.convolve(way, level, false, epilogue, &there);
                    let plain = convolve(Epilogue::Nothing);
                    let expected =
                        |f: &dyn Fn(usize, f32) -> f32| bits(plain.iter().enumerate().map(|(i, &y)| f(i, y)));
                    let case = format!("{:?}, {level:?}", CASES[index]);
                    let rectified = expected(&|_, y| if y < 0.0 { 0.0 } else { y });
                    assert!(bits(convolve(Epilogue::Relu)) == rectified, "{case}");
                    let sum = expected(&|i, y| y + there[i]);
                    assert!(bits(convolve(Epilogue::Add(&there))) == sum, "{case}");
                    let moved = expected(&|i, y| y + vector(i));
                    assert!(bits(convolve(Epilogue::AddPerSample(&vectors))) == moved, "{case}");
                }
            }
        }
    }
}
