//! The gradients of a convolution's weight and bias.
//!
//! `dw[tap][c][o] = Σ_pixels x[pixel at tap][c] · dy[pixel][o]` is one product over pixels, with as many rows
//! as the filter has taps and channels of x. Where dy has fewer channels than a vector it is turned round:
//! `Σ_pixels dy[pixel at mirrored tap][o] · x[pixel][c]`, whose pixels are those of x and whose rows are taps
//! and channels of dy. Chains run over pixels in order.

use crate::cpu::axis::Axis;
use crate::cpu::parallel::{Shared, for_each_chunk, for_each_task, thread_index};
use crate::cpu::simd::{LINE, Level, copy};
use crate::cpu::tile::{ColumnTile, GROUP, Tiles};
use crate::kernel::Scratch;
use crate::ops::Conv;
use crate::shape::Shape;
use std::ops::Range;

/// Pixels summed at a time, so that they stay in cache for all rows.
const PIXELS: usize = 256;
/// Rows that are packed at a time.
const ROWS: usize = 128;
/// Panels of a task, as wide as a group, from which on it pays to pack rows that lie apart, and often on the
/// same cache sets.
const PANELS: usize = 8;
const _: () = assert!(ROWS.is_multiple_of(GROUP));

/// Scratch for [`weight_gradient`].
pub(crate) fn weight_gradient_scratch(
    conv: Conv,
    x: Shape,
    dy: Shape,
    tiles: Tiles,
    threads: usize,
) -> Scratch {
    let (rows, right, turned) = match is_turned(conv, x, dy) {
        true => (conv.taps() * dy.c, x.c, conv.taps() * x.c * dy.c),
        false => (conv.taps() * x.c, dy.c, 0),
    };
    let cut = Cut::new(rows, conv != Conv::POINTWISE, right, tiles, threads);
    Scratch { prepared: 0, workspace: turned.next_multiple_of(LINE) + threads * cut.per_thread() }
}

/// Whether the sum is turned round. With a stride that would be a product for each phase.
fn is_turned(conv: Conv, x: Shape, dy: Shape) -> bool {
    conv != Conv::POINTWISE && conv.stride == 1 && dy.c < LINE && dy.c < x.c
}

/// The gradient of the weight, `dw` `[tap][c][o]`, added to what is there if it `adds`, else set.
pub(crate) fn weight_gradient(
    conv: Conv,
    tiles: Tiles,
    (x, x_shape): (&[f32], Shape),
    (dy, dy_shape): (&[f32], Shape),
    workspace: &mut [f32],
    (dw, adds): (&mut [f32], bool),
) {
    if conv == Conv::POINTWISE {
        return multiply(tiles, Left::Rows(x, x_shape.c), (dy, dy_shape), workspace, (dw, adds));
    }
    if is_turned(conv, x_shape, dy_shape) {
        let axes = Axis::both_input_gradient(conv, dy_shape, x_shape, [0, 0]);
        let (turned, workspace) = workspace.split_at_mut(dw.len().next_multiple_of(LINE));
        let turned = &mut turned[..dw.len()];
        // `[tap][c][o]` to `[tap][o][c]` and back.
        let (c, o) = (x_shape.c, dy_shape.c);
        let place = |index: usize| index / (c * o) * (c * o) + index % o * c + index / o % c;
        if adds {
            for (index, &value) in dw.iter().enumerate() {
                turned[place(index)] = value;
            }
        }
        let left = Left::Taps { source: dy, shape: dy_shape, axes };
        multiply(tiles, left, (x, x_shape), workspace, (turned, adds));
        for (index, value) in dw.iter_mut().enumerate() {
            *value = turned[place(index)];
        }
        return;
    }
    let axes = Axis::both_forward(conv, x_shape, dy_shape);
    let left = Left::Taps { source: x, shape: x_shape, axes };
    multiply(tiles, left, (dy, dy_shape), workspace, (dw, adds));
}

