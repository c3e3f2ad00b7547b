//! Two tensors with weights for each sample: x, y `[n, h, w, c]`, weights `[n, 1, 1, 2]` → `weights[n, 0] x + weights[n, 1] y`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::shape::Shape;

impl Graph {
    /// The sum of `x` and `y`, each multiplied by the sample's weight. All three are constants: no gradient
    /// flows to them.
    pub fn weighted_sum(&mut self, x: Var, y: Var, weights: Var) -> Var {
        let shape = self.shape(x);
        assert_eq!(self.shape(y), shape);
        assert_eq!(self.shape(weights), Shape::vectors(shape.n, 2), "two weights for each sample");
        let is_constant = |var: Var| !self.nodes[var.0].needs_gradient;
        assert!([x, y, weights].into_iter().all(is_constant), "a weighted sum is of constants");
        self.record_values(Kernel::WeightedSum, &[x, y, weights], shape)
    }
}
