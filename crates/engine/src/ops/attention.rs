//! Single-head attention over the pixels of a feature map.
//!
//! Per sample, with L = h·w pixels: `P = softmax(scale · q kᵀ)` (`[L, L]`), `y = P v`. q, k, v, y: `[n, h, w, c]`.
//! The probabilities `[n, 1, L, L]` are kept for the gradient.

use crate::graph::{Graph, Operand, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

/// Attention's attributes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attention {
    /// Multiplies the products of queries and keys.
    pub scale: f32,
}

impl Graph {
    /// Attention with scale `c^-½`.
    pub fn attention(&mut self, q: Var, k: Var, v: Var) -> Var {
        let shape = self.shape(q);
        assert_eq!(self.shape(k), shape);
        assert_eq!(self.shape(v), shape);
        let attention = Attention { scale: 1.0 / (shape.c as f32).sqrt() };
        let probabilities = Shape::new(shape.n, 1, shape.pixels(), shape.pixels());
        let operands = [q, k, v].map(Operand::Var).to_vec();
        self.record(Kernel::Attention(attention), operands, shape, Some(probabilities))
    }
}

/// With `dP = dy vᵀ`, `dS = P ⊙ (dP - rowsum(dP ⊙ P))`: `dq = scale · dS k`, `dk = scale · dSᵀ q`, `dv = Pᵀ dy`.
pub(crate) fn gradient(attention: Attention, d: &mut Differentiation) {
    let reads = vec![d.operand(0), d.operand(1), d.operand(2), d.saved(), d.output_gradient()];
    d.emit_gradient(Kernel::AttentionGrad(attention), reads, &[0, 1, 2]);
}