/// The transposed left factor: for each pixel its rows.
#[derive(Clone, Copy)]
enum Left<'a> {
    /// A pixel's channels, as many as said, are its rows.
    Rows(&'a [f32], usize),
    /// The channels of the source's pixels at all taps are a pixel's rows.
    Taps { source: &'a [f32], shape: Shape, axes: [Axis; 2] },
}

impl Left<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Rows(_, channels) => *channels,
            Self::Taps { shape, axes: [rows, columns], .. } => rows.taps * columns.taps * shape.c,
        }
    }
}

/// How the product is cut up: a task takes some rows by some panels. What an element's chain of operations is
/// does not depend on it.
struct Cut {
    rows: usize,
    row_chunks: usize,
    panels: usize,
    panel_chunks: usize,
    /// Elements of a task's panels of a block of pixels.
    right: usize,
}

impl Cut {
    /// As many tasks for each thread. Each packs its panels of every pixel, and its rows if these are
    /// `packed`: what there is more of is shared out, so that it is packed once.
    fn new(rows: usize, packed: bool, columns: usize, tiles: Tiles, threads: usize) -> Self {
        let (groups, panels) = (rows.div_ceil(GROUP), columns.div_ceil(tiles.width));
        let (row_chunks, panel_chunks) = if packed && rows > columns {
            let row_chunks = groups.min(threads);
            (row_chunks, threads.div_ceil(row_chunks).min(panels))
        } else {
            let panel_chunks = panels.min(threads);
            (threads.div_ceil(panel_chunks).min(groups), panel_chunks)
        };
        let (chunk, panel_chunk) = (groups.div_ceil(row_chunks), panels.div_ceil(panel_chunks));
        Self {
            rows: chunk * GROUP,
            row_chunks: groups.div_ceil(chunk),
            panels: panel_chunk,
            panel_chunks: panels.div_ceil(panel_chunk),
            right: PIXELS * panel_chunk * tiles.width,
        }
    }

    /// What each thread has for itself.
    fn per_thread(&self) -> usize {
        self.right + PIXELS * ROWS
    }
}

/// `sums[row][o]`: the products of the left factor's rows and the channels of `right` over all pixels, added
/// to what is there if it `adds`.
fn multiply(
    tiles: Tiles,
    left: Left,
    (right, shape): (&[f32], Shape),
    workspace: &mut [f32],
    (sums, adds): (&mut [f32], bool),
) {
    let width = tiles.width;
    let (all_rows, channels) = (left.rows(), shape.c);
    let packed = matches!(left, Left::Taps { .. });
    let cut = Cut::new(all_rows, packed, channels, tiles, rayon::current_num_threads());
    let pixels = shape.n * shape.pixels();
    let workspace = Shared::new(workspace);
    let sums = Shared::new(sums);

    for_each_task(cut.panel_chunks * cut.row_chunks, |task| {
        let (panel_chunk, row_chunk) = (task / cut.row_chunks, task % cut.row_chunks);
        let rows = row_chunk * cut.rows..((row_chunk + 1) * cut.rows).min(all_rows);
        let columns =
            panel_chunk * cut.panels * width..((panel_chunk + 1) * cut.panels * width).min(channels);
        // SAFETY: each thread has its own part.
        let own = unsafe { workspace.slice(thread_index() * cut.per_thread(), cut.per_thread()) };
        let (packed, packed_rows) = own.split_at_mut(cut.right);
        for first in (0..pixels).step_by(PIXELS) {
            let count = PIXELS.min(pixels - first);
            for (k, pixel) in right.chunks_exact(channels).skip(first).take(count).enumerate() {
                for (panel, from) in pixel[columns.clone()].chunks(width).enumerate() {
                    let target = &mut packed[(panel * count + k) * width..][..width];
                    copy(from, &mut target[..from.len()]);
                    target[from.len()..].fill(0.0);
                }
            }
            let tile = |row: usize, column: usize, a: &[f32], a_stride: usize| ColumnTile {
                depth: count,
                a: a.as_ptr(),
                a_stride,
                b: packed[(column - columns.start) * count..][..count * width].as_ptr(),
                c: sums.pointer(row * channels + column),
                c_stride: channels,
                columns: width.min(channels - column),
                adds: adds || first > 0,
            };
            match left {
                Left::Rows(x, stride) if width == GROUP && cut.panels >= PANELS => {
                    for row in rows.clone().step_by(GROUP) {
                        let len = GROUP.min(rows.end - row);
                        let group = &mut packed_rows[..count * len];
                        let pixels = x.chunks_exact(stride).skip(first);
                        for (pixel, target) in pixels.zip(group.chunks_exact_mut(len)) {
                            copy(&pixel[row..row + len], target);
                        }
                        for column in columns.clone().step_by(width) {
                            // SAFETY: both factors are packed; these sums are the task's.
                            unsafe { tiles.columns(&tile(row, column, group, len), len) };
                        }
                    }
                }
                Left::Rows(x, stride) => {
                    let block = &x[first * stride..][..count * stride];
                    // The next pixels.
                    let mut later = block.as_ptr_range().end;
                    for column in columns.clone().step_by(width) {
                        for row in rows.clone().step_by(GROUP) {
                            let tile = tile(row, column, &block[row..], stride);
                            // SAFETY: every pixel has these rows, and is packed; these sums are the task's.
                            later = unsafe { tiles.columns_calling(&tile, GROUP.min(rows.end - row), later) };
                        }
                    }
                }
                Left::Taps { source, shape: source_shape, axes } => {
                    for from in rows.clone().step_by(ROWS) {
                        let some = from..(from + ROWS).min(rows.end);
                        let pixels = (shape, first..first + count);
                        pack_taps((source, source_shape), axes, some.clone(), pixels, packed_rows);
                        for column in columns.clone().step_by(width) {
                            for row in some.clone().step_by(GROUP) {
                                let len = GROUP.min(some.end - row);
                                let group = &packed_rows[(row - from) * count..][..len * count];
                                // SAFETY: both factors are packed; these sums are the task's.
                                unsafe { tiles.columns(&tile(row, column, group, len), len) };
                            }
                        }
                    }
                }
            }
        }
    });
}

