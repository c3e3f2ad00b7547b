//! Channels divided among attention's heads, and put together again.
//!
//! `[n, h, w, heads·c]` ↔ `[n·heads, h, w, c]`; head `i` of a sample has channels `i·c ..`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

impl Graph {
    /// Makes a sample of each head's channels; `heads` divides the channels.
    pub fn split_heads(&mut self, x: Var, heads: usize) -> Var {
        let Shape { n, h, w, c } = self.shape(x);
        assert!(c.is_multiple_of(heads), "{c} channels cannot be divided among {heads} heads");
        self.record_values(Kernel::SplitHeads { heads }, &[x], Shape::new(n * heads, h, w, c / heads))
    }

    /// Makes a sample of every `heads`; they divide the samples.
    pub fn merge_heads(&mut self, x: Var, heads: usize) -> Var {
        let Shape { n, h, w, c } = self.shape(x);
        assert!(n.is_multiple_of(heads), "{n} samples are not those of {heads} heads");
        self.record_values(Kernel::MergeHeads { heads }, &[x], Shape::new(n / heads, h, w, c * heads))
    }
}

pub(crate) fn gradient(inverse: Kernel, d: &mut Differentiation) {
    let dy = d.output_gradient();
    d.emit_gradient(inverse, vec![dy], &[0]);
}
