//! From a graph to steps: the gradient is derived, lifetimes are measured, every tensor gets its place in one arena.

mod differentiation;
mod fusion;
mod gradients;
mod in_place;
mod memory;
mod recomputation;

pub(crate) use differentiation::Differentiation;
pub use recomputation::Recomputation;

use crate::backend::Backend;
use crate::graph::{Graph, Operand, Var};
use crate::kernel::{Kernel, Scratch, Slot, Step, Storage, View};
use crate::params::{Param, ParamLayout};
use crate::shape::Shape;
use differentiation::differentiate;
use fusion::{fuse_convolutions, fuse_dropout};
use in_place::rectify_in_place;
use memory::{Lifetime, place};
use recomputation::recompute;

/// Something an instruction reads or writes, before memory is planned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A tensor of the arena.
    Value(usize),
    /// A parameter.
    Param(Param),
    /// The gradient of a parameter.
    Grad(Param),
    /// Gradients that follow one another.
    Grads {
        /// The first one's first element.
        offset: usize,
        /// Elements of all.
        len: usize,
    },
}

/// The values among places.
fn values(places: &[Place]) -> impl Iterator<Item = usize> {
    places.iter().filter_map(|place| match *place {
        Place::Value(value) => Some(value),
        Place::Param(_) | Place::Grad(_) | Place::Grads { .. } => None,
    })
}

pub(crate) struct Instruction {
    pub kernel: Kernel,
    pub reads: Vec<Place>,
    pub writes: Vec<Place>,
}

/// Instructions over values that have shapes but no place yet.
pub(crate) struct Draft<'g> {
    pub graph: &'g Graph,
    pub values: Vec<Shape>,
    pub instructions: Vec<Instruction>,
    /// The value of each node.
    pub node_values: Vec<usize>,
    /// The second output of each node that has one.
    pub saved_values: Vec<Option<usize>>,
}

impl Draft<'_> {
    pub fn new_value(&mut self, shape: Shape) -> usize {
        self.values.push(shape);
        self.values.len() - 1
    }

    fn forward(graph: &Graph) -> Draft<'_> {
        let mut draft = Draft {
            graph,
            values: Vec::new(),
            instructions: Vec::new(),
            node_values: Vec::new(),
            saved_values: Vec::new(),
        };
        for node in &graph.nodes {
            let value = draft.new_value(node.shape);
            let saved = node.saved.map(|shape| draft.new_value(shape));
            if let Some(kernel) = &node.kernel {
                let reads = node.operands.iter().map(|operand| match *operand {
                    Operand::Var(var) => Place::Value(draft.node_values[var.0]),
                    Operand::Param(param) => Place::Param(param),
                });
                let instruction = Instruction {
                    kernel: kernel.clone(),
                    reads: reads.collect(),
                    writes: [Some(value), saved].into_iter().flatten().map(Place::Value).collect(),
                };
                draft.instructions.push(instruction);
            }
            draft.node_values.push(value);
            draft.saved_values.push(saved);
        }
        draft
    }
}

/// What a training program is planned for. No bit of a result depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrainingOptions {
    /// What is computed again to take less memory.
    pub recomputation: Recomputation,
    /// Whether gradients are summed over several batches. If not, [`crate::Session::backward`] does not add
    /// to them but sets them, and they are there only until inputs are set again: before the backward pass
    /// comes to them, activations have their memory.
    pub accumulates: bool,
}

impl Default for TrainingOptions {
    /// What is cheap is recomputed; gradients are summed.
    fn default() -> Self {
        Self { recomputation: Recomputation::default(), accumulates: true }
    }
}

/// A compiled network: steps with every tensor in its place.
pub struct Program {
    pub(crate) forward: Vec<Step>,
    pub(crate) backward: Vec<Step>,
    pub(crate) training: Option<TrainingOptions>,
    layout: ParamLayout,
    arena_len: usize,
    node_views: Vec<View>,
    gradient_views: Vec<Option<View>>,
}

