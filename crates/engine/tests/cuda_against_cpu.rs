//! The CUDA backend against the CPU, every operation and its gradients, on sizes that fill no block:
//! emulated, and on a device if there is one. What differs is the order of sums: 1e-4 of the reference's rms
//! at most, mostly far less.

mod fake_nvidia;
mod machines;

use engine::random::{Purpose, Stream};
use engine::{
    AdamStep, Conv, ConvMethod, Graph, GroupNorm, Init, Padding, Param, Pool, Precision, Program,
    Recomputation, Run, Session, Shape, Sinusoid, Slot, TrainingOptions, Var,
};
use machines::{Machine, cuda};

/// Of the rms, the largest difference.
const TOLERANCE: f64 = 2e-5;
/// Of the rms, the rms of the differences: bf16 has 8 bits.
const BF16_TOLERANCE: f64 = 2e-2;

/// Numbers that are the same in bf16.
fn normals(sample: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(23, Purpose::Test, 0, sample).normals(0, &mut values);
    values.iter().map(|value| f32::from_bits(value.to_bits() & 0xFFFF_0000)).collect()
}

/// A network of one or several operations.
struct Network {
    graph: Graph,
    inputs: Vec<Var>,
    /// Those that have a gradient.
    differentiated: Vec<Var>,
    output: Var,
}

impl Network {
    /// Inputs of these shapes, all with gradients, and what `build` makes of them and of parameters of these shapes.
    fn new(
        shapes: &[Shape],
        parameters: &[&[usize]],
        build: impl Fn(&mut Graph, &[Var], &[Param]) -> Var,
    ) -> Self {
        let mut graph = Graph::new();
        let inputs: Vec<_> = shapes.iter().map(|&shape| graph.input_with_gradient(shape)).collect();
        let parameters: Vec<_> = parameters
            .iter()
            .enumerate()
            .map(|(index, shape)| graph.parameter(index.to_string(), shape.to_vec(), Init::Zeros))
            .collect();
        let output = build(&mut graph, &inputs, &parameters);
        Self { graph, differentiated: inputs.clone(), inputs, output }
    }

    /// The output by an inference program, by a training program, the inputs' gradients, and the parameters'
    /// after three passes backward.
    fn run(&self, machine: Machine) -> Vec<(String, Vec<f32>)> {
        let mut results = Vec::new();
        let run = Run { seed: 5 << 33 | 9, first_sample: (1 << 32) - 1 };
        let weights: Vec<f32> =
            normals(1, self.graph.layout().len()).iter().map(|value| 0.5 * value).collect();
        for training in [false, true] {
            let backend = machine.backend();
            let program = match training {
                false => Program::inference(&self.graph, &[self.output], &*backend),
                true => Program::training(&self.graph, &[self.output], &*backend),
            };
            let mut session = Session::new(program, backend).unwrap();
            session.set_parameters(&weights);
            let mut output = vec![0.0; self.graph.shape(self.output).len()];
            // What a run has read may be overwritten by it. Devices record what they run a second time, and
            // replay it the third.
            let mut forward = |session: &mut Session| {
                for (index, &input) in self.inputs.iter().enumerate() {
                    session.set(input, &normals(10 + index as u64, self.graph.shape(input).len()));
                }
                session.forward(&run);
                session.read(self.output, &mut output).unwrap();
            };
            for _ in 0..2 {
                forward(&mut session);
            }
            if training {
                session.clear_gradients();
                for pass in 0..3 {
                    forward(&mut session);
                    session
                        .set_gradient(self.output, &normals(30 + pass, self.graph.shape(self.output).len()));
                    session.backward(&run);
                }
                for (index, &input) in self.differentiated.iter().enumerate() {
                    let mut gradient = vec![0.0; self.graph.shape(input).len()];
                    session.read_gradient(input, &mut gradient).unwrap();
                    results.push((format!("gradient of input {index}"), gradient));
                }
                results.push(("gradients of parameters".to_owned(), session.buffer(Slot::Grads).unwrap()));
            }
            results.push((format!("output, training {training}"), output));
        }
        results
    }

    fn check(&self, name: &str) {
        self.check_within(name, TOLERANCE);
    }

