//! The register tiles that all matrix products are made of.
//!
//! A tile is `MR` rows by `NV` vectors of the result, held in registers. Each of its elements is one chain of fused
//! multiply-adds in the order of the reduction, so neither the tile's size nor the vector's width changes a bit.
//!
//! [`RowTile`]: rows of the left factor are given by pointers, contiguous along the reduction (a pixel's channels);
//! the reduction runs over segments (a convolution's taps) with a pointer per row and segment, so padding is
//! a pointer to zeros and no patch matrix is ever built. [`Block`]: rows of a plain matrix. [`ColumnTile`]:
//! the left factor is transposed, rows of the result lie side by side at each reduction step (a weight
//! gradient).

mod kernel;

use super::epilogue::RowEpilogue;
use super::simd::{LINE, Level};
use kernel::{block_tile, column_tile, packed_block_tile, row_tile};
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::float32x4_t;

/// A tile of `C[i][j] = init[j] + Σ_segment Σ_k A[segment][i][k] · B[segment][k][j]`.
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
    /// `width` initial values of every row.
    pub init: *const f32,
    /// `[height]` pointers to rows of the result.
    pub c: *const *mut f32,
    /// Added to each row pointer.
    pub c_offset: usize,
    /// Rows to store, at most the height.
    pub rows: usize,
    /// Columns to store, at most the width.
    pub columns: usize,
    /// Done to the rows as they are stored.
    pub epilogue: RowEpilogue,
}

/// A block of any number of rows, all equally far apart: `C[i][j] = init[j] + Σ_k A[i][k] · B[k][j]`, or with
/// C itself as the initial value.
pub(crate) struct Block<'a> {
    /// Rows of A and C.
    pub rows: usize,
    /// Reduction length.
    pub depth: usize,
    /// A's first element; rows are `depth` elements apart.
    pub a: *const f32,
    /// The left factor that is read after this one: its first rows are called into cache; any address will do.
    pub next: *const f32,
    /// What is called into cache before that, line by line: a right factor that is read later, or nothing.
    pub later: &'a [f32],
    /// Panel of the right factor, `[depth][width]`.
    pub b: *const f32,
    /// `width` initial values of every row; null: the block, which then has all its columns, is added to.
    pub init: *const f32,
    /// C's first element.
    pub c: *mut f32,
    /// Elements between rows of C.
    pub c_stride: usize,
    /// Columns to store, at most the width.
    pub columns: usize,
    /// Done to the rows as they are stored.
    pub epilogue: RowEpilogue,
}

/// A tile of `C[i][j] = Σ_k A[k][i] · B[k][j]`, or with C itself as the initial value.
pub(crate) struct ColumnTile {
    /// Reduction length.
    pub depth: usize,
    /// The left factor's first element.
    pub a: *const f32,
    /// Elements between rows of the left factor.
    pub a_stride: usize,
    /// Panel of the right factor, `[depth][width]`.
    pub b: *const f32,
    /// The result's first element.
    pub c: *mut f32,
    /// Elements between rows of the result.
    pub c_stride: usize,
    /// Columns to store, at most the width.
    pub columns: usize,
    /// Whether C is added to.
    pub adds: bool,
}

/// Rows of the result that a transposed left factor is best packed by: a cache line of them for each reduction step.
pub(crate) const GROUP: usize = LINE;