impl Program {
    /// Steps that compute `outputs`. Filters are prepared once, when parameters are set.
    pub fn inference(graph: &Graph, outputs: &[Var], backend: &dyn Backend) -> Self {
        let draft = Draft::forward(graph);
        let forward_len = draft.instructions.len();
        Self::plan(draft, forward_len, outputs, Vec::new(), backend, None)
    }

    /// Steps that compute `outputs`, and the gradients of all parameters from the gradients of `outputs`,
    /// with [`TrainingOptions::default`].
    ///
    /// # Panics
    /// If an output depends on no parameter.
    pub fn training(graph: &Graph, outputs: &[Var], backend: &dyn Backend) -> Self {
        Self::training_with(graph, outputs, backend, TrainingOptions::default())
    }

    /// The same, planned as `options` say.
    ///
    /// # Panics
    /// If an output depends on no parameter.
    pub fn training_with(
        graph: &Graph,
        outputs: &[Var],
        backend: &dyn Backend,
        options: TrainingOptions,
    ) -> Self {
        let mut draft = Draft::forward(graph);
        let forward_len = draft.instructions.len();
        let gradients = differentiate(&mut draft, outputs);
        Self::plan(draft, forward_len, outputs, gradients, backend, Some(options))
    }

    /// The parameters.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// Words of 4 bytes of the arena: activations, scratch, and in training the gradients of activations and
    /// of parameters.
    pub fn arena_len(&self) -> usize {
        self.arena_len
    }

    /// The shape of an input or output.
    pub fn shape(&self, var: Var) -> Shape {
        self.view(var).shape
    }

    /// Where an input or output lies.
    pub(crate) fn view(&self, var: Var) -> View {
        self.node_views[var.0]
    }

    /// Where the gradient of an input or output lies.
    pub(crate) fn gradient_view(&self, var: Var) -> Option<View> {
        self.gradient_views.get(var.0).copied().flatten()
    }

    fn plan(
        mut draft: Draft,
        mut forward_len: usize,
        outputs: &[Var],
        gradients: Vec<Option<usize>>,
        backend: &dyn Backend,
        training: Option<TrainingOptions>,
    ) -> Self {
        let kept: Vec<_> = outputs.iter().map(|output| draft.node_values[output.0]).collect();
        if let Some(options) = training {
            recompute(&mut draft, forward_len, &kept, options.recomputation);
        }
        forward_len = fuse_convolutions(&mut draft, forward_len, &kept, backend);
        if backend.fuses_dropout() {
            forward_len = fuse_dropout(&mut draft, forward_len, &kept);
        }
        let parameter_gradients = match training {
            Some(options) if options.accumulates => gradients::kept(&draft),
            Some(_) => gradients::clear_when_needed(&mut draft, backend),
            None => {
                rectify_in_place(&mut draft, &kept);
                Vec::new()
            }
        };
        let storages = choose_storages(&draft, backend.storage());
        let mut lifetimes = measure_lifetimes(&draft, forward_len, outputs, &gradients);
        for (lifetime, storage) in lifetimes.iter_mut().zip(&storages) {
            lifetime.len = storage.words(lifetime.len);
        }
        let end = draft.instructions.len();
        let layout = &draft.graph.params;
        let shape_of = |place: Place| match place {
            Place::Value(value) => draft.values[value],
            Place::Param(param) | Place::Grad(param) => Shape::vectors(1, layout.spec(param).len()),
            Place::Grads { len, .. } => Shape::vectors(1, len),
        };

        let mut scratch_values = Vec::with_capacity(end);
        for (index, instruction) in draft.instructions.iter().enumerate() {
            let reads: Vec<_> = instruction.reads.iter().map(|&place| shape_of(place)).collect();
            let writes: Vec<_> = instruction.writes.iter().map(|&place| shape_of(place)).collect();
            let Scratch { prepared, workspace } =
                backend.scratch(&instruction.kernel, &reads, &writes, training.is_none());
            let mut reserve = |len: usize, first: usize, last: usize| {
                (len > 0).then(|| {
                    lifetimes.push(Lifetime { first, last, len });
                    (lifetimes.len() - 1, len)
                })
            };
            let prepared =
                if training.is_some() { reserve(prepared, index, index) } else { reserve(prepared, 0, end) };
            scratch_values.push((prepared, reserve(workspace, index, index)));
        }

        let (offsets, arena_len) = place(&lifetimes, &parameter_gradients);
        let arena = |index: usize, storage, shape: Shape| View {
            slot: Slot::Arena,
            storage,
            offset: offsets[index],
            shape,
        };
        let flat =
            |slot, offset, len| View { slot, storage: Storage::F32, offset, shape: Shape::vectors(1, len) };
        let view = |place: Place| match place {
            Place::Value(value) => arena(value, storages[value], draft.values[value]),
            Place::Param(param) => flat(Slot::Params, layout.spec(param).offset, layout.spec(param).len()),
            Place::Grad(param) => flat(Slot::Grads, layout.spec(param).offset, layout.spec(param).len()),
            Place::Grads { offset, len } => flat(Slot::Grads, offset, len),
        };
        let scratch = |value: Option<(usize, usize)>| {
            value.map(|(index, len)| arena(index, Storage::F32, Shape::vectors(1, len)))
        };
        let mut steps: Vec<Step> = draft
            .instructions
            .iter()
            .zip(scratch_values)
            .map(|(instruction, (prepared, workspace))| Step {
                kernel: instruction.kernel.clone(),
                inputs: instruction.reads.iter().map(|&place| view(place)).collect(),
                outputs: instruction.writes.iter().map(|&place| view(place)).collect(),
                prepared: scratch(prepared),
                workspace: scratch(workspace),
            })
            .collect();
        let backward = steps.split_off(forward_len);
        Self {
            forward: steps,
            backward,
            training,
            arena_len,
            node_views: draft.node_values.iter().map(|&value| view(Place::Value(value))).collect(),
            gradient_views: gradients.iter().map(|value| value.map(|v| view(Place::Value(v)))).collect(),
            layout: draft.graph.params.clone(),
        }
    }
}

