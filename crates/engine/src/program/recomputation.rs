//! What costs little to compute is computed again for the backward pass instead of being kept from the forward pass.

use super::{Draft, Instruction, Place, values};
use crate::kernel::Kernel;
use std::collections::{HashMap, HashSet};

/// What training computes again for the backward pass, to take less memory. It changes no bit of any result.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Recomputation {
    /// Nothing: all that the backward pass reads is kept.
    Nothing,
    /// What takes little more than a pass over memory: normalised and activated values, concatenations,
    /// enlarged images, and convolutions of images with few channels.
    #[default]
    Cheap,
    /// Also dropout, whose random numbers take time, and most of what lies between the inputs of residual
    /// blocks: all but the largest convolutions.
    Convolutions,
}

impl Recomputation {
    /// How many products a convolution that is recomputed sums for an element at most: as many as 3×3 on 3
    /// channels, or on 256.
    pub const fn depth(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Cheap => 9 * 3,
            Self::Convolutions => 9 * 256,
        }
    }
}

/// Gives backward instructions values of their own in place of those that are recomputed, each computed right
/// before it is first read. Values of `kept` stay.
pub(super) fn recompute(draft: &mut Draft, forward_len: usize, kept: &[usize], recomputation: Recomputation) {
    if recomputation == Recomputation::Nothing {
        return;
    }
    let plan = Plan::new(draft, forward_len, kept, recomputation);
    let backward = draft.instructions.split_off(forward_len);
    let mut copies = HashMap::new();
    for mut instruction in backward {
        for place in &mut instruction.reads {
            *place = plan.available(*place, &mut copies, draft);
        }
        draft.instructions.push(instruction);
    }
}

/// Instructions that a recomputed value is kept for after it has been read: about as many as a residual block
/// has. What is read again later is computed once more.
const KEPT_FOR: usize = 24;

/// A recomputed value, and about which instruction read it last.
struct Copy {
    value: usize,
    read: usize,
}

/// What is recomputed, and how.
struct Plan {
    /// The instruction that computes a value again.
    instructions: HashMap<usize, Instruction>,
}

impl Plan {
    fn new(draft: &Draft, forward_len: usize, kept: &[usize], recomputation: Recomputation) -> Self {
        let (forward, backward) = draft.instructions.split_at(forward_len);
        let mut candidates: HashMap<usize, Instruction> = forward
            .iter()
            .filter_map(|step| repetition(step, draft, recomputation))
            .filter(|(value, _)| !kept.contains(value))
            .collect();
        // Last first: whether a value's own sources are kept anyway is known once those that read it are decided.
        let mut needed: HashSet<usize> = backward.iter().flat_map(|step| values(&step.reads)).collect();
        needed.extend(kept);
        let mut instructions = HashMap::new();
        for written in forward.iter().rev().filter_map(|step| values(&step.writes).next()) {
            let Some(instruction) = candidates.remove(&written).filter(|_| needed.contains(&written)) else {
                continue;
            };
            // What would be kept for its sake; sources that may be recomputed themselves count as nothing.
            let sources: usize = values(&instruction.reads)
                .filter(|source| !needed.contains(source) && !candidates.contains_key(source))
                .map(|source| draft.values[source].len())
                .sum();
            if sources < draft.values[written].len() {
                needed.extend(values(&instruction.reads));
                instructions.insert(written, instruction);
            }
        }
        Self { instructions }
    }

    /// Where the next backward instruction finds what was at `place`; appends the instructions that put it there.
    fn available(&self, place: Place, copies: &mut HashMap<usize, Copy>, draft: &mut Draft) -> Place {
        let Place::Value(value) = place else { return place };
        let Some(Instruction { kernel, reads, .. }) = self.instructions.get(&value) else { return place };
        if let Some(copy) = copies.get_mut(&value)
            && copy.read + KEPT_FOR >= draft.instructions.len()
        {
            copy.read = draft.instructions.len();
            return Place::Value(copy.value);
        }
        let reads = reads.iter().map(|&read| self.available(read, copies, draft)).collect();
        let copy = draft.new_value(draft.values[value]);
        copies.insert(value, Copy { value: copy, read: draft.instructions.len() });
        draft.instructions.push(Instruction {
            kernel: kernel.clone(),
            reads,
            writes: vec![Place::Value(copy)],
        });
        Place::Value(copy)
    }
}

