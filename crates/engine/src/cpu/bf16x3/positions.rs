//! Where a convolution's source lies, so that all a product reads is evenly spaced.
//!
//! A block of the result (some images, some rows) is computed from the pixels of the source that it reaches,
//! copied with zeros beyond the image's edges. The images lie side by side, pixel by pixel:
//! `[phase][row][column][image]`. With a stride of s a result's neighbours read pixels s apart, so those of
//! each phase (row mod s, column mod s) lie together. Then a filter tap reads, for results at consecutive
//! positions, consecutive positions from a place that depends on the tap alone.

use super::matrix_unit::SIDE;
use crate::cpu::axis::Axis;
use crate::shape::Shape;
use std::ops::Range;

/// Images that lie side by side at most: with 8, rows of 4 pixels fill a product.
const IMAGES: usize = 8;
/// Rows of a block at least: those around it are copied with it.
const ROWS: usize = 4;
/// Results of a block at least, or products at its end are mostly empty.
const RESULTS: usize = 8 * SIDE;

/// Along one axis: from a result's index, the place in its phase of what each tap reads.
#[derive(Clone, Copy)]
struct Reach {
    axis: Axis,
    /// The least shift.
    first: isize,
    /// Places beyond those of as many results.
    extra: usize,
}

impl Reach {
    fn new(axis: Axis) -> Self {
        let shifts = (0..axis.taps).map(|tap| shift(axis, tap).1);
        let first = shifts.clone().min().unwrap_or(0);
        let last = shifts.max().unwrap_or(0);
        Self { axis, first, extra: (last - first) as usize }
    }

    /// The phase that a tap reads, and the place of what result 0 reads there.
    fn tap(&self, tap: usize) -> (usize, usize) {
        let (phase, shift) = shift(self.axis, tap);
        (phase, (shift - self.first) as usize)
    }

    /// The source's index of a place, if it is inside.
    fn source(&self, phase: usize, place: usize) -> Option<usize> {
        let index = (place as isize + self.first) * self.axis.source_step as isize + phase as isize;
        (index >= 0 && index < self.axis.source_len as isize).then_some(index as usize)
    }
}

fn shift(axis: Axis, tap: usize) -> (usize, isize) {
    let (shift, step) = (axis.shift + tap as isize * axis.shift_step, axis.source_step as isize);
    (shift.rem_euclid(step) as usize, shift.div_euclid(step))
}

/// How results that share their taps read a source.
#[derive(Clone, Copy)]
pub(super) struct Positions {
    rows: Reach,
    columns: Reach,
    source: Shape,
}

impl Positions {
    pub fn new(source: Shape, [rows, columns]: [Axis; 2]) -> Self {
        Self { rows: Reach::new(rows), columns: Reach::new(columns), source }
    }

    /// The filter's elements in order, by number: row by row.
    pub fn taps(&self, kernel_width: usize) -> impl Iterator<Item = usize> {
        let (rows, columns) = (self.rows.axis, self.columns.axis);
        let numbers = move |axis: Axis| (0..axis.taps).map(move |i| axis.tap + i * axis.tap_step);
        numbers(rows).flat_map(move |y| numbers(columns).map(move |x| y * kernel_width + x))
    }

    /// The blocks of the result, of about `size` each, where a position is of size `element`; `wanted` of
    /// them if there are as many.
    pub fn blocks(self, size: usize, element: usize, wanted: usize) -> Vec<Block> {
        let images = self.source.n.min(IMAGES);
        let groups = self.source.n.div_ceil(images.max(1));
        let results = self.rows.axis.pixels;
        let row = self.phases() * (self.columns.axis.pixels + self.columns.extra) * images * element;
        let in_cache = (size / row.max(1)).saturating_sub(self.rows.extra);
        let least = RESULTS.div_ceil((self.columns.axis.pixels * images).max(1)).max(ROWS);
        let rows = in_cache.min(results * groups / wanted.max(1)).max(least).min(results);
        // All of about the same size.
        let rows = results.div_ceil(results.div_ceil(rows.max(1)).max(1)).max(1);
        (0..groups)
            .flat_map(|group| {
                (0..results).step_by(rows).map(move |row| Block {
                    positions: self,
                    images: group * images..((group + 1) * images).min(self.source.n),
                    rows: row..(row + rows).min(results),
                })
            })
            .collect()
    }

    fn phases(&self) -> usize {
        self.rows.axis.source_step * self.columns.axis.source_step
    }
}

/// Some rows of the result in some images, and the copy of what they read.
pub(super) struct Block {
    positions: Positions,
    images: Range<usize>,
    rows: Range<usize>,
}

