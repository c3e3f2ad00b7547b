//! The transformed filter, a piece of a panel of the result's channels at a time: made when it is used, in
//! the cache of the thread that uses it. Where a filter is kept, what is kept is its taps, packed in the
//! order in which they are read. Nine taps are read from memory instead of 36 planes, which costs less than
//! it saves: a filter row is transformed in about a hundred cycles and then multiplies 36 planes of dozens of
//! tiles.

use super::transform::{self, PLANES, TILE};
use crate::cpu::parallel::for_each_chunk;
use crate::cpu::simd::{LINE, Level, Vector, copy, prefetch_second_level, with_vectors};
use crate::cpu::tile::MAX_WIDTH;
use crate::cpu::transpose::transpose;
use crate::shape::Shape;
use std::ops::Range;

/// Rows that pass through the buffer of taps at a time.
pub(super) const ROWS: usize = 16;
/// Elements of that buffer, `[tap][ROWS][MAX_WIDTH]`.
pub(super) const TAPS: usize = 9 * ROWS * MAX_WIDTH;

/// A filter `[3, 3, in, out]`, as it is or as the input gradient needs it.
#[derive(Clone, Copy)]
pub(crate) struct Filter<'a> {
    weight: &'a [f32],
    /// Channels of the product's source: its reduction.
    source: usize,
    /// Channels of the product's result.
    result: usize,
    /// Mirrored, with in and out exchanged: the source is the convolution's result.
    transposed: bool,
}

/// Where rows of a panel of the filter lie: tap `t` of row `k` is at `base + k · row_step + t · tap_step`.
pub(super) struct Taps {
    pub base: *const f32,
    pub row_step: usize,
    pub tap_step: usize,
}

/// Elements from one plane of a transformed piece to the next: `rows` of `width`, and off powers of two, so
/// that the planes of a row do not fall on the same cache sets.
pub(super) fn piece_stride(rows: usize, width: usize) -> usize {
    rows * width + 16
}

/// Elements of a filter packed for panels of `width` channels.
pub(super) fn packed_len(source: usize, result: usize, width: usize) -> usize {
    result.div_ceil(width) * source.div_ceil(ROWS) * packed_piece_len(width)
}

/// Elements of [`ROWS`] rows of a panel in a packed filter: `[tap][ROWS][width]`.
const fn packed_piece_len(width: usize) -> usize {
    9 * ROWS * width
}

impl<'a> Filter<'a> {
    /// The filter of a convolution from `source` to `result` with the weights `[3, 3, in, out]`, or with
    /// `transposed` of its input gradient.
    pub fn new(weight: &'a [f32], source: Shape, result: Shape, transposed: bool) -> Self {
        Self { weight, source: source.c, result: result.c, transposed }
    }

    /// Transforms the rows `piece` of the panel of `width` channels of the result from `first` on into
    /// `planes`, `[plane][row][width]` with [`piece_stride`] between planes; channels beyond the last are
    /// zeros. `buffer` has room for [`TAPS`].
    pub fn transform_piece(
        &self,
        level: Level,
        piece: Range<usize>,
        first: usize,
        width: usize,
        buffer: &mut [f32],
        planes: &mut [f32],
    ) {
        let stride = piece_stride(piece.len(), width);
        assert!(planes.len() >= PLANES * stride);
        for start in piece.clone().step_by(ROWS) {
            let rows = ROWS.min(piece.end - start);
            let Taps { base, row_step, tap_step } =
                self.taps(level, start..start + rows, first, width, buffer);
            let out = planes[(start - piece.start) * width..].as_mut_ptr();
            with_vectors!(level, V => {
                for row in 0..rows {
                    for lane in (0..width).step_by(V::LANES) {
                        // SAFETY: all nine taps of the row have `width` channels at `base`, as every plane
                        // has in `planes`; a panel is whole vectors wide.
                        unsafe {
                            let taps = base.add(row * row_step + lane);
                            let mut g = [[V::splat(0.0); 3]; 3];
                            for i in 0..3 {
                                for j in 0..3 {
                                    g[i][j] = V::load(taps.add((3 * i + j) * tap_step));
                                }
                            }
                            let out = out.add(row * width + lane);
                            let g = transform::filter(g);
                            for i in 0..TILE {
                                for j in 0..TILE {
                                    g[i][j].store(out.add((i * TILE + j) * stride));
                                }
                            }
                        }
                    }
                }
            });
        }
    }

    /// The taps of at most [`ROWS`] rows of the panel of `width` channels of the result from `first` on,
    /// zeros beyond the last channel. What does not lie in whole panels is copied to `buffer`.
    pub(super) fn taps(
        &self,
        level: Level,
        rows: Range<usize>,
        first: usize,
        width: usize,
        buffer: &mut [f32],
    ) -> Taps {
        if !self.transposed && first + width <= self.result {
            let base = self.weight[rows.start * self.result + first..].as_ptr();
            return Taps { base, row_step: self.result, tap_step: self.source * self.result };
        }
        let buffer = &mut buffer[..TAPS];
        if first + width > self.result {
            // Never stored, but multiplied: what scratch memory held before may be denormal numbers, which take long.
            buffer.fill(0.0);
        }
        self.copy_taps(level, rows, first..(first + width).min(self.result), MAX_WIDTH, buffer);
        Taps { base: buffer.as_ptr(), row_step: MAX_WIDTH, tap_step: ROWS * MAX_WIDTH }
    }

    /// The rows, at most `len`, and the panel that are multiplied after `piece` of the panel at `first`: the
    /// panel's next ones, after the last likely the first of the panel at `next_first`.
    pub fn after(
        &self,
        piece: &Range<usize>,
        len: usize,
        first: usize,
        next_first: usize,
    ) -> (Range<usize>, usize) {
        if piece.end < self.source {
            (piece.end..(piece.end + len).min(self.source), first)
        } else {
            (0..len.min(self.source), next_first)
        }
    }

