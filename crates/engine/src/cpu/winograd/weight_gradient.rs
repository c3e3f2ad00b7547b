//! The weight gradient in the transformed domain.
//!
//! With `y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A` for each tile, the chain rule gives
//! `dg = Gᵀ[Σ_tiles (Bᵀ d B) ⊙ (A dy Aᵀ)]G`. In each of the 36 planes the sum over tiles is a matrix product,
//! in by out channels. Its chains run over the tiles in order.
//!
//! Both factors of a block of tiles are transformed to planes that stay in the last-level cache. Where there
//! are enough tiles, each task then multiplies one plane, which its own second-level cache holds, and the
//! sums of all planes are transformed back at the end. Where there are few, sums are more than factors: a
//! task takes a chunk of the input channels by a panel of the output channels, whose sums in all planes stay
//! in its cache until it transforms them back.

use super::convolution::transform_input;
use super::transform::{self, PLANES, RESULT, TILE};
use super::{TASKS, Tiling, chunk_offset, plane_stride};
use crate::cpu::parallel::{Shared, for_each_task, thread_index};
use crate::cpu::simd::{Level, Vector, with_vectors};
use crate::cpu::tile::{ColumnTile, GROUP, Tiles};
use crate::kernel::Scratch;
use crate::shape::Shape;
use std::ops::Range;

/// Elements of a block's transformed factors, about: 4 MiB.
const BLOCK_ELEMENTS: usize = 1 << 20;
/// Input channels of a panel's task at most.
const CHUNK: usize = 128;

/// What a task multiplies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    /// A chunk of the input channels by all output channels, in one plane.
    Plane,
    /// A chunk of the input channels by a panel of the output channels, in all planes.
    Panel,
}

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
    task: Task,
    /// Input channels of a task.
    chunk: usize,
    chunks: usize,
    /// Sums: `[plane][panel][channel][width]`, or for the task of a panel
    /// `[plane][channel of the chunk][width]`; elements from plane to plane.
    sum_stride: usize,
    /// A pixel of zeros: what lies beyond the image.
    zeros: usize,
}

impl Cut {
    /// The cut for which least passes between tasks and the shared cache.
    fn new(x: Shape, dy: Shape, tiles: Tiles, threads: usize) -> Self {
        let [plane, panel] = [Task::Plane, Task::Panel].map(|task| Self::by(task, x, dy, tiles, threads));
        let count = Tiling::new(x, dy).count();
        // Elements of a plane: each factor once for every panel or chunk of the other; sums written, for
        // which their place is read, and read again.
        let by_planes = count * (x.c + dy.c * plane.chunks) + 3 * x.c * dy.c;
        let by_panels = count * (x.c * panel.panels + dy.c * panel.chunks);
        if by_planes < by_panels { plane } else { panel }
    }

    fn by(task: Task, x: Shape, dy: Shape, tiles: Tiles, threads: usize) -> Self {
        let panels = dy.c.div_ceil(tiles.width);
        let count = Tiling::new(x, dy).count();
        let blocks = count.div_ceil((BLOCK_ELEMENTS / (PLANES * (x.c + dy.c))).max(64));
        let block = count.div_ceil(blocks);
        let (others, most) = match task {
            Task::Plane => (PLANES, x.c),
            Task::Panel => (panels, CHUNK),
        };
        let chunks = (TASKS * threads).div_ceil(others);
        let chunk = x.c.div_ceil(chunks).next_multiple_of(GROUP).min(most).min(x.c);
        let sum_stride = match task {
            Task::Plane => plane_stride(x.c, panels * tiles.width),
            Task::Panel => plane_stride(chunk, tiles.width),
        };
        Self {
            block,
            blocks,
            x_stride: plane_stride(block, x.c),
            dy_stride: plane_stride(block, panels * tiles.width),
            panels,
            task,
            chunk,
            chunks: x.c.div_ceil(chunk),
            sum_stride,
            zeros: x.c.max(dy.c).next_multiple_of(16),
        }
    }

    /// Input channels of a chunk, of all `c`.
    fn channels(&self, chunk: usize, c: usize) -> Range<usize> {
        chunk * self.chunk..((chunk + 1) * self.chunk).min(c)
    }

    /// Elements of scratch: a pixel of zeros, a block's planes of both factors, and sums. Those of a panel
    /// have a place for each thread if a task's work is done in one go, else one for each task.
    fn workspace(&self, threads: usize) -> usize {
        let places = match self.task {
            Task::Plane => 1,
            Task::Panel if self.blocks == 1 => threads,
            Task::Panel => self.panels * self.chunks,
        };
        self.zeros + PLANES * (self.x_stride + self.dy_stride + places * self.sum_stride)
    }
}

