//! The loops inside a tile, written once over the vector. Each is compiled for a level where it is inlined.

use super::{Block, ColumnTile, DEPTH, MAX_WIDTH, RowTile};
use crate::cpu::epilogue::RowEpilogue;
use crate::cpu::simd::{LINE, Vector, prefetch, prefetch_for_writing, prefetch_second_level};

/// Reduction steps in one turn of the loops, whose own instructions compete with the multiply-adds for the
/// same ports.
const UNROLL: usize = 4;
/// How many reduction steps before it is needed a row of a transposed factor is called into cache.
const AHEAD: usize = 16;

/// A [`RowTile`] of `MR` rows and `NV` vectors.
///
/// # Safety
/// Pointers are valid for what its fields say; the processor has the vectors' instructions.
#[inline(always)]
pub(super) unsafe fn row_tile<V: Vector, const MR: usize, const NV: usize>(tile: &RowTile) {
    let width = NV * V::LANES;
    // SAFETY: the caller's: pointers are valid for the lengths the fields say.
    unsafe {
        let mut sums = [[V::splat(0.0); NV]; MR];
        for row in &mut sums {
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = V::load(tile.init.add(v * V::LANES));
            }
        }
        for i in 0..MR {
            let row = (*tile.c.add(i.min(tile.rows - 1))).wrapping_add(tile.c_offset);
            prefetch_for_writing(row);
            prefetch_for_writing(row.wrapping_add(width - 1));
            prefetch_added(tile.epilogue, row, width);
        }
        for segment in 0..tile.segments {
            let mut a = [std::ptr::null(); MR];
            for (i, pointer) in a.iter_mut().enumerate() {
                *pointer = *tile.a.add(segment * MR + i);
            }
            let b = tile.b.add(*tile.taps.add(segment) * tile.depth * width);
            multiply_rows(&mut sums, a, b, tile.depth, |_| {});
        }
        for (i, row) in sums.iter().enumerate().take(tile.rows) {
            store_row(row, (*tile.c.add(i)).add(tile.c_offset), tile.columns);
        }
        if !matches!(tile.epilogue, RowEpilogue::Nothing) {
            for i in 0..tile.rows {
                finish_row::<V, NV>(tile.epilogue, (*tile.c.add(i)).add(tile.c_offset), tile.columns);
            }
        }
    }
}

/// Rows `first .. first + rows` of a [`Block`]; rows beyond repeat the last and are not stored. Meanwhile
/// lines from `calls` on are called into cache, or if that is null those that are read next.
///
/// # Safety
/// As [`row_tile`].
#[inline(always)]
pub(super) unsafe fn block_tile<V: Vector, const MR: usize, const NV: usize>(
    block: &Block,
    first: usize,
    rows: usize,
    calls: *const f32,
) {
    let width = NV * V::LANES;
    // SAFETY: the caller's: pointers are valid for the lengths the fields say.
    unsafe {
        let start = block.a.add(first * block.depth);
        let mut a = [start; MR];
        for (i, pointer) in a.iter_mut().enumerate() {
            *pointer = start.add(i.min(rows - 1) * block.depth);
        }
        let mut sums = [[V::splat(0.0); NV]; MR];
        for (i, row) in sums.iter_mut().enumerate() {
            let target = block.c.wrapping_add((first + i.min(rows - 1)) * block.c_stride);
            prefetch_for_writing(target);
            prefetch_for_writing(target.wrapping_add(width - 1));
            prefetch_added(block.epilogue, target, width);
            let initial = if block.init.is_null() { target.cast_const() } else { block.init };
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = V::load(initial.add(v * V::LANES));
            }
        }
        let calls = match (calls.is_null(), first + rows < block.rows) {
            (false, _) => calls,
            (true, true) => start.wrapping_add(rows * block.depth),
            (true, false) => block.next,
        };
        multiply_rows(&mut sums, a, block.b, block.depth, |k| prefetch(calls.wrapping_add(k * LINE)));
        for (i, row) in sums.iter().enumerate().take(rows) {
            store_row(row, block.c.add((first + i) * block.c_stride), block.columns);
        }
        if !matches!(block.epilogue, RowEpilogue::Nothing) {
            for row in first..first + rows {
                finish_row::<V, NV>(block.epilogue, block.c.add(row * block.c_stride), block.columns);
            }
        }
    }
}

