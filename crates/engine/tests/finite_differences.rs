//! Every operation's gradient against finite differences.
//!
//! The objective is `Σ r · y` with fixed random r. Its slope along a random direction of all inputs and
//! parameters together, by central differences, must be the inner product of the gradients with that
//! direction.

use engine::random::{Purpose, Stream};
use engine::{
    Backend, Conv, Cpu, Graph, GroupNorm, Init, Padding, Pool, Program, Run, Session, Shape, Slot, Var,
};

fn normals(sample: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(11, Purpose::Test, 0, sample).normals(0, &mut values);
    values
}

/// Checks the network that `build` makes of inputs of these shapes, all of which receive gradients.
fn check(name: &str, shapes: &[Shape], build: impl Fn(&mut Graph, &[Var]) -> Var) {
    let mut graph = Graph::new();
    let inputs: Vec<Var> = shapes.iter().map(|&shape| graph.input_with_gradient(shape)).collect();
    let output = build(&mut graph, &inputs);
    check_graph(name, &graph, &inputs, output);
}

fn check_graph(name: &str, graph: &Graph, inputs: &[Var], output: Var) {
    let backend = Cpu::new(2).unwrap();
    let program = Program::training(graph, &[output], &backend);
    let mut session = Session::new(program, Box::new(backend) as Box<dyn Backend>).unwrap();
    let run = Run { seed: 5, first_sample: 9 };
    let out_len = graph.shape(output).len();
    let seed = normals(0, out_len);
    let params: Vec<f32> = normals(1, graph.layout().len()).iter().map(|v| 0.5 * v + 0.2).collect();
    let values: Vec<Vec<f32>> = inputs
        .iter()
        .enumerate()
        .map(|(i, &input)| normals(10 + i as u64, graph.shape(input).len()))
        .collect();
    let param_direction = normals(2, params.len());
    let directions: Vec<Vec<f32>> =
        values.iter().enumerate().map(|(i, v)| normals(100 + i as u64, v.len())).collect();

    let shifted = |base: &[f32], direction: &[f32], h: f32| -> Vec<f32> {
        base.iter().zip(direction).map(|(b, d)| b + h * d).collect()
    };
    let objective = |session: &mut Session, h: f32| -> f64 {
        session.set_parameters(&shifted(&params, &param_direction, h));
        for ((&input, value), direction) in inputs.iter().zip(&values).zip(&directions) {
            session.set(input, &shifted(value, direction, h));
        }
        session.forward(&run);
        let mut out = vec![0.0; out_len];
        session.read(output, &mut out).unwrap();
        out.iter().zip(&seed).map(|(y, r)| f64::from(*y) * f64::from(*r)).sum()
    };
    let h = 1e-2;
    // Richardson: the error of order h² cancels.
    let mut slope =
        |h: f32| (objective(&mut session, h) - objective(&mut session, -h)) / (2.0 * f64::from(h));
    let (coarse, fine) = (slope(h), slope(h / 2.0));
    let numeric = (4.0 * fine - coarse) / 3.0;

    // The second time memory holds what the first has left there.
    for _ in 0..2 {
        objective(&mut session, 0.0);
        session.clear_gradients();
        session.set_gradient(output, &seed);
        session.backward(&run);
    }
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let norm = |a: &[f32]| -> f64 { dot(a, a) };
    let grads = session.buffer(Slot::Grads).unwrap();
    let mut analytic = dot(&grads, &param_direction);
    let mut scale = norm(&grads);
    for (&input, direction) in inputs.iter().zip(&directions) {
        let mut gradient = vec![0.0; direction.len()];
        session.read_gradient(input, &mut gradient).unwrap();
        assert!(norm(&gradient) > 0.0, "{name}: an input's gradient is 0");
        analytic += dot(&gradient, direction);
        scale += norm(&gradient);
    }
    let error = (analytic - numeric).abs() / scale.sqrt();
    assert!(error < 2e-3, "{name}: {analytic} against {numeric} by differences (relative error {error:e})");
}

fn conv_with_bias(graph: &mut Graph, x: Var, output: usize, conv: Conv) -> Var {
    let input = graph.shape(x).c;
    let number = graph.layout().specs().len();
    let shape = vec![conv.kernel_h, conv.kernel_w, input, output];
    let weight = graph.parameter(format!("w{number}"), shape, Init::Zeros);
    let bias = graph.parameter(format!("b{number}"), vec![output], Init::Zeros);
    graph.conv(x, weight, bias, conv)
}

