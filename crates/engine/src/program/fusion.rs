//! What some backends do in one: a group normalisation and the dropout after it, and the gradients of both; a
//! convolution and what is added to its result, or its rectification.

use super::{Draft, Instruction, Place, values};
use crate::backend::Backend;
use crate::kernel::{Kernel, Then};
use std::collections::HashMap;

/// Which values are written by one instruction and read by one, and are none of those `kept`: they need not be.
fn passing(draft: &Draft, kept: &[usize]) -> Vec<bool> {
    let mut uses = vec![0usize; draft.values.len()];
    for instruction in &draft.instructions {
        for value in values(&instruction.reads).chain(values(&instruction.writes)) {
            uses[value] += 1;
        }
    }
    let mut passing: Vec<_> = uses.into_iter().map(|uses| uses == 2).collect();
    kept.iter().for_each(|&value| passing[value] = false);
    passing
}

/// Joins convolutions to what follows them in the forward instructions, as `backend` wants it. Returns how
/// many instructions are forward then.
///
/// Both are done where the second was: all that either reads is there by then.
pub(super) fn fuse_convolutions(
    draft: &mut Draft,
    forward_len: usize,
    kept: &[usize],
    backend: &dyn Backend,
) -> usize {
    let passing = passing(draft, kept);
    let mut instructions: Vec<_> = std::mem::take(&mut draft.instructions).into_iter().map(Some).collect();
    // Which instruction each such value comes from.
    let mut convolutions = HashMap::new();
    for index in 0..forward_len {
        let Some(Instruction { kernel, reads, writes }) = &instructions[index] else { continue };
        let (then, operands) = match kernel {
            &Kernel::Conv(conv) => {
                let results = values(writes).filter(|&value| passing[value]);
                convolutions.extend(results.map(|value| (value, (index, conv))));
                continue;
            }
            Kernel::Relu => (Then::Relu, 1),
            Kernel::Add => (Then::Add, 2),
            Kernel::AddPerSample => (Then::AddPerSample, 1),
            _ => continue,
        };
        let fuses = |value: usize| {
            let &(first, conv) = convolutions.get(&value)?;
            let source = values(&instructions[first].as_ref()?.reads).next()?;
            let wanted = backend.fuses(conv, then, draft.values[source], draft.values[value]);
            wanted.then_some((first, conv, Place::Value(value)))
        };
        // The later of two: its result is not even written before the other is read.
        let last = values(&reads[..operands]).filter_map(fuses).max_by_key(|(first, ..)| *first);
        let Some((first, conv, between)) = last else { continue };
        let others: Vec<_> = reads.iter().copied().filter(|&read| read != between).collect();
        let writes = writes.clone();
        let Some(Instruction { mut reads, .. }) = instructions[first].take() else { continue };
        reads.extend(others);
        instructions[index] = Some(Instruction { kernel: Kernel::ConvThen(conv, then), reads, writes });
    }
    let before = instructions.len();
    draft.instructions = instructions.into_iter().flatten().collect();
    forward_len - (before - draft.instructions.len())
}

/// Joins dropouts to the normalisations before them, in the forward instructions and in those of the
/// gradient, where nothing else reads what is between them and it is not one of `kept`. Returns how many
/// instructions are forward then.
pub(super) fn fuse_dropout(draft: &mut Draft, forward_len: usize, kept: &[usize]) -> usize {
    let passing = passing(draft, kept);
    // Written by one and read by the other.
    let is_between = |place: Place| match place {
        Place::Value(value) => passing[value],
        Place::Param(_) | Place::Grad(_) | Place::Grads { .. } => false,
    };
    let (mut joined, mut forward) = (Vec::with_capacity(draft.instructions.len()), forward_len);
    let mut instructions = std::mem::take(&mut draft.instructions).into_iter().enumerate().peekable();
    while let Some((index, first)) = instructions.next() {
        let next = instructions.peek().filter(|(next, _)| *next != forward_len);
        let both = next.and_then(|(_, second)| join(&first, second, is_between));
        if both.is_some() {
            instructions.next();
            forward -= usize::from(index < forward_len);
        }
        joined.push(both.unwrap_or(first));
    }
    draft.instructions = joined;
    forward
}