/// Rows `rows` of `pixels` of a shape to `packed`, `[group][pixel][row of the group]`; zeros where a tap lies
/// beyond the source.
fn pack_taps(
    (source, shape): (&[f32], Shape),
    [row_axis, column_axis]: [Axis; 2],
    rows: Range<usize>,
    (grid, pixels): (Shape, Range<usize>),
    packed: &mut [f32],
) {
    let count = pixels.len();
    let taps = rows.start / shape.c..rows.end.div_ceil(shape.c);
    for (k, (n, y, x)) in positions(grid, pixels.start).take(count).enumerate() {
        for tap in taps.clone() {
            let (i, j) = (tap / column_axis.taps, tap % column_axis.taps);
            let pixel = row_axis.source(y, i).zip(column_axis.source(x, j));
            let pixel = pixel.map(|(y, x)| ((n * shape.h + y) * shape.w + x) * shape.c);
            // The rows of this tap, group by group.
            let mut row = rows.start.max(tap * shape.c);
            let end = rows.end.min((tap + 1) * shape.c);
            while row < end {
                let at = row - rows.start;
                let (group, place) = (at / GROUP * GROUP, at % GROUP);
                let group_len = GROUP.min(rows.len() - group);
                let len = (group_len - place).min(end - row);
                let target = &mut packed[group * count + k * group_len + place..][..len];
                match pixel {
                    Some(pixel) => copy(&source[pixel + row - tap * shape.c..][..len], target),
                    None => target.fill(0.0),
                }
                row += len;
            }
        }
    }
}

/// Image, row and column of the pixels from `first` on: counted on, for divisions would take longer than what
/// is done with a pixel.
fn positions(shape: Shape, first: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (n, rest) = (first / shape.pixels(), first % shape.pixels());
    let start = (n, rest / shape.w, rest % shape.w);
    std::iter::successors(Some(start), move |&(n, y, x)| {
        Some(if x + 1 < shape.w {
            (n, y, x + 1)
        } else if y + 1 < shape.h {
            (n, y + 1, 0)
        } else {
            (n + 1, 0, 0)
        })
    })
}

