//! The gradients of parameters lie at the beginning of the arena, in the parameters' layout. Where a step has
//! one batch nothing is in them before the backward pass comes to them: until then their memory is that of
//! activations.

use super::memory::Lifetime;
use super::{Draft, Instruction, Place};
use crate::backend::Backend;
use crate::kernel::Kernel;
use crate::params::Param;

/// Elements of gradients that are cleared at once, at least: 1 MiB. Fewer would be steps by the hundred, more
/// would take memory from activations too soon.
const TOGETHER: usize = 1 << 18;

/// Elements of a gradient that is set by itself, at least: less is cleared with others.
const ALONE: usize = 1 << 16;

/// Gradients that are summed over several batches keep their places throughout.
pub(super) fn kept(draft: &Draft) -> Vec<(usize, Lifetime)> {
    let (len, end) = (draft.graph.params.len(), draft.instructions.len());
    vec![(0, Lifetime { first: 0, last: end, len })]
}

/// Has gradients cleared right before the first instruction that adds to them, or if one sets them, as
/// `backend` may want it, not at all. Returns where each lies, and from when on.
pub(super) fn clear_when_needed(draft: &mut Draft, backend: &dyn Backend) -> Vec<(usize, Lifetime)> {
    let writers = writers(draft);
    let is_set = writers.iter().enumerate().map(|(param, writers)| {
        backend.sets_weight_gradients() && set_if_whole(draft, Param(param), writers)
    });
    let is_set: Vec<_> = is_set.collect();
    let mut groups = groups(draft, &writers, &is_set);
    groups.sort_by_key(|group| group.first);
    let mut instructions = Vec::with_capacity(draft.instructions.len() + groups.len());
    let mut places = Vec::with_capacity(groups.len());
    let mut groups = groups.into_iter().peekable();
    let mut next = std::mem::take(&mut draft.instructions).into_iter();
    for index in 0.. {
        while let Some(Group { offset, len, is_set, .. }) = groups.next_if(|group| group.first == index) {
            places.push((offset, Lifetime { first: instructions.len(), last: usize::MAX, len }));
            if !is_set {
                instructions.push(Instruction {
                    kernel: Kernel::Clear,
                    reads: Vec::new(),
                    writes: vec![Place::Grads { offset, len }],
                });
            }
        }
        match next.next() {
            Some(instruction) => instructions.push(instruction),
            None => break,
        }
    }
    draft.instructions = instructions;
    places.sort_by_key(|(offset, _)| *offset);
    places
}

/// The instructions that add to each parameter's gradient.
fn writers(draft: &Draft) -> Vec<Vec<usize>> {
    let mut writers = vec![Vec::new(); draft.graph.params.specs().len()];
    for (index, instruction) in draft.instructions.iter().enumerate() {
        for place in &instruction.writes {
            if let Place::Grad(Param(param)) = *place {
                writers[param].push(index);
            }
        }
    }
    writers
}

/// Has a large weight gradient set if one instruction makes it. Whether it has.
fn set_if_whole(draft: &mut Draft, param: Param, writers: &[usize]) -> bool {
    let &[writer] = writers else { return false };
    let kernel = &mut draft.instructions[writer].kernel;
    match *kernel {
        Kernel::ConvWeightGrad(conv) if draft.graph.params.spec(param).len() >= ALONE => {
            *kernel = Kernel::ConvWeightGradSet(conv);
            true
        }
        _ => false,
    }
}

/// Gradients that follow one another in the layout.
struct Group {
    offset: usize,
    len: usize,
    /// Whether it is one that is set.
    is_set: bool,
    /// The first instruction that adds to one of them; after the last if none does.
    first: usize,
}

fn groups(draft: &Draft, writers: &[Vec<usize>], is_set: &[bool]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for ((spec, writers), &is_set) in draft.graph.params.specs().iter().zip(writers).zip(is_set) {
        let first = writers.first().map_or(draft.instructions.len(), |&first| first);
        match groups.last_mut().filter(|group| group.len < TOGETHER && !group.is_set && !is_set) {
            Some(group) => {
                group.len += spec.len();
                group.first = group.first.min(first);
            }
            None => groups.push(Group { offset: spec.offset, len: spec.len(), is_set, first }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Init;
    use crate::program::{Program, TrainingOptions};
    use crate::{AdamStep, Cpu, Graph, Run, Session, Shape, Slot, Var};

    /// Layers whose gradients come one by one, the last one's weights once more, and a parameter that nothing
    /// depends on.
    fn network() -> (Graph, Var, Var) {
        const WIDTH: usize = 520;
        const { assert!(WIDTH * WIDTH > TOGETHER) };
        let mut graph = Graph::new();
        let x = graph.input(Shape::vectors(48, WIDTH));
        let mut h = x;
        for layer in 0..3 {
            let scaling = Init::VarianceScaling { scale: 1.0 };
            let weight = graph.parameter(format!("{layer}.weight"), vec![WIDTH, WIDTH], scaling);
            let bias = graph.parameter(format!("{layer}.bias"), vec![WIDTH], Init::Ones);
            h = graph.linear(h, weight, bias);
            h = graph.silu(h);
            if layer == 2 {
                h = graph.linear(h, weight, bias);
            }
        }
        graph.parameter("unused", vec![TOGETHER], Init::Ones);
        (graph, x, h)
    }

    #[test]
    fn activations_lie_where_gradients_come_and_change_no_bit() {
        let (graph, x, y) = network();
        let values = |step: u64| {
            (0..graph.shape(x).len() as u64).map(move |i| ((i * 37 + step * 11) % 101) as f32 / 50.0 - 1.0)
        };
        let train = |accumulates: bool| {
            let backend = Box::new(Cpu::new(2).unwrap());
            let options = TrainingOptions { accumulates, ..TrainingOptions::default() };
            let program = Program::training_with(&graph, &[y], backend.as_ref(), options);
            let arena_len = program.arena_len();
            let mut session = Session::new(program, backend).unwrap();
            session.set_parameters(&graph.layout().initialise(1));
            let mut bits = Vec::new();
            for number in 1..=3 {
                session.clear_gradients();
                session.set(x, &values(number).collect::<Vec<_>>());
                session.forward(&Run::default());
                session.set_gradient(y, &values(10 + number).collect::<Vec<_>>());
                session.backward(&Run::default());
                bits.push(session.buffer(Slot::Grads).unwrap());
                session.update(&AdamStep { number, ..AdamStep::default() }).unwrap();
                bits.push(session.buffer(Slot::Params).unwrap());
            }
            let bits = bits.iter().flatten().map(|value| value.to_bits()).collect::<Vec<_>>();
            (arena_len, bits)
        };
        let (summed, once) = (train(true), train(false));
        assert!(summed.1 == once.1);
        let activation = graph.shape(x).len();
        assert!(once.0 + 2 * activation <= summed.0, "{} of {}", once.0, summed.0);
    }
}