/// Scratch for a weight gradient.
pub(crate) fn weight_gradient_scratch(x: Shape, dy: Shape, tiles: Tiles, threads: usize) -> Scratch {
    Scratch { prepared: 0, workspace: Cut::new(x, dy, tiles, threads).workspace(threads) }
}

/// The filter's gradient `dw` `[3, 3, in, out]`, added to what is there if it `adds`, else set; `before` of
/// the forward convolution.
pub(crate) fn weight_gradient(
    level: Level,
    tiles: Tiles,
    before: usize,
    x: (&[f32], Shape),
    dy: (&[f32], Shape),
    workspace: &mut [f32],
    dw: (&mut [f32], bool),
) {
    let cut = Cut::new(x.1, dy.1, tiles, rayon::current_num_threads());
    cut_weight_gradient(&cut, level, tiles, before, x, dy, workspace, dw);
}

#[expect(clippy::too_many_arguments, reason = "those of `weight_gradient` and the cut")]
fn cut_weight_gradient(
    cut: &Cut,
    level: Level,
    tiles: Tiles,
    before: usize,
    (x, x_shape): (&[f32], Shape),
    (dy, dy_shape): (&[f32], Shape),
    workspace: &mut [f32],
    (dw, adds): (&mut [f32], bool),
) {
    let width = tiles.width;
    let (x_tiling, dy_tiling) = (Tiling::new(x_shape, dy_shape), Tiling::new(dy_shape, dy_shape));
    let count = x_tiling.count();
    let (zeros, rest) = workspace.split_at_mut(cut.zeros);
    zeros.fill(0.0);
    let zeros = &*zeros;
    let (xs, rest) = rest.split_at_mut(PLANES * cut.x_stride);
    let (dys, sums) = rest.split_at_mut(PLANES * cut.dy_stride);
    let (xs, dys, sums, dw) = (Shared::new(xs), Shared::new(dys), Shared::new(sums), Shared::new(dw));

    for first in (0..count).step_by(cut.block) {
        let block = cut.block.min(count - first);
        for_each_task(block, |tile| {
            let zeros = zeros.as_ptr();
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
        // In a plane, a group of the input channels by a panel of the output channels.
        let multiply = |plane: usize, from: usize, panel: usize, sums: *mut f32| {
            let group = GROUP.min(x_shape.c - from);
            let tile = ColumnTile {
                depth: block,
                a: xs.pointer(plane * cut.x_stride + from * block),
                a_stride: group,
                b: dys.pointer(plane * cut.dy_stride + panel * cut.block * width),
                c: sums,
                c_stride: width,
                columns: width,
                adds: first > 0,
            };
            // SAFETY: the planes are filled and nobody writes to them now; the sums are the task's.
            unsafe { tiles.columns(&tile, group) };
        };
        let is_last = first + block == count;
        let transform_back = |channels: Range<usize>, panel: usize, sums: *const f32| {
            let columns = width.min(dy_shape.c - panel * width);
            with_vectors!(level, V => {
                for (row, channel) in channels.enumerate() {
                    let from = sums.wrapping_add(row * width);
                    let target = dw.pointer(channel * dy_shape.c + panel * width);
                    // SAFETY: these elements of every tap are the task's.
                    unsafe {
                        store_filter_gradient::<V>(from, cut.sum_stride, columns, (target, x_shape.c * dy_shape.c), adds);
                    }
                }
            });
        };
        match cut.task {
            Task::Plane => {
                let place = |panel: usize, channel: usize| (panel * x_shape.c + channel) * width;
                for_each_task(PLANES * cut.chunks, |task| {
                    let (plane, chunk) = (task / cut.chunks, task % cut.chunks);
                    for from in cut.channels(chunk, x_shape.c).step_by(GROUP) {
                        for panel in 0..cut.panels {
                            let sums = sums.pointer(plane * cut.sum_stride + place(panel, from));
                            multiply(plane, from, panel, sums);
                        }
                    }
                });
                if is_last {
                    let groups = x_shape.c.div_ceil(GROUP);
                    for_each_task(cut.panels * groups, |task| {
                        let (panel, from) = (task / groups, task % groups * GROUP);
                        let channels = from..(from + GROUP).min(x_shape.c);
                        transform_back(channels, panel, sums.pointer(place(panel, from)));
                    });
                }
            }
            Task::Panel => for_each_task(cut.panels * cut.chunks, |task| {
                let (panel, chunk) = (task / cut.chunks, task % cut.chunks);
                let channels = cut.channels(chunk, x_shape.c);
                let own = if cut.blocks == 1 { thread_index() } else { task } * PLANES * cut.sum_stride;
                for plane in 0..PLANES {
                    for from in channels.clone().step_by(GROUP) {
                        let place = (from - channels.start) * width;
                        multiply(plane, from, panel, sums.pointer(own + plane * cut.sum_stride + place));
                    }
                }
                if is_last {
                    transform_back(channels, panel, sums.pointer(own));
                }
            }),
        }
    }
}

/// Transforms the results' gradient of one tile, `columns` of its channels, into panels `width` wide; 0
/// beyond the last channel.
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

/// Transforms a row of sums to the taps of the filter's gradient, added to what is there if it `adds`.
///
/// # Safety
/// `from + plane · stride` has `columns` elements, as has `target + tap · tap_step`, which nobody else uses.
#[inline(always)]
unsafe fn store_filter_gradient<V: Vector>(
    from: *const f32,
    stride: usize,
    columns: usize,
    (target, tap_step): (*mut f32, usize),
    adds: bool,
) {
    let mut c = 0;
    while c + V::LANES <= columns {
        // SAFETY: the caller's.
        unsafe { store_filter_gradient_at::<V>(from.add(c), stride, (target.add(c), tap_step), adds) };
        c += V::LANES;
    }
    while c < columns {
        // SAFETY: the caller's.
        unsafe { store_filter_gradient_at::<f32>(from.add(c), stride, (target.add(c), tap_step), adds) };
        c += 1;
    }
}

#[inline(always)]
unsafe fn store_filter_gradient_at<V: Vector>(
    from: *const f32,
    stride: usize,
    (target, tap_step): (*mut f32, usize),
    adds: bool,
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
                // What is set has the bits of what is added to 0, also where it is -0.
                let there = if adds { V::load(target) } else { V::splat(0.0) };
                there.add(g[i][j]).store(target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::noise;

    #[test]
    fn planes_have_the_bits_of_panels() {
        // One block and several, groups, panels and chunks that are not whole.
        for (n, size, from, to) in [(2, 8, 16, 32), (3, 10, 45, 70), (1, 64, 130, 150)] {
            let (x_shape, dy_shape) = (Shape::new(n, size, size, from), Shape::new(n, size, size, to));
            let (x, dy) = (noise(1, x_shape.len()), noise(2, dy_shape.len()));
            let initial = noise(3, 9 * from * to);
            for level in Level::available() {
                let tiles = Tiles::new(level);
                // Chunks for as many threads as there are not are only more tasks.
                let threads = rayon::current_num_threads();
                let mut results = Vec::new();
                for (task, cut_for) in [(Task::Panel, threads), (Task::Plane, threads), (Task::Plane, 40)] {
                    let cut = Cut::by(task, x_shape, dy_shape, tiles, cut_for);
                    let (mut dw, mut set) = (initial.clone(), vec![f32::NAN; initial.len()]);
                    let mut workspace = vec![f32::NAN; cut.workspace(threads)];
                    let (x, dy) = ((x.as_slice(), x_shape), (dy.as_slice(), dy_shape));
                    cut_weight_gradient(&cut, level, tiles, 1, x, dy, &mut workspace, (&mut dw, true));
                    cut_weight_gradient(&cut, level, tiles, 1, x, dy, &mut workspace, (&mut set, false));
                    let sum = initial.iter().zip(&set).map(|(there, set)| there + set);
                    assert!(sum.zip(&dw).all(|(sum, dw)| sum.to_bits() == dw.to_bits()));
                    assert!(dw.iter().zip(&initial).all(|(new, old)| new.is_finite() && new != old));
                    results.push(dw.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
                }
                assert!(results.iter().all(|result| *result == results[0]), "{x_shape}, {to}, {level:?}");
            }
        }
    }

    #[test]
    fn many_tiles_go_by_planes_and_few_by_panels() {
        let tiles = Tiles::new(Level::detect());
        let task = |n, size, c| {
            let shape = Shape::new(n, size, size, c);
            Cut::new(shape, shape, tiles, 2).task
        };
        assert!(task(8, 32, 128) == Task::Plane && task(8, 4, 256) == Task::Panel);
    }
}
