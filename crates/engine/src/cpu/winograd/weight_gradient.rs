//! The weight gradient in the transformed domain.
//!
//! With `y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A` for each tile, the chain rule gives `dg = Gᵀ[Σ_tiles (Bᵀ d B) ⊙ (A dy Aᵀ)]G`. In each of the 36 planes
//! the sum over tiles is a matrix product, in by out channels. Its chains run over the tiles in order.
//!
//! Both factors of a block of tiles are transformed to planes that stay in the last-level cache. Then each task takes a chunk of the input channels
//! by a panel of the output channels, whose sums in all planes stay in its own second-level cache until they are
//! transformed back.

use super::convolution::transform_input;
use super::transform::{self, PLANES, RESULT, TILE};
use super::{TASKS, Tiling, chunk_offset, plane_stride};
use crate::cpu::parallel::{Shared, for_each_task, thread_index};
use crate::cpu::simd::{Level, Vector, with_vectors};
use crate::cpu::tile::{ColumnTile, GROUP, Tiles};
use crate::kernel::Scratch;
use crate::shape::Shape;

/// Elements of a block's transformed factors, about: 16 MiB.
const BLOCK_ELEMENTS: usize = 1 << 21;
/// Input channels of a task at most.
const CHUNK: usize = 128;

/// How a weight gradient is cut up. What an element's chain of operations is does not depend on it.
struct Cut {
    /// Tiles of a block.
    block: usize,
    /// Blocks of the batch.
    blocks: usize,
    /// Transformed x: `[plane][group][tile][channel of the group]`, elements from plane to plane.
    x_stride: usize,
    /// Transformed dy, packed as right factors: `[plane][panel][tile][width]`, elements from plane to plane.
    dy_stride: usize,
    panels: usize,
    /// Input channels of a task.
    chunk: usize,
    chunks: usize,
    /// Sums: `[plane][channel of the chunk][width]`, elements from plane to plane.
    sum_stride: usize,
    /// A pixel of zeros: what lies beyond the image.
    zeros: usize,
}

impl Cut {
    fn new(x: Shape, dy: Shape, tiles: Tiles, threads: usize) -> Self {
        let panels = dy.c.div_ceil(tiles.width);
        let count = Tiling::new(x, dy).count();
        let blocks = count.div_ceil((BLOCK_ELEMENTS / (PLANES * (x.c + dy.c))).max(64));
        let block = count.div_ceil(blocks);
        let chunks = (TASKS * threads).div_ceil(panels);
        let chunk = x.c.div_ceil(chunks).next_multiple_of(GROUP).min(CHUNK).min(x.c);
        Self {
            block,
            blocks,
            x_stride: plane_stride(block, x.c),
            dy_stride: plane_stride(block, panels * tiles.width),
            panels,
            chunk,
            chunks: x.c.div_ceil(chunk),
            sum_stride: plane_stride(chunk, tiles.width),
            zeros: x.c.max(dy.c).next_multiple_of(16),
        }
    }

    fn tasks(&self) -> usize {
        self.panels * self.chunks
    }

    /// Places for a task's sums: one for each thread if a task's work is done in one go, else one for each task.
    fn sums(&self, threads: usize) -> usize {
        if self.blocks == 1 { threads } else { self.tasks() }
    }
}

/// Scratch: a pixel of zeros, a block's planes of both factors, and sums.
pub(crate) fn weight_gradient_scratch(x: Shape, dy: Shape, tiles: Tiles, threads: usize) -> Scratch {
    let cut = Cut::new(x, dy, tiles, threads);
    let sums = cut.sums(threads) * PLANES * cut.sum_stride;
    Scratch { prepared: 0, workspace: cut.zeros + PLANES * (cut.x_stride + cut.dy_stride) + sums }
}