/// Consecutive positions whose results are computed together.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    /// How many there are.
    count: usize,
    /// Positions from the beginning of one to that of the next.
    stride: usize,
    /// Positions of one.
    len: usize,
}

impl Runs {
    /// Products that compute all of them.
    pub fn products(&self) -> usize {
        self.count * self.len.div_ceil(SIDE)
    }

    /// The positions of product `index`, at most [`SIDE`].
    pub fn positions(&self, index: usize) -> Range<usize> {
        let products = self.len.div_ceil(SIDE);
        let (run, first) = (index / products, index % products * SIDE);
        let start = run * self.stride + first;
        start..start + SIDE.min(self.len - first)
    }
}

impl Block {
    /// Columns of a copied row: so many that every row begins at an even position.
    fn pitch(&self) -> usize {
        let columns = self.positions.columns.axis.pixels + self.positions.columns.extra;
        if self.images.len().is_multiple_of(2) { columns } else { columns.next_multiple_of(2) }
    }

    /// 1 if for a result at an even position every tap reads an even one, else 2.
    pub fn pairings(&self) -> usize {
        if self.taps().all(|position| position.is_multiple_of(2)) { 1 } else { 2 }
    }

    /// Rows of a phase's copy.
    fn copied_rows(&self) -> usize {
        self.rows.len() + self.positions.rows.extra
    }

    /// Positions of a copied row.
    pub fn row_len(&self) -> usize {
        self.pitch() * self.images.len()
    }

    /// Rows of the copy, of all phases.
    pub fn all_rows(&self) -> usize {
        self.positions.phases() * self.copied_rows()
    }

    /// Positions of the copy.
    pub fn len(&self) -> usize {
        self.all_rows() * self.row_len()
    }

    /// The position that each tap reads for the result at position 0, in the order of [`Positions::taps`].
    pub fn taps(&self) -> impl Iterator<Item = usize> {
        let Positions { rows, columns, .. } = self.positions;
        let (images, row_len, copied) = (self.images.len(), self.row_len(), self.copied_rows());
        (0..rows.axis.taps).flat_map(move |i| {
            (0..columns.axis.taps).map(move |j| {
                let ((row_phase, row), (column_phase, column)) = (rows.tap(i), columns.tap(j));
                let phase = row_phase * columns.axis.source_step + column_phase;
                (phase * copied + row) * row_len + column * images
            })
        })
    }

    /// What lies in a row of the copy: the element of the source that each position's channels begin with,
    /// `None` for zeros.
    pub fn sources(&self, row: usize) -> impl Iterator<Item = Option<usize>> {
        let Positions { rows, columns, source } = self.positions;
        let (phase, row) = (row / self.copied_rows(), row % self.copied_rows());
        let (row_phase, column_phase) = (phase / columns.axis.source_step, phase % columns.axis.source_step);
        let y = rows.source(row_phase, self.rows.start + row);
        let images = self.images.clone();
        (0..self.pitch()).flat_map(move |column| {
            let place = y.zip(columns.source(column_phase, column));
            images.clone().map(move |n| place.map(|(y, x)| ((n * source.h + y) * source.w + x) * source.c))
        })
    }

    /// How its results are cut into products: row by row, or, if that takes fewer, all rows in one, with what
    /// lies between them.
    pub fn runs(&self) -> Runs {
        let (images, rows, row_len) = (self.images.len(), self.rows.len(), self.row_len());
        let width = self.positions.columns.axis.pixels * images;
        let by_row = Runs { count: rows, stride: row_len, len: width };
        let in_one = Runs { count: 1, stride: 0, len: rows.saturating_sub(1) * row_len + width };
        if in_one.products() < by_row.products() { in_one } else { by_row }
    }

    /// Image, row and column of the results at these positions, `None` for what lies between rows.
    pub fn results(&self, positions: Range<usize>) -> impl Iterator<Item = Option<(usize, usize, usize)>> {
        let (images, pitch) = (self.images.len(), self.pitch());
        let Positions { rows, columns, .. } = self.positions;
        let (first, end) = (self.images.start, self.rows.end);
        let start = positions.start;
        let mut image = start % images;
        let mut column = start / images % pitch;
        let mut row = self.rows.start + start / images / pitch;
        positions.map(move |_| {
            let result = (row < end && column < columns.axis.pixels).then(|| {
                let (y, x) =
                    (rows.axis.phase + row * rows.axis.step, columns.axis.phase + column * columns.axis.step);
                (first + image, y, x)
            });
            image += 1;
            if image == images {
                (image, column) = (0, column + 1);
                if column == pitch {
                    (column, row) = (0, row + 1);
                }
            }
            result
        })
    }
}
