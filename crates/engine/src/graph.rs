//! The graph a model is written on: operations recorded in the order they are called.

use crate::kernel::Kernel;
use crate::params::{Init, Param, ParamLayout};
use crate::shape::Shape;

/// A value of a graph: an input or the result of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Var(pub(crate) usize);

/// What a node reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operand {
    Var(Var),
    Param(Param),
}

pub(crate) struct Node {
    /// `None` for an input.
    pub kernel: Option<Kernel>,
    pub operands: Vec<Operand>,
    pub shape: Shape,
    /// Shape of the second output, which the gradient reads (statistics, probabilities).
    pub saved: Option<Shape>,
    /// Whether the gradient with respect to it is wanted or passes through it.
    pub needs_gradient: bool,
}

/// A network for one batch size: operations on NHWC tensors with static shapes.
///
/// Each operation is a method, in the file of [`crate::ops`] named after it.
#[derive(Default)]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) params: ParamLayout,
    pub(crate) dropouts: u32,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tensor that is set from outside before each run.
    pub fn input(&mut self, shape: Shape) -> Var {
        self.push_input(shape, false)
    }

    /// An input whose gradient a training program also computes.
    pub fn input_with_gradient(&mut self, shape: Shape) -> Var {
        self.push_input(shape, true)
    }

    /// Declares a parameter. Weights of convolutions are `[kernel_h, kernel_w, in, out]`, of linear maps `[in, out]`.
    pub fn parameter(&mut self, name: impl Into<String>, shape: Vec<usize>, init: Init) -> Param {
        self.params.push(name, shape, init)
    }

    /// The parameters declared so far.
    pub fn layout(&self) -> &ParamLayout {
        &self.params
    }

    /// The shape of a value.
    pub fn shape(&self, var: Var) -> Shape {
        self.nodes[var.0].shape
    }

    fn push_input(&mut self, shape: Shape, needs_gradient: bool) -> Var {
        self.nodes.push(Node { kernel: None, operands: Vec::new(), shape, saved: None, needs_gradient });
        Var(self.nodes.len() - 1)
    }

    /// Records an operation; it needs a gradient if any operand does.
    pub(crate) fn record(
        &mut self,
        kernel: Kernel,
        operands: Vec<Operand>,
        shape: Shape,
        saved: Option<Shape>,
    ) -> Var {
        let needs_gradient = operands.iter().any(|operand| match *operand {
            Operand::Param(_) => true,
            Operand::Var(var) => self.nodes[var.0].needs_gradient,
        });
        self.nodes.push(Node { kernel: Some(kernel), operands, shape, saved, needs_gradient });
        Var(self.nodes.len() - 1)
    }

    /// Records an operation on values alone.
    pub(crate) fn record_values(&mut self, kernel: Kernel, vars: &[Var], shape: Shape) -> Var {
        self.record(kernel, vars.iter().map(|&var| Operand::Var(var)).collect(), shape, None)
    }
}
