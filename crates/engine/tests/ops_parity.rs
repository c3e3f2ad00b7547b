//! Every operation, its gradients and the optimiser against PyTorch's in float64.
//!
//! The references and their names are described in `tools/engine_fixtures.py`. Everything is computed on the
//! CPU, by the CUDA backend's kernels emulated on the CPU, and by the CUDA backend itself where there is a
//! device.

mod machines;

use engine::{
    AdamStep, Backend, Conv, ConvMethod, Cpu, Graph, GroupNorm, Init, Padding, Param, Pool, Program, Run,
    Session, Shape, Sinusoid, Slot, Var,
};
use machines::Machine;
use safetensors::SafeTensors;

const FIXTURE: &[u8] = include_bytes!("fixtures/ops.safetensors");

/// The tensors of one case, `operation/case`, and what is to compute it.
struct Case {
    name: &'static str,
    machines: Vec<Machine>,
    tensors: SafeTensors<'static>,
}

impl Case {
    fn new(name: &'static str) -> Self {
        Self { name, machines: Machine::all(), tensors: SafeTensors::deserialize(FIXTURE).unwrap() }
    }

    fn dimensions(&self, tensor: &str) -> Vec<usize> {
        self.tensors.tensor(&format!("{}/{tensor}", self.name)).unwrap().shape().to_vec()
    }

    /// The shape as an activation: `[n]` and `[n, c]` are vectors.
    fn shape(&self, tensor: &str) -> Shape {
        match self.dimensions(tensor)[..] {
            [n] => Shape::vectors(n, 1),
            [n, c] => Shape::vectors(n, c),
            [n, h, w, c] => Shape::new(n, h, w, c),
            ref other => panic!("{}/{tensor} has dimensions {other:?}", self.name),
        }
    }

