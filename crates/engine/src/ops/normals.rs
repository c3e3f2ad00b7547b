//! Standard normal numbers: t `[n, 1, 1, 1]` → `[n, h, w, c]`.
//!
//! Sample k has the numbers of [`crate::random::Stream`] for the run's seed, the purpose, step `t[k]` and the sample's
//! number, so nothing has to be set from outside, and they are the same in any batch, and on a GPU up to the last bit.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::random::Purpose;
use crate::shape::Shape;

impl Graph {
    /// Numbers of N(0, 1) in `shape`, those of step `t` (a whole number) of each sample. No gradient flows to `t`.
    pub fn normals(&mut self, purpose: Purpose, t: Var, shape: Shape) -> Var {
        assert_eq!(self.shape(t), Shape::vectors(shape.n, 1), "one step for each sample");
        assert!(!self.nodes[t.0].needs_gradient, "random numbers have no gradient");
        self.record_values(Kernel::Normals(purpose), &[t], shape)
    }
}
