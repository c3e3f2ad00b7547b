//! The weight's gradient: for each tap the product of dy and x, as that tap sees it, summed over pixels.
//!
//! The left factor is dy with each channel's results side by side, the right one x in pairs of positions. A
//! tap is a shift of x, by whole pairs if images lie side by side in even numbers; if not, there is a second
//! copy whose pairs begin one further. Each block's sum, from zero, is added to the gradient.

use super::matrix_unit::{
    LEFT_ROW, MatrixUnit, PAIRS, Product, RIGHT_ROW, SIDE, STEP, Step, Steps, Sums, split_left, split_right,
};
use super::positions::{Block, Positions};
use super::split::{padded, with_split};
use crate::cpu::axis::Axis;
use crate::cpu::parallel::{Shared, for_each_task};
use crate::cpu::simd::Level;
use crate::cpu::transpose::transpose;
use crate::kernel::Scratch;
use crate::ops::Conv;
use crate::shape::Shape;

/// Positions of a block, about: those of a group of x's channels and a group of dy's stay in the second-level
/// cache for all taps.
const POSITIONS: usize = 4096;
/// Words of a step's left factor.
const LEFT_STEP: usize = SIDE * LEFT_ROW / 4;
/// Words of a pair of positions.
const PAIR: usize = RIGHT_ROW / 4;

/// How the factors of all blocks lie in the workspace.
struct Layout {
    positions: Positions,
    blocks: Vec<Block>,
    /// Groups of dy's channels: `[group][step]` of the left factor.
    lefts: usize,
    /// Steps of the largest block.
    steps: usize,
    /// Groups of x's channels: `[group][copy][pair]` of the right factor.
    rights: usize,
    /// Copies, where pairs may begin at any position.
    copies: usize,
    /// Pairs of the largest block, and those that a step may read beyond.
    pairs: usize,
}

impl Layout {
    fn new(conv: Conv, x: Shape, dy: Shape) -> Self {
        let positions = Positions::new(x, Axis::both_forward(conv, x, dy));
        let (lefts, rights) = (dy.c.div_ceil(SIDE), x.c.div_ceil(SIDE));
        let blocks = positions.blocks(POSITIONS, 1, 1);
        let steps = blocks.iter().map(|block| block.runs().products()).max().unwrap_or(0);
        let copies = blocks.iter().map(Block::pairings).max().unwrap_or(1);
        let pairs = blocks.iter().map(Block::len).max().unwrap_or(0).div_ceil(2) + PAIRS;
        Self { positions, blocks, lefts, steps, rights, copies, pairs }
    }

    fn left_words(&self) -> usize {
        self.lefts * self.steps * LEFT_STEP
    }

    fn workspace(&self) -> usize {
        self.left_words() + self.rights * self.copies * self.pairs * PAIR
    }
}

/// Scratch memory for [`weight_gradient`].
pub(crate) fn weight_gradient_scratch(conv: Conv, x: Shape, dy: Shape) -> Scratch {
    Scratch { prepared: 0, workspace: Layout::new(conv, x, dy).workspace() }
}

/// Adds to `dw[tap][c][o]` the sum over pixels of `x[pixel at tap][c] · dy[pixel][o]`.
pub(crate) fn weight_gradient(
    level: Level,
    unit: MatrixUnit,
    conv: Conv,
    (x, x_shape): (&[f32], Shape),
    (dy, dy_shape): (&[f32], Shape),
    workspace: &mut [f32],
    dw: &mut [f32],
) {
    let layout = Layout::new(conv, x_shape, dy_shape);
    let dw = Shared::new(dw);
    let (left, right) = workspace.split_at_mut(layout.left_words());
    for block in &layout.blocks {
        copy_left(level, unit, &layout, block, (dy, dy_shape), left);
        copy_right(level, unit, &layout, block, (x, x_shape.c), right);
        let runs = block.runs();
        let taps: Vec<_> = block.taps().zip(layout.positions.taps(conv.kernel_w)).collect();
        let steps = |shift: usize| {
            (0..runs.products()).map(move |index| {
                let position = runs.positions(index).start + shift;
                let pair = position % 2 * layout.pairs + position / 2;
                Step { left: 4 * index * LEFT_STEP, right: 4 * pair * PAIR }
            })
        };
        // The next tap's factors begin about where this one's do.
        let ahead = Step { left: 0, right: 0 };
        let steps: Vec<_> = taps.iter().map(|&(shift, _)| Steps::new(steps(shift), ahead)).collect();
        let (left, right) = (&*left, &*right);
        for_each_task(layout.lefts * layout.rights * taps.len(), |task| {
            let (index, pair) = (task % taps.len(), task / taps.len());
            let (to, from) = (pair % layout.lefts, pair / layout.lefts);
            let product = Product {
                steps: &steps[index],
                left: left[to * layout.steps * LEFT_STEP..].as_ptr().cast(),
                right: right[from * layout.copies * layout.pairs * PAIR..].as_ptr().cast(),
            };
            let mut sums = Sums::ZERO;
            // SAFETY: both factors have these steps; of the right one there is room behind the last position.
            unsafe { unit.ready().multiply(&product, &mut sums) };
            let sums = sums.columns(level);
            let (channel, column) = (from * SIDE, to * SIDE);
            let columns = SIDE.min(dy_shape.c - column);
            level.vectorize(
                #[inline(always)]
                || {
                    for (row, sums) in sums.iter().take(x_shape.c - channel).enumerate() {
                        let at = (taps[index].1 * x_shape.c + channel + row) * dy_shape.c + column;
                        // SAFETY: this part of dw is this task's.
                        let out = unsafe { dw.slice(at, columns) };
                        for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                            *out += sum;
                        }
                    }
                },
            );
        });
    }
}

