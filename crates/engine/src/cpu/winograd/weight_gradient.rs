//! The weight gradient in the transformed domain.
//!
//! With `y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A` for each tile, the chain rule gives `dg = Gᵀ[Σ_tiles (Bᵀ d B) ⊙ (A dy Aᵀ)]G`. In each of the 36 planes
//! the sum over tiles is a matrix product, in by out channels. Its chains run over the tiles in order, through one accumulator.

use super::convolution::transform_input;
use super::transform::{self, PLANES, RESULT, TILE};
use super::{Tiling, plane_stride};
use crate::cpu::parallel::{Shared, for_each_task};
use crate::cpu::simd::{Level, Vector, with_vectors};
use crate::cpu::tile::{ColumnTile, Tiles};
use crate::kernel::Scratch;
use crate::shape::Shape;

/// Tiles of a block.
const BLOCK: usize = 128;

/// Sizes of the workspace's parts.
struct Parts {
    block: usize,
    /// Transformed x: `[plane][tile][in]`.
    x_stride: usize,
    /// Transformed dy, packed as right factors: `[plane][panel][tile][width]`.
    dy_stride: usize,
    panels: usize,
}

impl Parts {
    fn new(x: Shape, dy: Shape, tiles: Tiles) -> Self {
        let block = BLOCK.min(Tiling::new(x).count());
        let panels = dy.c.div_ceil(tiles.width);
        Self {
            block,
            x_stride: plane_stride(block, x.c),
            dy_stride: plane_stride(block, panels * tiles.width),
            panels,
        }
    }
}

/// Scratch: the accumulator, a block's planes of both factors, and pointers to its tiles.
pub(crate) fn weight_gradient_scratch(x: Shape, dy: Shape, tiles: Tiles) -> Scratch {
    let Parts { block, x_stride, dy_stride, .. } = Parts::new(x, dy, tiles);
    Scratch { prepared: 0, workspace: PLANES * (x.c * dy.c + x_stride + dy_stride + 2 * block) }
}

/// Adds the filter's gradient to `dw` `[3, 3, in, out]`.
pub(crate) fn weight_gradient(
    level: Level,
    tiles: Tiles,
    (x, x_shape): (&[f32], Shape),
    (dy, dy_shape): (&[f32], Shape),
    workspace: &mut [f32],
    dw: &mut [f32],
) {
    let Parts { block: whole_block, x_stride, dy_stride, panels } = Parts::new(x_shape, dy_shape, tiles);
    let width = tiles.width;
    let (x_tiling, dy_tiling) = (Tiling::new(x_shape), Tiling::new(dy_shape));
    let count = x_tiling.count();
    let (sums, rest) = workspace.split_at_mut(PLANES * x_shape.c * dy_shape.c);
    let (xs, rest) = rest.split_at_mut(PLANES * x_stride);
    let (dys, pointers) = rest.split_at_mut(PLANES * dy_stride);
    let plane_len = x_shape.c * dy_shape.c;
    let pointers = pointers.as_mut_ptr().cast::<*const f32>();
    for plane in 0..PLANES {
        for tile in 0..whole_block {
            // SAFETY: there is room for a pointer for each tile of each plane.
            unsafe {
                *pointers.add(plane * whole_block + tile) = xs[plane * x_stride + tile * x_shape.c..].as_ptr()
            };
        }
    }
    let pointers = pointers as usize;
    let sums_shared = Shared::new(sums);
    let (xs, dys) = (Shared::new(xs), Shared::new(dys));

    for first in (0..count).step_by(whole_block) {
        let block = whole_block.min(count - first);
        for_each_task(block, |tile| {
            let pixels = x_tiling.pixels::<TILE>(first + tile, 1);
            let target = xs.pointer(tile * x_shape.c);
            let dy_pixels = dy_tiling.pixels::<RESULT>(first + tile, 0);
            // SAFETY: this tile's channels of every plane are this task's.
            with_vectors!(level, V => unsafe {
                transform_input::<V>(x, x_shape.c, &pixels, target, x_stride);
                for panel in 0..panels {
                    let target = dys.pointer((panel * whole_block + tile) * width);
                    let columns = panel * width..((panel + 1) * width).min(dy_shape.c);
                    transform_output_gradient::<V>(dy, columns, width, &dy_pixels, target, dy_stride);
                }
            });
        });
        for_each_task(PLANES * panels, |task| {
            let (plane, panel) = (task / panels, task % panels);
            let columns = width.min(dy_shape.c - panel * width);
            if first == 0 {
                for row in 0..x_shape.c {
                    let start = plane * plane_len + row * dy_shape.c + panel * width;
                    // SAFETY: these columns of this plane are this task's.
                    unsafe { sums_shared.slice(start, columns) }.fill(0.0);
                }
            }
            let tile = ColumnTile {
                depth: block,
                a: (pointers as *const *const f32).wrapping_add(plane * whole_block),
                a_offset: 0,
                b: dys.pointer(plane * dy_stride + panel * whole_block * width),
                c: sums_shared.pointer(plane * plane_len + panel * width),
                c_stride: dy_shape.c,
                columns,
            };
            // SAFETY: the planes are filled and nobody writes to them now; these columns of the sums are this task's.
            unsafe { tiles.columns(&tile, x_shape.c) };
        });
    }

    let sums = &*sums;
    let dw = Shared::new(dw);
    for_each_task(x_shape.c, |row| {
        let start = row * dy_shape.c;
        with_vectors!(level, V => {
            let mut o = 0;
            while o + V::LANES <= dy_shape.c {
                // SAFETY: these elements of every tap are this task's.
                unsafe { add_filter_gradient::<V>(sums, plane_len, start + o, dw) };
                o += V::LANES;
            }
            while o < dy_shape.c {
                // SAFETY: as above.
                unsafe { add_filter_gradient::<f32>(sums, plane_len, start + o, dw) };
                o += 1;
            }
        });
    });
}

