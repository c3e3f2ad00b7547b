//! Group normalisation: passes over stretches of pixels, and the small kernels between them. See
//! `kernels/group_norm.cu`.

use super::device::{Address, Argument};
use super::error::CudaError;
use super::kernels::{Dropout, count};
use super::queue::{Queue, WORD};
use crate::kernel::{Scratch, Step};
use crate::ops::GroupNorm;
use crate::shape::Shape;

/// Pixels of a stretch.
const STRETCH: usize = 32;

fn stretches(shape: Shape) -> usize {
    shape.pixels().div_ceil(STRETCH)
}

/// Two sums of each channel and stretch.
fn sums_len(shape: Shape) -> usize {
    shape.n * stretches(shape) * 2 * shape.c
}

pub(super) fn scratch(shape: Shape) -> Scratch {
    Scratch { prepared: 0, workspace: sums_len(shape) }
}

/// The sums, their totals, and two means of each group.
pub(super) fn gradient_scratch(shape: Shape, norm: GroupNorm) -> Scratch {
    Scratch { prepared: 0, workspace: sums_len(shape) + 2 * shape.n * (shape.c + norm.groups) }
}

impl Queue<'_> {
    /// (x, gamma, beta) → (y, statistics).
    pub(super) fn normalise(&self, norm: GroupNorm, dropout: Dropout, step: &Step) -> Result<(), CudaError> {
        let shape = step.inputs[0].shape;
        let (x, statistics) = (self.argument(step.inputs[0]), self.argument(step.outputs[1]));
        let spread = Argument::Address(step.workspace.map_or(0, |view| self.address(view)));
        let [pixels, stretch, c] =
            [shape.pixels(), STRETCH, shape.c].map(|value| Argument::U32(count(value)));
        let [n, parts, groups] = [shape.n, stretches(shape), norm.groups].map(count);
        self.grid("group_norm_spread", [parts, n, 1], &[pixels, stretch, c, x, spread])?;
        self.grid(
            "group_norm_statistics",
            [groups, n, 1],
            &[pixels, stretch, Argument::U32(parts), c, Argument::F32(norm.epsilon), spread, statistics],
        )?;
        self.apply_statistics(norm, dropout, statistics, step)
    }

    /// (x, gamma, beta, statistics) → y.
    pub(super) fn normalise_again(
        &self,
        norm: GroupNorm,
        dropout: Dropout,
        step: &Step,
    ) -> Result<(), CudaError> {
        self.apply_statistics(norm, dropout, self.argument(step.inputs[3]), step)
    }

    /// (x, gamma, beta, …) → (y, …), with statistics from wherever they are.
    fn apply_statistics(
        &self,
        norm: GroupNorm,
        dropout: Dropout,
        statistics: Argument,
        step: &Step,
    ) -> Result<(), CudaError> {
        let shape = step.inputs[0].shape;
        let [x, gamma, beta] = [0, 1, 2].map(|index| self.argument(step.inputs[index]));
        self.spread_samples(
            "group_norm_apply",
            shape.sample_len().div_ceil(4),
            shape.n,
            &[
                Argument::U32(count(shape.sample_len())),
                Argument::U32(count(shape.c)),
                Argument::U32(count(norm.groups)),
                Argument::U32(u32::from(norm.silu)),
                Argument::Dropout(dropout),
                x,
                gamma,
                beta,
                statistics,
                self.argument(step.outputs[0]),
            ],
        )
    }

    /// (x, gamma, beta, statistics, dy) → (dx, gamma gradient, beta gradient), the latter two added to.
    pub(super) fn normalise_gradient(
        &self,
        norm: GroupNorm,
        dropout: Dropout,
        step: &Step,
    ) -> Result<(), CudaError> {
        let shape = step.inputs[0].shape;
        let [x, gamma, beta, statistics, dy] = [0, 1, 2, 3, 4].map(|index| self.argument(step.inputs[index]));
        let [dx, dgamma, dbeta] = [0, 1, 2].map(|index| step.outputs[index]);
        let workspace = step.workspace.map_or(0, |view| self.address(view));
        let totals = workspace + (sums_len(shape) * WORD) as Address;
        let hat_totals = totals + (shape.n * shape.c * WORD) as Address;
        let means = Argument::Address(hat_totals + (shape.n * shape.c * WORD) as Address);
        let sums = Argument::Address(workspace);
        let [pixels, stretch, c] =
            [shape.pixels(), STRETCH, shape.c].map(|value| Argument::U32(count(value)));
        let [n, parts, groups] = [shape.n, stretches(shape), norm.groups].map(count);
        // What the first and the last kernel have in common.
        let operands = [
            c,
            Argument::U32(groups),
            Argument::U32(u32::from(norm.silu)),
            Argument::Dropout(dropout),
            x,
            gamma,
            beta,
            statistics,
            dy,
        ];
        self.grid(
            "group_norm_gradient_sums",
            [parts, n, 1],
            &[&[pixels, stretch], &operands[..], &[sums]].concat(),
        )?;
        self.grid(
            "group_norm_gradient_means",
            [groups, n, 1],
            &[pixels, Argument::U32(parts), c, gamma, sums, Argument::Address(totals), means],
        )?;
        self.spread_samples(
            "group_norm_gradient_apply",
            shape.sample_len().div_ceil(4),
            shape.n,
            &[&[Argument::U32(count(shape.sample_len()))], &operands[..], &[means, self.argument(dx)]]
                .concat(),
        )?;
        self.fold("fold_to_gradient", [1, shape.n, shape.c], totals, self.address(dbeta))?;
        self.fold("fold_to_gradient", [1, shape.n, shape.c], hat_totals, self.address(dgamma))
    }

    /// `y[n, c] = Σ_k parts[n, k, c]`, or added to.
    pub(super) fn fold(
        &self,
        kernel: &'static str,
        [n, chunks, c]: [usize; 3],
        parts: Address,
        y: Address,
    ) -> Result<(), CudaError> {
        self.grid(
            kernel,
            [count(c.div_ceil(32)), count(n), 1],
            &[
                Argument::U32(count(chunks)),
                Argument::U32(count(c)),
                Argument::Address(parts),
                Argument::Address(y),
            ],
        )
    }
}
