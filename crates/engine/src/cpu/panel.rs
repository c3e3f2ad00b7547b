//! The right factor of a product, packed into panels as wide as a tile, so that a tile reads it in one stream.
//!
//! A panel holds `width` columns: first a row of initial values (a bias or zeros), then the factor's rows. Columns beyond the
//! last are zeros.

use super::parallel::{Shared, for_each_task};

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

    /// Packs `count` factors, each into a run of `panels.len()` elements of `target`. `initial` holds the first row, zeros
    /// without; `source(factor)` gives a factor and how it lies in memory.
    pub fn pack<'a>(
        &self,
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
            source(factor).copy(out, self.width, first_row, rows, first_column, columns);
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
    fn copy(
        &self,
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
                    out[..columns].copy_from_slice(&data[start..start + columns]);
                    out[columns..].fill(0.0);
                }
            }
            Source::Columns(data, stride) => {
                transpose(out, width, columns, rows, &data[first_column * stride + first_row..], stride);
            }
            Source::TransposedFilter { weight, columns: all, depth } => {
                let mut row = 0;
                while row < rows {
                    let (tap, k) = ((first_row + row) / depth, (first_row + row) % depth);
                    let run = (depth - k).min(rows - row);
                    let start = (tap * all + first_column) * depth + k;
                    transpose(&mut out[row * width..], width, columns, run, &weight[start..], depth);
                    row += run;
                }
            }
        }
    }
}

/// `out[row][column] = data[column][row]` for `rows × columns`, the columns up to `width` zeros.
fn transpose(out: &mut [f32], width: usize, columns: usize, rows: usize, data: &[f32], stride: usize) {
    const BLOCK: usize = 16;
    for first in (0..rows).step_by(BLOCK) {
        let block = BLOCK.min(rows - first);
        let out = &mut out[first * width..(first + block) * width];
        for column in 0..columns {
            let source = &data[column * stride + first..][..block];
            for (row, &value) in source.iter().enumerate() {
                out[row * width + column] = value;
            }
        }
        for row in out.chunks_exact_mut(width) {
            row[columns..].fill(0.0);
        }
    }
}