    /// What [`Ahead`] calls of a piece of the filter.
    pub(super) fn ahead(&self, piece: Range<usize>, first: usize, width: usize) -> Ahead {
        let columns = width.min(self.result.saturating_sub(first));
        // Contiguous elements: a row's columns, or with the transposed filter a column's rows.
        let (runs, run, step, start) = if self.transposed {
            (columns, piece.len(), self.source, first * self.source + piece.start)
        } else {
            (piece.len(), columns, self.result, piece.start * self.result + first)
        };
        let base = self.weight.as_ptr().wrapping_add(start);
        Ahead { base, runs, run, step, tap_step: self.source * self.result, tap: 0, index: 0 }
    }

    /// Copies rows, at most [`ROWS`], and columns of the filter to `[tap][ROWS][width]`; what is there beyond
    /// the last channel stays.
    #[inline(always)]
    pub fn copy_taps(
        &self,
        level: Level,
        rows: Range<usize>,
        columns: Range<usize>,
        width: usize,
        buffer: &mut [f32],
    ) {
        let Self { weight, source, result, transposed } = *self;
        for (tap, out) in buffer.chunks_exact_mut(ROWS * width).take(9).enumerate() {
            if transposed {
                let from = &weight[((8 - tap) * result + columns.start) * source + rows.start..];
                transpose(level, out, width, from, source, columns.len(), rows.len());
            } else {
                for (row, out) in rows.clone().zip(out.chunks_exact_mut(width)) {
                    let from = (tap * source + row) * result;
                    let from = &weight[from + columns.start..from + columns.end];
                    copy(from, &mut out[..columns.len()]);
                }
            }
        }
    }

    /// Packs the filter, as [`Self::packed_piece`] says.
    pub fn pack(&self, level: Level, width: usize, packed: &mut [f32]) {
        let pieces = self.source.div_ceil(ROWS);
        for_each_chunk(packed, packed_piece_len(width), |index, piece| {
            let (row, column) = (index % pieces * ROWS, index / pieces * width);
            let rows = row..(row + ROWS).min(self.source);
            self.copy_taps(level, rows, column..(column + width).min(self.result), width, piece);
        });
    }

    /// Where in a filter packed for panels of `width` the piece lies whose rows begin with `row`, a multiple
    /// of [`ROWS`], of the panel that `column` is in.
    pub fn packed_piece(&self, row: usize, column: usize, width: usize) -> usize {
        (column / width * self.source.div_ceil(ROWS) + row / ROWS) * packed_piece_len(width)
    }

    /// The lines of [`ROWS`] rows from `row` on by [`LINE`] columns from `column` on.
    pub(super) fn lines(&self, row: usize, column: usize) -> Lines {
        let tap_step = self.source * self.result;
        let (offset, step) = if self.transposed {
            (column * self.source + row, self.source)
        } else {
            (row * self.result + column, self.result)
        };
        Lines { base: self.weight.as_ptr().wrapping_add(offset), step, tap_step }
    }
}

/// Calls a piece of the filter into the second-level cache part by part. A filter is read once, with strides
/// that the processor does not foresee: called while the piece before it multiplies, it costs no time.
pub(super) struct Ahead {
    base: *const f32,
    /// Runs of contiguous elements for each tap, and elements of a run.
    runs: usize,
    run: usize,
    /// Elements from one run to the next, and from one tap to the next.
    step: usize,
    tap_step: usize,
    /// What is called next.
    tap: usize,
    index: usize,
}

impl Ahead {
    /// Calls one of as many parts as there are planes.
    pub fn call_part(&mut self) {
        for _ in 0..(9 * self.runs).div_ceil(PLANES) {
            let run = self.base.wrapping_add(self.tap * self.tap_step + self.index * self.step);
            for line in (0..self.run).step_by(LINE) {
                prefetch_second_level(run.wrapping_add(line));
            }
            // Counted on: a division would take longer than the run.
            self.index += 1;
            if self.index == self.runs {
                (self.tap, self.index) = (self.tap + 1, 0);
            }
        }
    }
}

/// Lines of a corner of a filter: of each tap as many, whether they are rows or, transposed, columns.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    base: *const f32,
    step: usize,
    tap_step: usize,
}

impl Lines {
    /// Those of a filter packed for panels of `width` that follow its first piece at `piece`.
    pub fn after_packed(piece: &[f32], width: usize) -> Self {
        let base = piece.as_ptr().wrapping_add(packed_piece_len(width));
        Self { base, step: width, tap_step: ROWS * width }
    }

    /// Calls a line into the second-level cache; any numbers will do.
    #[inline(always)]
    pub fn prefetch(&self, tap: usize, line: usize) {
        prefetch_second_level(self.base.wrapping_add(tap * self.tap_step + line * self.step));
    }

    /// The first lines of the three taps of a row.
    #[inline(always)]
    pub fn of_row(&self, row: usize) -> [*const f32; 3] {
        let mut lines = [self.base; 3];
        for (column, line) in lines.iter_mut().enumerate() {
            *line = self.base.wrapping_add((3 * row + column) * self.tap_step);
        }
        lines
    }

    /// Calls these lines into the second-level cache, and goes on to those that follow.
    #[inline(always)]
    pub fn prefetch_each(&self, lines: &mut [*const f32; 3]) {
        for line in lines {
            prefetch_second_level(*line);
            *line = line.wrapping_add(self.step);
        }
    }
}

const _: () = assert!(ROWS == LINE);
