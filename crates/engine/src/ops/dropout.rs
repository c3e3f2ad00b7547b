//! Dropout: each element is 0 with probability `rate`, else divided by `1 - rate`.
//!
//! The mask is a function of the run's seed, the layer, the sample's number and the element, so nothing is stored:
//! the gradient applies the same mask to dy.

use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;

/// A dropout's attributes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Dropout {
    /// Probability of dropping an element.
    pub rate: f32,
    /// Which dropout of the network this is: its own random numbers.
    pub layer: u32,
}

impl Dropout {
    /// Random words below it drop their element.
    pub(crate) fn threshold(self) -> u32 {
        (f64::from(self.rate) * 4_294_967_296.0) as u32
    }

    /// What elements that are kept are multiplied by.
    pub(crate) fn scale(self) -> f32 {
        1.0 / (1.0 - self.rate)
    }
}

impl Graph {
    /// Drops elements of `x` with probability `rate` in [0, 1); rate 0 records nothing.
    pub fn dropout(&mut self, x: Var, rate: f32) -> Var {
        assert!((0.0..1.0).contains(&rate), "dropout rate {rate} is not in [0, 1)");
        if rate == 0.0 {
            return x;
        }
        let layer = self.dropouts;
        self.dropouts += 1;
        self.record_values(Kernel::Dropout(Dropout { rate, layer }), &[x], self.shape(x))
    }
}

pub(crate) fn gradient(kernel: Kernel, d: &mut Differentiation) {
    let dy = d.output_gradient();
    d.emit_gradient(kernel, vec![dy], &[0]);
}