#[test]
fn convolution() {
    let geometries = [
        Conv::SAME_3X3,
        Conv::POINTWISE,
        Conv { stride: 2, padding: Padding::BOTTOM_RIGHT, ..Conv::SAME_3X3 },
        Conv { stride: 2, padding: Padding::NONE, ..Conv::SAME_3X3 },
        Conv { stride: 2, padding: Padding::symmetric(1, 1), ..Conv::SAME_3X3 },
        Conv { kernel_h: 1, kernel_w: 7, stride: 1, padding: Padding::symmetric(0, 3) },
        Conv { kernel_h: 7, kernel_w: 1, stride: 1, padding: Padding::symmetric(3, 0) },
        Conv { kernel_h: 5, kernel_w: 5, stride: 1, padding: Padding::symmetric(2, 2) },
        Conv { kernel_h: 1, kernel_w: 1, stride: 3, padding: Padding::NONE },
        Conv {
            kernel_h: 2,
            kernel_w: 4,
            stride: 3,
            padding: Padding { top: 1, bottom: 0, left: 2, right: 3 },
        },
    ];
    for conv in geometries {
        for (input, output) in [(3, 5), (17, 33), (40, 8)] {
            check(&format!("{conv:?} {input} to {output}"), &[Shape::new(2, 9, 7, input)], |graph, vars| {
                conv_with_bias(graph, vars[0], output, conv)
            });
        }
    }
}

#[test]
fn linear() {
    check("linear", &[Shape::vectors(5, 19)], |graph, vars| {
        let weight = graph.parameter("w", vec![19, 37], Init::Zeros);
        let bias = graph.parameter("b", vec![37], Init::Zeros);
        graph.linear(vars[0], weight, bias)
    });
}

#[test]
fn group_norm() {
    for (channels, groups) in [(12, 4), (64, 32), (96, 3), (130, 1)] {
        for silu in [false, true] {
            check(
                &format!("group norm {channels}/{groups}"),
                &[Shape::new(2, 5, 4, channels)],
                |graph, vars| {
                    let gamma = graph.parameter("gamma", vec![channels], Init::Ones);
                    let beta = graph.parameter("beta", vec![channels], Init::Zeros);
                    graph.group_norm(vars[0], gamma, beta, GroupNorm { groups, epsilon: 1e-6, silu })
                },
            );
        }
    }
}

#[test]
fn activations() {
    check("silu", &[Shape::new(2, 3, 5, 7)], |graph, vars| graph.silu(vars[0]));
    // ReLU of values that the differences do not carry over the kink.
    check("relu", &[Shape::new(2, 3, 5, 7)], |graph, vars| {
        let gamma = graph.parameter("gamma", vec![7], Init::Ones);
        let beta = graph.parameter("beta", vec![7], Init::Zeros);
        let x = graph.group_norm(vars[0], gamma, beta, GroupNorm { groups: 7, epsilon: 1e2, silu: false });
        let shift = graph.parameter("shift", vec![7, 7], Init::Zeros);
        let bias = graph.parameter("bias", vec![7], Init::Zeros);
        let x = graph.linear(x, shift, bias);
        graph.relu(x)
    });
}

#[test]
fn attention() {
    for (h, w, c) in [(4, 4, 8), (5, 3, 37), (8, 8, 16)] {
        check("attention", &[Shape::new(2, h, w, c); 3], |graph, vars| {
            graph.attention(vars[0], vars[1], vars[2])
        });
    }
    check("attention of three heads", &[Shape::new(2, 3, 4, 15); 3], |graph, vars| {
        let [q, k, v] = [0, 1, 2].map(|i| graph.split_heads(vars[i], 3));
        let y = graph.attention(q, k, v);
        graph.merge_heads(y, 3)
    });
}

