//! Blocks of pixels gathered into channels, and back.
//!
//! `[n, h, w, c]` ↔ `[n, h/b, w/b, b²c]`; pixel (dy, dx) of a block has channels `(dy·b + dx)·c ..`
//! (TensorFlow's order).

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

impl Graph {
    /// Gathers `block × block` pixels into channels; `block` divides height and width.
    pub fn space_to_depth(&mut self, x: Var, block: usize) -> Var {
        let Shape { n, h, w, c } = self.shape(x);
        assert!(h.is_multiple_of(block) && w.is_multiple_of(block), "blocks of {block} do not tile {h}x{w}");
        let shape = Shape::new(n, h / block, w / block, c * block * block);
        self.record_values(Kernel::SpaceToDepth { block }, &[x], shape)
    }

    /// Lays out channels as `block × block` pixels; `block²` divides the channels.
    pub fn depth_to_space(&mut self, x: Var, block: usize) -> Var {
        let Shape { n, h, w, c } = self.shape(x);
        assert!(c.is_multiple_of(block * block), "{c} channels are no blocks of {block}x{block}");
        let shape = Shape::new(n, h * block, w * block, c / (block * block));
        self.record_values(Kernel::DepthToSpace { block }, &[x], shape)
    }
}

pub(crate) fn gradient(inverse: Kernel, d: &mut Differentiation) {
    let dy = d.output_gradient();
    d.emit_gradient(inverse, vec![dy], &[0]);
}
