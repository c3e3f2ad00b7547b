//! Attention over pixels, forward and backward, by register tiles: see [`crate::ops::attention`] for the formulas.

use super::math::{exp, lane_max, lane_sum};
use super::panel::{Panels, Source};
use super::parallel::{Shared, for_each_task};
use super::product::multiply_rows;
use super::simd::Level;
use super::tile::{ColumnTile, Tiles};
use crate::kernel::Scratch;
use crate::shape::Shape;

/// Query pixels that one task handles: few enough that threads end together, whole tiles of most heights.
const BLOCK: usize = 32;

/// Which products a pass needs, for a batch of `[l, c]` matrices.
#[derive(Clone, Copy)]
struct Products {
    n: usize,
    l: usize,
    c: usize,
    /// A `[l, c]` matrix as right factor.
    plain: Panels,
    /// Its transpose.
    transposed: Panels,
}

impl Products {
    fn new(shape: Shape, tiles: Tiles) -> Self {
        let (n, l, c, width) = (shape.n, shape.pixels(), shape.c, tiles.width);
        Self {
            n,
            l,
            c,
            plain: Panels { depth: l, columns: c, width },
            transposed: Panels { depth: c, columns: l, width },
        }
    }

    fn blocks(&self) -> usize {
        self.l.div_ceil(BLOCK)
    }
}

pub(crate) fn forward_scratch(shape: Shape, tiles: Tiles) -> Scratch {
    let products = Products::new(shape, tiles);
    Scratch { prepared: 0, workspace: products.n * (products.plain.len() + products.transposed.len()) }
}

pub(crate) fn gradient_scratch(shape: Shape, tiles: Tiles) -> Scratch {
    let products = Products::new(shape, tiles);
    let Products { n, l, plain, transposed, .. } = products;
    Scratch { prepared: 0, workspace: n * (3 * plain.len() + transposed.len() + l * l) }
}

/// y and the probabilities from q, k, v.
#[expect(clippy::too_many_arguments, reason = "the tensors of one operation")]
pub(crate) fn forward(
    level: Level,
    tiles: Tiles,
    scale: f32,
    shape: Shape,
    [q, k, v]: [&[f32]; 3],
    workspace: &mut [f32],
    y: &mut [f32],
    probabilities: &mut [f32],
) {
    let products = Products::new(shape, tiles);
    let Products { n, l, c, plain, transposed } = products;
    let (keys, values) = workspace.split_at_mut(n * transposed.len());
    transposed.pack(level, keys, n, None, |i| Source::Columns(&k[i * l * c..][..l * c], c));
    plain.pack(level, values, n, None, |i| Source::Rows(&v[i * l * c..][..l * c], c));
    let (keys, values) = (&*keys, &*values);
    let (y, probabilities) = (Shared::new(y), Shared::new(probabilities));
    for_each_task(n * products.blocks(), |task| {
        let (i, first) = (task / products.blocks(), task % products.blocks() * BLOCK);
        let rows = BLOCK.min(l - first);
        // SAFETY: these rows of this sample are this task's.
        let (scores, out) = unsafe {
            (probabilities.slice((i * l + first) * l, rows * l), y.slice((i * l + first) * c, rows * c))
        };
        multiply_rows(
            tiles,
            &q[(i * l + first) * c..][..rows * c],
            transposed,
            &keys[i * transposed.len()..],
            scores,
        );
        level.vectorize(
            #[inline(always)]
            || {
                for row in scores.chunks_exact_mut(l) {
                    for score in row.iter_mut() {
                        *score *= scale;
                    }
                    softmax_in_place(row);
                }
            },
        );
        multiply_rows(tiles, scores, plain, &values[i * plain.len()..], out);
    });
}

/// dq, dk, dv from q, k, v, the probabilities and dy.
pub(crate) fn gradient(
    level: Level,
    tiles: Tiles,
    scale: f32,
    shape: Shape,
    [q, k, v, probabilities, dy]: [&[f32]; 5],
    workspace: &mut [f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let products = Products::new(shape, tiles);
    let Products { n, l, c, plain, transposed } = products;
    let (values, rest) = workspace.split_at_mut(n * transposed.len());
    let (keys, rest) = rest.split_at_mut(n * plain.len());
    let (queries, rest) = rest.split_at_mut(n * plain.len());
    let (output_gradients, rest) = rest.split_at_mut(n * plain.len());
    let score_gradients = &mut rest[..n * l * l];
    let sample = |data, i: usize| -> &[f32] {
        let data: &[f32] = data;
        &data[i * l * c..][..l * c]
    };
    transposed.pack(level, values, n, None, |i| Source::Columns(sample(v, i), c));
    plain.pack(level, keys, n, None, |i| Source::Rows(sample(k, i), c));
    plain.pack(level, queries, n, None, |i| Source::Rows(sample(q, i), c));
    plain.pack(level, output_gradients, n, None, |i| Source::Rows(sample(dy, i), c));

    let (values, keys) = (&*values, &*keys);
    let (shared_scores, dq) = (Shared::new(score_gradients), Shared::new(dq));
    for_each_task(n * products.blocks(), |task| {
        let (i, first) = (task / products.blocks(), task % products.blocks() * BLOCK);
        let rows = BLOCK.min(l - first);
        let start = i * l + first;
        // SAFETY: these rows of this sample are this task's.
        let (ds, dq) = unsafe { (shared_scores.slice(start * l, rows * l), dq.slice(start * c, rows * c)) };
        multiply_rows(tiles, &dy[start * c..][..rows * c], transposed, &values[i * transposed.len()..], ds);
        level.vectorize(
            #[inline(always)]
            || {
                for (row, p) in ds.chunks_exact_mut(l).zip(probabilities[start * l..].chunks_exact(l)) {
                    let mean = lane_sum(l, |j| row[j] * p[j]);
                    for (d, &p) in row.iter_mut().zip(p) {
                        *d = scale * (p * (*d - mean));
                    }
                }
            },
        );
        multiply_rows(tiles, ds, plain, &keys[i * plain.len()..], dq);
    });

    let score_gradients = &*score_gradients;
    let (queries, output_gradients) = (&*queries, &*output_gradients);
    let (dk, dv) = (Shared::new(dk), Shared::new(dv));
    let panels = plain.count();
    for_each_task(2 * n * panels, |task| {
        let (which, rest) = (task / (n * panels), task % (n * panels));
        let (i, panel) = (rest / panels, rest % panels);
        let (left, right, result) =
            if which == 0 { (score_gradients, queries, dk) } else { (probabilities, output_gradients, dv) };
        let tile = ColumnTile {
            depth: l,
            a: left[i * l * l..][..l * l].as_ptr(),
            a_stride: l,
            b: right[i * plain.len() + panel * plain.stride() + plain.width..].as_ptr(),
            c: result.pointer(i * l * c + panel * plain.width),
            c_stride: c,
            columns: plain.columns_of(panel),
            adds: false,
        };
        // SAFETY: the left factor has `l` rows of `l` elements; these columns of this sample are this task's.
        unsafe { tiles.columns(&tile, l) };
    });
}

/// Softmax of a row in place.
#[inline(always)]
pub(crate) fn softmax_in_place(row: &mut [f32]) {
    let max = lane_max(row);
    for value in row.iter_mut() {
        *value = exp(*value - max);
    }
    let total = lane_sum(row.len(), |j| row[j]);
    for value in row.iter_mut() {
        *value /= total;
    }
}
