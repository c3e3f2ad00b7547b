//! The convolution of few tiles. A transformed filter would be stored only to be read once or twice; here its last transform stays in
//! registers, and each vector of it multiplies the tiles as soon as it is made.
//!
//! A piece of the filter is transformed by columns, `G g`, in the first-level cache. Each row of that, three vectors, then gives the
//! six planes of a row of `G g Gᵀ`, which multiply up to four tiles whose sums are in registers. Elements have the same chains of operations
//! as in [`super::convolution`]: which of the two is taken changes no bit.

use super::Tiling;
use super::convolution::{Product, transform_input, transform_output};
use super::filter::{Filter, ROWS};
use super::transform::{self, PLANES, RESULT, TILE};
use crate::cpu::parallel::{Shared, for_each_task, thread_index};
use crate::cpu::simd::{Level, Vector, with_vectors};
use crate::cpu::tile::{MAX_WIDTH, Tiles};
use crate::kernel::Scratch;
use crate::shape::Shape;

/// How many tiles are few: with six planes each they have sums in registers, where there are 32.
const FEW: usize = 4;
/// Channels of the source that are multiplied at a time.
const PIECE: usize = ROWS;
/// Tiles in all planes, a piece of them: `[plane][tile][channel]`.
const BLOCK: usize = PLANES * FEW * PIECE;
/// A vector of a piece of the filter, transformed by columns: `[row][channel][column][lane]`.
const COLUMNS: usize = TILE * PIECE * 3 * MAX_WIDTH;
/// A panel's products, of each vector `[plane][tile][lane]`.
const PRODUCTS: usize = PLANES * FEW * MAX_WIDTH;
/// What each thread has for itself.
const PER_THREAD: usize = COLUMNS + PRODUCTS;

/// Whether a convolution from `source` to `result` is one of few tiles.
pub(super) fn applies(source: Shape, result: Shape) -> bool {
    Tiling::new(source, result).count() <= FEW
}

/// Elements of a pixel of zeros, which lie beyond the image, and of all tiles: `[piece]` of blocks.
fn lengths(source: Shape) -> (usize, usize) {
    (source.c.next_multiple_of(16), source.c.div_ceil(PIECE) * BLOCK)
}

/// Scratch for a convolution of images of shape `source`.
pub(super) fn scratch(source: Shape, threads: usize) -> Scratch {
    let (zeros, inputs) = lengths(source);
    Scratch { prepared: 0, workspace: zeros + inputs + threads * PER_THREAD }
}

/// Convolves.
pub(super) fn convolve(level: Level, tiles: Tiles, product: Product) {
    let Product { source: (source, source_shape), weight, transposed, before, bias, workspace, result } =
        product;
    let (result, result_shape) = (Shared::new(result.0), result.1);
    let filter = Filter { weight, source: source_shape.c, result: result_shape.c, transposed };
    let source_tiling = Tiling::new(source_shape, result_shape);
    let result_tiling = Tiling::new(result_shape, result_shape);
    let count = source_tiling.count();
    let (zeros_len, inputs_len) = lengths(source_shape);
    let (zeros, rest) = workspace.split_at_mut(zeros_len);
    zeros.fill(0.0);
    let zeros = &*zeros;
    let (inputs, own) = rest.split_at_mut(inputs_len);
    let own = Shared::new(own);

    let shared = Shared::new(inputs);
    for_each_task(count, |tile| {
        let inside = |offset: usize| source[offset..].as_ptr();
        let pixels = source_tiling.pixels::<TILE, _>(tile, before, inside, zeros.as_ptr());
        let place = |c: usize| shared.pointer(c / PIECE * BLOCK + tile * PIECE + c % PIECE);
        // SAFETY: pixels have these channels; this tile's channels of every plane are this task's.
        with_vectors!(level, V => unsafe {
            transform_input::<V>(source_shape.c, &pixels, place, FEW * PIECE)
        });
    });

    let inputs = &*inputs;
    for_each_task(result_shape.c.div_ceil(tiles.width), |panel| {
        let first_column = panel * tiles.width;
        let columns = tiles.width.min(result_shape.c - first_column);
        // SAFETY: each thread has its own part.
        let own = unsafe { own.slice(thread_index() * PER_THREAD, PER_THREAD) };
        let (filter_columns, products) = own.split_at_mut(COLUMNS);
        let mut buffer = [0.0; 9 * ROWS * MAX_WIDTH];
        for (start, block) in (0..source_shape.c).step_by(PIECE).zip(inputs.chunks_exact(BLOCK)) {
            let rows = start..(start + PIECE).min(source_shape.c);
            let taps = filter.taps(level, rows.clone(), first_column, tiles.width, &mut buffer);
            let (next, column) = filter.after(&rows, PIECE, first_column, first_column + tiles.width);
            with_vectors!(level, V => {
                let parts = columns.div_ceil(V::LANES) * TILE;
                let vectors = products.chunks_exact_mut(PLANES * FEW * V::LANES);
                for (lane, products) in (0..columns).step_by(V::LANES).zip(vectors) {
                    // SAFETY: the taps have whole panels; there is room for a vector of them.
                    unsafe {
                        let taps = (taps.base.add(lane), taps.row_step, taps.tap_step);
                        transform_columns::<V>(taps, rows.len(), filter_columns.as_mut_ptr());
                    }
                    for row in 0..TILE {
                        filter.prefetch_part(next.clone(), column, tiles.width, lane / V::LANES * TILE + row, parts);
                        let factors = Factors {
                            columns: filter_columns[row * PIECE * 3 * V::LANES..].as_ptr(),
                            block: block[row * TILE * FEW * PIECE..].as_ptr(),
                            depth: rows.len(),
                        };
                        let products = products[row * TILE * FEW * V::LANES..].as_mut_ptr();
                        // SAFETY: columns, block and products are laid out as said above.
                        unsafe { multiply_tiles::<V>(count, factors, start == 0, products) };
                    }
                }
            });
        }
        let mut beyond = [0.0; MAX_WIDTH];
        let beyond = beyond.as_mut_ptr();
        with_vectors!(level, V => {
            let vectors = products.chunks_exact(PLANES * FEW * V::LANES);
            for (lane, products) in (0..columns).step_by(V::LANES).zip(vectors) {
                let bias = bias.map(|bias| &bias[first_column + lane..]);
                for tile in 0..count {
                    let pixel = |offset| result.pointer(offset + first_column + lane);
                    let pixels = result_tiling.pixels::<RESULT, _>(tile, 0, pixel, beyond);
                    let from = products[tile * V::LANES..].as_ptr();
                    let columns = V::LANES.min(columns - lane);
                    // SAFETY: every plane has these channels of the tile; these channels of the tile's pixels are this task's.
                    unsafe { transform_output::<V>(from, FEW * V::LANES, columns, bias, &pixels) };
                }
            }
        });
    });
}