    fn check_within(&self, name: &str, tolerance: f64) {
        // Without NVIDIA's libraries, which compute products, the same would run again.
        let once = |precision| {
            let mut machines = cuda(precision);
            machines.retain(|machine| match machine {
                Machine::Emulated(options) | Machine::Cuda(options) => !options.own_kernels,
                Machine::Cpu(_) | Machine::MatrixUnit => false,
            });
            machines
        };
        self.check_on(&once(Precision::F32), &once(Precision::Bf16), name, tolerance);
    }

    /// Of what NVIDIA's libraries compute: also without them, by our own kernels.
    fn check_products(&self, name: &str) {
        self.check_on(&cuda(Precision::F32), &cuda(Precision::Bf16), name, TOLERANCE);
    }

    fn check_on(&self, f32: &[Machine], bf16: &[Machine], name: &str, tolerance: f64) {
        let expected = self.run(Machine::Cpu(ConvMethod::Direct));
        for &machine in f32 {
            let actual = self.run(machine);
            for ((what, expected), (_, actual)) in expected.iter().zip(&actual) {
                let error = relative_error(expected, actual);
                assert!(
                    error <= tolerance,
                    "{name} on {machine:?}: {what}: {error:e} of the rms; {:?}… for {:?}…",
                    first(actual),
                    first(expected)
                );
            }
            if matches!(machine, Machine::Emulated(_)) {
                // One thread: the same bits for sure.
                continue;
            }
            let again = self.run(machine);
            assert!(
                actual
                    .iter()
                    .zip(&again)
                    .all(|((_, a), (_, b))| { a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()) }),
                "{name} on {machine:?}: other bits the second time"
            );
        }
        for &machine in bf16 {
            for ((what, expected), (_, actual)) in expected.iter().zip(&self.run(machine)) {
                let error = rms_error(expected, actual);
                assert!(
                    error <= BF16_TOLERANCE,
                    "{name} on {machine:?}: {what}: {error:e} of the rms; {:?}… for {:?}…",
                    first(actual),
                    first(expected)
                );
            }
        }
    }
}

/// The largest difference, as a multiple of the reference's root mean square; infinite for NaN.
fn relative_error(expected: &[f32], actual: &[f32]) -> f64 {
    assert_eq!(expected.len(), actual.len());
    if expected.is_empty() {
        return 0.0;
    }
    let squares: f64 = expected.iter().map(|&value| f64::from(value).powi(2)).sum();
    let rms = (squares / expected.len() as f64).sqrt().max(1e-30);
    let differences = expected.iter().zip(actual).map(|(&e, &a)| (f64::from(e) - f64::from(a)).abs());
    differences.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max) / rms
}

/// The first elements.
fn first(values: &[f32]) -> &[f32] {
    &values[..values.len().min(4)]
}

/// The rms of the differences, as a multiple of the reference's; infinite for NaN.
fn rms_error(expected: &[f32], actual: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let squares: f64 = expected.iter().map(|&value| square(f64::from(value))).sum();
    let differences: f64 =
        expected.iter().zip(actual).map(|(&e, &a)| square(f64::from(e) - f64::from(a))).sum();
    if differences.is_nan() { f64::INFINITY } else { (differences / squares.max(1e-30)).sqrt() }
}

/// Shapes that are awkward in one way or another.
const SHAPES: [Shape; 8] = [
    Shape::new(1, 1, 1, 1),
    Shape::new(2, 1, 1, 3),
    Shape::new(3, 5, 7, 4),
    Shape::new(2, 3, 11, 37),
    Shape::new(1, 9, 4, 128),
    Shape::new(2, 7, 5, 260),
    Shape::new(1, 3, 2, 600),
    Shape::new(5, 8, 8, 32),
];

#[test]
fn convolutions() {
    let paddings = |k: usize| [Padding::NONE, Padding::symmetric(k / 2, k / 2), Padding::BOTTOM_RIGHT];
    for (shape, outputs) in [
        (Shape::new(2, 6, 5, 3), 5),
        (Shape::new(1, 4, 4, 37), 66),
        (Shape::new(3, 7, 9, 8), 1),
        (Shape::new(1, 3, 3, 70), 20),
    ] {
        for (kernel_h, kernel_w) in [(1, 1), (3, 3), (2, 3)] {
            for stride in [1, 2, 3] {
                for padding in paddings(kernel_w) {
                    let conv = Conv { kernel_h, kernel_w, stride, padding };
                    let network = Network::new(
                        &[shape],
                        &[&[kernel_h, kernel_w, shape.c, outputs], &[outputs]],
                        |graph, x, p| graph.conv(x[0], p[0], p[1], conv),
                    );
                    network.check_products(&format!("{conv:?} of {shape} to {outputs}"));
                }
            }
        }
    }
    let lopsided = Padding { top: 2, bottom: 0, left: 0, right: 3 };
    let conv = Conv { kernel_h: 3, kernel_w: 4, stride: 2, padding: lopsided };
    Network::new(&[Shape::new(2, 9, 8, 6)], &[&[3, 4, 6, 7], &[7]], |graph, x, p| {
        graph.conv(x[0], p[0], p[1], conv)
    })
    .check_products("lopsided padding");
}