/// The value that an instruction computes and how to compute it again, if that costs little.
fn repetition(
    instruction: &Instruction,
    draft: &Draft,
    recomputation: Recomputation,
) -> Option<(usize, Instruction)> {
    let Instruction { kernel, reads, writes } = instruction;
    let mut reads = reads.clone();
    let kernel = match kernel {
        &Kernel::GroupNorm(norm) => {
            reads.push(writes[1]);
            Kernel::GroupNormAgain(norm)
        }
        Kernel::Conv(conv) => {
            let channels = values(reads.get(..1)?).next().map(|source| draft.values[source].c)?;
            (conv.taps() * channels <= recomputation.depth()).then(|| kernel.clone())?
        }
        Kernel::AddPerSample | Kernel::Dropout(_) if recomputation == Recomputation::Convolutions => {
            kernel.clone()
        }
        Kernel::Silu | Kernel::Relu | Kernel::ScaleShift | Kernel::Concat | Kernel::Upsample => {
            kernel.clone()
        }
        _ => return None,
    };
    let value = values(&writes[..1]).next()?;
    Some((value, Instruction { kernel, reads, writes: writes[..1].to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::kernel::Run;
    use crate::ops::{Conv, GroupNorm};
    use crate::params::Init;
    use crate::program::Program;
    use crate::{Cpu, Session, Shape, Slot, TrainingOptions};

    /// Blocks of normalisation, dropout and convolution between a shrinking and an enlarging half, with skips.
    fn network() -> (Graph, crate::Var, crate::Var) {
        let mut graph = Graph::new();
        let x = graph.input(Shape::new(2, 32, 32, 16));
        let mut conv = |graph: &mut Graph, name: String, x, to, conv: Conv| {
            let shape = vec![conv.kernel_h, conv.kernel_w, graph.shape(x).c, to];
            let weight = graph.parameter(name.clone(), shape, Init::VarianceScaling { scale: 1.0 });
            let bias = graph.parameter(format!("{name}.bias"), vec![to], Init::Zeros);
            graph.conv(x, weight, bias, conv)
        };
        let norm = GroupNorm { groups: 4, epsilon: 1e-6, silu: true };
        let block = |graph: &mut Graph,
                     conv: &mut dyn FnMut(&mut Graph, String, _, usize, Conv) -> _,
                     name: &str,
                     x| {
            let channels = graph.shape(x).c;
            let gamma = graph.parameter(format!("{name}.gamma"), vec![channels], Init::Ones);
            let beta = graph.parameter(format!("{name}.beta"), vec![channels], Init::Zeros);
            let h = graph.group_norm(x, gamma, beta, norm);
            let h = graph.dropout(h, 0.2);
            conv(graph, name.to_owned(), h, 16, Conv::SAME_3X3)
        };
        let first = block(&mut graph, &mut conv, "first", x);
        let halving = Conv { stride: 2, ..Conv::SAME_3X3 };
        let small = conv(&mut graph, "halving".into(), first, 16, halving);
        let small = block(&mut graph, &mut conv, "small", small);
        let large = graph.upsample(small);
        let both = graph.concat(&[large, first]);
        let joined = block(&mut graph, &mut conv, "joined", both);
        let y = (0..4).fold(joined, |h, index| block(&mut graph, &mut conv, &format!("last.{index}"), h));
        (graph, x, y)
    }

    #[test]
    fn less_memory_and_the_same_bits() {
        let (graph, x, y) = network();
        let mut lengths = Vec::new();
        let mut gradients = Vec::new();
        for recomputation in [Recomputation::Nothing, Recomputation::Cheap, Recomputation::Convolutions] {
            let backend = Box::new(Cpu::new(1).unwrap());
            let options = TrainingOptions { recomputation, ..TrainingOptions::default() };
            let program = Program::training_with(&graph, &[y], backend.as_ref(), options);
            lengths.push(program.arena_len());
            let mut session = Session::new(program, backend).unwrap();
            session.set_parameters(&graph.layout().initialise(1));
            let values =
                |len: usize| (0..len).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
            let run = Run { seed: 5, first_sample: 0 };
            session.set(x, &values(graph.shape(x).len()));
            session.forward(&run);
            session.set_gradient(y, &values(graph.shape(y).len()));
            session.backward(&run);
            gradients
                .push(session.buffer(Slot::Grads).unwrap().iter().map(|g| g.to_bits()).collect::<Vec<_>>());
        }
        assert!(lengths[0] > lengths[1] && lengths[1] > lengths[2], "{lengths:?}");
        assert!(gradients[0] == gradients[1] && gradients[0] == gradients[2]);
    }
}
