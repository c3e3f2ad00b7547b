//! The convolution of few tiles. A transformed filter would be read few times, and is four times as much as
//! the filter: it never leaves the first-level cache here.
//!
//! A task takes a cache line of the result's channels. Piece by piece it copies the filter's taps side by
//! side and transforms them a row of planes at a time, `(G g)[row] Gᵀ`; these six planes multiply all tiles.
//! A filter that stays as it is for many runs is packed once, piece after piece: read from one end to the
//! other it comes from memory at twice the speed of lines that lie apart, and nothing is copied. The sums of
//! very few tiles (four with 32 registers, one with 16) are all in registers: then each vector of a plane
//! multiplies them as soon as it is made. Elements have the same chains of operations as in
//! [`super::convolution`]: which of the two is taken changes no bit.

use super::convolution::{Images, Product};
use super::filter::{self, Filter, Lines, ROWS};
use super::results::Results;
use super::transform::{self, PLANES, TILE};
use super::{Tiling, plane_stride};
use crate::cpu::parallel::{Made, Shared, for_each_task, thread_index};
use crate::cpu::simd::{LINE, Level, Vector, on_its_own, with_vectors};
use crate::kernel::Scratch;
use crate::shape::Shape;
use std::ops::Range;

/// Tiles, at most.
const MOST: usize = 32;
/// Tiles times channels, at most: their planes, which every task reads, are half of a second-level cache of 1 MiB.
const MOST_ELEMENTS: usize = 1 << 12;
/// The same with a packed filter, which needs no room beside them: a little more than such a cache, and half
/// of one of 2 MiB.
const MOST_ELEMENTS_PACKED: usize = 1 << 13;
/// Channels of the source that are multiplied at a time.
const PIECE: usize = ROWS;
/// Elements from a tile to the next in a piece: of all planes one after the other, so that the processor
/// foresees where a tile is written, and off powers of two, so that tiles do not fall on the same cache sets.
const TILE_STEP: usize = (PLANES + 1) * PIECE;
/// A piece of the filter, a line wide: `[tap][row][lane]`.
const TAPS: usize = 9 * PIECE * LINE;
/// The same of a row of planes: `[plane][row][lane]`.
const ROW: usize = TILE * PIECE * LINE;
/// Channels in one turn of a loop.
const UNROLL: usize = 4;
/// Lines of the next piece of the filter that are called into cache with each plane: one in each turn of its
/// loop, as more at once would wait for each other.
const LINES: usize = 9 * PIECE / PLANES;
const _: () = assert!(LINES * UNROLL == PIECE);

/// Whether a convolution from `source` to `result` is one of few tiles, if its filter is `packed` or not.
pub(super) fn applies(source: Shape, result: Shape, packed: bool) -> bool {
    let count = Tiling::new(source, result).count();
    count <= MOST && count * source.c <= if packed { MOST_ELEMENTS_PACKED } else { MOST_ELEMENTS }
}

/// Where things lie in scratch memory.
struct Layout {
    /// Transformed tiles: `[piece][tile][plane][channel of the piece]`, elements from piece to piece.
    piece_inputs: usize,
    inputs: usize,
    /// All products of a vector of channels: `[plane][tile][lane]`.
    products: usize,
    /// A pixel of zeros: what lies beyond the image.
    zeros: usize,
}

impl Layout {
    fn new(source: Shape, count: usize) -> Self {
        let piece_inputs = count * TILE_STEP;
        Self {
            piece_inputs,
            inputs: source.c.div_ceil(PIECE) * piece_inputs,
            products: PLANES * plane_stride(count, LINE),
            zeros: source.c.next_multiple_of(LINE),
        }
    }

    /// What each thread has for itself.
    fn per_thread(&self) -> usize {
        self.inputs + self.products + TAPS + ROW
    }
}

/// Channels of the result that are multiplied at a time, for which a filter is packed.
pub(super) fn width(level: Level, source: Shape, result: Shape) -> usize {
    let count = Tiling::new(source, result).count();
    with_vectors!(level, V => if are_in_registers::<V>(count) { V::LANES } else { <V as Vector>::Wide::LANES })
}

