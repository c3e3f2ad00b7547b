//! Reverse-mode differentiation: each operation, last first, says how its operands' gradients come from its own.

use super::{Draft, Instruction, Place};
use crate::graph::{Node, Operand, Var};
use crate::kernel::Kernel;
use crate::ops;
use crate::shape::Shape;

/// The gradient of a value so far.
#[derive(Clone, Copy)]
struct Partial {
    value: usize,
    /// Whether other values' gradients are this same tensor, so that it must not be added to in place.
    shared: bool,
}

/// One operation being differentiated: what it read and wrote, and where its gradients go.
pub(crate) struct Differentiation<'a, 'g> {
    draft: &'a mut Draft<'g>,
    partials: &'a mut [Option<Partial>],
    node: usize,
    output_gradient: Partial,
}

/// Appends the backward instructions; returns the gradient's value of each node that has one.
pub(super) fn differentiate(draft: &mut Draft, outputs: &[Var]) -> Vec<Option<usize>> {
    let graph = draft.graph;
    let mut partials: Vec<Option<Partial>> = vec![None; graph.nodes.len()];
    let mut seeds = vec![None; graph.nodes.len()];
    for output in outputs {
        assert!(graph.nodes[output.0].needs_gradient, "a training output depends on no parameter");
        let value = draft.new_value(graph.nodes[output.0].shape);
        seeds[output.0] = Some(value);
        partials[output.0] = Some(Partial { value, shared: false });
    }
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        let (Some(partial), Some(kernel), true) = (partials[index], &node.kernel, node.needs_gradient) else {
            continue;
        };
        let mut d = Differentiation { draft, partials: &mut partials, node: index, output_gradient: partial };
        derive(kernel, &mut d);
    }
    let input_gradients = partials.iter().map(|partial| partial.map(|p| p.value));
    seeds.iter().zip(input_gradients).map(|(seed, gradient)| seed.or(gradient)).collect()
}

fn derive(kernel: &Kernel, d: &mut Differentiation) {
    match *kernel {
        Kernel::Conv(conv) => ops::conv::gradient(conv, d),
        Kernel::GroupNorm(norm) => ops::group_norm::gradient(norm, d),
        Kernel::Silu => ops::activation::gradient(Kernel::SiluGrad, d),
        Kernel::Relu => ops::activation::gradient(Kernel::ReluGrad, d),
        Kernel::Attention(attention) => ops::attention::gradient(attention, d),
        Kernel::Add => ops::add::gradient_of_add(d),
        Kernel::AddPerSample => ops::add::gradient_of_add_per_sample(d),
        Kernel::ScaleShift => ops::scale_shift::gradient(d),
        Kernel::Upsample => ops::upsample::gradient(d),
        Kernel::Concat => ops::concat::gradient(d),
        Kernel::Dropout(_) => ops::dropout::gradient(kernel.clone(), d),
        Kernel::MaxPool(pool) => ops::pool::gradient_of_max_pool(pool, d),
        Kernel::AvgPool(pool) => ops::pool::gradient_of_avg_pool(pool, d),
        Kernel::Softmax => ops::softmax::gradient(d),
        Kernel::SpaceToDepth { block } => ops::space_to_depth::gradient(Kernel::DepthToSpace { block }, d),
        Kernel::DepthToSpace { block } => ops::space_to_depth::gradient(Kernel::SpaceToDepth { block }, d),
        Kernel::SplitHeads { heads } => ops::heads::gradient(Kernel::MergeHeads { heads }, d),
        Kernel::MergeHeads { heads } => ops::heads::gradient(Kernel::SplitHeads { heads }, d),
        Kernel::SquaredError => ops::squared_error::gradient(d),
        // Of constants.
        Kernel::Sinusoid(_) | Kernel::Normals(_) | Kernel::WeightedSum => {}
        Kernel::ConvThen(..)
        | Kernel::ConvInputGrad(_)
        | Kernel::ConvWeightGrad(_)
        | Kernel::ConvWeightGradSet(_)
        | Kernel::BiasGrad
        | Kernel::GroupNormGrad(_)
        | Kernel::GroupNormAgain(_)
        | Kernel::GroupNormDropout(..)
        | Kernel::GroupNormDropoutAgain(..)
        | Kernel::GroupNormDropoutGrad(..)
        | Kernel::SiluGrad
        | Kernel::ReluGrad
        | Kernel::AttentionGrad(_)
        | Kernel::Accumulate
        | Kernel::SumPixels
        | Kernel::ScaleShiftGrad
        | Kernel::UpsampleGrad
        | Kernel::ChannelSlice { .. }
        | Kernel::MaxPoolGrad(_)
        | Kernel::AvgPoolGrad(_)
        | Kernel::SoftmaxGrad
        | Kernel::SquaredErrorGrad
        | Kernel::Clear => unreachable!("graphs record forward operations only"),
    }
}