/// Copies dy's results in the order of a block's steps, split and with each channel's results side by side;
/// zeros where there is no result.
fn copy_left(
    level: Level,
    unit: MatrixUnit,
    layout: &Layout,
    block: &Block,
    (dy, shape): (&[f32], Shape),
    left: &mut [f32],
) {
    let runs = block.runs();
    let out = Shared::new(left);
    for_each_task(runs.products(), |step| {
        let mut pixels = [None; STEP];
        for (pixel, place) in pixels.iter_mut().zip(block.results(runs.positions(step))) {
            *pixel = place.map(|(n, y, x)| &dy[((n * shape.h + y) * shape.w + x) * shape.c..][..shape.c]);
        }
        for group in 0..layout.lefts {
            let terms = pixels.map(|pixel| channels_of(pixel, group));
            let mut rows = [[0.0; STEP]; SIDE];
            transpose(level, rows.as_flattened_mut(), STEP, terms.as_flattened(), SIDE, STEP, SIDE);
            // SAFETY: this step is this task's.
            let out = unsafe { out.slice((group * layout.steps + step) * LEFT_STEP, LEFT_STEP) };
            with_split!(unit, level, S => {
                for (row, out) in rows.iter().zip(out.as_chunks_mut().0) {
                    split_left::<S>(row, out);
                }
            });
        }
    });
}

/// Copies x as a block reads it, split and in pairs of positions. What a step reads beyond the last is 0: it
/// meets zeros of dy, and must be a number.
fn copy_right(
    level: Level,
    unit: MatrixUnit,
    layout: &Layout,
    block: &Block,
    (x, channels): (&[f32], usize),
    right: &mut [f32],
) {
    let (rows, row_pairs) = (block.all_rows(), block.row_len() / 2);
    let copies = block.pairings();
    let out = Shared::new(right);
    for_each_task((rows + 1) * copies, |task| {
        let (row, copy) = (task % (rows + 1), task / (rows + 1));
        // SAFETY: this row of this copy is this task's.
        let out = |group: usize, pair: usize, pairs: usize| unsafe {
            let start = (group * layout.copies + copy) * layout.pairs + row * row_pairs + pair;
            out.slice(start * PAIR, pairs * PAIR)
        };
        if row == rows {
            (0..layout.rights).for_each(|group| out(group, 0, PAIRS).fill(0.0));
            return;
        }
        let following = (row + 1 < rows).then(|| block.sources(row + 1)).into_iter().flatten();
        let mut sources = block.sources(row).chain(following).skip(copy);
        with_split!(unit, level, S => {
            for pair in 0..row_pairs {
                let [first, second] =
                    [(); 2].map(|()| sources.next().flatten().map(|at| &x[at..at + channels]));
                for group in 0..layout.rights {
                    if let Some(out) = out(group, pair, 1).first_chunk_mut() {
                        split_right::<S>(&channels_of(first, group), &channels_of(second, group), out);
                    }
                }
            }
        });
    });
}

/// The channels of a group, filled up with zeros; only zeros for no pixel.
#[inline(always)]
fn channels_of(pixel: Option<&[f32]>, group: usize) -> [f32; SIDE] {
    let Some(pixel) = pixel else { return [0.0; SIDE] };
    padded(&pixel[group * SIDE..])
}