/// Scratch for a convolution from `source` to `result`, with a packed filter if it `keeps` it.
pub(super) fn scratch(level: Level, source: Shape, result: Shape, threads: usize, keeps: bool) -> Scratch {
    let layout = Layout::new(source, Tiling::new(source, result).count());
    let packed = filter::packed_len(source.c, result.c, width(level, source, result));
    let workspace = layout.zeros + threads * layout.per_thread();
    Scratch { prepared: if keeps { packed } else { 0 }, workspace }
}

/// Convolves.
pub(super) fn convolve(level: Level, product: Product) {
    let Product { filter, packed, before, bias, epilogue, workspace, result, .. } = product;
    let (source, source_shape) = product.source;
    let results = Results::new(result, bias, epilogue);
    let result_shape = results.shape();
    let tiling = Tiling::new(source_shape, result_shape);
    let count = tiling.count();
    let layout = Layout::new(source_shape, count);
    let (zeros, own) = workspace.split_at_mut(layout.zeros);
    zeros.fill(0.0);
    let images = Images { source, tiling, before, zeros };
    let own = Shared::new(own);
    let transformed = Made::nothing();
    let work = Work { level, count, channels: source_shape.c, filter, packed, results };

    for_each_task(result_shape.c.div_ceil(LINE), |line| {
        let columns = line * LINE..((line + 1) * LINE).min(result_shape.c);
        // SAFETY: each thread has its own part.
        let own = unsafe { own.slice(thread_index() * layout.per_thread(), layout.per_thread()) };
        let (inputs, own) = own.split_at_mut(layout.inputs);
        let (products, own) = own.split_at_mut(layout.products);
        let (taps, planes) = own.split_at_mut(TAPS);
        if transformed.lacks(0) {
            let inputs = Shared::new(inputs);
            let place = |tile: usize, c: usize| {
                inputs.pointer(c / PIECE * layout.piece_inputs + tile * TILE_STEP + c % PIECE)
            };
            // SAFETY: each piece has room for its channels of every tile.
            unsafe { images.transform(level, 0..count, place, PIECE) };
        }
        with_vectors!(level, V => if are_in_registers::<V>(count) {
            work.convolve::<V, V>(columns, inputs, [products, taps, planes]);
        } else {
            work.convolve::<V, <V as Vector>::Wide>(columns, inputs, [products, taps, planes]);
        });
    });
}

/// What tasks share.
struct Work<'a> {
    level: Level,
    /// Tiles.
    count: usize,
    /// Channels of the source.
    channels: usize,
    filter: Filter<'a>,
    packed: &'a [f32],
    results: Results<'a>,
}

impl Work<'_> {
    /// Some channels of the result, as many at a time as `W`, of one vector or several, has lanes. `inputs`
    /// are the transformed tiles; there is room for products, taps and planes.
    #[inline(always)]
    fn convolve<V: Vector, W: Vector>(
        &self,
        columns: Range<usize>,
        inputs: &[f32],
        [products, taps, planes]: [&mut [f32]; 3],
    ) {
        let Self { count, filter, packed, .. } = *self;
        let product_stride = plane_stride(count, W::LANES);
        for column in columns.clone().step_by(W::LANES) {
            let channels = column..(column + W::LANES).min(columns.end);
            let pieces = inputs.chunks_exact(count * TILE_STEP);
            for (start, inputs) in (0..self.channels).step_by(PIECE).zip(pieces) {
                let rows = start..(start + PIECE).min(self.channels);
                let (taps, next) = if packed.is_empty() {
                    filter.copy_taps(self.level, rows.clone(), channels.clone(), W::LANES, taps);
                    let (next, next_column) = filter.after(&rows, PIECE, column, column + W::LANES);
                    (&*taps, filter.lines(next.start, next_column))
                } else {
                    let piece = &packed[filter.packed_piece(start, column, W::LANES)..];
                    (piece, Lines::after_packed(piece, W::LANES))
                };
                for row in 0..TILE {
                    let plane = row * TILE;
                    let products = Products {
                        tiles: inputs[plane * PIECE..].as_ptr(),
                        depth: rows.len(),
                        sums: products[plane * product_stride..].as_mut_ptr(),
                        sum_stride: product_stride,
                        adds: start > 0,
                        row,
                        next,
                    };
                    // SAFETY: taps and planes have room for a piece, tiles and sums for all planes.
                    unsafe {
                        if are_in_registers::<W>(count) {
                            transform_and_multiply::<W>(count, taps.as_ptr(), products);
                        } else {
                            transform_row::<V, W>(row, taps.as_ptr(), rows.len(), planes.as_mut_ptr());
                            multiply::<W>(count, planes.as_ptr(), products);
                        }
                    }
                }
            }
            let products = (products.as_ptr(), W::LANES, product_stride);
            // SAFETY: every plane has these channels of all tiles; these channels of their pixels are this task's.
            unsafe { self.results.store::<V>(0..count, &channels, products) };
        }
    }
}