/// Two instructions as one, if they are such.
fn join(
    first: &Instruction,
    second: &Instruction,
    is_between: impl Fn(Place) -> bool,
) -> Option<Instruction> {
    let between = first.writes[0];
    // What the second writes to is its own from then on.
    if !is_between(between) && !second.writes.contains(&between) {
        return None;
    }
    match (&first.kernel, &second.kernel) {
        (&Kernel::GroupNorm(norm), &Kernel::Dropout(dropout)) if second.reads == [between] => {
            Some(Instruction {
                kernel: Kernel::GroupNormDropout(norm, dropout),
                reads: first.reads.clone(),
                writes: vec![second.writes[0], first.writes[1]],
            })
        }
        (&Kernel::GroupNormAgain(norm), &Kernel::Dropout(dropout)) if second.reads == [between] => {
            Some(Instruction {
                kernel: Kernel::GroupNormDropoutAgain(norm, dropout),
                reads: first.reads.clone(),
                writes: second.writes.clone(),
            })
        }
        (&Kernel::Dropout(dropout), &Kernel::GroupNormGrad(norm))
            if second.reads.last() == Some(&between) =>
        {
            let (_, others) = second.reads.split_last()?;
            Some(Instruction {
                kernel: Kernel::GroupNormDropoutGrad(norm, dropout),
                reads: others.iter().chain(&first.reads).copied().collect(),
                writes: second.writes.clone(),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::Kernel;
    use crate::params::Init;
    use crate::program::Program;
    use crate::{Conv, Cpu, CpuOptions, Graph, Level, Padding, Run, Session, Shape, Var};

    /// Convolutions of every way, maps and channels that are not whole tiles, each followed by what may be
    /// done in one with it. Gives the input, and of each what is between and what comes of it.
    fn network() -> (Graph, Var, Vec<[Var; 2]>) {
        let mut graph = Graph::new();
        let shape = Shape::new(3, 7, 7, 37);
        let x = graph.input(shape);
        let mut pairs = Vec::new();
        let square = |side, stride, padding| Conv {
            kernel_h: side,
            kernel_w: side,
            stride,
            padding: Padding::symmetric(padding, padding),
        };
        let convs = [
            (Conv::POINTWISE, 64),
            (square(3, 1, 1), 37),
            (square(3, 2, 1), 50),
            (square(5, 1, 2), 20),
            (square(3, 1, 1), 70),
        ];
        for (index, (conv, channels)) in convs.into_iter().enumerate() {
            let dims = vec![conv.kernel_h, conv.kernel_w, shape.c, channels];
            let init = Init::VarianceScaling { scale: 1.0 };
            let weight = graph.parameter(format!("{index}.weight"), dims, init);
            let bias = graph.parameter(format!("{index}.bias"), vec![channels], Init::Zeros);
            let [plain, rectified, sum, reversed, moved, other] =
                [(); 6].map(|()| graph.conv(x, weight, bias, conv));
            let all = graph.relu(other);
            pairs.push([rectified, graph.relu(rectified)]);
            pairs.push([sum, graph.add(sum, all)]);
            pairs.push([reversed, graph.add(all, reversed)]);
            let vector = graph.input(Shape::vectors(shape.n, channels));
            pairs.push([moved, graph.add_per_sample(moved, vector)]);
            // Read twice: nothing is joined to it.
            let twice = graph.relu(plain);
            pairs.push([plain, graph.add(plain, twice)]);
        }
        (graph, x, pairs)
    }

    fn results(
        graph: &Graph,
        x: Var,
        pairs: &[[Var; 2]],
        separately: bool,
        options: CpuOptions,
    ) -> (usize, Vec<u32>) {
        let backend = Box::new(Cpu::with_options(options).unwrap());
        let last: Vec<_> = pairs.iter().map(|pair| pair[1]).collect();
        let outputs = if separately { pairs.as_flattened() } else { &last };
        let program = Program::inference(graph, outputs, backend.as_ref());
        let joined =
            program.forward.iter().filter(|step| matches!(step.kernel, Kernel::ConvThen(..))).count();
        let mut session = Session::new(program, backend).unwrap();
        session.set_parameters(&graph.layout().initialise(1));
        for (node, var) in (0..graph.nodes.len()).map(|node| (&graph.nodes[node], Var(node))) {
            if node.kernel.is_none() {
                let mut values: Vec<f32> =
                    (0..node.shape.len()).map(|i| ((i * 37 + var.0) % 101) as f32 / 50.0 - 1.0).collect();
                if var == x {
                    // One sample's results are not numbers, some others are zeros.
                    values[shape_index(node.shape, 1, 3, 2)] = f32::NAN;
                    values[shape_index(node.shape, 2, 0, 0)..].fill(0.0);
                }
                session.set(var, &values);
            }
        }
        session.forward(&Run::default());
        let mut all = Vec::new();
        for &output in &last {
            let mut result = vec![0.0; graph.shape(output).len()];
            session.read(output, &mut result).unwrap();
            all.extend(
                result.into_iter().map(|value| if value.is_nan() { f32::NAN } else { value }.to_bits()),
            );
        }
        (joined, all)
    }

    fn shape_index(shape: Shape, n: usize, y: usize, x: usize) -> usize {
        ((n * shape.h + y) * shape.w + x) * shape.c
    }

    #[test]
    fn what_follows_a_convolution_has_the_bits_of_both_by_themselves() {
        let (graph, x, pairs) = network();
        let options = CpuOptions { threads: 2, level: Level::Scalar, ..CpuOptions::default() };
        let (apart, expected) = results(&graph, x, &pairs, true, options);
        // Those that `all` is made of, though between them and it is no output.
        assert_eq!(apart, 5);
        let nans = expected.iter().filter(|&&bits| f32::from_bits(bits).is_nan()).count();
        assert!(nans > 0 && nans < expected.len() / 2);
        for level in Level::available() {
            let (joined, all) = results(&graph, x, &pairs, false, CpuOptions { level, ..options });
            // Per convolution four, and where tiles of pixels are not gathered the vector's sum, too.
            assert_eq!(joined, 5 * 4 + 2, "{level:?}");
            assert!(all == expected, "{level:?}");
        }
    }
}
