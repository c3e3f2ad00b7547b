//! Softmax over channels, at each pixel: `y_c = exp(x_c - max) / Σ exp(x - max)`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;

impl Graph {
    /// Softmax over channels.
    pub fn softmax(&mut self, x: Var) -> Var {
        self.record_values(Kernel::Softmax, &[x], self.shape(x))
    }
}

/// `dx = y ⊙ (dy - Σ_c dy_c y_c)`.
pub(crate) fn gradient(d: &mut Differentiation) {
    let reads = vec![d.output(), d.output_gradient()];
    d.emit_gradient(Kernel::SoftmaxGrad, reads, &[0]);
}
