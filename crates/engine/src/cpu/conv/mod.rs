//! Convolution by direct summation, and its gradients.
//!
//! Forward and input gradient are one product: rows are pixels of the result, gathered by pointers
//! ([`RowTile`]), so padding and strides cost nothing. Pixels whose filter taps differ (a strided input
//! gradient has one set per phase) are separate classes. Chains run over taps (row by row), then channels.
//! Where the result has few channels, vectors are of pixels instead: see [`few_channels`].

mod few_channels;
mod weight_gradient;

pub(crate) use weight_gradient::{bias_gradient, weight_gradient, weight_gradient_scratch};

use super::axis::Axis;
use super::epilogue::Epilogue;
use super::panel::{Panels, Source};
use super::parallel::{Shared, for_each_task, thread_index};
use super::product::multiply_panel;
use super::tile::{RowTile, Tiles};
use crate::kernel::Scratch;
use crate::ops::Conv;
use crate::shape::Shape;

/// Pixels of the result that one task computes: a multiple of every tile height, and few enough that their
/// inputs stay in cache.
const BLOCK: usize = 96;

/// Elements of the row of zeros that padding points to, before the panels.
fn zeros_len(depth: usize) -> usize {
    depth.next_multiple_of(16)
}

fn forward_panels(x: Shape, y: Shape, conv: Conv, tiles: Tiles) -> Panels {
    Panels { depth: conv.taps() * x.c, columns: y.c, width: tiles.width }
}

fn input_gradient_panels(dy: Shape, dx: Shape, conv: Conv, tiles: Tiles) -> Panels {
    Panels { depth: conv.taps() * dy.c, columns: dx.c, width: tiles.width }
}

/// Per thread: pointers of a block's pixels for every tap (two elements each), and the taps' numbers.
fn gather_workspace(conv: Conv) -> usize {
    (2 * (BLOCK + 1) * conv.taps()).next_multiple_of(16)
}

/// Scratch for [`forward`].
pub(crate) fn forward_scratch(x: Shape, y: Shape, conv: Conv, tiles: Tiles, threads: usize) -> Scratch {
    if few_channels::applies(conv, x, y) {
        return few_channels::scratch(conv, x, y, threads);
    }
    gather_scratch(x, y, conv, tiles, threads)
}

/// Scratch for a product by gathered pixels, [`input_gradient`] or such a [`forward`].
pub(crate) fn gather_scratch(
    source: Shape,
    result: Shape,
    conv: Conv,
    tiles: Tiles,
    threads: usize,
) -> Scratch {
    let panels = Panels { depth: conv.taps() * source.c, columns: result.c, width: tiles.width };
    Scratch { prepared: zeros_len(source.c) + panels.len(), workspace: threads * gather_workspace(conv) }
}

/// Packs filter and bias for [`forward`].
pub(crate) fn prepare_forward(
    weight: &[f32],
    bias: &[f32],
    x: Shape,
    y: Shape,
    conv: Conv,
    tiles: Tiles,
    prepared: &mut [f32],
) {
    if few_channels::applies(conv, x, y) {
        return few_channels::prepare(weight, bias, prepared);
    }
    pack_forward(weight, bias, x, y, conv, tiles, prepared);
}

fn pack_forward(
    weight: &[f32],
    bias: &[f32],
    x: Shape,
    y: Shape,
    conv: Conv,
    tiles: Tiles,
    prepared: &mut [f32],
) {
    let (zeros, packed) = prepared.split_at_mut(zeros_len(x.c));
    zeros.fill(0.0);
    forward_panels(x, y, conv, tiles).pack(tiles.level, packed, 1, Some(bias), |_| Source::Rows(weight, y.c));
}

/// Packs the transposed filter for [`input_gradient`].
pub(crate) fn prepare_input_gradient(
    weight: &[f32],
    dy: Shape,
    dx: Shape,
    conv: Conv,
    tiles: Tiles,
    prepared: &mut [f32],
) {
    let (zeros, packed) = prepared.split_at_mut(zeros_len(dy.c));
    zeros.fill(0.0);
    input_gradient_panels(dy, dx, conv, tiles).pack(tiles.level, packed, 1, None, |_| {
        Source::TransposedFilter { weight, columns: dx.c, depth: dy.c }
    });
}

