//! Nearest-neighbour upsampling to twice the size: `[n, h, w, c]` → `[n, 2h, 2w, c]`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

impl Graph {
    /// Each pixel becomes a block of 2×2.
    pub fn upsample(&mut self, x: Var) -> Var {
        let shape = self.shape(x);
        self.record_values(Kernel::Upsample, &[x], Shape { h: 2 * shape.h, w: 2 * shape.w, ..shape })
    }
}

pub(crate) fn gradient(d: &mut Differentiation) {
    let dy = d.output_gradient();
    d.emit_gradient(Kernel::UpsampleGrad, vec![dy], &[0]);
}