/// Rows `first .. first + MR` of a [`Block`] of depth [`DEPTH`] whose rows of C follow one another:
/// [`block_tile`] with all distances known to the compiler, which then needs a register for none of them.
///
/// # Safety
/// As [`row_tile`].
#[inline(always)]
pub(super) unsafe fn packed_block_tile<V: Vector, const MR: usize, const NV: usize>(
    block: &Block,
    first: usize,
) {
    let width = NV * V::LANES;
    // SAFETY: the caller's: pointers are valid for the lengths the fields say.
    unsafe {
        let start = block.a.add(first * DEPTH);
        let target = block.c.add(first * width);
        let (initial, stride) =
            if block.init.is_null() { (target.cast_const(), width) } else { (block.init, 0) };
        let mut sums = [[V::splat(0.0); NV]; MR];
        for (i, row) in sums.iter_mut().enumerate() {
            load_row(row, initial.add(i * stride), width);
        }
        let next = if first + MR < block.rows { start.wrapping_add(MR * DEPTH) } else { block.next };
        let a = std::array::from_fn(|i| start.add(i * DEPTH));
        multiply_rows(&mut sums, a, block.b, DEPTH, |k| prefetch(next.wrapping_add(k * LINE)));
        for (i, row) in sums.iter().enumerate() {
            store_row(row, target.add(i * width), width);
        }
    }
}

/// Adds the product of `MR` rows of `depth` elements and a panel; `at_step` is called with each step of the
/// reduction.
#[inline(always)]
unsafe fn multiply_rows<V: Vector, const MR: usize, const NV: usize>(
    sums: &mut [[V; NV]; MR],
    a: [*const f32; MR],
    b: *const f32,
    depth: usize,
    at_step: impl Fn(usize),
) {
    let width = NV * V::LANES;
    let whole = depth / UNROLL * UNROLL;
    // SAFETY: the caller's: all pointers are valid for these steps.
    unsafe {
        let mut k = 0;
        while k < whole {
            for k in k..k + UNROLL {
                multiply_add(sums, a.map(|pointer: *const f32| pointer.add(k)), b.add(k * width));
                at_step(k);
            }
            k += UNROLL;
        }
        for k in whole..depth {
            multiply_add(sums, a.map(|pointer: *const f32| pointer.add(k)), b.add(k * width));
        }
    }
}

/// Adds the product of a column of `MR` elements and a row of `NV` vectors.
#[inline(always)]
unsafe fn multiply_add<V: Vector, const MR: usize, const NV: usize>(
    sums: &mut [[V; NV]; MR],
    left: [*const f32; MR],
    right: *const f32,
) {
    // SAFETY: the caller's: all pointers are valid.
    unsafe {
        let mut vectors = [V::splat(0.0); NV];
        for (v, vector) in vectors.iter_mut().enumerate() {
            *vector = V::load(right.add(v * V::LANES));
        }
        for (row, pointer) in sums.iter_mut().zip(left) {
            let left = V::splat(*pointer);
            for (sum, vector) in row.iter_mut().zip(vectors) {
                *sum = left.mul_add(vector, *sum);
            }
        }
    }
}

/// Adds the product of the first `MR` elements at `a` and a row of `NV` vectors, and calls a later row into cache.
#[inline(always)]
unsafe fn multiply_column<V: Vector, const MR: usize, const NV: usize>(
    sums: &mut [[V; NV]; MR],
    a: *const f32,
    stride: usize,
    b: *const f32,
) {
    prefetch(a.wrapping_add(AHEAD * stride));
    let mut left = [a; MR];
    for (i, pointer) in left.iter_mut().enumerate() {
        *pointer = a.wrapping_add(i);
    }
    // SAFETY: the caller's.
    unsafe { multiply_add(sums, left, b) };
}

