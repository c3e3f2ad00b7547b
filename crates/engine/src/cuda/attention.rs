//! Attention as batched products and a softmax: see [`crate::ops::attention`].

use super::device::Argument;
use super::error::CudaError;
use super::kernels::{Operands, Product, Side, count};
use super::queue::Queue;
use crate::kernel::{Scratch, Step, Storage};
use crate::shape::Shape;

/// The gradient of the scores.
pub(super) fn gradient_scratch(storage: Storage, shape: Shape) -> Scratch {
    Scratch { prepared: 0, workspace: storage.words(shape.n * shape.pixels() * shape.pixels()) }
}

impl Queue<'_> {
    /// (q, k, v) → (y, probabilities).
    pub(super) fn attend(&self, scale: f32, step: &Step) -> Result<(), CudaError> {
        let shape = step.inputs[0].shape;
        let (n, l, c) = (shape.n, shape.pixels(), shape.c);
        let [q, k, v] = [0, 1, 2].map(|index| self.address(step.inputs[index]));
        let [y, probabilities] = [0, 1].map(|index| self.address(step.outputs[index]));
        let multiply =
            |product: &Product, factors, out| self.multiply(Operands::Activations, product, n, factors, out);
        multiply(&Product::new([l, l, c], Side::Plain, Side::Transposed), [q, k], probabilities)?;
        self.grid(
            "softmax",
            [count(n * l), 1, 1],
            &[
                Argument::U32(count(l)),
                Argument::F32(scale),
                Argument::Address(probabilities),
                Argument::Address(probabilities),
            ],
        )?;
        multiply(&Product::new([l, c, l], Side::Plain, Side::Plain), [probabilities, v], y)
    }

    /// (q, k, v, probabilities, dy) → (dq, dk, dv).
    pub(super) fn attend_gradient(&self, scale: f32, step: &Step) -> Result<(), CudaError> {
        let shape = step.inputs[0].shape;
        let (n, l, c) = (shape.n, shape.pixels(), shape.c);
        let [q, k, v, probabilities, dy] = [0, 1, 2, 3, 4].map(|index| self.address(step.inputs[index]));
        let [dq, dk, dv] = [0, 1, 2].map(|index| self.address(step.outputs[index]));
        let scores = step.workspace.map_or(0, |view| self.address(view));
        let multiply =
            |product: &Product, factors, out| self.multiply(Operands::Activations, product, n, factors, out);
        multiply(&Product::new([l, l, c], Side::Plain, Side::Transposed), [dy, v], scores)?;
        self.grid(
            "softmax_gradient",
            [count(n * l), 1, 1],
            &[
                Argument::U32(count(l)),
                Argument::F32(scale),
                Argument::Address(probabilities),
                Argument::Address(scores),
                Argument::Address(scores),
            ],
        )?;
        let mixed = Product::new([l, c, l], Side::Transposed, Side::Plain);
        multiply(&Product::new([l, c, l], Side::Plain, Side::Plain), [scores, k], dq)?;
        multiply(&mixed, [scores, q], dk)?;
        multiply(&mixed, [probabilities, dy], dv)
    }
}
