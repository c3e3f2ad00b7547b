//! Winograd convolutions against direct summation, over more tiles than one block holds and with tiles that reach over the edge.

use engine::random::{Purpose, Stream};
use engine::{Conv, ConvMethod, Cpu, CpuOptions, Graph, Init, Padding, Program, Run, Session, Shape, Slot};

fn normals(sample: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(23, Purpose::Test, 0, sample).normals(0, &mut values);
    values
}

/// The result, the input's gradient and the parameters' gradients.
fn convolve(method: ConvMethod, shape: Shape, output_channels: usize, padding: usize) -> [Vec<f32>; 3] {
    let conv = Conv { padding: Padding::symmetric(padding, padding), ..Conv::SAME_3X3 };
    let mut graph = Graph::new();
    let x = graph.input_with_gradient(shape);
    let weight = graph.parameter("w", vec![3, 3, shape.c, output_channels], Init::Zeros);
    let bias = graph.parameter("b", vec![output_channels], Init::Zeros);
    let y = graph.conv(x, weight, bias, conv);
    let backend =
        Cpu::with_options(CpuOptions { threads: 2, conv: method, ..CpuOptions::default() }).unwrap();
    let program = Program::training(&graph, &[y], &backend);
    let mut session = Session::new(program, Box::new(backend)).unwrap();
    session.set_parameters(&normals(0, graph.layout().len()));
    session.set(x, &normals(1, shape.len()));
    let run = Run::default();
    session.forward(&run);
    let mut result = vec![0.0; graph.shape(y).len()];
    session.read(y, &mut result).unwrap();
    session.set_gradient(y, &normals(2, result.len()));
    session.backward(&run);
    let mut dx = vec![0.0; shape.len()];
    session.read_gradient(x, &mut dx).unwrap();
    [result, dx, session.buffer(Slot::Grads).unwrap()]
}

#[test]
fn results_and_gradients_agree_to_rounding() {
    let cases = [
        (Shape::new(3, 32, 32, 16), 40, 1),
        (Shape::new(3, 30, 33, 19), 17, 1),
        (Shape::new(2, 12, 15, 130), 32, 1),
        (Shape::new(3, 4, 4, 64), 48, 1),
        (Shape::new(2, 21, 14, 24), 40, 0),
        (Shape::new(2, 9, 10, 33), 16, 2),
        // 125 tiles of so many channels that a block holds fewer than 100, both ways and for the weight's gradient.
        (Shape::new(5, 20, 18, 520), 400, 1),
    ];
    for (shape, output, padding) in cases {
        let direct = convolve(ConvMethod::Direct, shape, output, padding);
        let fast = convolve(ConvMethod::Fast, shape, output, padding);
        assert!(direct != fast, "{shape}, padding {padding}: both went the same way");
        for (what, (direct, fast)) in ["y", "dx", "parameters"].iter().zip(direct.iter().zip(&fast)) {
            let rms = (direct.iter().map(|v| f64::from(v * v)).sum::<f64>() / direct.len() as f64).sqrt();
            let largest = direct.iter().zip(fast).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
            assert!(
                largest < 1e-4 * rms,
                "{shape} to {output}, padding {padding}, {what}: {largest:e} of rms {rms:e}"
            );
        }
    }
}
