//! The convolution, and its input gradient: the same with the filter's elements transposed, once for each
//! phase of a stride.

use super::matrix_unit::{
    LEFT_ROW, MatrixUnit, PAIRS, Product, RIGHT_ROW, SIDE, STEP, Step, Steps, Sums, split_left, split_right,
};
use super::positions::{Block, Positions};
use super::split::{padded, with_split};
use crate::cpu::axis::Axis;
use crate::cpu::parallel::{Made, Shared, for_each_task, thread_index};
use crate::cpu::simd::Level;
use crate::cpu::transpose::transpose;
use crate::kernel::Scratch;
use crate::ops::Conv;
use crate::shape::Shape;
use std::ops::Range;

/// Words of a position's part of a block of channels.
const POSITION: usize = LEFT_ROW / 4;
/// Bytes of a block's copy, about: it stays in the second-level cache beside a panel of the filter.
const BLOCK: usize = 512 << 10;
/// Words of a step's right factor.
const FILTER_STEP: usize = PAIRS * RIGHT_ROW / 4;
/// Tasks that there should be for each thread.
const TASKS: usize = 2;
/// Steps whose left factor stays in the first-level cache.
const FEW_STEPS: usize = 8;

/// What is convolved with what.
#[derive(Clone, Copy)]
pub(crate) struct Convolution {
    pub conv: Conv,
    /// x, or for the input gradient dy.
    pub source: Shape,
    /// y, or dx.
    pub result: Shape,
    /// Whether this is the input gradient.
    pub transposed: bool,
}

/// The tensors of a convolution.
pub(crate) struct Tensors<'a> {
    pub source: &'a [f32],
    /// What [`Convolution::prepare`] made.
    pub filter: &'a [f32],
    /// Added to every pixel of the result, if given.
    pub bias: Option<&'a [f32]>,
    pub workspace: &'a mut [f32],
    pub result: &'a mut [f32],
}

impl Convolution {
    /// Blocks of the source's channels.
    fn chunks(&self) -> usize {
        self.source.c.div_ceil(STEP)
    }

    /// Groups of the result's channels.
    fn panels(&self) -> usize {
        self.result.c.div_ceil(SIDE)
    }

    /// Words of the filter for one panel: `[chunk][tap][step]`.
    fn panel_words(&self) -> usize {
        self.chunks() * self.conv.taps() * FILTER_STEP
    }

    /// Whether a product's left factor stays in the first-level cache while it is multiplied with all panels.
    fn is_short(&self) -> bool {
        self.chunks() * self.conv.taps() <= FEW_STEPS
    }

    /// Results that share their taps: for the input gradient those of each phase.
    fn classes(&self) -> impl Iterator<Item = Positions> {
        let Self { conv, source, result, transposed } = *self;
        let phases = if transposed { conv.stride } else { 1 };
        (0..phases * phases).map(move |phase| {
            let axes = if transposed {
                Axis::both_input_gradient(conv, source, result, [phase / phases, phase % phases])
            } else {
                Axis::both_forward(conv, source, result)
            };
            Positions::new(source, axes)
        })
    }

    /// Each class with its blocks.
    fn plan(&self, threads: usize) -> Vec<(Positions, Vec<Block>)> {
        let blocks = |class: Positions| class.blocks(BLOCK, self.chunks() * LEFT_ROW, TASKS * threads);
        self.classes().map(|class| (class, blocks(class))).collect()
    }

    /// Scratch memory: the filter, split, and each thread's copy of a block.
    pub fn scratch(&self, threads: usize) -> Scratch {
        Scratch {
            prepared: self.panels() * self.panel_words(),
            workspace: threads * self.chunks() * room(&self.plan(threads)) * POSITION,
        }
    }

    /// Splits the filter, `[tap][in][out]` of the convolution.
    pub fn prepare(&self, level: Level, unit: MatrixUnit, weight: &[f32], prepared: &mut [f32]) {
        let Self { conv, source, result, transposed } = *self;
        let (chunks, taps) = (self.chunks(), conv.taps());
        let prepared = Shared::new(prepared);
        for_each_task(self.panels() * chunks * taps, |task| {
            let (tap, chunk, panel) = (task % taps, task / taps % chunks, task / taps / chunks);
            let (first, column) = (chunk * STEP, panel * SIDE);
            let (rows, columns) = (STEP.min(source.c - first), SIDE.min(result.c - column));
            let mut terms = [[0.0; SIDE]; STEP];
            if transposed {
                let from = &weight[(tap * result.c + column) * source.c + first..];
                transpose(level, terms.as_flattened_mut(), SIDE, from, source.c, columns, rows);
            } else {
                for (row, terms) in terms.iter_mut().take(rows).enumerate() {
                    let from = (tap * source.c + first + row) * result.c + column;
                    terms[..columns].copy_from_slice(&weight[from..from + columns]);
                }
            }
            // SAFETY: this step is this task's.
            let out = unsafe { prepared.slice(task * FILTER_STEP, FILTER_STEP) };
            with_split!(unit, level, S => {
                for (rows, out) in terms.as_chunks::<2>().0.iter().zip(out.as_chunks_mut().0) {
                    split_right::<S>(&rows[0], &rows[1], out);
                }
            });
        });
    }