/// What each value is stored as: as activations are, but for what must be exact.
fn choose_storages(draft: &Draft, activations: Storage) -> Vec<Storage> {
    let mut storages = vec![activations; draft.values.len()];
    for Instruction { kernel, reads, writes } in &draft.instructions {
        let reads = reads.iter().enumerate().filter(|(index, _)| kernel.is_input_exact(*index));
        let writes = writes.iter().enumerate().filter(|(index, _)| kernel.is_output_exact(*index));
        for (_, place) in reads.chain(writes) {
            if let Place::Value(value) = *place {
                storages[value] = Storage::F32;
            }
        }
    }
    storages
}

/// From when to when each value must keep its place. Inputs live from before the first instruction, outputs and the
/// gradients of inputs to after the last, gradients of outputs from between forward and backward.
fn measure_lifetimes(
    draft: &Draft,
    forward_len: usize,
    outputs: &[Var],
    gradients: &[Option<usize>],
) -> Vec<Lifetime> {
    let end = draft.instructions.len();
    let mut lifetimes: Vec<_> =
        draft.values.iter().map(|shape| Lifetime { first: usize::MAX, last: 0, len: shape.len() }).collect();
    for (index, instruction) in draft.instructions.iter().enumerate() {
        for value in values(&instruction.reads).chain(values(&instruction.writes)) {
            let lifetime = &mut lifetimes[value];
            lifetime.first = lifetime.first.min(index);
            lifetime.last = lifetime.last.max(index);
        }
    }
    for (node, &value) in draft.graph.nodes.iter().zip(&draft.node_values) {
        if node.kernel.is_none() {
            lifetimes[value].first = 0;
        }
    }
    for output in outputs {
        lifetimes[draft.node_values[output.0]].last = end;
        if let Some(value) = gradients.get(output.0).copied().flatten() {
            lifetimes[value].first = lifetimes[value].first.min(forward_len);
        }
    }
    for (node, value) in draft.graph.nodes.iter().zip(gradients) {
        if let (None, Some(value)) = (&node.kernel, *value) {
            lifetimes[value].last = end;
        }
    }
    // What was between fused operations takes no memory.
    lifetimes
        .iter_mut()
        .filter(|lifetime| lifetime.first == usize::MAX)
        .for_each(|lifetime| lifetime.len = 0);
    lifetimes
}
