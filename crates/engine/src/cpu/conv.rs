//! Convolution forward, and its gradients with respect to the input and the weight.
//!
//! Forward and input gradient are one product: rows are pixels of the result, gathered by pointers ([`RowTile`]), so padding and
//! strides cost nothing. Pixels whose filter taps differ (a strided input gradient has one set per phase) are separate classes.
//! Chains run over taps (row by row), then channels.

use super::axis::Axis;
use super::panel::{Panels, Source};
use super::parallel::{Shared, for_each_task, thread_index};
use super::product::multiply_panel;
use super::simd::{Level, copy};
use super::tile::{ColumnTile, GROUP, RowTile, Tiles};
use crate::kernel::Scratch;
use crate::ops::Conv;
use crate::shape::Shape;
use rayon::prelude::*;

/// Pixels of the result that one task computes: a multiple of every tile height, and few enough that their inputs stay in cache.
const BLOCK: usize = 96;
/// Pixels summed at a time in a weight gradient, so that they stay in cache for all filter elements.
const PIXELS: usize = 256;
/// Input channels that one task of a weight gradient handles at most.
const CHANNELS: usize = 128;

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

/// Scratch for a product whose source has `source.c` channels and whose result is `result`.
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
    pub workspace: &'a mut [f32],
    pub result: (&'a mut [f32], Shape),
}

/// y from x.
pub(crate) fn forward(gather: Gather) {
    let (conv, x, y) = (gather.conv, gather.source.1, gather.result.1);
    let [rows, columns] = Axis::both_forward(conv, x, y);
    let panels = forward_panels(x, y, conv, gather.tiles);
    if conv == Conv::POINTWISE {
        return pointwise(gather, panels);
    }
    gather_class(&mut { gather }, panels, rows, columns);
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

/// How many tasks share the panels of a block of pixels. With few blocks the panels are shared out too: which task computes an
/// element does not change it.
fn panel_groups(blocks: usize, panels: Panels) -> usize {
    if blocks >= 16 { 1 } else { panels.count().min(16usize.div_ceil(blocks.max(1))) }
}

/// A 1×1 convolution of stride 1: pixels need not be gathered.
fn pointwise(gather: Gather, panels: Panels) {
    let Gather { tiles, source: (source, shape), prepared, result: (result, result_shape), .. } = gather;
    let pixels = shape.n * shape.pixels();
    let blocks = pixels.div_ceil(BLOCK);
    let groups = panel_groups(blocks, panels);
    let packed = &prepared[zeros_len(shape.c)..];
    let result = Shared::new(result);
    for_each_task(blocks * groups, |task| {
        let (first, group) = (task / groups * BLOCK, task % groups);
        let rows = BLOCK.min(pixels - first);
        let left = &source[first * shape.c..][..rows * shape.c];
        for panel in (group..panels.count()).step_by(groups) {
            // The same pixels for the next panel, after the last the next pixels.
            let is_last = panel + groups >= panels.count();
            let next = left.as_ptr().wrapping_add(if is_last { left.len() } else { 0 });
            let target = result.pointer(first * result_shape.c);
            // SAFETY: these columns of these pixels are this task's.
            unsafe { multiply_panel(tiles, left, (panels, packed), panel, next, target) };
        }
    });
}

fn gather_class(gather: &mut Gather, panels: Panels, rows: Axis, columns: Axis) {
    let Gather { conv, tiles, source: (source, source_shape), prepared, .. } = *gather;
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
                    rows: (count - start).min(tiles.height),
                    columns: panels.columns_of(panel),
                };
                let height = tiles.height_for(count - start);
                // SAFETY: pointers lead to `depth` source channels or zeros; targets are this task's pixels and channels.
                unsafe { tiles.rows(&tile) };
                start += height;
            }
        }
    });
}

/// Scratch for [`weight_gradient`]: per thread a block of pixels of a chunk of x, and of dy.
pub(crate) fn weight_gradient_scratch(dy: Shape, tiles: Tiles, threads: usize) -> Scratch {
    Scratch { prepared: 0, workspace: threads * weight_gradient_workspace(dy, tiles) }
}

fn weight_gradient_workspace(dy: Shape, tiles: Tiles) -> usize {
    PIXELS * (CHANNELS + dy.c.next_multiple_of(tiles.width))
}