    /// Convolves.
    pub fn run(&self, level: Level, unit: MatrixUnit, tensors: Tensors) {
        let Tensors { source, filter, bias, workspace, result } = tensors;
        let (result, workspace) = (Shared::new(result), Shared::new(workspace));
        let threads = rayon::current_num_threads();
        let plan = self.plan(threads);
        let room = room(&plan);
        let len = self.chunks() * room * POSITION;
        for (class, blocks) in &plan {
            let steps: Vec<_> = blocks.iter().map(|block| self.steps(class, block, room)).collect();
            let groups = (TASKS * threads).div_ceil(blocks.len().max(1)).min(self.panels());
            // The block that each thread has a copy of.
            let copied = Made::nothing();
            for_each_task(blocks.len() * groups, |task| {
                let (index, group) = (task / groups, task % groups);
                // SAFETY: each thread has its own part.
                let copy = unsafe { workspace.slice(thread_index() * len, len) };
                if steps[index].len() > 0 && copied.lacks(index) {
                    self.copy(level, unit, &blocks[index], source, room, copy);
                }
                let panels = group * self.panels() / groups..(group + 1) * self.panels() / groups;
                let factors = (&*copy, filter);
                self.multiply(level, unit, &blocks[index], panels, &steps[index], factors, bias, result);
            });
        }
    }

    /// Copies what a block reads, split: `[chunk][position]`.
    fn copy(
        &self,
        level: Level,
        unit: MatrixUnit,
        block: &Block,
        source: &[f32],
        room: usize,
        copy: &mut [f32],
    ) {
        let channels = self.source.c;
        with_split!(unit, level, S => {
            for row in 0..block.all_rows() {
                for (index, at) in block.sources(row).enumerate() {
                    let position = row * block.row_len() + index;
                    for chunk in 0..self.chunks() {
                        let to = &mut copy[(chunk * room + position) * POSITION..];
                        let Some(to) = to.first_chunk_mut() else { continue };
                        let Some(at) = at else {
                            to.fill(0.0);
                            continue;
                        };
                        split_left::<S>(&padded(&source[at + chunk * STEP..at + channels]), to);
                    }
                }
            }
        });
    }

    /// What a product sums over, from its first position in the copy and its panel of the filter.
    fn steps(&self, class: &Positions, block: &Block, room: usize) -> Steps {
        let taps: Vec<_> = block.taps().zip(class.taps(self.conv.kernel_w)).collect();
        let step = |chunk, &(position, tap): &(usize, usize)| Step {
            left: (chunk * room + position) * LEFT_ROW,
            right: (chunk * self.conv.taps() + tap) * PAIRS * RIGHT_ROW,
        };
        let steps = (0..self.chunks()).flat_map(|chunk| taps.iter().map(move |tap| step(chunk, tap)));
        let ahead = if self.is_short() {
            Step { left: 0, right: 4 * self.panel_words() }
        } else {
            Step { left: SIDE * LEFT_ROW, right: 0 }
        };
        Steps::new(steps, ahead)
    }

    #[expect(clippy::too_many_arguments, reason = "a block's factors and where its results go")]
    fn multiply(
        &self,
        level: Level,
        unit: MatrixUnit,
        block: &Block,
        panels: Range<usize>,
        steps: &Steps,
        (copy, filter): (&[f32], &[f32]),
        bias: Option<&[f32]>,
        result: Shared,
    ) {
        let Shape { h, w, c, .. } = self.result;
        let runs = block.runs();
        let mut unit = unit.ready();
        let mut sums = Sums::ZERO;
        let mut multiply = |panel: usize, index: usize| {
            let first = panel * SIDE;
            let columns = SIDE.min(c - first);
            let positions = runs.positions(index);
            let product = Product {
                steps,
                left: copy[positions.start * POSITION..].as_ptr().cast(),
                right: filter[panel * self.panel_words()..].as_ptr().cast(),
            };
            // SAFETY: there is room for a product behind the last position; the filter has this panel.
            unsafe { unit.multiply(&product, &mut sums) };
            let mut biases = [0.0; SIDE];
            if let Some(bias) = bias {
                biases[..columns].copy_from_slice(&bias[first..first + columns]);
            }
            level.vectorize(
                #[inline(always)]
                || {
                    for (row, place) in block.results(positions).enumerate() {
                        let Some((n, y, x)) = place else { continue };
                        // SAFETY: these channels of this pixel are this task's.
                        let out = unsafe { result.slice(((n * h + y) * w + x) * c + first, columns) };
                        store(sums.row(row), &biases, out);
                    }
                },
            );
        };
        if self.is_short() {
            for index in 0..runs.products() {
                panels.clone().for_each(|panel| multiply(panel, index));
            }
        } else {
            for panel in panels {
                (0..runs.products()).for_each(|index| multiply(panel, index));
            }
        }
    }
}

/// Positions that there is room for in each block of channels: a product may read beyond the last.
fn room(plan: &[(Positions, Vec<Block>)]) -> usize {
    plan.iter().flat_map(|(_, blocks)| blocks).map(Block::len).max().unwrap_or(0) + SIDE
}

#[inline(always)]
fn store(sums: [&[f32; 16]; 2], biases: &[f32; SIDE], out: &mut [f32]) {
    let (biases, _) = biases.as_chunks::<16>();
    for ((sums, biases), out) in sums.into_iter().zip(biases).zip(out.chunks_mut(16)) {
        if let Ok(out) = <&mut [f32; 16]>::try_from(&mut *out) {
            *out = std::array::from_fn(|i| sums[i] + biases[i]);
        } else {
            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(biases) {
                *out = sum + bias;
            }
        }
    }
}
