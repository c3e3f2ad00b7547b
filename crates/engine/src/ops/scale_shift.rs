//! Scale and shift by what each sample says (FiLM, Perez et al. 2018; the time embedding's part in Dhariwal &
//! Nichol 2021).
//!
//! `y[n, i, j, c] = x[n, i, j, c] · (1 + vector[n, c]) + vector[n, C + c]`: x `[n, h, w, C]`, vector
//! `[n, 1, 1, 2 · C]`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

impl Graph {
    /// `x` with each channel scaled by one more than `vector`'s first half and shifted by its second.
    pub fn scale_shift(&mut self, x: Var, vector: Var) -> Var {
        let shape = self.shape(x);
        assert_eq!(self.shape(vector), Shape::vectors(shape.n, 2 * shape.c));
        self.record_values(Kernel::ScaleShift, &[x, vector], shape)
    }
}

/// x receives dy · (1 + scale), the vector the sums over pixels of dy · x and of dy.
pub(crate) fn gradient(d: &mut Differentiation) {
    let reads = vec![d.operand(0), d.operand(1), d.output_gradient()];
    d.emit_gradient(Kernel::ScaleShiftGrad, reads, &[0, 1]);
}