/// Adds to `dw[tap][c][o]` the sum over pixels, in order, of `x[pixel at tap][c] · dy[pixel][o]`.
///
/// A task takes a tap and a chunk of x's channels. It packs a block of pixels, which then stay in its second-level cache for all products.
pub(crate) fn weight_gradient(
    conv: Conv,
    tiles: Tiles,
    (x, x_shape): (&[f32], Shape),
    (dy, dy_shape): (&[f32], Shape),
    workspace: &mut [f32],
    dw: &mut [f32],
) {
    if conv == Conv::POINTWISE {
        return pointwise_weight_gradient(tiles, (x, x_shape.c), (dy, dy_shape.c), workspace, dw);
    }
    let width = tiles.width;
    let panels = dy_shape.c.div_ceil(width);
    // As many tasks for each thread; the cut does not change an element's chain.
    let chunks = x_shape.c.div_ceil(CHANNELS).next_multiple_of(rayon::current_num_threads());
    let chunk_len = x_shape.c.div_ceil(chunks).next_multiple_of(GROUP);
    let chunks = x_shape.c.div_ceil(chunk_len);
    let pixels = dy_shape.n * dy_shape.pixels();
    let workspace = Shared::new(workspace);
    let dw = Shared::new(dw);
    let [rows, columns] = Axis::both_forward(conv, x_shape, dy_shape);

    for_each_task(conv.taps() * chunks, |task| {
        let (tap, chunk) = (task / chunks, task % chunks);
        let (tap_y, tap_x) = (tap / conv.kernel_w, tap % conv.kernel_w);
        let first_channel = chunk * chunk_len;
        let channels = chunk_len.min(x_shape.c - first_channel);
        let len = weight_gradient_workspace(dy_shape, tiles);
        // SAFETY: each thread has its own part.
        let own = unsafe { workspace.slice(thread_index() * len, len) };
        let (xs, dys) = own.split_at_mut(PIXELS * CHANNELS);

        for first in (0..pixels).step_by(PIXELS) {
            let count = PIXELS.min(pixels - first);
            for (k, (n, y, x_)) in positions(dy_shape, first).take(count).enumerate() {
                let source = match (rows.source(y, tap_y), columns.source(x_, tap_x)) {
                    (Some(y), Some(x_)) => {
                        let at = ((n * x_shape.h + y) * x_shape.w + x_) * x_shape.c + first_channel;
                        Some(&x[at..at + channels])
                    }
                    _ => None,
                };
                for from in (0..channels).step_by(GROUP) {
                    let group = GROUP.min(channels - from);
                    let target = &mut xs[from * count + k * group..][..group];
                    match source {
                        Some(source) => copy(&source[from..from + group], target),
                        None => target.fill(0.0),
                    }
                }
                let row = &dy[(first + k) * dy_shape.c..][..dy_shape.c];
                for (panel, from) in row.chunks(width).enumerate() {
                    let target = &mut dys[(panel * count + k) * width..][..width];
                    copy(from, &mut target[..from.len()]);
                    target[from.len()..].fill(0.0);
                }
            }
            for panel in 0..panels {
                for from in (0..channels).step_by(GROUP) {
                    let group = GROUP.min(channels - from);
                    let (row, column) = (tap * x_shape.c + first_channel + from, panel * width);
                    let tile = ColumnTile {
                        depth: count,
                        a: xs[from * count..][..group * count].as_ptr(),
                        a_stride: group,
                        b: dys[panel * count * width..][..count * width].as_ptr(),
                        c: dw.pointer(row * dy_shape.c + column),
                        c_stride: dy_shape.c,
                        columns: width.min(dy_shape.c - column),
                        adds: true,
                    };
                    // SAFETY: both factors are packed; this part of dw is this task's.
                    unsafe { tiles.columns(&tile, group) };
                }
            }
        }
    });
}

/// [`weight_gradient`] of a 1×1 convolution of stride 1: x is read where it lies.
///
/// A task takes some of dy's channels, which it packs block by block, and all of x's, if so there are tasks for all threads.
fn pointwise_weight_gradient(
    tiles: Tiles,
    (x, x_channels): (&[f32], usize),
    (dy, dy_channels): (&[f32], usize),
    workspace: &mut [f32],
    dw: &mut [f32],
) {
    let width = tiles.width;
    let threads = rayon::current_num_threads();
    let panels = dy_channels.div_ceil(width);
    let task_panels = panels.div_ceil(threads);
    let panel_tasks = panels.div_ceil(task_panels);
    let chunk_len = x_channels.div_ceil(threads.div_ceil(panel_tasks)).next_multiple_of(GROUP);
    let chunks = x_channels.div_ceil(chunk_len);
    let pixels = x.len() / x_channels;
    let len = PIXELS * task_panels * width;
    let workspace = Shared::new(workspace);
    let dw = Shared::new(dw);

    for_each_task(panel_tasks * chunks, |task| {
        let panels = task / chunks * task_panels..(task / chunks * task_panels + task_panels).min(panels);
        let chunk = task % chunks * chunk_len..(task % chunks * chunk_len + chunk_len).min(x_channels);
        let columns = panels.start * width..(panels.end * width).min(dy_channels);
        // SAFETY: each thread has its own part.
        let packed = unsafe { workspace.slice(thread_index() * len, len) };
        for first in (0..pixels).step_by(PIXELS) {
            let count = PIXELS.min(pixels - first);
            for (k, row) in dy.chunks_exact(dy_channels).skip(first).take(count).enumerate() {
                for (panel, from) in row[columns.clone()].chunks(width).enumerate() {
                    let target = &mut packed[(panel * count + k) * width..][..width];
                    copy(from, &mut target[..from.len()]);
                    target[from.len()..].fill(0.0);
                }
            }
            let block = &x[first * x_channels..][..count * x_channels];
            // The next pixels of x.
            let mut next = block.as_ptr().wrapping_add(block.len());
            for panel in panels.clone() {
                let column = panel * width;
                for from in chunk.clone().step_by(GROUP) {
                    let tile = ColumnTile {
                        depth: count,
                        a: block[from..].as_ptr(),
                        a_stride: x_channels,
                        b: packed[(panel - panels.start) * count * width..][..count * width].as_ptr(),
                        c: dw.pointer(from * dy_channels + column),
                        c_stride: dy_channels,
                        columns: width.min(dy_channels - column),
                        adds: true,
                    };
                    // SAFETY: x has these channels of all pixels, dy is packed; this part of dw is this task's.
                    next = unsafe { tiles.columns_calling(&tile, GROUP.min(chunk.end - from), next) };
                }
            }
        }
    });
}

/// Image, row and column of the pixels from `first` on: counted on, for divisions would take longer than what is done with a pixel.
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
    strips.par_iter_mut().enumerate().for_each(|(strip, db)| {
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
