//! What only predicts writes where it reads: a result that nothing else reads is rectified in its place.

use super::{Draft, Place, values};
use crate::kernel::Kernel;

/// Gives rectified values the places of what they are made of, where nothing else reads that and it is not
/// one of `kept`.
pub(super) fn rectify_in_place(draft: &mut Draft, kept: &[usize]) {
    let mut reads = vec![0usize; draft.values.len()];
    for value in draft.instructions.iter().flat_map(|instruction| values(&instruction.reads)) {
        reads[value] += 1;
    }
    // Where each value lies: what it is made of comes before it.
    let mut places: Vec<usize> = (0..draft.values.len()).collect();
    for instruction in &draft.instructions {
        if let (Kernel::Relu, [Place::Value(from)], [Place::Value(to)]) =
            (&instruction.kernel, &instruction.reads[..], &instruction.writes[..])
            && reads[*from] == 1
            && !kept.contains(from)
        {
            places[*to] = places[*from];
        }
    }
    for instruction in &mut draft.instructions {
        for place in instruction.reads.iter_mut().chain(&mut instruction.writes) {
            if let Place::Value(value) = place {
                *value = places[*value];
            }
        }
    }
    draft.node_values.iter_mut().for_each(|value| *value = places[*value]);
}

#[cfg(test)]
mod tests {
    use crate::params::Init;
    use crate::program::Program;
    use crate::{Conv, Cpu, Graph, Run, Session, Shape, Var};

    /// Rectified values: of an input, of what is read again, of an output, and twice of what nothing else reads.
    fn network() -> (Graph, Var, [Var; 3]) {
        let mut graph = Graph::new();
        let shape = Shape::new(2, 5, 5, 16);
        let x = graph.input(shape);
        let weight = graph.parameter("weight", vec![1, 1, 16, 16], Init::VarianceScaling { scale: 1.0 });
        let bias = graph.parameter("bias", vec![16], Init::Zeros);
        let from_input = graph.relu(x);
        let conv = |graph: &mut Graph, x| graph.conv(x, weight, bias, Conv::POINTWISE);
        let again = conv(&mut graph, from_input);
        let rectified = graph.relu(again);
        let sum = graph.add(again, rectified);
        let output = conv(&mut graph, sum);
        let of_output = graph.relu(output);
        let alone = conv(&mut graph, of_output);
        let once = graph.relu(alone);
        let twice = graph.relu(once);
        let last = conv(&mut graph, twice);
        (graph, x, [output, of_output, last])
    }

    #[test]
    fn values_are_rectified_in_place_where_nothing_else_reads_them() {
        let (graph, x, outputs) = network();
        let run = |training: bool| {
            let backend = Box::new(Cpu::new(1).unwrap());
            let program = match training {
                true => Program::training(&graph, &outputs, backend.as_ref()),
                false => Program::inference(&graph, &outputs, backend.as_ref()),
            };
            let in_place = program.forward.iter().filter(|step| step.inputs[0] == step.outputs[0]).count();
            let mut session = Session::new(program, backend).unwrap();
            session.set_parameters(&graph.layout().initialise(1));
            let values: Vec<f32> = (0..graph.shape(x).len()).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
            session.set(x, &values);
            session.forward(&Run::default());
            let results = outputs.map(|output| {
                let mut result = vec![0.0; graph.shape(output).len()];
                session.read(output, &mut result).unwrap();
                result
            });
            (in_place, results)
        };
        let (apart, expected) = run(true);
        let (in_place, results) = run(false);
        // One is done with the convolution before it.
        assert_eq!((apart, in_place), (0, 2));
        assert!(results == expected);
        assert!(expected.iter().flatten().any(|&value| value < 0.0));
    }
}