#[test]
fn linear_maps() {
    for (shape, outputs) in
        [(Shape::vectors(1, 1), 1), (Shape::vectors(65, 17), 130), (Shape::new(2, 3, 3, 64), 64)]
    {
        Network::new(&[shape], &[&[shape.c, outputs], &[outputs]], |graph, x, p| {
            graph.linear(x[0], p[0], p[1])
        })
        .check_products(&format!("linear {shape} to {outputs}"));
    }
}

#[test]
fn group_normalisations() {
    for shape in SHAPES {
        for groups in [1, 2, 3, 4, 32, shape.c] {
            if !shape.c.is_multiple_of(groups) || (shape.pixels() == 1 && shape.c == groups) {
                // Of one element there is no variance: gradients are rounding errors.
                continue;
            }
            for silu in [false, true] {
                if !silu && shape.c > 40 {
                    continue;
                }
                let norm = GroupNorm { groups, epsilon: 1e-5, silu };
                let parameters = [shape.c];
                Network::new(&[shape], &[&parameters, &parameters], |graph, x, p| {
                    graph.group_norm(x[0], p[0], p[1], norm)
                })
                .check(&format!("{norm:?} of {shape}"));
            }
        }
    }
    // More stretches than one, the last of another length.
    let norm = GroupNorm { groups: 3, epsilon: 1e-6, silu: true };
    Network::new(&[Shape::new(2, 13, 17, 9)], &[&[9], &[9]], |graph, x, p| {
        graph.group_norm(x[0], p[0], p[1], norm)
    })
    .check("several stretches");
}

#[test]
fn elementwise_operations_and_layouts() {
    for shape in SHAPES {
        let name = |what: &str| format!("{what} of {shape}");
        Network::new(&[shape], &[], |graph, x, _| graph.silu(x[0])).check(&name("silu"));
        Network::new(&[shape], &[], |graph, x, _| graph.relu(x[0])).check(&name("relu"));
        Network::new(&[shape, shape], &[], |graph, x, _| graph.add(x[0], x[1])).check(&name("add"));
        Network::new(&[shape], &[], |graph, x, _| {
            let twice = graph.add(x[0], x[0]);
            let silu = graph.silu(twice);
            let sum = graph.add(silu, x[0]);
            graph.add(sum, twice)
        })
        .check(&name("sums of sums"));
        Network::new(&[shape, Shape::vectors(shape.n, shape.c)], &[], |graph, x, _| {
            graph.add_per_sample(x[0], x[1])
        })
        .check(&name("add per sample"));
        Network::new(&[shape, Shape::vectors(shape.n, 2 * shape.c)], &[], |graph, x, _| {
            graph.scale_shift(x[0], x[1])
        })
        .check(&name("scale and shift"));
        Network::new(&[shape], &[], |graph, x, _| graph.upsample(x[0])).check(&name("upsample"));
        for other in [1, 8] {
            Network::new(&[shape, Shape { c: other, ..shape }, shape], &[], |graph, x, _| graph.concat(x))
                .check(&name("concat"));
        }
        Network::new(&[shape], &[], |graph, x, _| graph.softmax(x[0])).check(&name("softmax"));
        for block in [2, 4] {
            let image = Shape { h: shape.h * block, w: shape.w * block, ..shape };
            Network::new(&[image], &[], |graph, x, _| graph.space_to_depth(x[0], block))
                .check(&name("space to depth"));
            let deep = Shape { c: shape.c * block * block, ..shape };
            Network::new(&[deep], &[], |graph, x, _| graph.depth_to_space(x[0], block))
                .check(&name("depth to space"));
        }
        let heads = Shape { c: shape.c * 3, ..shape };
        Network::new(&[heads], &[], |graph, x, _| {
            let split = graph.split_heads(x[0], 3);
            let silu = graph.silu(split);
            graph.merge_heads(silu, 3)
        })
        .check(&name("heads"));
    }
}