/// How many sums a loop has in registers: others hold its factors.
const fn sums_in_registers<V: Vector>() -> usize {
    V::REGISTERS / 4 * 3
}

/// Whether the sums of so many tiles in a row of planes are all in registers, beside what transforms the filter.
const fn are_in_registers<V: Vector>(count: usize) -> bool {
    TILE * count + 8 <= V::REGISTERS
}

/// What is multiplied, of a piece in a row of planes, and added to.
#[derive(Clone, Copy)]
struct Products {
    /// Transformed tiles: `[tile][plane][PIECE]`, with [`TILE_STEP`] between tiles.
    tiles: *const f32,
    /// Channels of the piece.
    depth: usize,
    /// `[plane][tile][lane]`, with `sum_stride` between planes.
    sums: *mut f32,
    sum_stride: usize,
    /// Whether sums are added to, or set.
    adds: bool,
    /// Which row of planes.
    row: usize,
    /// The piece of the filter that comes next, called into cache part by part.
    next: Lines,
}

/// `(G g)[ROW] Gᵀ` for a vector of the filter, from its taps, `tap_step` apart.
///
/// # Safety
/// All nine taps have a vector.
#[inline(always)]
unsafe fn filter_row<V: Vector, const ROW: usize>(taps: *const f32, tap_step: usize) -> [V; TILE] {
    let mut row = [V::splat(0.0); 3];
    for column in 0..3 {
        let mut tap = [V::splat(0.0); 3];
        for i in 0..3 {
            // SAFETY: the caller's.
            tap[i] = unsafe { V::load(taps.add((3 * i + column) * tap_step)) };
        }
        row[column] = transform::filter_1d(tap)[ROW];
    }
    transform::filter_1d(row)
}

/// Calls `$function::<V, ROW, …>` with `$row` as a constant, so that of each column's transform only one
/// element is computed.
macro_rules! with_row {
    ($row:expr, $function:ident::<$vector:ty $(, $constant:tt)?>($($argument:expr),*)) => {
        match $row {
            0 => $function::<$vector, 0 $(, $constant)?>($($argument),*),
            1 => $function::<$vector, 1 $(, $constant)?>($($argument),*),
            2 => $function::<$vector, 2 $(, $constant)?>($($argument),*),
            3 => $function::<$vector, 3 $(, $constant)?>($($argument),*),
            4 => $function::<$vector, 4 $(, $constant)?>($($argument),*),
            _ => $function::<$vector, 5 $(, $constant)?>($($argument),*),
        }
    };
}

/// A row of planes, `[plane][PIECE][lane]`, of `depth` rows of taps.
///
/// # Safety
/// All taps have these rows, and so has `planes` room.
#[inline(always)]
unsafe fn transform_row<V: Vector, W: Vector>(row: usize, taps: *const f32, depth: usize, planes: *mut f32) {
    let (len, step) = (depth * W::LANES, PIECE * W::LANES);
    // SAFETY: the caller's.
    unsafe { with_row!(row, transform_row_at::<V>(taps, len, step, planes)) }
}

