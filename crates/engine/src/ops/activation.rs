//! Elementwise activations: SiLU (`x · sigmoid(x)`) and ReLU (`max(x, 0)`), any shape.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;

impl Graph {
    /// `x · sigmoid(x)`.
    pub fn silu(&mut self, x: Var) -> Var {
        self.record_values(Kernel::Silu, &[x], self.shape(x))
    }

    /// `max(x, 0)`; its gradient at 0 is 0.
    pub fn relu(&mut self, x: Var) -> Var {
        self.record_values(Kernel::Relu, &[x], self.shape(x))
    }
}

pub(crate) fn gradient(kernel: Kernel, d: &mut Differentiation) {
    let reads = vec![d.operand(0), d.output_gradient()];
    d.emit_gradient(kernel, reads, &[0]);
}