#[test]
fn sums_and_layouts() {
    let shape = Shape::new(2, 4, 6, 8);
    check("add", &[shape, shape], |graph, vars| graph.add(vars[0], vars[1]));
    check("add to itself, twice", &[shape], |graph, vars| {
        let twice = graph.add(vars[0], vars[0]);
        let silu = graph.silu(twice);
        let sum = graph.add(silu, vars[0]);
        graph.add(sum, twice)
    });
    check("add per sample", &[shape, Shape::vectors(2, 8)], |graph, vars| {
        graph.add_per_sample(vars[0], vars[1])
    });
    check("scale and shift", &[shape, Shape::vectors(2, 16)], |graph, vars| {
        graph.scale_shift(vars[0], vars[1])
    });
    check("upsample", &[shape], |graph, vars| graph.upsample(vars[0]));
    check("concat", &[shape, Shape { c: 3, ..shape }, shape], |graph, vars| graph.concat(vars));
    check("concat of one tensor twice", &[shape], |graph, vars| graph.concat(&[vars[0], vars[0]]));
    check("space to depth", &[shape], |graph, vars| graph.space_to_depth(vars[0], 2));
    check("depth to space", &[shape], |graph, vars| graph.depth_to_space(vars[0], 2));
    check("dropout", &[shape], |graph, vars| graph.dropout(vars[0], 0.4));
}

#[test]
fn pools() {
    let pools = [
        Pool { kernel_h: 3, kernel_w: 3, stride: 2, padding: Padding::NONE },
        Pool { kernel_h: 3, kernel_w: 3, stride: 1, padding: Padding::symmetric(1, 1) },
        Pool {
            kernel_h: 2,
            kernel_w: 3,
            stride: 2,
            padding: Padding { top: 1, bottom: 0, left: 0, right: 2 },
        },
    ];
    for pool in pools {
        check("average pool", &[Shape::new(2, 7, 8, 5)], |graph, vars| graph.avg_pool(vars[0], pool));
    }
    check("global average pool", &[Shape::new(2, 7, 8, 5)], |graph, vars| graph.global_avg_pool(vars[0]));
}

#[test]
fn max_pool_sends_its_gradient_to_the_maximum() {
    let mut graph = Graph::new();
    let x = graph.input_with_gradient(Shape::new(1, 3, 3, 1));
    let pool = Pool { kernel_h: 3, kernel_w: 3, stride: 1, padding: Padding::symmetric(1, 1) };
    let y = graph.max_pool(x, pool);
    let backend = Cpu::new(1).unwrap();
    let program = Program::training(&graph, &[y], &backend);
    let mut session = Session::new(program, Box::new(backend)).unwrap();
    session.set(x, &[1.0, 9.0, 2.0, 3.0, 4.0, 8.0, 7.0, 5.0, 6.0]);
    session.forward(&Run::default());
    let mut out = [0.0; 9];
    session.read(y, &mut out).unwrap();
    assert_eq!(out, [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 7.0, 8.0, 8.0]);
    session.set_gradient(y, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0, 80.0, 90.0]);
    session.backward(&Run::default());
    session.read_gradient(x, &mut out).unwrap();
    assert_eq!(out, [0.0, 21.0, 0.0, 0.0, 0.0, 170.0, 70.0, 0.0, 0.0]);
}

#[test]
fn softmax_and_squared_error() {
    check("softmax", &[Shape::new(2, 3, 2, 21)], |graph, vars| graph.softmax(vars[0]));
    let mut graph = Graph::new();
    let a = graph.input_with_gradient(Shape::new(3, 2, 5, 3));
    let b = graph.input(Shape::new(3, 2, 5, 3));
    let error = graph.squared_error(a, b);
    check_graph("squared error", &graph, &[a], error);
}

#[test]
fn dropout_keeps_the_expectation_and_depends_on_the_sample_number_alone() {
    let rate = 0.3;
    let values = |first_sample: u64, n: usize| {
        let mut graph = Graph::new();
        let x = graph.input_with_gradient(Shape::new(n, 20, 20, 10));
        let y = graph.dropout(x, rate);
        let backend = Cpu::new(2).unwrap();
        let program = Program::inference(&graph, &[y], &backend);
        let mut session = Session::new(program, Box::new(backend)).unwrap();
        session.set(x, &vec![1.0; n * 4000]);
        session.forward(&Run { seed: 1, first_sample });
        let mut out = vec![0.0; n * 4000];
        session.read(y, &mut out).unwrap();
        out
    };
    let both = values(7, 2);
    assert_eq!(both[4000..], values(8, 1));
    assert_ne!(both[..4000], both[4000..]);
    let mean = both.iter().sum::<f32>() / both.len() as f32;
    assert!((mean - 1.0).abs() < 0.03, "{mean}");
    let dropped = both.iter().filter(|&&v| v == 0.0).count() as f32 / both.len() as f32;
    assert!((dropped - rate).abs() < 0.02, "{dropped}");
}
