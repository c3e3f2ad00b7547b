//! The two register tiles that all matrix products are made of.
//!
//! A tile is `MR` rows by `NV` vectors of the result, held in registers. Each of its elements is one chain of fused
//! multiply-adds in the order of the reduction, so neither the tile's size nor the vector's width changes a bit.
//!
//! [`RowTile`]: rows of the left factor are given by pointers, contiguous along the reduction (a pixel's channels);
//! the reduction runs over segments (a convolution's taps) with a pointer per row and segment, so padding is a pointer to zeros
//! and no patch matrix is ever built. [`ColumnTile`]: the left factor is transposed, rows of the result lie side by side at
//! each reduction step (a weight gradient).

use super::simd::{Level, Vector, prefetch};

/// A tile of `C[i][j] = init[j] + Σ_segment Σ_k A[segment][i][k] · B[segment][k][j]`, or with C itself as the initial value.
pub(crate) struct RowTile {
    /// Number of segments.
    pub segments: usize,
    /// Reduction length of one segment.
    pub depth: usize,
    /// `[segments][height]` pointers, each to `depth` elements; `height` is the tile function's.
    pub a: *const *const f32,
    /// Which segment of the packed panel each segment multiplies.
    pub taps: *const usize,
    /// Panel of the right factor: `[taps][depth][width]`.
    pub b: *const f32,
    /// `width` initial values of every row; null: the tile, which then has all its columns, is added to.
    pub init: *const f32,
    /// What is read after this tile: `16 · segments · depth` elements from here on are called into cache; any address will do.
    pub next: *const f32,
    /// `[height]` pointers to rows of the result.
    pub c: *const *mut f32,
    /// Added to each row pointer.
    pub c_offset: usize,
    /// Rows to store, at most the height.
    pub rows: usize,
    /// Columns to store, at most the width.
    pub columns: usize,
}

/// A tile of `C[i][j] += Σ_k A[k][i] · B[k][j]`.
pub(crate) struct ColumnTile {
    /// Reduction length.
    pub depth: usize,
    /// `depth` pointers to rows of the left factor.
    pub a: *const *const f32,
    /// Added to each pointer.
    pub a_offset: usize,
    /// How much further on in each row is called into cache: where rows lie far apart, what the next tile reads.
    pub ahead: usize,
    /// Panel of the right factor, `[depth][width]`.
    pub b: *const f32,
    /// The result's first element.
    pub c: *mut f32,
    /// Elements between rows of the result.
    pub c_stride: usize,
    /// Columns to store, at most the width.
    pub columns: usize,
}

/// The widest panel of any level, in elements.
pub(crate) const MAX_WIDTH: usize = 32;

/// The tiles of one level.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    /// Columns of a full tile, also the width of packed panels.
    pub width: usize,
    /// Rows of a full tile.
    pub height: usize,
    /// Whose vectors they are made of.
    pub level: Level,
}

impl Tiles {
    pub fn new(level: Level) -> Self {
        let (height, width) = match level {
            Level::Scalar => (4, 4),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => (6, 16),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => (12, 32),
        };
        Self { width, height, level }
    }

    /// Height of the tile that [`Self::rows`] uses for `rows` rows: its pointer tables have this many entries.
    pub fn height_for(&self, rows: usize) -> usize {
        if rows > self.height * 2 / 3 {
            self.height
        } else if rows > self.height / 3 {
            self.height * 2 / 3
        } else if rows > 1 {
            self.height / 3
        } else {
            1
        }
    }