/// The depth that blocks are fastest with.
pub(crate) const DEPTH: usize = 64;

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
            #[cfg(target_arch = "aarch64")]
            Level::Neon => (6, 16),
        };
        Self { width, height, level }
    }

    /// Height of the tile that comes next where `rows` rows are left; pointer tables of [`Self::rows`] have
    /// this many entries.
    pub fn height_for(&self, rows: usize) -> usize {
        let (less, least) = (self.height * 2 / 3, self.height / 3);
        // A low tile's sums are too few to keep the multiply-adds busy: two lower ones are not slower than a
        // full one and what it leaves.
        let is_split = rows > self.height && rows <= 2 * less;
        if rows > less && !is_split {
            self.height
        } else if rows > least {
            less
        } else if rows > 1 {
            least
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
                #[cfg(target_arch = "aarch64")]
                (Level::Neon, 6) => row_tile::<float32x4_t, 6, 4>(tile),
                #[cfg(target_arch = "aarch64")]
                (Level::Neon, 4) => row_tile::<float32x4_t, 4, 4>(tile),
                #[cfg(target_arch = "aarch64")]
                (Level::Neon, 2) => row_tile::<float32x4_t, 2, 4>(tile),
                #[cfg(target_arch = "aarch64")]
                (Level::Neon, _) => row_tile::<float32x4_t, 1, 4>(tile),
            }
        }
    }

    /// Computes a block.
    ///
    /// # Safety
    /// All pointers are valid for what the fields say.
    pub unsafe fn block(&self, block: &Block) {
        let mut first = 0;
        let is_packed = block.depth == DEPTH && block.c_stride == self.width && block.columns == self.width;
        if is_packed && matches!(block.epilogue, RowEpilogue::Nothing) {
            while block.rows - first >= self.height && self.height_for(block.rows - first) == self.height {
                // SAFETY: the caller's; the level was detected.
                unsafe {
                    match self.level {
                        Level::Scalar => packed_block_tile::<f32, 4, 4>(block, first),
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx2 => avx2::packed_block(block, first),
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx512 => avx512::packed_block(block, first),
                        #[cfg(target_arch = "aarch64")]
                        Level::Neon => packed_block_tile::<float32x4_t, 6, 4>(block, first),
                    }
                }
                first += self.height;
            }
        }
        let mut later = block.later;
        while first < block.rows {
            let height = self.height_for(block.rows - first);
            let rows = height.min(block.rows - first);
            let part;
            (part, later) = later.split_at(later.len().min(block.depth * LINE));
            let calls = if part.is_empty() { std::ptr::null() } else { part.as_ptr() };
            // SAFETY: the caller's; the level was detected.
            unsafe {
                match (self.level, height) {
                    (Level::Scalar, 4) => block_tile::<f32, 4, 4>(block, first, rows, calls),
                    (Level::Scalar, 2) => block_tile::<f32, 2, 4>(block, first, rows, calls),
                    (Level::Scalar, _) => block_tile::<f32, 1, 4>(block, first, rows, calls),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx2, 6) => avx2::block::<6>(block, first, rows, calls),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx2, 4) => avx2::block::<4>(block, first, rows, calls),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx2, 2) => avx2::block::<2>(block, first, rows, calls),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx2, _) => avx2::block::<1>(block, first, rows, calls),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx512, 12) => avx512::block::<12>(block, first, rows, calls),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx512, 8) => avx512::block::<8>(block, first, rows, calls),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx512, 4) => avx512::block::<4>(block, first, rows, calls),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx512, _) => avx512::block::<1>(block, first, rows, calls),
                    #[cfg(target_arch = "aarch64")]
                    (Level::Neon, 6) => block_tile::<float32x4_t, 6, 4>(block, first, rows, calls),
                    #[cfg(target_arch = "aarch64")]
                    (Level::Neon, 4) => block_tile::<float32x4_t, 4, 4>(block, first, rows, calls),
                    #[cfg(target_arch = "aarch64")]
                    (Level::Neon, 2) => block_tile::<float32x4_t, 2, 4>(block, first, rows, calls),
                    #[cfg(target_arch = "aarch64")]
                    (Level::Neon, _) => block_tile::<float32x4_t, 1, 4>(block, first, rows, calls),
                }
            }
            first += rows;
        }
    }

    /// Computes `rows` rows of the result, in tiles of every height that fits.
    ///
    /// # Safety
    /// All pointers are valid for what the fields say, for `rows` rows.
    pub unsafe fn columns(&self, tile: &ColumnTile, rows: usize) {
        // SAFETY: the caller's.
        unsafe { self.columns_and_call::<false>(tile, rows, tile.a) };
    }

    /// [`Self::columns`] that meanwhile calls what lies at `later`, whatever that is, into the second-level
    /// cache line by line. Gives the line after the last.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn columns_calling(&self, tile: &ColumnTile, rows: usize, later: *const f32) -> *const f32 {
        // SAFETY: the caller's.
        unsafe { self.columns_and_call::<true>(tile, rows, later) }
    }

    unsafe fn columns_and_call<const CALLS: bool>(
        &self,
        tile: &ColumnTile,
        rows: usize,
        mut later: *const f32,
    ) -> *const f32 {
        let mut row = 0;
        while row < rows {
            let left = rows - row;
            let part = ColumnTile {
                // SAFETY: row < rows.
                a: unsafe { tile.a.add(row) },
                // SAFETY: as above.
                c: unsafe { tile.c.add(row * tile.c_stride) },
                ..*tile
            };
            // SAFETY: the caller's; the level was detected; the height is at most `left`.
            row += unsafe {
                match self.level {
                    Level::Scalar if left >= 4 => column_tile::<f32, 4, 4, CALLS>(&part, &mut later),
                    Level::Scalar => column_tile::<f32, 1, 4, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 if left >= 6 => avx2::column::<6, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 if left >= 4 => avx2::column::<4, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => avx2::column::<1, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "x86_64")]
                    // Two tiles of eight rows share a group's cache lines.
                    Level::Avx512 if left >= 12 && left != GROUP => {
                        avx512::column::<12, CALLS>(&part, &mut later)
                    }
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 if left >= 8 => avx512::column::<8, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 if left >= 4 => avx512::column::<4, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => avx512::column::<1, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "aarch64")]
                    Level::Neon if left >= 6 => column_tile::<float32x4_t, 6, 4, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "aarch64")]
                    Level::Neon if left >= 4 => column_tile::<float32x4_t, 4, 4, CALLS>(&part, &mut later),
                    #[cfg(target_arch = "aarch64")]
                    Level::Neon => column_tile::<float32x4_t, 1, 4, CALLS>(&part, &mut later),
                }
            };
        }
        later
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
    pub unsafe fn block<const MR: usize>(block: &Block, first: usize, rows: usize, calls: *const f32) {
        // SAFETY: the caller's.
        unsafe { block_tile::<__m256, MR, 2>(block, first, rows, calls) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn packed_block(block: &Block, first: usize) {
        // SAFETY: the caller's.
        unsafe { packed_block_tile::<__m256, 6, 2>(block, first) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn column<const MR: usize, const CALLS: bool>(
        tile: &ColumnTile,
        later: &mut *const f32,
    ) -> usize {
        // SAFETY: the caller's.
        unsafe { column_tile::<__m256, MR, 2, CALLS>(tile, later) }
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
    pub unsafe fn block<const MR: usize>(block: &Block, first: usize, rows: usize, calls: *const f32) {
        // SAFETY: the caller's.
        unsafe { block_tile::<__m512, MR, 2>(block, first, rows, calls) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub unsafe fn packed_block(block: &Block, first: usize) {
        // SAFETY: the caller's.
        unsafe { packed_block_tile::<__m512, 12, 2>(block, first) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
    pub unsafe fn column<const MR: usize, const CALLS: bool>(
        tile: &ColumnTile,
        later: &mut *const f32,
    ) -> usize {
        // SAFETY: the caller's.
        unsafe { column_tile::<__m512, MR, 2, CALLS>(tile, later) }
    }
}
