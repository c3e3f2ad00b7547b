//! The right factor of a product, packed into panels as wide as a tile, so that a tile reads it in one stream.
//!
//! A panel holds `width` columns: first a row of initial values (a bias or zeros), then the factor's rows.
//! Columns beyond the last are zeros.

use super::parallel::{Shared, for_each_task};
use super::simd::{Level, copy};
use super::transpose::transpose;

/// The panels of a `[depth][columns]` factor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    /// Rows of the factor, without the initial row.
    pub depth: usize,
    /// Columns of the factor.
    pub columns: usize,
    /// Columns of a panel.
    pub width: usize,
}

impl Panels {
    /// Number of panels.
    pub fn count(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// Elements of one panel.
    pub fn stride(&self) -> usize {
        (1 + self.depth) * self.width
    }

    /// Elements of all panels.
    pub fn len(&self) -> usize {
        self.count() * self.stride()
    }

    /// Columns of panel `index` that are the factor's.
    pub fn columns_of(&self, index: usize) -> usize {
        self.width.min(self.columns - index * self.width)
    }

    /// Packs `count` factors, each into a run of `panels.len()` elements of `target`. `initial` holds the
    /// first row, zeros without; `source(factor)` gives a factor and how it lies in memory.
    pub fn pack<'a>(
        &self,
        level: Level,
        target: &mut [f32],
        count: usize,
        initial: Option<&[f32]>,
        source: impl Fn(usize) -> Source<'a> + Sync + Send,
    ) {
        let pieces = self.depth.div_ceil(PIECE).max(1);
        let target = Shared::new(&mut target[..count * self.len()]);
        for_each_task(count * self.count() * pieces, |task| {
            let (factor, rest) = (task / (self.count() * pieces), task % (self.count() * pieces));
            let (panel, piece) = (rest / pieces, rest % pieces);
            let start = factor * self.len() + panel * self.stride();
            let (first_column, columns) = (panel * self.width, self.columns_of(panel));
            if piece == 0 {
                // SAFETY: the initial row of this panel is this task's.
                let row = unsafe { target.slice(start, self.width) };
                row.fill(0.0);
                if let Some(initial) = initial {
                    row[..columns].copy_from_slice(&initial[first_column..first_column + columns]);
                }
            }
            let first_row = piece * PIECE;
            let rows = PIECE.min(self.depth - first_row);
            // SAFETY: these rows of this panel are this task's.
            let out = unsafe { target.slice(start + (1 + first_row) * self.width, rows * self.width) };
            source(factor).copy(level, out, self.width, first_row, rows, first_column, columns);
        });
    }
}

/// Rows that one task packs.
const PIECE: usize = 256;

/// How a factor lies in memory.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Row after row, each as long as the factor has columns.
    Rows(&'a [f32], usize),
    /// Column after column: the transpose lies row after row with this many elements a row.
    Columns(&'a [f32], usize),
    /// A filter `[taps][columns][depth]` as a factor `[taps · depth][columns]`.
    TransposedFilter {
        /// The filter.
        weight: &'a [f32],
        /// Its second dimension.
        columns: usize,
        /// Its third.
        depth: usize,
    },
}

impl Source<'_> {
    #[expect(clippy::too_many_arguments, reason = "a rectangle of the factor and where it goes")]
    fn copy(
        &self,
        level: Level,
        out: &mut [f32],
        width: usize,
        first_row: usize,
        rows: usize,
        first_column: usize,
        columns: usize,
    ) {
        match *self {
            Source::Rows(data, stride) => {
                for (row, out) in out.chunks_exact_mut(width).enumerate() {
                    let start = (first_row + row) * stride + first_column;
                    copy(&data[start..start + columns], &mut out[..columns]);
                    out[columns..].fill(0.0);
                }
            }
            Source::Columns(data, stride) => {
                transpose_padded(
                    level,
                    (out, width),
                    (&data[first_column * stride + first_row..], stride),
                    columns,
                    rows,
                );
            }
            Source::TransposedFilter { weight, columns: all, depth } => {
                let mut row = 0;
                while row < rows {
                    let (tap, k) = ((first_row + row) / depth, (first_row + row) % depth);
                    let run = (depth - k).min(rows - row);
                    let start = (tap * all + first_column) * depth + k;
                    let out = &mut out[row * width..];
                    transpose_padded(level, (out, width), (&weight[start..], depth), columns, run);
                    row += run;
                }
            }
        }
    }
}

/// Transposes `columns` runs of `rows` elements to rows `width` long, with zeros after the last column.
fn transpose_padded(
    level: Level,
    (out, width): (&mut [f32], usize),
    (data, stride): (&[f32], usize),
    columns: usize,
    rows: usize,
) {
    transpose(level, out, width, data, stride, columns, rows);
    if columns < width {
        for row in out.chunks_exact_mut(width).take(rows) {
            row[columns..].fill(0.0);
        }
    }
}
