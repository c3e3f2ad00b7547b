//! The mean squared error of each sample: a, b `[n, h, w, c]` → `[n, 1, 1, 1]`, `Σ (a - b)² / (h·w·c)`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

impl Graph {
    /// The mean squared difference of `a` from `b` in each sample; `b` is a target, no gradient flows to it.
    pub fn squared_error(&mut self, a: Var, b: Var) -> Var {
        let shape = self.shape(a);
        assert_eq!(self.shape(b), shape);
        assert!(!self.nodes[b.0].needs_gradient, "the target of a squared error is a constant");
        self.record_values(Kernel::SquaredError, &[a, b], Shape::vectors(shape.n, 1))
    }
}

pub(crate) fn gradient(d: &mut Differentiation) {
    let reads = vec![d.operand(0), d.operand(1), d.output_gradient()];
    d.emit_gradient(Kernel::SquaredErrorGrad, reads, &[0]);
}