impl Differentiation<'_, '_> {
    fn node(&self) -> &Node {
        &self.draft.graph.nodes[self.node]
    }

    /// dy: the gradient of the operation's result.
    pub fn output_gradient(&self) -> Place {
        Place::Value(self.output_gradient.value)
    }

    /// The operation's result.
    pub fn output(&self) -> Place {
        Place::Value(self.draft.node_values[self.node])
    }

    /// The operation's second output.
    pub fn saved(&self) -> Place {
        Place::Value(self.draft.saved_values[self.node].expect("the operation saves nothing"))
    }

    /// Number of operands.
    pub fn operands(&self) -> usize {
        self.node().operands.len()
    }

    /// What operand `index` holds.
    pub fn operand(&self, index: usize) -> Place {
        match self.node().operands[index] {
            Operand::Var(var) => Place::Value(self.draft.node_values[var.0]),
            Operand::Param(param) => Place::Param(param),
        }
    }

    /// Shape of operand `index`, a value.
    pub fn operand_shape(&self, index: usize) -> Shape {
        match self.node().operands[index] {
            Operand::Var(var) => self.draft.graph.shape(var),
            Operand::Param(_) => unreachable!("operand {index} is a parameter"),
        }
    }

    /// Whether operand `index` wants a gradient.
    pub fn needs_gradient(&self, index: usize) -> bool {
        match self.node().operands[index] {
            Operand::Var(var) => self.draft.graph.nodes[var.0].needs_gradient,
            Operand::Param(_) => true,
        }
    }

    /// Emits a kernel whose outputs are the gradients of `operands`, in this order. Gradients of parameters
    /// are added to by the kernel itself.
    pub fn emit_gradient(&mut self, kernel: Kernel, reads: Vec<Place>, operands: &[usize]) {
        self.emit(kernel, reads, operands, None);
    }

    /// The same with a kernel that may write the first of these gradients where it reads dy, of the same shape.
    pub fn emit_gradient_in_place(&mut self, kernel: Kernel, reads: Vec<Place>, operands: &[usize]) {
        let place = (!self.output_gradient.shared).then_some(self.output_gradient.value);
        self.emit(kernel, reads, operands, place);
    }

    fn emit(&mut self, kernel: Kernel, reads: Vec<Place>, operands: &[usize], mut place: Option<usize>) {
        let mut writes = Vec::with_capacity(operands.len());
        let mut contributions = Vec::with_capacity(operands.len());
        for &index in operands {
            match self.node().operands[index] {
                Operand::Param(param) => writes.push(Place::Grad(param)),
                Operand::Var(var) => {
                    let shape = self.draft.graph.shape(var);
                    let value = place.take().unwrap_or_else(|| self.draft.new_value(shape));
                    writes.push(Place::Value(value));
                    contributions.push((var, value));
                }
            }
        }
        self.draft.instructions.push(Instruction { kernel, reads, writes });
        for (var, value) in contributions {
            self.contribute(var, Partial { value, shared: false });
        }
    }

    /// Passes dy on unchanged to operand `index`.
    pub fn pass_gradient(&mut self, index: usize) {
        if let Operand::Var(var) = self.node().operands[index] {
            self.contribute(var, Partial { shared: true, ..self.output_gradient });
        }
    }

    fn contribute(&mut self, var: Var, partial: Partial) {
        if !self.draft.graph.nodes[var.0].needs_gradient {
            return;
        }
        self.partials[var.0] = Some(match self.partials[var.0] {
            None => partial,
            Some(sum) if !sum.shared => self.accumulate(sum, partial),
            Some(sum) if !partial.shared => self.accumulate(partial, sum),
            Some(sum) => {
                let value = self.draft.new_value(self.draft.graph.shape(var));
                self.draft.instructions.push(Instruction {
                    kernel: Kernel::Add,
                    reads: vec![Place::Value(sum.value), Place::Value(partial.value)],
                    writes: vec![Place::Value(value)],
                });
                Partial { value, shared: false }
            }
        });
    }

    fn accumulate(&mut self, into: Partial, from: Partial) -> Partial {
        self.draft.instructions.push(Instruction {
            kernel: Kernel::Accumulate,
            reads: vec![Place::Value(from.value)],
            writes: vec![Place::Value(into.value)],
        });
        into
    }
}
