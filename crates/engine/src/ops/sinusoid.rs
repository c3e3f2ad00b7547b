//! Sines and cosines of a number per sample (Vaswani et al. 2017, as the paper's code has them).
//!
//! t `[n, 1, 1, 1]` → `[sin(t ω_0), …, sin(t ω_{h-1}), cos(t ω_0), …]` `[n, 1, 1, 2h]`, with
//! `ω_i = scale · max_period^(-i / (h - shift))`.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::shape::Shape;

/// A sinusoidal embedding's attributes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sinusoid {
    /// The longest wavelength is 2π times this.
    pub max_period: f32,
    /// 1: the last frequency is that of the longest wavelength; 0: it would be the one after the last.
    pub shift: usize,
    /// Whether the cosines stand before the sines.
    pub cosines_first: bool,
    /// What t is multiplied by, in single precision.
    pub scale: f32,
}

impl Graph {
    /// The embedding of `t` in `channels` (even, at least 4) numbers. No gradient flows to `t`.
    pub fn sinusoid(&mut self, t: Var, channels: usize, sinusoid: Sinusoid) -> Var {
        let n = self.shape(t).n;
        assert_eq!(self.shape(t), Shape::vectors(n, 1));
        assert!(
            channels >= 4 && channels.is_multiple_of(2) && sinusoid.shift <= 1,
            "{channels} channels cannot hold sines and cosines"
        );
        self.record_values(Kernel::Sinusoid(sinusoid), &[t], Shape::vectors(n, channels))
    }
}