    fn values(&self, tensor: &str) -> Vec<f32> {
        let view = self.tensors.tensor(&format!("{}/{tensor}", self.name)).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// Asserts that no element of `actual` is further from the reference than `tolerance` times the reference's rms.
    fn compare(&self, machine: Machine, tensor: &str, actual: &[f32], tolerance: f64) {
        let tolerance = machine.tolerance(tolerance);
        let expected = self.values(tensor);
        let error = relative_error(&expected, actual);
        println!("{:40} {error:.2e} {machine:?}", format!("{}/{tensor}", self.name));
        assert!(
            error <= tolerance,
            "{}/{tensor} on {machine:?}: error {error:e} of the rms, at most {tolerance:e}",
            self.name
        );
    }

    /// Builds the operation on the named inputs and parameters, and compares its result and all its gradients.
    /// An input that has no gradient in the fixture is a constant.
    fn check(
        &self,
        inputs: &[&str],
        parameters: &[&str],
        tolerance: f64,
        build: impl Fn(&mut Graph, &[Var], &[Param]) -> Var,
    ) {
        for &machine in &self.machines {
            self.check_on(machine, inputs, parameters, tolerance, &build);
        }
    }

    fn check_on(
        &self,
        machine: Machine,
        inputs: &[&str],
        parameters: &[&str],
        tolerance: f64,
        build: impl Fn(&mut Graph, &[Var], &[Param]) -> Var,
    ) {
        let mut graph = Graph::new();
        let has_gradient = |name: &str| self.tensors.tensor(&format!("{}/d{name}", self.name)).is_ok();
        let vars: Vec<_> = inputs
            .iter()
            .map(|name| match has_gradient(name) {
                true => graph.input_with_gradient(self.shape(name)),
                false => graph.input(self.shape(name)),
            })
            .collect();
        let params: Vec<_> = parameters
            .iter()
            .map(|&name| graph.parameter(name, self.dimensions(name), Init::Zeros))
            .collect();
        let y = build(&mut graph, &vars, &params);
        assert_eq!(graph.shape(y), self.shape("y"), "{}", self.name);
        let weights: Vec<f32> = parameters.iter().flat_map(|name| self.values(name)).collect();
        let run = Run::default();

        let start = |program: &dyn Fn(&dyn Backend) -> Program| {
            let backend = machine.backend();
            let mut session = Session::new(program(&*backend), backend).unwrap();
            // What is prepared from others must not stay.
            session.set_parameters(&vec![1.0; weights.len()]);
            session.set_parameters(&weights);
            for (&var, name) in vars.iter().zip(inputs) {
                session.set(var, &self.values(name));
            }
            session.forward(&run);
            let mut output = vec![f32::NAN; graph.shape(y).len()];
            session.read(y, &mut output).unwrap();
            (session, output)
        };

        let (_, inferred) = start(&|backend| Program::inference(&graph, &[y], backend));
        self.compare(machine, "y", &inferred, tolerance);
        if inputs.iter().chain(parameters).all(|name| !has_gradient(name)) {
            return;
        }
        let (mut session, trained) = start(&|backend| Program::training(&graph, &[y], backend));
        assert_eq!(inferred, trained, "{}: training and inference differ", self.name);

        session.set_gradient(y, &self.values("dy"));
        session.clear_gradients();
        session.backward(&run);
        for (&var, name) in vars.iter().zip(inputs).filter(|(_, name)| has_gradient(name)) {
            let mut gradient = vec![f32::NAN; graph.shape(var).len()];
            session.read_gradient(var, &mut gradient).unwrap();
            self.compare(machine, &format!("d{name}"), &gradient, tolerance);
        }
        let gradients = session.buffer(Slot::Grads).unwrap();
        for name in parameters {
            let range = graph.layout().find(name).unwrap().range();
            self.compare(machine, &format!("d{name}"), &gradients[range], tolerance);
        }
    }
}

/// The largest difference, as a multiple of the reference's root mean square. Infinite where `actual` is not finite.
fn relative_error(expected: &[f32], actual: &[f32]) -> f64 {
    assert_eq!(expected.len(), actual.len());
    let squares: f64 = expected.iter().map(|&value| f64::from(value).powi(2)).sum();
    let rms = (squares / expected.len() as f64).sqrt();
    assert!(rms > 0.0, "the reference is all zeros");
    let difference = |(&e, &a): (&f32, &f32)| (f64::from(e) - f64::from(a)).abs();
    expected
        .iter()
        .zip(actual)
        .map(difference)
        .map(|d| if d.is_nan() { f64::INFINITY } else { d })
        .fold(0.0, f64::max)
        / rms
}

fn check_conv(name: &'static str, kernel: (usize, usize), stride: usize, padding: Padding) {
    check_conv_by(ConvMethod::Direct, 5e-6, name, kernel, stride, padding);
    check_conv_by(ConvMethod::Fast, 5e-6, name, kernel, stride, padding);
}

fn check_conv_by(
    method: ConvMethod,
    tolerance: f64,
    name: &'static str,
    kernel: (usize, usize),
    stride: usize,
    padding: Padding,
) {
    let conv = Conv { kernel_h: kernel.0, kernel_w: kernel.1, stride, padding };
    let case = Case { machines: Machine::with(method), ..Case::new(name) };
    case.check(&["x"], &["w", "b"], tolerance, |graph, x, p| graph.conv(x[0], p[0], p[1], conv));
}

#[test]
fn convolutions_3x3() {
    let padding = Padding::symmetric(1, 1);
    check_conv("conv2d/3x3_s1_p1", (3, 3), 1, padding);
    check_conv("conv2d/3x3_s1_p1_tiny", (3, 3), 1, padding);
    check_conv("conv2d/3x3_s1_p1_pixel", (3, 3), 1, padding);
    let wide = "conv2d/3x3_s1_p1_wide";
    check_conv_by(ConvMethod::Direct, 5e-6, wide, (3, 3), 1, padding);
    check_conv_by(ConvMethod::Fast, 4e-5, wide, (3, 3), 1, padding);
}

#[test]
fn convolutions_3x3_with_stride_2() {
    check_conv("conv2d/3x3_s2_p0101", (3, 3), 2, Padding::BOTTOM_RIGHT);
    check_conv("conv2d/3x3_s2_p0", (3, 3), 2, Padding::NONE);
}

#[test]
fn convolutions_of_other_sizes() {
    check_conv("conv2d/1x1", (1, 1), 1, Padding::NONE);
    check_conv("conv2d/1x1_wide", (1, 1), 1, Padding::NONE);
    check_conv("conv2d/1x7_p0033", (1, 7), 1, Padding::symmetric(0, 3));
    check_conv("conv2d/7x1_p3300", (7, 1), 1, Padding::symmetric(3, 0));
    check_conv("conv2d/5x5_p2", (5, 5), 1, Padding::symmetric(2, 2));
}

#[test]
fn linear_maps() {
    Case::new("linear/vectors")
        .check(&["x"], &["w", "b"], 2e-6, |graph, x, p| graph.linear(x[0], p[0], p[1]));
}

#[test]
fn group_normalisations() {
    let check = |name, groups, epsilon, silu, tolerance| {
        let norm = GroupNorm { groups, epsilon, silu };
        Case::new(name).check(&["x"], &["gamma", "beta"], tolerance, |graph, x, p| {
            graph.group_norm(x[0], p[0], p[1], norm)
        });
    };
    check("group_norm/plain", 4, 1e-6, false, 2e-6);
    // The mean is 160 deviations away: the values themselves have 7 fewer bits for what counts.
    check("group_norm/large_mean", 3, 1e-6, false, 7e-5);
    check("group_norm/one_channel", 5, 1e-5, false, 2e-6);
    check("group_norm/silu", 4, 1e-6, true, 2e-6);
}

#[test]
fn activations() {
    Case::new("silu/range").check(&["x"], &[], 4e-6, |graph, x, _| graph.silu(x[0]));
    Case::new("relu/range").check(&["x"], &[], 0.0, |graph, x, _| graph.relu(x[0]));
}

#[test]
fn attention() {
    let build = |graph: &mut Graph, x: &[Var], _: &[Param]| graph.attention(x[0], x[1], x[2]);
    Case::new("attention/4x3").check(&["q", "k", "v"], &[], 2e-6, build);
    Case::new("attention/peaked").check(&["q", "k", "v"], &[], 1e-5, build);
}

#[test]
fn sums_and_rearrangements() {
    Case::new("add/plain").check(&["a", "b"], &[], 1e-6, |graph, x, _| graph.add(x[0], x[1]));
    Case::new("add_per_sample/plain")
        .check(&["x", "v"], &[], 1e-6, |graph, x, _| graph.add_per_sample(x[0], x[1]));
    Case::new("scale_shift/plain").check(&["x", "v"], &[], 1e-6, |graph, x, _| graph.scale_shift(x[0], x[1]));
    Case::new("upsample_nearest/x2").check(&["x"], &[], 1e-6, |graph, x, _| graph.upsample(x[0]));
    Case::new("concat/4_7").check(&["a", "b"], &[], 0.0, |graph, x, _| graph.concat(x));
    for (name, block) in [("space_to_depth/block2", 2), ("space_to_depth/block4", 4)] {
        Case::new(name).check(&["x"], &[], 0.0, |graph, x, _| graph.space_to_depth(x[0], block));
    }
    Case::new("depth_to_space/block2").check(&["x"], &[], 0.0, |graph, x, _| graph.depth_to_space(x[0], 2));
}

#[test]
fn pools() {
    let pool = |stride, padding| Pool { kernel_h: 3, kernel_w: 3, stride, padding };
    let strided = pool(2, Padding::NONE);
    let padded = pool(1, Padding::symmetric(1, 1));
    Case::new("max_pool/3x3_s2").check(&["x"], &[], 1e-6, |graph, x, _| graph.max_pool(x[0], strided));
    Case::new("max_pool/3x3_s1_p1").check(&["x"], &[], 1e-6, |graph, x, _| graph.max_pool(x[0], padded));
    Case::new("avg_pool/3x3_s1_p1").check(&["x"], &[], 1e-6, |graph, x, _| graph.avg_pool(x[0], padded));
    Case::new("global_avg_pool/plain").check(&["x"], &[], 1e-6, |graph, x, _| graph.global_avg_pool(x[0]));
}

#[test]
fn softmaxes() {
    for name in ["softmax/channels", "softmax/large"] {
        Case::new(name).check(&["x"], &[], 2e-6, |graph, x, _| graph.softmax(x[0]));
    }
}

#[test]
fn squared_errors() {
    let case = Case::new("squared_error/plain");
    case.check(&["x", "target"], &[], 2e-6, |graph, x, _| graph.squared_error(x[0], x[1]));
}

#[test]
fn sinusoids() {
    for (name, channels) in [("sinusoid/32", 32), ("sinusoid/128", 128)] {
        let sinusoid = Sinusoid { max_period: 10_000.0, shift: 1, cosines_first: false, scale: 1.0 };
        Case::new(name).check(&["t"], &[], 2e-6, |graph, x, _| graph.sinusoid(x[0], channels, sinusoid));
    }
}

#[test]
fn a_scale_is_a_smaller_time() {
    let embed = |time: f32, scale: f32| {
        let mut graph = Graph::new();
        let t = graph.input(Shape::vectors(1, 1));
        let sinusoid = Sinusoid { max_period: 10_000.0, shift: 0, cosines_first: true, scale };
        let y = graph.sinusoid(t, 32, sinusoid);
        let backend = Cpu::new(1).unwrap();
        let mut session =
            Session::new(Program::inference(&graph, &[y], &backend), Box::new(backend)).unwrap();
        session.set(t, &[time]);
        session.forward(&Run::default());
        let mut out = vec![0.0; 32];
        session.read(y, &mut out).unwrap();
        out
    };
    assert_eq!(embed(3996.0, 0.25), embed(999.0, 1.0));
    assert_ne!(embed(3996.0, 0.25), embed(3996.0, 1.0));
}

/// Trains a map of 22 numbers to one: 23 parameters.
fn linear_session(machine: Machine) -> Session {
    let mut graph = Graph::new();
    let x = graph.input(Shape::vectors(1, 22));
    let weight = graph.parameter("weight", vec![22, 1], Init::Zeros);
    let bias = graph.parameter("bias", vec![1], Init::Zeros);
    let y = graph.linear(x, weight, bias);
    let backend = machine.backend();
    let mut session = Session::new(Program::training(&graph, &[y], &*backend), backend).unwrap();
    session.set(x, &[1.0; 22]);
    session.forward(&Run::default());
    session.set_gradient(y, &[1.0]);
    session
}

#[test]
fn updates_clip_then_step_then_average() {
    let case = Case::new("update/adam_clip_ema");
    for &machine in &case.machines {
        let mut session = linear_session(machine);
        session.set_parameters(&case.values("w0"));
        for number in 1..=4 {
            session.set_buffer(Slot::Grads, &case.values(&format!("g{number}")));
            let ema_decay = if number == 1 { 0.0 } else { 0.75 };
            let step = AdamStep {
                number,
                learning_rate: 0.01,
                max_gradient_norm: 1.0,
                ema_decay,
                ..AdamStep::default()
            };
            let norm = session.update(&step).unwrap();
            case.compare(machine, &format!("norm{number}"), &[norm as f32], 1e-6);
            case.compare(machine, &format!("w{number}"), &session.buffer(Slot::Params).unwrap(), 1e-6);
            case.compare(machine, &format!("ema{number}"), &session.buffer(Slot::Ema).unwrap(), 1e-6);
        }
    }
}

#[test]
fn an_update_leaves_no_gradients_and_one_that_is_refused_leaves_them() {
    for machine in Machine::all() {
        let mut session = linear_session(machine);
        let len = session.program().layout().len();
        for number in 1..=2 {
            session.clear_gradients();
            session.backward(&Run::default());
            assert_eq!(session.buffer(Slot::Grads).unwrap(), vec![1.0; len]);
            session.update(&AdamStep { number, ..AdamStep::default() }).unwrap();
            assert_eq!(session.buffer(Slot::Grads).unwrap(), vec![0.0; len]);
        }
        session.set_buffer(Slot::Grads, &vec![f32::INFINITY; len]);
        let norm = session.update(&AdamStep { number: 3, ..AdamStep::default() }).unwrap();
        assert!(!norm.is_finite());
        assert_eq!(session.buffer(Slot::Grads).unwrap(), vec![f32::INFINITY; len]);
        session.clear_gradients();
        assert_eq!(session.buffer(Slot::Grads).unwrap(), vec![0.0; len]);
    }
}
