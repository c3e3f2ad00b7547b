//! Addition: of two tensors, or of one vector per sample at every pixel.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

impl Graph {
    /// `a + b`, of one shape.
    pub fn add(&mut self, a: Var, b: Var) -> Var {
        assert_eq!(self.shape(a), self.shape(b));
        self.record_values(Kernel::Add, &[a, b], self.shape(a))
    }

    /// `x[n, i, j, c] + vector[n, c]`: x `[n, h, w, c]`, vector `[n, 1, 1, c]`.
    pub fn add_per_sample(&mut self, x: Var, vector: Var) -> Var {
        let shape = self.shape(x);
        assert_eq!(self.shape(vector), Shape::vectors(shape.n, shape.c));
        self.record_values(Kernel::AddPerSample, &[x, vector], shape)
    }
}

/// Both sides receive dy itself.
pub(crate) fn gradient_of_add(d: &mut Differentiation) {
    d.pass_gradient(0);
    d.pass_gradient(1);
}

/// x receives dy, the vector its sum over pixels.
pub(crate) fn gradient_of_add_per_sample(d: &mut Differentiation) {
    d.pass_gradient(0);
    let dy = d.output_gradient();
    d.emit_gradient(Kernel::SumPixels, vec![dy], &[1]);
}