    /// Computes a tile of `height_for(tile.rows)` rows.
    ///
    /// # Safety
    /// All pointers are valid for what the fields say; rows beyond `tile.rows` are read from but not stored.
    pub unsafe fn rows(&self, tile: &RowTile) {
        let height = self.height_for(tile.rows);
        // SAFETY: the caller's; the level was detected.
        unsafe {
            match (self.level, height) {
                (Level::Scalar, 4) => row_tile::<f32, 4, 4>(tile),
                (Level::Scalar, 2) => row_tile::<f32, 2, 4>(tile),
                (Level::Scalar, _) => row_tile::<f32, 1, 4>(tile),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, 6) => avx2::row::<6>(tile),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, 4) => avx2::row::<4>(tile),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, 2) => avx2::row::<2>(tile),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, _) => avx2::row::<1>(tile),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512, 12) => avx512::row::<12>(tile),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512, 8) => avx512::row::<8>(tile),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512, 4) => avx512::row::<4>(tile),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512, _) => avx512::row::<1>(tile),
            }
        }
    }

    /// Adds to `rows` rows of the result, in tiles of every height that fits.
    ///
    /// # Safety
    /// All pointers are valid for what the fields say, for `rows` rows.
    pub unsafe fn columns(&self, tile: &ColumnTile, rows: usize) {
        let mut row = 0;
        while row < rows {
            let left = rows - row;
            let part = ColumnTile {
                a_offset: tile.a_offset + row,
                // SAFETY: row < rows.
                c: unsafe { tile.c.add(row * tile.c_stride) },
                ..*tile
            };
            // SAFETY: the caller's; the level was detected; the height is at most `left`.
            row += unsafe {
                match self.level {
                    Level::Scalar if left >= 4 => column_tile::<f32, 4, 4>(&part),
                    Level::Scalar => column_tile::<f32, 1, 4>(&part),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 if left >= 6 => avx2::column::<6>(&part),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 if left >= 4 => avx2::column::<4>(&part),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => avx2::column::<1>(&part),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 if left >= 12 => avx512::column::<12>(&part),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 if left >= 8 => avx512::column::<8>(&part),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 if left >= 4 => avx512::column::<4>(&part),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => avx512::column::<1>(&part),
                }
            };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;
    use std::arch::x86_64::__m256;

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn row<const MR: usize>(tile: &RowTile) {
        // SAFETY: the caller's.
        unsafe { row_tile::<__m256, MR, 2>(tile) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn column<const MR: usize>(tile: &ColumnTile) -> usize {
        // SAFETY: the caller's.
        unsafe { column_tile::<__m256, MR, 2>(tile) }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::*;
    use std::arch::x86_64::__m512;

    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub unsafe fn row<const MR: usize>(tile: &RowTile) {
        // SAFETY: the caller's.
        unsafe { row_tile::<__m512, MR, 2>(tile) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub unsafe fn column<const MR: usize>(tile: &ColumnTile) -> usize {
        // SAFETY: the caller's.
        unsafe { column_tile::<__m512, MR, 2>(tile) }
    }
}

#[inline(always)]
unsafe fn row_tile<V: Vector, const MR: usize, const NV: usize>(tile: &RowTile) {
    let width = NV * V::LANES;
    // SAFETY: the caller's: pointers are valid for the lengths the fields say.
    unsafe {
        let mut sums = [[V::splat(0.0); NV]; MR];
        for (i, row) in sums.iter_mut().enumerate() {
            let initial = if tile.init.is_null() {
                (*tile.c.add(i)).add(tile.c_offset).cast_const()
            } else {
                tile.init
            };
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = V::load(initial.add(v * V::LANES));
            }
        }
        let mut next = tile.next;
        for segment in 0..tile.segments {
            let mut a = [std::ptr::null(); MR];
            for (i, pointer) in a.iter_mut().enumerate() {
                *pointer = *tile.a.add(segment * MR + i);
            }
            let mut b = tile.b.add(*tile.taps.add(segment) * tile.depth * width);
            for k in 0..tile.depth {
                let mut right = [V::splat(0.0); NV];
                for (v, vector) in right.iter_mut().enumerate() {
                    *vector = V::load(b.add(v * V::LANES));
                }
                prefetch(next);
                next = next.wrapping_add(16);
                for (row, pointer) in sums.iter_mut().zip(a) {
                    let left = V::splat(*pointer.add(k));
                    for (sum, vector) in row.iter_mut().zip(right) {
                        *sum = left.mul_add(vector, *sum);
                    }
                }
                b = b.add(width);
            }
        }
        for (i, row) in sums.iter().enumerate().take(tile.rows) {
            store_row(row, (*tile.c.add(i)).add(tile.c_offset), tile.columns);
        }
    }
}

#[inline(always)]
unsafe fn column_tile<V: Vector, const MR: usize, const NV: usize>(tile: &ColumnTile) -> usize {
    let width = NV * V::LANES;
    // SAFETY: the caller's: pointers are valid for the lengths the fields say.
    unsafe {
        let mut sums = [[V::splat(0.0); NV]; MR];
        for (i, row) in sums.iter_mut().enumerate() {
            load_row(row, tile.c.add(i * tile.c_stride), tile.columns);
        }
        let mut b = tile.b;
        for k in 0..tile.depth {
            let a = (*tile.a.add(k)).add(tile.a_offset);
            prefetch(a.wrapping_add(tile.ahead));
            let mut right = [V::splat(0.0); NV];
            for (v, vector) in right.iter_mut().enumerate() {
                *vector = V::load(b.add(v * V::LANES));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let left = V::splat(*a.add(i));
                for (sum, vector) in row.iter_mut().zip(right) {
                    *sum = left.mul_add(vector, *sum);
                }
            }
            b = b.add(width);
        }
        for (i, row) in sums.iter().enumerate() {
            store_row(row, tile.c.add(i * tile.c_stride), tile.columns);
        }
    }
    MR
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
