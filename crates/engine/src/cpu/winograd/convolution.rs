//! The convolution, and its input gradient: the same with the filter mirrored and transposed.
//!
//! A task takes a stretch of the tiles and a panel of the result's channels, whose products in all planes
//! stay in its own second-level cache: piece by piece it transforms the panel of the filter and multiplies,
//! and at the end it transforms the products back.
//!
//! Each thread transforms the tiles of its stretch itself, even if another has done the same: what another
//! core has just written comes more slowly, and to write over what another has read takes as long again.
//! Tasks of a stretch follow one another, and where there are enough tiles each thread has stretches of its
//! own.

use super::filter::{Filter, TAPS, piece_stride};
use super::results::Results;
use super::transform::{self, PLANES, RESULT, TILE};
use super::{TASKS, Tiling, chunk_offset, plane_stride};
use crate::cpu::epilogue::{Epilogue, RowEpilogue};
use crate::cpu::parallel::{Made, Shared, for_each_task, thread_index};
use crate::cpu::simd::{LINE, Level, Vector, prefetch, prefetch_for_writing, with_vectors};
use crate::cpu::tile::{Block, DEPTH, MAX_WIDTH, Tiles};
use crate::kernel::Scratch;
use crate::shape::Shape;
use std::ops::Range;

/// Tiles of a stretch at most. Its products in all planes, a panel wide, fit in a second-level cache of 1 MiB
/// together with a piece of the filter, which is transformed again for each stretch.
const STRETCH: usize = 132;
/// Tiles of a stretch at least, when more tasks are wanted.
const SHORT_STRETCH: usize = 24;
/// Channels of the source, and rows of the filter, that are multiplied at a time.
const PIECE: usize = DEPTH;
static ZEROS: [f32; MAX_WIDTH] = [0.0; MAX_WIDTH];

/// How a convolution is cut up. What an element's chain of operations is does not depend on it.
struct Cut {
    /// Panels of the result's channels.
    panels: usize,
    /// Tiles of a stretch.
    stretch: usize,
    stretches: usize,
    /// Transformed tiles: `[plane][piece][tile][channel of the piece]`, elements from plane to plane.
    input_stride: usize,
    /// Elements of all planes of a piece of the filter.
    filter: usize,
    /// A stretch's products: `[plane][tile][width]`, elements from plane to plane.
    product_stride: usize,
    /// A pixel of zeros: what lies beyond the image.
    zeros: usize,
}

/// What transforms take, for each channel of the source: in products of a tile and a channel, which are 36
/// multiply-adds.
struct TransformCost {
    /// Of a channel of the filter.
    filter: usize,
    /// Of a tile.
    tile: usize,
}

impl TransformCost {
    /// As measured with convolutions of 64 and of 128 tiles to 64, 128 and 256 channels, on two threads.
    /// Where AVX-512 was measured a core has a second-level cache of 2 MiB, in which half of the tiles stay
    /// and all do not; with AVX2 one of 512 KiB, too small for either.
    fn of(level: Level) -> Self {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self { filter: 13, tile: 100 },
            _ => Self { filter: 13, tile: 20 },
        }
    }

    /// What a convolution of `count` tiles to `channels` channels in so many panels takes with so many
    /// stretches. Each stretch transforms the filter; one that threads share, each of them transforms.
    fn convolution(
        &self,
        (count, stretches): (usize, usize),
        (channels, panels): (usize, usize),
        threads: usize,
    ) -> usize {
        let stretch = count.div_ceil(stretches);
        let shared = if stretches.is_multiple_of(threads) { 0 } else { threads - 1 };
        let rounds = (stretches * panels).div_ceil(threads);
        let products = rounds * threads * stretch * channels / panels;
        products + self.filter * stretches * channels + self.tile * (stretches + shared) * stretch
    }
}

impl Cut {
    fn new(source: Shape, result: Shape, tiles: Tiles, threads: usize) -> Self {
        let count = Tiling::new(source, result).count();
        let panels = result.c.div_ceil(tiles.width);
        let least = count.div_ceil(STRETCH);
        let most = (count / SHORT_STRETCH).max(least);
        // With few panels, as many as make enough tasks for all threads; up to as many for each thread.
        let fewest = (TASKS * threads).div_ceil(panels).clamp(least, most);
        let own = fewest.next_multiple_of(threads).min(most);
        let transforms = TransformCost::of(tiles.level);
        let cost =
            |&stretches: &usize| transforms.convolution((count, stretches), (result.c, panels), threads);
        let stretches = (fewest..=own).min_by_key(cost).unwrap_or(fewest);
        let stretch = count.div_ceil(stretches);
        Self {
            panels,
            stretch,
            stretches: count.div_ceil(stretch),
            input_stride: plane_stride(stretch, source.c),
            filter: PLANES * piece_stride(PIECE.min(source.c), tiles.width),
            product_stride: plane_stride(stretch, tiles.width),
            zeros: source.c.next_multiple_of(LINE),
        }
    }