/// `G g` for a vector of `depth` rows of the filter, into `[row][channel][column][lane]`.
///
/// # Safety
/// All nine taps of the rows have a vector; `target` has room for [`COLUMNS`] elements.
#[inline(always)]
unsafe fn transform_columns<V: Vector>(
    (base, row_step, tap_step): (*const f32, usize, usize),
    depth: usize,
    target: *mut f32,
) {
    for k in 0..depth {
        for column in 0..3 {
            // SAFETY: the caller's.
            unsafe {
                let taps = base.add(k * row_step + column * tap_step);
                let tap = |row: usize| V::load(taps.add(3 * row * tap_step));
                let rows = transform::filter_1d([tap(0), tap(1), tap(2)]);
                for (row, value) in rows.into_iter().enumerate() {
                    value.store(target.add(((row * PIECE + k) * 3 + column) * V::LANES));
                }
            }
        }
    }
}

/// The factors of a row of planes: three columns of the filter, `[channel][column][lane]`, and the tiles, `[plane][tile][channel]`.
#[derive(Clone, Copy)]
struct Factors {
    columns: *const f32,
    block: *const f32,
    /// Channels.
    depth: usize,
}

/// Sets the products of a row of planes and `count` tiles, or adds to them unless `first`.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_tiles<V: Vector>(count: usize, factors: Factors, first: bool, products: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match count {
            1 => multiply::<V, 1>(factors, first, products),
            2 => multiply::<V, 2>(factors, first, products),
            3 => multiply::<V, 3>(factors, first, products),
            _ => multiply::<V, FEW>(factors, first, products),
        }
    }
}

/// [`multiply_tiles`] of `COUNT` tiles.
///
/// # Safety
/// The factors have `depth` channels; `products` has the vectors of a row of planes.
#[inline(always)]
unsafe fn multiply<V: Vector, const COUNT: usize>(factors: Factors, first: bool, products: *mut f32) {
    let Factors { columns, block, depth } = factors;
    // SAFETY: the caller's.
    unsafe {
        let product = |plane: usize, tile: usize| products.add((plane * FEW + tile) * V::LANES);
        let mut sums = [[V::splat(0.0); COUNT]; TILE];
        if !first {
            for plane in 0..TILE {
                for tile in 0..COUNT {
                    sums[plane][tile] = V::load(product(plane, tile));
                }
            }
        }
        for k in 0..depth {
            let column = |index: usize| V::load(columns.add((3 * k + index) * V::LANES));
            let planes = transform::filter_1d([column(0), column(1), column(2)]);
            for plane in 0..TILE {
                for tile in 0..COUNT {
                    let left = V::splat(*block.add((plane * FEW + tile) * PIECE + k));
                    sums[plane][tile] = left.mul_add(planes[plane], sums[plane][tile]);
                }
            }
        }
        for plane in 0..TILE {
            for tile in 0..COUNT {
                sums[plane][tile].store(product(plane, tile));
            }
        }
    }
}