/// Tensors of a product by gathered pixels.
pub(crate) struct Gather<'a> {
    pub conv: Conv,
    pub tiles: Tiles,
    pub source: (&'a [f32], Shape),
    pub prepared: &'a [f32],
    /// Done to the result.
    pub epilogue: Epilogue<'a>,
    pub workspace: &'a mut [f32],
    pub result: (&'a mut [f32], Shape),
}

/// y from x.
pub(crate) fn forward(gather: Gather) {
    let (conv, x, y) = (gather.conv, gather.source.1, gather.result.1);
    if conv == Conv::POINTWISE {
        let panels = forward_panels(x, y, conv, gather.tiles);
        pointwise(gather, panels);
    } else if few_channels::applies(conv, x, y) {
        few_channels::forward(gather);
    } else {
        gather_forward(gather);
    }
}

fn gather_forward(mut gather: Gather) {
    let (conv, x, y) = (gather.conv, gather.source.1, gather.result.1);
    let [rows, columns] = Axis::both_forward(conv, x, y);
    let panels = forward_panels(x, y, conv, gather.tiles);
    gather_class(&mut gather, panels, rows, columns);
}

/// dx from dy.
pub(crate) fn input_gradient(mut gather: Gather) {
    let (conv, dy, dx) = (gather.conv, gather.source.1, gather.result.1);
    let panels = input_gradient_panels(dy, dx, conv, gather.tiles);
    if conv == Conv::POINTWISE {
        return pointwise(gather, panels);
    }
    for phase_y in 0..conv.stride {
        for phase_x in 0..conv.stride {
            let [rows, columns] = Axis::both_input_gradient(conv, dy, dx, [phase_y, phase_x]);
            gather_class(&mut gather, panels, rows, columns);
        }
    }
}

/// How many tasks share the panels of a block of pixels. With few blocks the panels are shared out too: which
/// task computes an element does not change it.
fn panel_groups(blocks: usize, panels: Panels) -> usize {
    if blocks >= 16 { 1 } else { panels.count().min(16usize.div_ceil(blocks.max(1))) }
}

/// A 1×1 convolution of stride 1: pixels need not be gathered.
fn pointwise(gather: Gather, panels: Panels) {
    let Gather { tiles, source: (source, shape), prepared, epilogue, .. } = gather;
    let (result, result_shape) = gather.result;
    let pixels = shape.n * shape.pixels();
    let blocks = pixels.div_ceil(BLOCK);
    let packed = &prepared[zeros_len(shape.c)..];
    let result = Shared::new(result);
    let multiply = |block: usize, panel: usize, next_block: usize, later: &[f32]| {
        let first = block * BLOCK;
        let rows = BLOCK.min(pixels - first);
        let left = &source[first * shape.c..][..rows * shape.c];
        let next = source.as_ptr().wrapping_add(next_block * BLOCK * shape.c);
        let target = result.pointer(first * result_shape.c);
        // SAFETY: these columns of these pixels are this task's.
        unsafe {
            let epilogue = epilogue.of_rows(result);
            multiply_panel(tiles, left, (panels, packed), panel, (next, later), target, epilogue);
        }
    };
    if pixels <= panels.columns {
        // The filter is more than the pixels are: each thread reads a part of it, and all pixels.
        for_each_task(panels.count() * blocks, |task| {
            let (panel, block) = (task / blocks, task % blocks);
            let later = if block == 0 { packed.chunks(panels.stride()).nth(panel + 1) } else { None };
            multiply(block, panel, (block + 1) % blocks, later.unwrap_or(&[]));
        });
    } else {
        let groups = panel_groups(blocks, panels);
        for_each_task(blocks * groups, |task| {
            let (block, group) = (task / groups, task % groups);
            for panel in (group..panels.count()).step_by(groups) {
                // The same pixels for the next panel, after the last the next pixels.
                let is_last = panel + groups >= panels.count();
                multiply(block, panel, block + usize::from(is_last), &[]);
            }
        });
    }
}

fn gather_class(gather: &mut Gather, panels: Panels, rows: Axis, columns: Axis) {
    let Gather { conv, tiles, source: (source, source_shape), prepared, epilogue, .. } = *gather;
    let result_shape = gather.result.1;
    let depth = source_shape.c;
    let pixels = source_shape.n * rows.pixels * columns.pixels;
    let blocks = pixels.div_ceil(BLOCK);
    let groups = panel_groups(blocks, panels);
    let (zeros, packed) = prepared.split_at(zeros_len(depth));
    let result = Shared::new(gather.result.0);
    let workspace = Shared::new(gather.workspace);
    let workspace_len = gather_workspace(conv);

    for_each_task(blocks * groups, |task| {
        let (block, group) = (task / groups, task % groups);
        let first = block * BLOCK;
        let count = BLOCK.min(pixels - first);
        // SAFETY: each thread has its own part.
        let scratch = unsafe { workspace.slice(thread_index() * workspace_len, workspace_len) };
        let segments = rows.taps * columns.taps;
        let (pointers, tap_numbers) = scratch.split_at_mut(2 * BLOCK * conv.taps());
        let pointers = pointers.as_mut_ptr().cast::<*const f32>();
        let tap_numbers = tap_numbers.as_mut_ptr().cast::<usize>();
        let mut targets = [std::ptr::null_mut::<f32>(); BLOCK];

        for i in 0..rows.taps {
            for j in 0..columns.taps {
                let number =
                    (rows.tap + i * rows.tap_step) * conv.kernel_w + columns.tap + j * columns.tap_step;
                // SAFETY: there are at most `conv.taps()` segments.
                unsafe { *tap_numbers.add(i * columns.taps + j) = number };
            }
        }
        let mut start = 0;
        while start < count {
            let height = tiles.height_for(count - start);
            for row in 0..height {
                // Rows beyond the last repeat it; they are not stored.
                let pixel = first + (start + row).min(count - 1);
                let (n, rest) =
                    (pixel / (rows.pixels * columns.pixels), pixel % (rows.pixels * columns.pixels));
                let (y, x) = (rest / columns.pixels, rest % columns.pixels);
                if start + row < count {
                    let (out_y, out_x) = (rows.phase + y * rows.step, columns.phase + x * columns.step);
                    let offset = ((n * result_shape.h + out_y) * result_shape.w + out_x) * result_shape.c;
                    targets[start + row] = result.pointer(offset);
                }
                for i in 0..rows.taps {
                    let source_y = rows.source(y, i);
                    for j in 0..columns.taps {
                        let pointer = match (source_y, columns.source(x, j)) {
                            (Some(sy), Some(sx)) => {
                                source[((n * source_shape.h + sy) * source_shape.w + sx) * depth..].as_ptr()
                            }
                            _ => zeros.as_ptr(),
                        };
                        // SAFETY: tables of all tiles together have `BLOCK · segments` entries at most:
                        // only the last tile's height exceeds its rows, and BLOCK is a multiple of every height.
                        unsafe {
                            *pointers.add(start * segments + (i * columns.taps + j) * height + row) = pointer;
                        }
                    }
                }
            }
            start += height;
        }

        for panel in (group..panels.count()).step_by(groups) {
            let base = packed[panel * panels.stride()..][..panels.stride()].as_ptr();
            let mut start = 0;
            while start < count {
                let height = tiles.height_for(count - start);
                let tile = RowTile {
                    segments,
                    depth,
                    // SAFETY: see the table above.
                    a: unsafe { pointers.add(start * segments) },
                    taps: tap_numbers,
                    // SAFETY: a panel begins with its initial row.
                    b: unsafe { base.add(panels.width) },
                    init: base,
                    c: targets[start..].as_ptr(),
                    c_offset: panel * panels.width,
                    rows: height.min(count - start),
                    columns: panels.columns_of(panel),
                    epilogue: epilogue.of_rows(result),
                };
                // SAFETY: pointers lead to `depth` source channels or zeros; targets are this task's pixels
                // and channels.
                unsafe { tiles.rows(&tile) };
                start += height;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Level;

    #[test]
    fn tiles_of_any_number_of_pixels_fit_the_pointer_tables() {
        for level in Level::available() {
            let tiles = Tiles::new(level);
            for count in 1..=BLOCK {
                let (mut start, mut entries) = (0, 0);
                while start < count {
                    let height = tiles.height_for(count - start);
                    assert!((1..=tiles.height).contains(&height));
                    (start, entries) = (start + height.min(count - start), entries + height);
                }
                assert!(entries <= BLOCK, "{level:?}: {count} pixels have {entries} entries");
            }
        }
    }
}