#[test]
fn dropout_drops_the_same_elements() {
    for shape in SHAPES {
        for rate in [0.1, 0.5, 0.9] {
            // To the bit: whether an element is kept must not depend on the device, nor what it is then.
            Network::new(&[shape], &[], |graph, x, _| {
                let once = graph.dropout(x[0], rate);
                graph.dropout(once, rate)
            })
            .check_within(&format!("dropout {rate} of {shape}"), 0.0);
        }
    }
}

#[test]
fn dropout_joins_the_normalisation_before_it() {
    for shape in SHAPES {
        for groups in [1, 2, 32] {
            if !shape.c.is_multiple_of(groups) || (shape.pixels() == 1 && shape.c == groups) {
                continue;
            }
            for silu in [false, true] {
                let norm = GroupNorm { groups, epsilon: 1e-5, silu };
                let parameters = [shape.c];
                Network::new(&[shape], &[&parameters, &parameters], |graph, x, p| {
                    // The second mask is of another layer.
                    let once = graph.dropout(x[0], 0.5);
                    let y = graph.group_norm(once, p[0], p[1], norm);
                    graph.dropout(y, 0.3)
                })
                .check(&format!("{norm:?} and dropout of {shape}"));
                Network::new(&[shape], &[&parameters, &parameters], |graph, x, p| {
                    // What is between is wanted too.
                    let y = graph.group_norm(x[0], p[0], p[1], norm);
                    let dropped = graph.dropout(y, 0.3);
                    graph.add(y, dropped)
                })
                .check(&format!("{norm:?}, dropped and not, of {shape}"));
            }
        }
    }
}

#[test]
fn attention() {
    for shape in [
        Shape::new(1, 1, 1, 1),
        Shape::new(2, 3, 5, 37),
        Shape::new(3, 4, 4, 8),
        Shape::new(1, 9, 8, 70),
        Shape::new(1, 17, 16, 5),
    ] {
        Network::new(&[shape; 3], &[], |graph, x, _| graph.attention(x[0], x[1], x[2]))
            .check_products(&format!("attention {shape}"));
    }
}

#[test]
fn pools() {
    let window = |kernel_h, kernel_w, stride, padding| Pool { kernel_h, kernel_w, stride, padding };
    for pool in [
        window(3, 3, 2, Padding::NONE),
        window(3, 3, 1, Padding::symmetric(1, 1)),
        window(2, 3, 2, Padding { top: 1, bottom: 0, left: 0, right: 2 }),
        window(1, 1, 3, Padding::NONE),
        window(5, 2, 1, Padding::symmetric(2, 1)),
    ] {
        for shape in [Shape::new(2, 7, 8, 5), Shape::new(1, 5, 5, 260), Shape::new(3, 6, 9, 1)] {
            Network::new(&[shape], &[], |graph, x, _| graph.max_pool(x[0], pool))
                .check(&format!("max {pool:?} {shape}"));
            Network::new(&[shape], &[], |graph, x, _| graph.avg_pool(x[0], pool))
                .check(&format!("average {pool:?} {shape}"));
        }
    }
    Network::new(&[Shape::new(2, 7, 8, 5)], &[], |graph, x, _| graph.global_avg_pool(x[0]))
        .check("global average");
}

#[test]
fn sinusoids_and_squared_errors() {
    for (n, channels, shift, cosines_first) in [(1, 4, 0, false), (3, 32, 1, true), (70, 128, 1, false)] {
        let sinusoid =
            Sinusoid { max_period: 10_000.0, shift, cosines_first, scale: 1.0 + shift as f32 / 3.0 };
        let shape = Shape::vectors(n, channels);
        let mut graph = Graph::new();
        let (t, x) = (graph.input(Shape::vectors(n, 1)), graph.input_with_gradient(shape));
        let embedding = graph.sinusoid(t, channels, sinusoid);
        let output = graph.add(embedding, x);
        let network = Network { graph, inputs: vec![t, x], differentiated: vec![x], output };
        network.check(&format!("{sinusoid:?} {shape}"));
    }
    for shape in SHAPES {
        let mut graph = Graph::new();
        let a = graph.input_with_gradient(shape);
        let b = graph.input(shape);
        let output = graph.squared_error(a, b);
        Network { graph, inputs: vec![a, b], differentiated: vec![a], output }
            .check(&format!("squared error {shape}"));
    }
}