/// The same of `len` elements; taps are as far apart as planes, `step`.
#[inline(always)]
unsafe fn transform_row_at<V: Vector, const ROW: usize>(
    taps: *const f32,
    len: usize,
    step: usize,
    planes: *mut f32,
) {
    for at in (0..len).step_by(V::LANES) {
        // SAFETY: the caller's.
        unsafe {
            for (plane, value) in filter_row::<V, ROW>(taps.add(at), step).into_iter().enumerate() {
                value.store(planes.add(plane * step + at));
            }
        }
    }
}

/// The products of a row of planes, `[plane][PIECE][lane]`, and `count` tiles, as many at a time as registers
/// hold sums.
///
/// # Safety
/// Planes, tiles and sums are as [`Products`] says.
#[inline(always)]
unsafe fn multiply<V: Vector>(count: usize, planes: *const f32, products: Products) {
    let mut tile = 0;
    while tile < count {
        let left = count - tile;
        // SAFETY: the caller's.
        unsafe {
            let products = Products {
                tiles: products.tiles.add(tile * TILE_STEP),
                sums: products.sums.add(tile * V::LANES),
                ..products
            };
            tile += if sums_in_registers::<V>() >= 24 {
                match left {
                    16.. => multiply_tiles::<V, 1, 16>(planes, products),
                    8.. => multiply_tiles::<V, 3, 8>(planes, products),
                    4.. => multiply_tiles::<V, 6, 4>(planes, products),
                    2.. => multiply_tiles::<V, 6, 2>(planes, products),
                    _ => multiply_tiles::<V, 6, 1>(planes, products),
                }
            } else {
                match left {
                    6.. => multiply_tiles::<V, 1, 6>(planes, products),
                    4.. => multiply_tiles::<V, 1, 4>(planes, products),
                    3 => multiply_tiles::<V, 2, 3>(planes, products),
                    2 => multiply_tiles::<V, 2, 2>(planes, products),
                    _ => multiply_tiles::<V, 6, 1>(planes, products),
                }
            };
        }
    }
}

/// [`multiply`] of `COUNT` tiles, in `AT_ONCE` planes at a time; gives `COUNT`.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn multiply_tiles<V: Vector, const AT_ONCE: usize, const COUNT: usize>(
    planes: *const f32,
    products: Products,
) -> usize {
    for first in (0..TILE).step_by(AT_ONCE) {
        let mut line = (products.row * TILE + first) * LINES;
        // SAFETY: the caller's.
        unsafe {
            let mut products = products.at_plane(first);
            let mut right = planes.add(first * PIECE * V::LANES);
            let mut sums = products.load::<V, AT_ONCE, COUNT>();
            // The loop's own instructions compete with the multiply-adds.
            for _ in 0..products.depth / UNROLL {
                for line in line..line + AT_ONCE {
                    products.next.prefetch(line / PIECE, line % PIECE);
                }
                line += AT_ONCE;
                for _ in 0..UNROLL {
                    products.add_loaded(&mut sums, &mut right);
                }
            }
            for _ in 0..products.depth % UNROLL {
                products.add_loaded(&mut sums, &mut right);
            }
            products.store(sums);
        }
    }
    COUNT
}

/// The products of a row of planes, made from `taps` in registers, and `count` tiles: few enough that all
/// sums are there too.
///
/// # Safety
/// Taps, tiles and sums are as [`Products`] says.
#[inline(always)]
unsafe fn transform_and_multiply<V: Vector>(count: usize, taps: *const f32, products: Products) {
    // SAFETY: the caller's.
    unsafe {
        match count {
            1 => with_row!(products.row, transform_and_multiply_tiles::<V, 1>(taps, products)),
            2 => with_row!(products.row, transform_and_multiply_tiles::<V, 2>(taps, products)),
            3 => with_row!(products.row, transform_and_multiply_tiles::<V, 3>(taps, products)),
            _ => with_row!(products.row, transform_and_multiply_tiles::<V, 4>(taps, products)),
        }
    }
}