/// Adds to `db[o]` the sum of `dy[pixel][o]` over all pixels, in order.
pub(crate) fn bias_gradient(level: Level, dy: &[f32], channels: usize, db: &mut [f32]) {
    /// Channels whose sums stay in registers.
    const STRIP: usize = 64;
    let (strips, rest) = db.as_chunks_mut::<STRIP>();
    let from = strips.len() * STRIP;
    for_each_chunk(strips, 1, |strip, db| {
        let db = &mut db[0];
        let first = strip * STRIP;
        level.vectorize(
            #[inline(always)]
            || {
                let mut sums = *db;
                for pixel in dy.chunks_exact(channels) {
                    let (values, _) = pixel[first..].as_chunks::<STRIP>();
                    for (sum, &value) in sums.iter_mut().zip(&values[0]) {
                        *sum += value;
                    }
                }
                *db = sums;
            },
        );
    });
    for pixel in dy.chunks_exact(channels) {
        for (sum, &value) in rest.iter_mut().zip(&pixel[from..]) {
            *sum += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Padding;
    use crate::random::noise;

    #[test]
    fn elements_are_chains_over_pixels_in_order_from_what_was_there() {
        let halving = Conv { stride: 2, padding: Padding::BOTTOM_RIGHT, ..Conv::SAME_3X3 };
        // One block of pixels and several; dy of few channels, x of few, groups, rows and panels that are not
        // whole, so many panels that x is packed.
        for (conv, h, w, c, o) in [
            (Conv::POINTWISE, 13, 11, 37, 70),
            (Conv::POINTWISE, 13, 11, 37, PANELS * GROUP * rayon::current_num_threads() + 5),
            (Conv::SAME_3X3, 13, 11, 37, 3),
            (Conv::SAME_3X3, 13, 11, 3, 37),
            (Conv::SAME_3X3, 5, 3, 40, 20),
            (halving, 14, 16, 150, 40),
            (halving, 9, 7, 20, 5),
        ] {
            let (y_h, y_w) = conv.output_size(h, w);
            let (x_shape, dy_shape) = (Shape::new(3, h, w, c), Shape::new(3, y_h, y_w, o));
            let (x, dy) = (noise(1, x_shape.len()), noise(2, dy_shape.len()));
            let initial = noise(3, conv.taps() * c * o);
            let [rows, columns] = Axis::both_forward(conv, x_shape, dy_shape);
            let nothing = vec![f32::NAN; initial.len()];
            let [mut expected, mut from_zero] = [initial.clone(), vec![0.0; initial.len()]];
            for (pixel, (n, row, column)) in positions(dy_shape, 0).take(3 * y_h * y_w).enumerate() {
                for tap in 0..conv.taps() {
                    let source = rows.source(row, tap / conv.kernel_w);
                    let Some((row, column)) = source.zip(columns.source(column, tap % conv.kernel_w)) else {
                        continue;
                    };
                    let x = &x[((n * h + row) * w + column) * c..][..c];
                    for expected in [&mut expected, &mut from_zero] {
                        for (row, sums) in expected[tap * c * o..].chunks_exact_mut(o).take(c).enumerate() {
                            for (sum, &dy) in sums.iter_mut().zip(&dy[pixel * o..]) {
                                *sum = x[row].mul_add(dy, *sum);
                            }
                        }
                    }
                }
            }
            for level in Level::available() {
                let tiles = Tiles::new(level);
                let scratch =
                    weight_gradient_scratch(conv, x_shape, dy_shape, tiles, rayon::current_num_threads());
                for (there, expected, adds) in [(&initial, &expected, true), (&nothing, &from_zero, false)] {
                    let (mut dw, mut workspace) = (there.clone(), vec![f32::NAN; scratch.workspace]);
                    let gradient = (dw.as_mut_slice(), adds);
                    weight_gradient(conv, tiles, (&x, x_shape), (&dy, dy_shape), &mut workspace, gradient);
                    let same = dw.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{conv:?}, {x_shape}, {o}, {level:?}, adds {adds}");
                }
            }
        }
    }
}
