//! Concatenation along channels: `[n, h, w, a]`, `[n, h, w, b]`, … → `[n, h, w, a + b + …]`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

impl Graph {
    /// The channels of `parts` side by side.
    pub fn concat(&mut self, parts: &[Var]) -> Var {
        let first = self.shape(parts[0]);
        let mut channels = 0;
        for &part in parts {
            let shape = self.shape(part);
            assert_eq!((shape.n, shape.h, shape.w), (first.n, first.h, first.w));
            channels += shape.c;
        }
        self.record_values(Kernel::Concat, parts, Shape { c: channels, ..first })
    }
}

pub(crate) fn gradient(d: &mut Differentiation) {
    let dy = d.output_gradient();
    let mut start = 0;
    for part in 0..d.operands() {
        if d.needs_gradient(part) {
            d.emit_gradient(Kernel::ChannelSlice { start }, vec![dy], &[part]);
        }
        start += d.operand_shape(part).c;
    }
}
