//! The convolution, and its input gradient: the same with the filter mirrored and transposed.

use super::transform::{self, PLANES, RESULT, TILE};
use super::{Tiling, plane_stride};
use crate::cpu::panel::Panels;
use crate::cpu::parallel::{Shared, for_each_task};
use crate::cpu::product::multiply_rows;
use crate::cpu::simd::{Level, Vector, with_vectors};
use crate::cpu::tile::Tiles;
use crate::kernel::Scratch;
use crate::shape::Shape;

/// Tiles of a block: their planes stay in the second-level caches, and a filter is read once for all of them.
const BLOCK: usize = 96;

fn panels(source: Shape, result: Shape, tiles: Tiles) -> Panels {
    Panels { depth: source.c, columns: result.c, width: tiles.width }
}

/// Scratch for a convolution from `source` to `result`.
pub(crate) fn scratch(source: Shape, result: Shape, tiles: Tiles) -> Scratch {
    let block = BLOCK.min(Tiling::new(source).count());
    Scratch {
        prepared: PLANES * panels(source, result, tiles).len(),
        workspace: PLANES * (plane_stride(block, source.c) + plane_stride(block, result.c)),
    }
}

/// Transforms the filter `weight` `[3, 3, in, out]` into packed planes. With `transposed`, the filter of the input gradient:
/// mirrored, with in and out exchanged.
pub(crate) fn prepare(
    level: Level,
    tiles: Tiles,
    weight: &[f32],
    (source, result): (Shape, Shape),
    transposed: bool,
    prepared: &mut [f32],
) {
    let panels = panels(source, result, tiles);
    let shared = Shared::new(prepared);
    const ROWS: usize = 32;
    let pieces = source.c.div_ceil(ROWS);
    for_each_task(panels.count() * pieces, |task| {
        let (panel, piece) = (task / pieces, task % pieces);
        let (first_column, columns) = (panel * panels.width, panels.columns_of(panel));
        let rows = piece * ROWS..((piece + 1) * ROWS).min(source.c);
        if piece == 0 {
            for plane in 0..PLANES {
                // SAFETY: the initial row of this panel is this task's.
                unsafe { shared.slice(plane * panels.len() + panel * panels.stride(), panels.width) }
                    .fill(0.0);
            }
        }
        // The nine taps of this piece, `[tap][row][width]`, columns beyond the last zeros.
        let mut taps = [0.0f32; 9 * ROWS * crate::cpu::tile::MAX_WIDTH];
        for tap in 0..9 {
            for (index, row) in rows.clone().enumerate() {
                let out = &mut taps[(tap * ROWS + index) * panels.width..][..columns];
                if transposed {
                    let from = (8 - tap) * result.c * source.c + row;
                    for (column, out) in out.iter_mut().enumerate() {
                        *out = weight[from + (first_column + column) * source.c];
                    }
                } else {
                    let from = (tap * source.c + row) * result.c + first_column;
                    out.copy_from_slice(&weight[from..from + columns]);
                }
            }
        }
        with_vectors!(level, V => {
            for (index, row) in rows.clone().enumerate() {
                for lane in (0..panels.width).step_by(V::LANES) {
                    let mut g = [[V::splat(0.0); 3]; 3];
                    for (tap, g) in g.iter_mut().flatten().enumerate() {
                        // SAFETY: inside `taps`; panels are whole vectors wide.
                        *g = unsafe { V::load(taps.as_ptr().add((tap * ROWS + index) * panels.width + lane)) };
                    }
                    let start = panel * panels.stride() + (1 + row) * panels.width + lane;
                    for (plane, value) in transform::filter(g).iter().flatten().enumerate() {
                        // SAFETY: this row of this panel is this task's, in every plane.
                        unsafe { value.store(shared.pointer(plane * panels.len() + start)) };
                    }
                }
            }
        });
    });
}