/// Adds the filter's gradient to `dw` `[3, 3, in, out]`; `before` of the forward convolution.
pub(crate) fn weight_gradient(
    level: Level,
    tiles: Tiles,
    before: usize,
    (x, x_shape): (&[f32], Shape),
    (dy, dy_shape): (&[f32], Shape),
    workspace: &mut [f32],
    dw: &mut [f32],
) {
    let cut = Cut::new(x_shape, dy_shape, tiles, rayon::current_num_threads());
    let width = tiles.width;
    let (x_tiling, dy_tiling) = (Tiling::new(x_shape, dy_shape), Tiling::new(dy_shape, dy_shape));
    let count = x_tiling.count();
    let (zeros, rest) = workspace.split_at_mut(cut.zeros);
    zeros.fill(0.0);
    let zeros = zeros.as_ptr() as usize;
    let (xs, rest) = rest.split_at_mut(PLANES * cut.x_stride);
    let (dys, sums) = rest.split_at_mut(PLANES * cut.dy_stride);
    let (xs, dys, sums, dw) = (Shared::new(xs), Shared::new(dys), Shared::new(sums), Shared::new(dw));

    for first in (0..count).step_by(cut.block) {
        let block = cut.block.min(count - first);
        for_each_task(block, |tile| {
            let zeros = zeros as *const f32;
            let pixels = x_tiling.pixels::<TILE, _>(first + tile, before, |at| x[at..].as_ptr(), zeros);
            let dy_pixels = dy_tiling.pixels::<RESULT, _>(first + tile, 0, |at| dy[at..].as_ptr(), zeros);
            let place = |c| xs.pointer(chunk_offset(c, tile, GROUP, block, x_shape.c));
            // SAFETY: pixels have these channels; this tile's channels of every plane are this task's.
            with_vectors!(level, V => unsafe {
                transform_input::<V>(x_shape.c, &pixels, place, cut.x_stride);
                for panel in 0..cut.panels {
                    let target = dys.pointer((panel * cut.block + tile) * width);
                    let columns = panel * width..((panel + 1) * width).min(dy_shape.c);
                    transform_output_gradient::<V>(columns, width, &dy_pixels, target, cut.dy_stride);
                }
            });
        });
        for_each_task(cut.tasks(), |task| {
            let (panel, chunk) = (task / cut.chunks, task % cut.chunks);
            let first_channel = chunk * cut.chunk;
            let channels = cut.chunk.min(x_shape.c - first_channel);
            let place = if cut.blocks == 1 { thread_index() } else { task };
            // SAFETY: these sums are this task's.
            let sums = unsafe { sums.slice(place * PLANES * cut.sum_stride, PLANES * cut.sum_stride) };
            for plane in 0..PLANES {
                for from in (0..channels).step_by(GROUP) {
                    let group = GROUP.min(channels - from);
                    let tile = ColumnTile {
                        depth: block,
                        a: xs.pointer(plane * cut.x_stride + (first_channel + from) * block),
                        a_stride: group,
                        b: dys.pointer(plane * cut.dy_stride + panel * cut.block * width),
                        c: sums[plane * cut.sum_stride + from * width..].as_mut_ptr(),
                        c_stride: width,
                        columns: width,
                        adds: first > 0,
                    };
                    // SAFETY: the planes are filled and nobody writes to them now.
                    unsafe { tiles.columns(&tile, group) };
                }
            }
            if first + block < count {
                return;
            }
            let columns = width.min(dy_shape.c - panel * width);
            with_vectors!(level, V => {
                for row in 0..channels {
                    let from = sums[row * width..].as_ptr();
                    let target = dw.pointer((first_channel + row) * dy_shape.c + panel * width);
                    // SAFETY: these elements of every tap are this task's.
                    unsafe {
                        add_filter_gradient::<V>(from, cut.sum_stride, columns, target, x_shape.c * dy_shape.c);
                    }
                }
            });
        });
    }
}

/// Transforms the results' gradient of one tile, `columns` of its channels, into panels `width` wide; 0 beyond the last channel.
///
/// # Safety
/// `pixels` have these channels; `target + plane · stride` has room for `width` elements that nobody else uses.
#[inline(always)]
unsafe fn transform_output_gradient<V: Vector>(
    columns: std::ops::Range<usize>,
    width: usize,
    pixels: &[[*const f32; RESULT]; RESULT],
    target: *mut f32,
    stride: usize,
) {
    let mut c = 0;
    while c + V::LANES <= columns.len() {
        // SAFETY: the caller's.
        unsafe { transform_output_gradient_at::<V>(columns.start + c, pixels, target.add(c), stride) };
        c += V::LANES;
    }
    while c < columns.len() {
        // SAFETY: the caller's.
        unsafe { transform_output_gradient_at::<f32>(columns.start + c, pixels, target.add(c), stride) };
        c += 1;
    }
    while c < width {
        for plane in 0..PLANES {
            // SAFETY: the caller's.
            unsafe { *target.add(plane * stride + c) = 0.0 };
        }
        c += 1;
    }
}

#[inline(always)]
unsafe fn transform_output_gradient_at<V: Vector>(
    c: usize,
    pixels: &[[*const f32; RESULT]; RESULT],
    target: *mut f32,
    stride: usize,
) {
    let mut y = [[V::splat(0.0); RESULT]; RESULT];
    for i in 0..RESULT {
        for j in 0..RESULT {
            // SAFETY: the caller's.
            y[i][j] = unsafe { V::load(pixels[i][j].add(c)) };
        }
    }
    let planes = transform::output_gradient(y);
    for i in 0..TILE {
        for j in 0..TILE {
            // SAFETY: the caller's.
            unsafe { planes[i][j].store(target.add((i * TILE + j) * stride)) };
        }
    }
}

/// Transforms a row of sums and adds it to the taps of the filter's gradient.
///
/// # Safety
/// `from + plane · stride` has `columns` elements, as has `target + tap · tap_step`, which nobody else uses.
#[inline(always)]
unsafe fn add_filter_gradient<V: Vector>(
    from: *const f32,
    stride: usize,
    columns: usize,
    target: *mut f32,
    tap_step: usize,
) {
    let mut c = 0;
    while c + V::LANES <= columns {
        // SAFETY: the caller's.
        unsafe { add_filter_gradient_at::<V>(from.add(c), stride, target.add(c), tap_step) };
        c += V::LANES;
    }
    while c < columns {
        // SAFETY: the caller's.
        unsafe { add_filter_gradient_at::<f32>(from.add(c), stride, target.add(c), tap_step) };
        c += 1;
    }
}

#[inline(always)]
unsafe fn add_filter_gradient_at<V: Vector>(
    from: *const f32,
    stride: usize,
    target: *mut f32,
    tap_step: usize,
) {
    let mut p = [[V::splat(0.0); TILE]; TILE];
    for i in 0..TILE {
        for j in 0..TILE {
            // SAFETY: the caller's.
            p[i][j] = unsafe { V::load(from.add((i * TILE + j) * stride)) };
        }
    }
    let g = transform::filter_gradient(p);
    for i in 0..3 {
        for j in 0..3 {
            // SAFETY: the caller's.
            unsafe {
                let target = target.add((3 * i + j) * tap_step);
                V::load(target).add(g[i][j]).store(target);
            }
        }
    }
}
