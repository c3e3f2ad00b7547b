//! The operations that a training step of the paper's CIFAR-10 network spends its time in, at its shapes and batch 8.
//!
//! `cargo bench -p ddpm-engine` with [`THREADS`] threads; direct-count operations a second where there are
//! any to count.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use engine::{Backend, Conv, Cpu, Graph, GroupNorm, Init, Program, Run, Session, Shape, Var};

const BATCH: usize = 8;
const THREADS: usize = 2;
/// Height and width, input channels, output channels.
const LAYERS: [(usize, usize, usize); 7] = [
    (32, 128, 128),
    (32, 256, 128),
    (16, 256, 256),
    (16, 512, 256),
    (8, 256, 256),
    (8, 512, 256),
    (4, 256, 256),
];

fn main() {
    divan::main();
}

/// One operation, ready to run.
struct Operation {
    session: Session,
    output: Var,
    gradient: Vec<f32>,
}

impl Operation {
    fn new(shape: Shape, inputs: usize, record: impl FnOnce(&mut Graph, &[Var]) -> Var) -> Self {
        let mut graph = Graph::new();
        let inputs: Vec<Var> = (0..inputs).map(|_| graph.input_with_gradient(shape)).collect();
        let output = record(&mut graph, &inputs);
        let backend: Box<dyn Backend> = Box::new(Cpu::new(THREADS).unwrap());
        let program = Program::training(&graph, &[output], backend.as_ref());
        let weights = program.layout().initialise(0);
        let mut session = Session::new(program, backend).unwrap();
        session.set_parameters(&weights);
        let values = |len: usize| (0..len).map(|i| ((i * 7 % 31) as f32 - 15.0) / 15.0).collect::<Vec<_>>();
        for input in inputs {
            session.set(input, &values(shape.len()));
        }
        Self { session, output, gradient: values(graph.shape(output).len()) }
    }

    fn forward(&mut self) {
        self.session.forward(&Run::default());
    }

    /// Of inputs and parameters.
    fn backward(&mut self) {
        self.session.set_gradient(self.output, &self.gradient);
        self.session.backward(&Run::default());
    }
}

fn convolution((size, input, output): (usize, usize, usize), conv: Conv) -> Operation {
    Operation::new(Shape::new(BATCH, size, size, input), 1, |graph, x| {
        let shape = vec![conv.kernel_h, conv.kernel_w, input, output];
        let weight = graph.parameter("weight", shape, Init::VarianceScaling { scale: 1.0 });
        let bias = graph.parameter("bias", vec![output], Init::Zeros);
        graph.conv(x[0], weight, bias, conv)
    })
}

/// Multiplications and additions of `products` convolutions by direct summation.
fn operations(products: usize, (size, input, output): (usize, usize, usize), conv: Conv) -> ItemsCount {
    ItemsCount::new(products * 2 * BATCH * size * size * input * output * conv.taps())
}

#[divan::bench(args = LAYERS)]
fn conv3x3(bencher: Bencher, layer: (usize, usize, usize)) {
    let mut operation = convolution(layer, Conv::SAME_3X3);
    bencher.counter(operations(1, layer, Conv::SAME_3X3)).bench_local(|| operation.forward());
}

#[divan::bench(args = LAYERS)]
fn conv3x3_gradients(bencher: Bencher, layer: (usize, usize, usize)) {
    let mut operation = convolution(layer, Conv::SAME_3X3);
    operation.forward();
    bencher.counter(operations(2, layer, Conv::SAME_3X3)).bench_local(|| operation.backward());
}

#[divan::bench(args = LAYERS)]
fn conv1x1(bencher: Bencher, layer: (usize, usize, usize)) {
    let mut operation = convolution(layer, Conv::POINTWISE);
    bencher.counter(operations(1, layer, Conv::POINTWISE)).bench_local(|| operation.forward());
}

#[divan::bench(args = LAYERS)]
fn conv1x1_gradients(bencher: Bencher, layer: (usize, usize, usize)) {
    let mut operation = convolution(layer, Conv::POINTWISE);
    operation.forward();
    bencher.counter(operations(2, layer, Conv::POINTWISE)).bench_local(|| operation.backward());
}

fn normalisation(size: usize, channels: usize) -> Operation {
    Operation::new(Shape::new(BATCH, size, size, channels), 1, |graph, x| {
        let gamma = graph.parameter("gamma", vec![channels], Init::Ones);
        let beta = graph.parameter("beta", vec![channels], Init::Zeros);
        graph.group_norm(x[0], gamma, beta, GroupNorm { groups: 32, epsilon: 1e-6, silu: true })
    })
}

#[divan::bench(args = [(32, 128), (32, 384), (16, 256), (8, 512)])]
fn group_norm_silu(bencher: Bencher, (size, channels): (usize, usize)) {
    let mut operation = normalisation(size, channels);
    bencher.bench_local(|| operation.forward());
}

#[divan::bench(args = [(32, 128), (32, 384), (16, 256), (8, 512)])]
fn group_norm_silu_gradients(bencher: Bencher, (size, channels): (usize, usize)) {
    let mut operation = normalisation(size, channels);
    operation.forward();
    bencher.bench_local(|| operation.backward());
}

fn attention() -> Operation {
    Operation::new(Shape::new(BATCH, 16, 16, 256), 3, |graph, x| graph.attention(x[0], x[1], x[2]))
}

#[divan::bench]
fn attention_16x16(bencher: Bencher) {
    let mut operation = attention();
    bencher.counter(ItemsCount::new(4 * BATCH * 256 * 256 * 256usize)).bench_local(|| operation.forward());
}

#[divan::bench]
fn attention_16x16_gradients(bencher: Bencher) {
    let mut operation = attention();
    operation.forward();
    bencher.counter(ItemsCount::new(8 * BATCH * 256 * 256 * 256usize)).bench_local(|| operation.backward());
}

#[divan::bench(args = [(32, 128), (16, 256)])]
fn dropout(bencher: Bencher, (size, channels): (usize, usize)) {
    let shape = Shape::new(BATCH, size, size, channels);
    let mut operation = Operation::new(shape, 1, |graph, x| graph.dropout(x[0], 0.1));
    bencher.bench_local(|| black_box(&mut operation).forward());
}
