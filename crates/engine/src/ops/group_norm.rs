//! Group normalisation (Wu & He 2018), with SiLU after it if wanted.
//!
//! Per sample and group of channels: `x̂ = (x - mean) / √(variance + ε)`, `y = γ x̂ + β`, then
//! `y · sigmoid(y)`. The statistics `[n, 1, 1, 2 · groups]` (mean, 1/deviation of each group) are kept for
//! the gradient, which recomputes the rest.

use crate::graph::{Graph, Operand, Var};
use crate::kernel::Kernel;
use crate::params::Param;
use crate::program::Differentiation;
use crate::shape::Shape;

/// A group normalisation's attributes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GroupNorm {
    /// Number of groups; divides the channels, into groups of at most [`GroupNorm::MAX_GROUP_CHANNELS`].
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl GroupNorm {
    /// Channels of a group at most.
    pub const MAX_GROUP_CHANNELS: usize = 1024;
}

impl Graph {
    /// Normalises `x` with `gamma` and `beta` (`[c]` each).
    pub fn group_norm(&mut self, x: Var, gamma: Param, beta: Param, norm: GroupNorm) -> Var {
        let shape = self.shape(x);
        assert!(
            shape.c.is_multiple_of(norm.groups),
            "{} groups do not divide {} channels",
            norm.groups,
            shape.c
        );
        assert!(shape.c / norm.groups <= GroupNorm::MAX_GROUP_CHANNELS, "groups of {shape} are too wide");
        assert_eq!(self.params.spec(gamma).shape, [shape.c]);
        assert_eq!(self.params.spec(beta).shape, [shape.c]);
        let operands = vec![Operand::Var(x), Operand::Param(gamma), Operand::Param(beta)];
        let statistics = Shape::vectors(shape.n, 2 * norm.groups);
        self.record(Kernel::GroupNorm(norm), operands, shape, Some(statistics))
    }
}

pub(crate) fn gradient(norm: GroupNorm, d: &mut Differentiation) {
    let reads = vec![d.operand(0), d.operand(1), d.operand(2), d.saved(), d.output_gradient()];
    d.emit_gradient_in_place(Kernel::GroupNormGrad(norm), reads, &[0, 1, 2]);
}