    /// What each thread has for itself.
    fn per_thread(&self) -> usize {
        PLANES * (self.input_stride + self.product_stride) + self.filter + TAPS
    }
}

/// Scratch for a convolution from `source` to `result`.
pub(super) fn scratch(source: Shape, result: Shape, tiles: Tiles, threads: usize) -> Scratch {
    let cut = Cut::new(source, result, tiles, threads);
    Scratch { prepared: 0, workspace: cut.zeros + threads * cut.per_thread() }
}

/// The tensors of a convolution.
pub(crate) struct Product<'a> {
    pub source: (&'a [f32], Shape),
    pub filter: Filter<'a>,
    /// The filter from [`super::pack`], if it has been packed.
    pub packed: &'a [f32],
    /// See [`super::before`].
    pub before: usize,
    /// Added to every pixel of the result, if given.
    pub bias: Option<&'a [f32]>,
    /// Then done to the result.
    pub epilogue: Epilogue<'a>,
    pub workspace: &'a mut [f32],
    pub result: (&'a mut [f32], Shape),
}

/// The images that tiles are taken from.
#[derive(Clone, Copy)]
pub(super) struct Images<'a> {
    pub source: &'a [f32],
    pub tiling: Tiling,
    /// See [`super::before`].
    pub before: usize,
    /// A pixel of zeros: what lies beyond an image.
    pub zeros: &'a [f32],
}

impl Images<'_> {
    /// Transforms `tiles`, all channels. Channel `c` of tile `tile` goes to `place(tile, c)` in the first
    /// plane, and `stride` further for each plane.
    ///
    /// # Safety
    /// At each place is room for a vector of channels that nobody else uses.
    pub unsafe fn transform(
        &self,
        level: Level,
        tiles: Range<usize>,
        place: impl Fn(usize, usize) -> *mut f32,
        stride: usize,
    ) {
        let inside = |offset: usize| self.source[offset..].as_ptr();
        with_vectors!(level, V => for tile in tiles {
            let pixels = self.tiling.pixels::<TILE, _>(tile, self.before, inside, self.zeros.as_ptr());
            // SAFETY: pixels have these channels; the rest is the caller's.
            unsafe { transform_input::<V>(self.tiling.shape.c, &pixels, |c| place(tile, c), stride) };
        });
    }
}

/// Convolves.
pub(super) fn convolve(level: Level, tiles: Tiles, product: Product) {
    let Product { source: (source, source_shape), filter, before, bias, epilogue, workspace, .. } = product;
    let results = Results::new(product.result, bias, epilogue);
    let result_shape = results.shape();
    let cut = Cut::new(source_shape, result_shape, tiles, rayon::current_num_threads());
    let (zeros, own) = workspace.split_at_mut(cut.zeros);
    zeros.fill(0.0);
    let images = Images { source, tiling: Tiling::new(source_shape, result_shape), before, zeros };
    let count = images.tiling.count();
    let own = Shared::new(own);
    let transformed = Made::nothing();

    for_each_task(cut.panels * cut.stretches, |task| {
        let (panel, stretch) = (task % cut.panels, task / cut.panels);
        let start = stretch * cut.stretch;
        let rows = cut.stretch.min(count - start);
        let first_column = panel * tiles.width;
        let columns = tiles.width.min(result_shape.c - first_column);
        // SAFETY: each thread has its own part.
        let own = unsafe { own.slice(thread_index() * cut.per_thread(), cut.per_thread()) };
        let (inputs, own) = own.split_at_mut(PLANES * cut.input_stride);
        let (planes, own) = own.split_at_mut(cut.filter);
        let (taps, products) = own.split_at_mut(TAPS);
        if transformed.lacks(stretch) {
            let shared = Shared::new(inputs);
            let place = |tile, c| shared.pointer(chunk_offset(c, tile - start, PIECE, rows, source_shape.c));
            // SAFETY: the planes have room for the channels of a stretch.
            unsafe { images.transform(level, start..start + rows, place, cut.input_stride) };
        }
        let inputs = &*inputs;
        for from in (0..source_shape.c).step_by(PIECE) {
            let piece = from..(from + PIECE).min(source_shape.c);
            filter.transform_piece(level, piece.clone(), first_column, tiles.width, taps, planes);
            let stride = piece_stride(piece.len(), tiles.width);
            let next_column = (task + 1) % cut.panels * tiles.width;
            let (next, column) = filter.after(&piece, PIECE, first_column, next_column);
            let mut ahead = filter.ahead(next, column, tiles.width);
            for plane in 0..PLANES {
                ahead.call_part();
                let left = plane * cut.input_stride + from * rows;
                // Read next: the same tiles' next plane, after the last the first plane of the next piece.
                let next = if plane + 1 < PLANES { left + cut.input_stride } else { piece.end * rows };
                let next = inputs.as_ptr().wrapping_add(next);
                let factors = (&inputs[left..][..rows * piece.len()], &planes[plane * stride..]);
                let out = &mut products[plane * cut.product_stride..];
                multiply(tiles, piece.len(), from == 0, factors, next, out);
            }
        }
        let channels = first_column..first_column + columns;
        // SAFETY: every plane has the panel's channels of these tiles; these channels of their pixels are
        // this task's.
        with_vectors!(level, V => unsafe {
            let products = (products.as_ptr(), tiles.width, cut.product_stride);
            results.store::<V>(start..start + rows, &channels, products);
        });
    });
}