/// Transforms the results' gradient of one tile, `columns` of its channels, into panels `width` wide; 0 beyond the last channel.
#[inline(always)]
unsafe fn transform_output_gradient<V: Vector>(
    dy: &[f32],
    columns: std::ops::Range<usize>,
    width: usize,
    pixels: &[[Option<usize>; RESULT]; RESULT],
    target: *mut f32,
    stride: usize,
) {
    let mut c = 0;
    while c + V::LANES <= columns.len() {
        // SAFETY: the caller's.
        unsafe { transform_output_gradient_at::<V>(dy, columns.start + c, pixels, target.add(c), stride) };
        c += V::LANES;
    }
    while c < columns.len() {
        // SAFETY: the caller's.
        unsafe { transform_output_gradient_at::<f32>(dy, columns.start + c, pixels, target.add(c), stride) };
        c += 1;
    }
    while c < width {
        for plane in 0..PLANES {
            // SAFETY: the caller's: a panel's row is `width` long in every plane.
            unsafe { *target.add(plane * stride + c) = 0.0 };
        }
        c += 1;
    }
}

#[inline(always)]
unsafe fn transform_output_gradient_at<V: Vector>(
    dy: &[f32],
    c: usize,
    pixels: &[[Option<usize>; RESULT]; RESULT],
    target: *mut f32,
    stride: usize,
) {
    let mut y = [[V::splat(0.0); RESULT]; RESULT];
    for (row, offsets) in y.iter_mut().zip(pixels) {
        for (value, offset) in row.iter_mut().zip(offsets) {
            if let Some(offset) = *offset {
                // SAFETY: the pixel has these channels.
                *value = unsafe { V::load(dy.as_ptr().add(offset + c)) };
            }
        }
    }
    for (plane, value) in transform::output_gradient(y).iter().flatten().enumerate() {
        // SAFETY: the caller's.
        unsafe { value.store(target.add(plane * stride)) };
    }
}

#[inline(always)]
unsafe fn add_filter_gradient<V: Vector>(sums: &[f32], plane_len: usize, start: usize, dw: Shared) {
    let mut p = [[V::splat(0.0); TILE]; TILE];
    for (plane, value) in p.iter_mut().flatten().enumerate() {
        // SAFETY: inside the plane.
        *value = unsafe { V::load(sums.as_ptr().add(plane * plane_len + start)) };
    }
    for (tap, value) in transform::filter_gradient(p).iter().flatten().enumerate() {
        let target = dw.pointer(tap * plane_len + start);
        // SAFETY: the caller's: these elements of every tap are this task's.
        unsafe { V::load(target).add(*value).store(target) };
    }
}
