//! Other ways to convolve against direct summation, over more than one block holds and with parts that reach
//! over the edge.

use engine::random::{Purpose, Stream};
use engine::{Conv, ConvMethod, Cpu, CpuOptions, Graph, Init, Padding, Program, Run, Session, Shape, Slot};

fn normals(sample: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(23, Purpose::Test, 0, sample).normals(0, &mut values);
    values
}

/// The result, the input's gradient and the parameters' gradients.
fn convolve(backend: Cpu, shape: Shape, output_channels: usize, conv: Conv) -> [Vec<f32>; 3] {
    let mut graph = Graph::new();
    let x = graph.input_with_gradient(shape);
    let weight =
        graph.parameter("w", vec![conv.kernel_h, conv.kernel_w, shape.c, output_channels], Init::Zeros);
    let bias = graph.parameter("b", vec![output_channels], Init::Zeros);
    let y = graph.conv(x, weight, bias, conv);
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

fn cpu(threads: usize, conv: ConvMethod) -> CpuOptions {
    CpuOptions { threads, conv, ..CpuOptions::default() }
}

fn direct(shape: Shape, output: usize, conv: Conv) -> [Vec<f32>; 3] {
    convolve(Cpu::with_options(cpu(2, ConvMethod::Direct)).unwrap(), shape, output, conv)
}

/// Asserts that no element is further from direct summation's than `tolerance` times their rms.
fn compare(case: &str, direct: &[Vec<f32>; 3], other: &[Vec<f32>; 3], tolerance: f64) {
    for (what, (direct, other)) in ["y", "dx", "parameters"].iter().zip(direct.iter().zip(other)) {
        let rms = (direct.iter().map(|v| f64::from(v * v)).sum::<f64>() / direct.len() as f64).sqrt();
        let largest = direct.iter().zip(other).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        println!("{case}, {what}: {:.1e}", largest / rms);
        assert!(largest > 0.0, "{case}, {what}: both went the same way");
        assert!(largest < tolerance * rms, "{case}, {what}: {largest:e} of rms {rms:e}");
    }
}

#[test]
fn winograds_way_agrees_to_rounding() {
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
        let conv = Conv { padding: Padding::symmetric(padding, padding), ..Conv::SAME_3X3 };
        let fast = convolve(Cpu::with_options(cpu(2, ConvMethod::Fast)).unwrap(), shape, output, conv);
        let case = format!("{shape} to {output}, padding {padding}");
        compare(&case, &direct(shape, output, conv), &fast, 1e-4);
    }
}

#[test]
fn a_matrix_units_way_agrees_to_the_rounding_of_its_factors() {
    let strided = |kernel, stride, padding| Conv { kernel_h: kernel, kernel_w: kernel, stride, padding };
    let cases = [
        (Shape::new(3, 8, 8, 32), 32, Conv::SAME_3X3),
        (Shape::new(1, 6, 5, 16), 19, Conv::SAME_3X3),
        // More images than lie side by side; rows as long as products, and others.
        (Shape::new(10, 4, 4, 33), 64, Conv::SAME_3X3),
        (Shape::new(2, 7, 31, 40), 17, Conv { padding: Padding::symmetric(0, 2), ..Conv::SAME_3X3 }),
        (Shape::new(3, 9, 9, 48), 70, Conv::POINTWISE),
        (Shape::vectors(5, 100), 37, Conv::POINTWISE),
        (Shape::new(2, 8, 8, 32), 48, strided(3, 2, Padding { top: 0, left: 0, bottom: 1, right: 1 })),
        (Shape::new(9, 7, 9, 20), 33, strided(3, 2, Padding::symmetric(1, 1))),
        (Shape::new(2, 6, 6, 16), 16, strided(1, 2, Padding::symmetric(0, 0))),
        (Shape::new(1, 9, 8, 24), 16, strided(5, 3, Padding::symmetric(2, 2))),
        (
            Shape::new(1, 5, 12, 16),
            16,
            Conv { kernel_h: 1, kernel_w: 7, stride: 1, padding: Padding::symmetric(0, 3) },
        ),
        // More than one block of rows.
        (Shape::new(8, 20, 16, 256), 32, Conv::SAME_3X3),
        (Shape::new(1, 70, 70, 16), 16, Conv::SAME_3X3),
    ];
    for (shape, output, conv) in cases {
        let emulated = |threads| {
            let cpu = Cpu::with_emulated_matrix_unit(cpu(threads, ConvMethod::Bf16x3)).unwrap();
            convolve(cpu, shape, output, conv)
        };
        let case = format!("{shape} to {output}, {conv:?}");
        let result = emulated(2);
        compare(&case, &direct(shape, output, conv), &result, 5e-5);
        assert!(result == emulated(3), "{case}: threads change bits");
        match Cpu::with_options(cpu(2, ConvMethod::Bf16x3)) {
            Ok(cpu) => {
                assert!(convolve(cpu, shape, output, conv) == result, "{case}: not the emulation's bits")
            }
            Err(error) => eprintln!("SKIPPED, only emulated: {error}"),
        }
    }
}

/// Each result is one chain of operations, however a batch is cut.
#[test]
fn a_matrix_units_results_do_not_depend_on_the_batch() {
    let shape = Shape::new(11, 5, 6, 40);
    let cpu = || Cpu::with_emulated_matrix_unit(cpu(2, ConvMethod::Bf16x3)).unwrap();
    let [all, ..] = convolve(cpu(), shape, 24, Conv::SAME_3X3);
    let [first, ..] = convolve(cpu(), Shape { n: 3, ..shape }, 24, Conv::SAME_3X3);
    assert_eq!(all[..first.len()], first);
}