/// Sets `out`, or adds to it unless `first`, the product of rows of `depth` elements and a panel of the right
/// factor as wide as a tile.
fn multiply(
    tiles: Tiles,
    depth: usize,
    first: bool,
    (left, right): (&[f32], &[f32]),
    next: *const f32,
    out: &mut [f32],
) {
    let rows = left.len() / depth;
    assert!(right.len() >= depth * tiles.width && out.len() >= rows * tiles.width);
    let block = Block {
        rows,
        depth,
        a: left.as_ptr(),
        next,
        later: &[],
        b: right.as_ptr(),
        init: if first { ZEROS.as_ptr() } else { std::ptr::null() },
        c: out.as_mut_ptr(),
        c_stride: tiles.width,
        columns: tiles.width,
        epilogue: RowEpilogue::Nothing,
    };
    // SAFETY: the slices have these rows.
    unsafe { tiles.block(&block) };
}

/// Transforms one tile, all channels, into its place in every plane.
///
/// # Safety
/// `pixels` lead to `channels` elements each. `place` gives the place of a channel in the first plane; there
/// and `stride` further for each plane is room for a vector of channels that nobody else uses.
#[inline(always)]
pub(super) unsafe fn transform_input<V: Vector>(
    channels: usize,
    pixels: &[[*const f32; TILE]; TILE],
    place: impl Fn(usize) -> *mut f32,
    stride: usize,
) {
    let mut c = 0;
    while c + V::LANES <= channels {
        if c + 2 * V::LANES <= channels {
            let next = place(c + V::LANES);
            for plane in 0..PLANES {
                prefetch_for_writing(next.wrapping_add(plane * stride));
            }
        }
        // SAFETY: the caller's.
        unsafe { transform_input_at::<V>(c, pixels, RESULT * channels, place(c), stride) };
        c += V::LANES;
    }
    while c < channels {
        // SAFETY: the caller's.
        unsafe { transform_input_at::<f32>(c, pixels, RESULT * channels, place(c), stride) };
        c += 1;
    }
}

#[inline(always)]
unsafe fn transform_input_at<V: Vector>(
    c: usize,
    pixels: &[[*const f32; TILE]; TILE],
    ahead: usize,
    target: *mut f32,
    stride: usize,
) {
    let mut d = [[V::splat(0.0); TILE]; TILE];
    for i in 0..TILE {
        for j in 0..TILE {
            // SAFETY: the caller's.
            d[i][j] = unsafe { V::load(pixels[i][j].add(c)) };
            // What the next tile to the right has and this one has not.
            if j >= TILE - RESULT {
                prefetch(pixels[i][j].wrapping_add(c + ahead));
            }
        }
    }
    let planes = transform::input(d);
    for i in 0..TILE {
        for j in 0..TILE {
            // SAFETY: the caller's.
            unsafe { planes[i][j].store(target.add((i * TILE + j) * stride)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_alike() {
        let tiles = Tiles::new(Level::detect());
        for threads in [1, 2, 3, 7] {
            for (n, size, c) in
                [(8, 16, 256), (8, 32, 128), (1, 32, 128), (3, 20, 64), (1, 256, 128), (5, 9, 48)]
            {
                let shape = Shape::new(n, size, size, c);
                let count = Tiling::new(shape, shape).count();
                let cut = Cut::new(shape, shape, tiles, threads);
                assert!(cut.stretch <= STRETCH && cut.stretch * cut.stretches >= count);
                // As short as so many can be.
                assert_eq!(cut.stretch, count.div_ceil(cut.stretches), "{shape}, {threads} threads");
            }
        }
    }

    #[test]
    fn threads_share_a_stretch_where_its_tiles_cost_less_than_the_filter() {
        for level in Level::available() {
            let stretches = |(n, size, c): (usize, usize, usize), threads| {
                let shape = Shape::new(n, size, size, c);
                Cut::new(shape, shape, Tiles::new(level), threads).stretches
            };
            let wide = Tiles::new(level).width == MAX_WIDTH;
            for few_tiles in [(1, 32, 256), (1, 32, 128), (8, 16, 256)] {
                assert_eq!(stretches(few_tiles, 2), if wide { 2 } else { 1 }, "{few_tiles:?}, {level:?}");
            }
            for few_channels in [(1, 32, 64), (8, 16, 128), (8, 16, 64)] {
                assert_eq!(stretches(few_channels, 2), 2, "{few_channels:?}, {level:?}");
            }
            assert_eq!(stretches((8, 16, 64), 1), 1);
            // Never more tiles than fit in cache.
            assert_eq!(stretches((8, 32, 256), 2), 4);
        }
    }
}
