//! Dropout: each element is 0 with probability `rate`, else divided by `1 - rate`.
//!
//! The mask is a function of the run's seed, the layer, the sample's number and the element, so nothing is stored:
//! the gradient applies the same mask to dy.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;

impl Graph {
    /// Drops elements of `x` with probability `rate` in [0, 1); rate 0 records nothing.
    pub fn dropout(&mut self, x: Var, rate: f32) -> Var {
        assert!((0.0..1.0).contains(&rate), "dropout rate {rate} is not in [0, 1)");
        if rate == 0.0 {
            return x;
        }
        let layer = self.dropouts;
        self.dropouts += 1;
        self.record_values(Kernel::Dropout { rate, layer }, &[x], self.shape(x))
    }
}

pub(crate) fn gradient(kernel: Kernel, d: &mut Differentiation) {
    let dy = d.output_gradient();
    d.emit_gradient(kernel, vec![dy], &[0]);
}