#[test]
fn random_numbers_and_weighted_sums() {
    for shape in SHAPES {
        let mut graph = Graph::new();
        let [t, weights, x] =
            [Shape::vectors(shape.n, 1), Shape::vectors(shape.n, 2), shape].map(|shape| graph.input(shape));
        let prediction = graph.input_with_gradient(shape);
        let numbers = graph.normals(Purpose::ForwardNoise, t, shape);
        let sum = graph.weighted_sum(x, numbers, weights);
        let sum = graph.add(sum, prediction);
        let output = graph.squared_error(sum, numbers);
        let inputs = vec![t, weights, x, prediction];
        Network { graph, inputs, differentiated: vec![prediction], output }
            .check(&format!("normals {shape}"));
    }
}

#[test]
fn large_tensors_cross_one_after_the_other() {
    // More than crosses at once.
    let shape = Shape::new(1, 700, 510, 3);
    Network::new(&[shape, shape], &[], |graph, x, _| graph.add(x[0], x[1])).check("large tensors");
}

#[test]
fn training_goes_the_same_way() {
    let shape = Shape::new(3, 6, 6, 5);
    let network = Network::new(
        &[shape],
        &[&[3, 3, 5, 12], &[12], &[12], &[12], &[3, 3, 12, 7], &[7]],
        |graph, x, p| {
            let y = graph.conv(x[0], p[0], p[1], Conv::SAME_3X3);
            let y = graph.group_norm(y, p[2], p[3], GroupNorm { groups: 4, epsilon: 1e-6, silu: true });
            let y = graph.dropout(y, 0.2);
            graph.conv(y, p[4], p[5], Conv::SAME_3X3)
        },
    );
    let train = |machine: Machine, options: TrainingOptions| {
        let backend = machine.backend();
        let program = Program::training_with(&network.graph, &[network.output], &*backend, options);
        let mut session = Session::new(program, backend).unwrap();
        let weights = normals(3, network.graph.layout().len()).iter().map(|w| 0.2 * w).collect::<Vec<_>>();
        session.set_parameters(&weights);
        session.set_buffer(Slot::Ema, &weights);
        let mut norms = Vec::new();
        let mut output = vec![0.0; network.graph.shape(network.output).len()];
        for number in 1..=5 {
            let run = Run { seed: 3, first_sample: 3 * number };
            session.set(network.inputs[0], &normals(40 + number, shape.len()));
            session.forward(&run);
            session.read(network.output, &mut output).unwrap();
            session.clear_gradients();
            session.set_gradient(network.output, &output);
            session.backward(&run);
            let step = AdamStep {
                number,
                learning_rate: 1e-2,
                max_gradient_norm: 10.0,
                ema_decay: 0.9,
                ..AdamStep::default()
            };
            norms.push(session.update(&step).unwrap() as f32);
        }
        [
            norms,
            session.buffer(Slot::Params).unwrap(),
            session.buffer(Slot::Ema).unwrap(),
            session.buffer(Slot::SecondMoment).unwrap(),
        ]
    };
    let nothing = TrainingOptions { recomputation: Recomputation::Nothing, accumulates: true };
    let expected = train(Machine::Cpu(ConvMethod::Direct), nothing);
    for machine in cuda(Precision::F32) {
        let kept = train(machine, nothing);
        for (index, (expected, actual)) in expected.iter().zip(&kept).enumerate() {
            let error = relative_error(expected, actual);
            assert!(error < 1e-3, "{machine:?}, {index}: {error:e}");
        }
        for recomputation in [Recomputation::Cheap, Recomputation::Convolutions] {
            for accumulates in [true, false] {
                let options = TrainingOptions { recomputation, accumulates };
                assert!(train(machine, options) == kept, "{machine:?}, {options:?}");
            }
        }
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_runs() {
    for machine in cuda(Precision::F32) {
        let mut graph = Graph::new();
        let x = graph.input(Shape::vectors(70_000, 4));
        let y = graph.silu(x);
        let backend = machine.backend();
        let program = Program::inference(&graph, &[y], &*backend);
        let error = Session::new(program, backend).err().unwrap().to_string();
        assert!(error.contains("70000") && error.contains("smaller batch"), "{error}");
    }
}