/// The tensors of a convolution.
pub(crate) struct Product<'a> {
    pub source: (&'a [f32], Shape),
    pub prepared: &'a [f32],
    /// Added to every pixel of the result, if given.
    pub bias: Option<&'a [f32]>,
    pub workspace: &'a mut [f32],
    pub result: (&'a mut [f32], Shape),
}

/// Convolves with the filter that [`prepare`] has transformed.
pub(crate) fn convolve(level: Level, tiles: Tiles, product: Product) {
    let Product { source: (source, source_shape), prepared, bias, workspace, result: (result, result_shape) } =
        product;
    let panels = panels(source_shape, result_shape, tiles);
    let (source_tiling, result_tiling) = (Tiling::new(source_shape), Tiling::new(result_shape));
    let count = source_tiling.count();
    let block = BLOCK.min(count);
    let (source_stride, result_stride) =
        (plane_stride(block, source_shape.c), plane_stride(block, result_shape.c));
    let (inputs, products) = workspace.split_at_mut(PLANES * source_stride);
    let result = Shared::new(result);

    for first in (0..count).step_by(block) {
        let block = block.min(count - first);
        let shared = Shared::new(inputs);
        for_each_task(block, |tile| {
            let pixels = source_tiling.pixels::<TILE>(first + tile, 1);
            let target = shared.pointer(tile * source_shape.c);
            // SAFETY: this tile's channels of every plane are this task's.
            with_vectors!(level, V => unsafe {
                transform_input::<V>(source, source_shape.c, &pixels, target, source_stride)
            });
        });

        let inputs = &*inputs;
        let shared = Shared::new(products);
        for_each_task(PLANES, |plane| {
            let left = &inputs[plane * source_stride..][..block * source_shape.c];
            // SAFETY: this plane is this task's.
            let out = unsafe { shared.slice(plane * result_stride, block * result_shape.c) };
            multiply_rows(tiles, left, panels, &prepared[plane * panels.len()..], out);
        });

        let products = &*products;
        for_each_task(block, |tile| {
            let pixels = result_tiling.pixels::<RESULT>(first + tile, 0);
            let from = &products[tile * result_shape.c..];
            // SAFETY: this tile's pixels are this task's.
            with_vectors!(level, V => unsafe {
                transform_output::<V>(from, result_stride, result_shape.c, bias, &pixels, result)
            });
        });
    }
}

/// Transforms one tile, all channels, into its place in every plane.
///
/// # Safety
/// `target + plane · stride` has room for `channels` elements that nobody else uses.
#[inline(always)]
pub(super) unsafe fn transform_input<V: Vector>(
    source: &[f32],
    channels: usize,
    pixels: &[[Option<usize>; TILE]; TILE],
    target: *mut f32,
    stride: usize,
) {
    let mut c = 0;
    while c + V::LANES <= channels {
        // SAFETY: pixels have `channels` elements; the rest is the caller's.
        unsafe { transform_input_at::<V>(source, c, pixels, target, stride) };
        c += V::LANES;
    }
    while c < channels {
        // SAFETY: as above.
        unsafe { transform_input_at::<f32>(source, c, pixels, target, stride) };
        c += 1;
    }
}

#[inline(always)]
unsafe fn transform_input_at<V: Vector>(
    source: &[f32],
    c: usize,
    pixels: &[[Option<usize>; TILE]; TILE],
    target: *mut f32,
    stride: usize,
) {
    let mut d = [[V::splat(0.0); TILE]; TILE];
    for (row, offsets) in d.iter_mut().zip(pixels) {
        for (value, offset) in row.iter_mut().zip(offsets) {
            if let Some(offset) = *offset {
                // SAFETY: the pixel has these channels.
                *value = unsafe { V::load(source.as_ptr().add(offset + c)) };
            }
        }
    }
    for (plane, value) in transform::input(d).iter().flatten().enumerate() {
        // SAFETY: the caller's.
        unsafe { value.store(target.add(plane * stride + c)) };
    }
}

/// Transforms one tile's products, all channels, into its pixels inside the image.
#[inline(always)]
unsafe fn transform_output<V: Vector>(
    from: &[f32],
    stride: usize,
    channels: usize,
    bias: Option<&[f32]>,
    pixels: &[[Option<usize>; RESULT]; RESULT],
    result: Shared,
) {
    let mut c = 0;
    while c + V::LANES <= channels {
        // SAFETY: the caller's: planes and pixels have `channels` elements.
        unsafe { transform_output_at::<V>(from, stride, c, bias, pixels, result) };
        c += V::LANES;
    }
    while c < channels {
        // SAFETY: as above.
        unsafe { transform_output_at::<f32>(from, stride, c, bias, pixels, result) };
        c += 1;
    }
}

#[inline(always)]
unsafe fn transform_output_at<V: Vector>(
    from: &[f32],
    stride: usize,
    c: usize,
    bias: Option<&[f32]>,
    pixels: &[[Option<usize>; RESULT]; RESULT],
    result: Shared,
) {
    let mut m = [[V::splat(0.0); TILE]; TILE];
    for (plane, value) in m.iter_mut().flatten().enumerate() {
        // SAFETY: every plane has these channels of the tile.
        *value = unsafe { V::load(from.as_ptr().add(plane * stride + c)) };
    }
    // SAFETY: the bias has these channels.
    let bias = bias.map_or(V::splat(0.0), |bias| unsafe { V::load(bias.as_ptr().add(c)) });
    let y = transform::output(m);
    for (row, offsets) in y.iter().zip(pixels) {
        for (value, offset) in row.iter().zip(offsets) {
            if let Some(offset) = *offset {
                // SAFETY: the pixel has these channels, and is the caller's task's.
                unsafe { value.add(bias).store(result.pointer(offset + c)) };
            }
        }
    }
}