/// The first `MR` rows of a [`ColumnTile`]; gives `MR`. If it `CALLS`, each turn of its loop moves a line of
/// `later` into the second-level cache.
///
/// # Safety
/// As [`row_tile`].
#[inline(always)]
pub(super) unsafe fn column_tile<V: Vector, const MR: usize, const NV: usize, const CALLS: bool>(
    tile: &ColumnTile,
    later: &mut *const f32,
) -> usize {
    let width = NV * V::LANES;
    // SAFETY: the caller's: pointers are valid for the lengths the fields say.
    unsafe {
        let mut sums = [[V::splat(0.0); NV]; MR];
        if tile.adds {
            for (i, row) in sums.iter_mut().enumerate() {
                load_row(row, tile.c.add(i * tile.c_stride), tile.columns);
            }
        }
        let (mut a, mut b) = (tile.a, tile.b);
        let mut k = 0;
        while k + UNROLL <= tile.depth {
            if CALLS {
                prefetch_second_level(*later);
                *later = later.wrapping_add(LINE);
            }
            for _ in 0..UNROLL {
                multiply_column(&mut sums, a, tile.a_stride, b);
                a = a.wrapping_add(tile.a_stride);
                b = b.add(width);
            }
            k += UNROLL;
        }
        while k < tile.depth {
            multiply_column(&mut sums, a, tile.a_stride, b);
            a = a.wrapping_add(tile.a_stride);
            b = b.add(width);
            k += 1;
        }
        for (i, row) in sums.iter().enumerate() {
            store_row(row, tile.c.add(i * tile.c_stride), tile.columns);
        }
    }
    MR
}

/// Calls what is added to the row of `width` elements that belongs at `target` into cache.
#[inline(always)]
fn prefetch_added(epilogue: RowEpilogue, target: *const f32, width: usize) {
    if let RowEpilogue::Add { .. } = epilogue {
        let added = epilogue.added(target);
        prefetch(added);
        prefetch(added.wrapping_add(width - 1));
    }
}

/// Does to the `columns` elements at `target`, just stored, what is to be done to them: not before, when it
/// would be done to all of a tile's sums, which the compiler would then keep in memory.
#[inline(always)]
unsafe fn finish_row<V: Vector, const NV: usize>(epilogue: RowEpilogue, target: *mut f32, columns: usize) {
    // SAFETY: the caller's: `columns` elements at `target`, and of what is added to them, are there.
    unsafe {
        let mut row = [V::splat(0.0); NV];
        load_row(&mut row, target, columns);
        match epilogue {
            RowEpilogue::Nothing => {}
            RowEpilogue::Relu => {
                for value in &mut row {
                    *value = value.rectified();
                }
            }
            RowEpilogue::Add { .. } => {
                let mut added = [V::splat(0.0); NV];
                load_row(&mut added, epilogue.added(target), columns);
                for (value, added) in row.iter_mut().zip(added) {
                    *value = value.add(added);
                }
            }
        }
        store_row(&row, target, columns);
    }
}

/// Stores the first `columns` elements of a row of vectors.
#[inline(always)]
unsafe fn store_row<V: Vector, const NV: usize>(row: &[V; NV], target: *mut f32, columns: usize) {
    // SAFETY: the caller's: `columns` elements at `target` are writable.
    unsafe {
        if columns == NV * V::LANES {
            for (v, vector) in row.iter().enumerate() {
                vector.store(target.add(v * V::LANES));
            }
        } else {
            let mut whole = [0.0; MAX_WIDTH];
            for (v, vector) in row.iter().enumerate() {
                vector.store(whole.as_mut_ptr().add(v * V::LANES));
            }
            std::ptr::copy_nonoverlapping(whole.as_ptr(), target, columns);
        }
    }
}

/// Loads the first `columns` elements of a row of vectors, the others 0.
#[inline(always)]
unsafe fn load_row<V: Vector, const NV: usize>(row: &mut [V; NV], source: *const f32, columns: usize) {
    // SAFETY: the caller's: `columns` elements at `source` are readable.
    unsafe {
        if columns == NV * V::LANES {
            for (v, vector) in row.iter_mut().enumerate() {
                *vector = V::load(source.add(v * V::LANES));
            }
        } else {
            let mut whole = [0.0; MAX_WIDTH];
            std::ptr::copy_nonoverlapping(source, whole.as_mut_ptr(), columns);
            for (v, vector) in row.iter_mut().enumerate() {
                *vector = V::load(whole.as_ptr().add(v * V::LANES));
            }
        }
    }
}
