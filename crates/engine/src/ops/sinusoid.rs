//! Sines and cosines of a number per sample (Vaswani et al. 2017, as the paper's code has them).
//!
//! t `[n, 1, 1, 1]` → `[sin(t ω_0), …, sin(t ω_{h-1}), cos(t ω_0), …]` `[n, 1, 1, 2h]`, with `ω_i = max_period^(-i / (h - 1))`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::shape::Shape;

impl Graph {
    /// The embedding of `t` in `channels` (even, at least 4) numbers. No gradient flows to `t`.
    pub fn sinusoid(&mut self, t: Var, channels: usize, max_period: f32) -> Var {
        let n = self.shape(t).n;
        assert_eq!(self.shape(t), Shape::vectors(n, 1));
        assert!(
            channels >= 4 && channels.is_multiple_of(2),
            "{channels} channels cannot hold sines and cosines"
        );
        self.record_values(Kernel::Sinusoid { max_period }, &[t], Shape::vectors(n, channels))
    }
}