/// [`transform_and_multiply`] of `COUNT` tiles.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn transform_and_multiply_tiles<V: Vector, const ROW: usize, const COUNT: usize>(
    taps: *const f32,
    products: Products,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut taps = taps;
        // Known to the compiler, which then needs no register for it.
        let mut products = Products { sum_stride: const { plane_stride(COUNT, V::LANES) }, ..products };
        let mut sums = products.load::<V, TILE, COUNT>();
        // Every other row, for three taps a row of the filter.
        let mut later = products.next.of_row(ROW / 2);
        for _ in 0..products.depth {
            products.add(&mut sums, filter_row::<V, ROW>(taps, PIECE * V::LANES));
            taps = taps.wrapping_add(V::LANES);
            if ROW.is_multiple_of(2) {
                products.next.prefetch_each(&mut later);
            }
        }
        products.store(sums);
    }
}

impl Products {
    /// Those of the planes from `first` on.
    ///
    /// # Safety
    /// There are these planes.
    #[inline(always)]
    unsafe fn at_plane(self, first: usize) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Self {
                tiles: self.tiles.add(first * PIECE),
                sums: self.sums.add(first * self.sum_stride),
                ..self
            }
        }
    }

    /// The sums of the first planes and tiles, zeros if they are not added to.
    ///
    /// # Safety
    /// There are these planes and tiles, here and below.
    #[inline(always)]
    unsafe fn load<V: Vector, const AT_ONCE: usize, const COUNT: usize>(&self) -> [[V; COUNT]; AT_ONCE] {
        let mut sums = [[V::splat(0.0); COUNT]; AT_ONCE];
        if self.adds {
            for plane in 0..AT_ONCE {
                for tile in 0..COUNT {
                    // SAFETY: the caller's.
                    sums[plane][tile] =
                        unsafe { V::load(self.sums.add(plane * self.sum_stride + tile * V::LANES)) };
                }
            }
        }
        sums
    }

    /// Adds the products of the next channel of the tiles and a row of the filter's planes.
    #[inline(always)]
    unsafe fn add<V: Vector, const AT_ONCE: usize, const COUNT: usize>(
        &mut self,
        sums: &mut [[V; COUNT]; AT_ONCE],
        planes: [V; AT_ONCE],
    ) {
        for plane in 0..AT_ONCE {
            for tile in 0..COUNT {
                // SAFETY: the caller's.
                let left = unsafe { *self.tiles.add(plane * PIECE + tile * TILE_STEP) };
                sums[plane][tile] = V::splat(left).mul_add(planes[plane], sums[plane][tile]);
            }
        }
        self.tiles = on_its_own(self.tiles.wrapping_add(1));
    }

    /// The same of the next row of the planes at `right`, which have [`PIECE`] rows.
    #[inline(always)]
    unsafe fn add_loaded<V: Vector, const AT_ONCE: usize, const COUNT: usize>(
        &mut self,
        sums: &mut [[V; COUNT]; AT_ONCE],
        right: &mut *const f32,
    ) {
        let mut planes = [V::splat(0.0); AT_ONCE];
        for plane in 0..AT_ONCE {
            // SAFETY: the caller's.
            planes[plane] = unsafe { V::load(right.add(plane * PIECE * V::LANES)) };
        }
        // SAFETY: the caller's.
        unsafe { self.add(sums, planes) };
        *right = right.wrapping_add(V::LANES);
    }

    #[inline(always)]
    unsafe fn store<V: Vector, const AT_ONCE: usize, const COUNT: usize>(&self, sums: [[V; COUNT]; AT_ONCE]) {
        for plane in 0..AT_ONCE {
            for tile in 0..COUNT {
                // SAFETY: the caller's.
                unsafe {
                    sums[plane][tile].store(self.sums.add(plane * self.sum_stride + tile * V::LANES));
                }
            }
        }
    }
}
