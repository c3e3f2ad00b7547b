//! The U-Net's output and the gradients of all its parameters against diffusers' `UNet2DModel` in float64,
//! with the same random weights in every layer.
//!
//! What the fixtures hold is described in `tools/unet_fixtures.py`.

mod layout;
#[path = "../../../engine/tests/machines/mod.rs"]
mod machines;
mod portable_values;

use engine::{ConvMethod, Precision, Program, Run, Session, Slot};
use layout::{nchw_to_nhwc, nhwc_to_nchw, parameter_from_pytorch, parameter_to_pytorch, pytorch_shape};
use machines::Machine;
use models::{Conventions, Mode, Unet, UnetConfig};
use safetensors::SafeTensors;

/// Projections of each gradient in the fixtures.
const PROJECTIONS: usize = 4;
/// Elements of each gradient in the fixtures.
const SAMPLES: usize = 16;

/// Bounds on what may differ, as multiples of the root mean square of the reference.
#[derive(Clone, Copy)]
struct Tolerance {
    machine: Machine,
    /// Any element of the output.
    output: f64,
    /// Any sampled element of a parameter's gradient, and the estimated rms error of all its elements.
    gradient: f64,
}

struct Fixture<'a> {
    tensors: SafeTensors<'a>,
    /// Number of the network's parameters.
    parameters: usize,
    /// What all parameters but the normalisations' weights are multiplied by.
    weight_scale: f32,
}

impl<'a> Fixture<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let metadata = header.metadata().as_ref().unwrap();
        Self {
            tensors: SafeTensors::deserialize(bytes).unwrap(),
            parameters: metadata["parameters"].parse().unwrap(),
            weight_scale: metadata["weight_scale"].parse().unwrap(),
        }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let view = self.tensors.tensor(name).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    fn timesteps(&self) -> Vec<f32> {
        let view = self.tensors.tensor("timesteps").unwrap();
        view.data()
            .chunks_exact(8)
            .map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()) as f32)
            .collect()
    }
}

fn rms(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let len = values.len() as f64;
    (values.map(|value| value * value).sum::<f64>() / len).sqrt()
}

/// The largest difference, as a multiple of the reference's rms; infinite where `actual` is not a number.
fn largest_error(expected: &[f32], actual: &[f32]) -> f64 {
    assert_eq!(expected.len(), actual.len());
    let scale = rms(expected.iter().map(|&e| f64::from(e)));
    let differences = expected.iter().zip(actual).map(|(&e, &a)| (f64::from(e) - f64::from(a)).abs());
    differences.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max) / scale
}

/// How far a parameter's gradient (in PyTorch's order) is from the one whose digest the fixture holds, as a multiple
/// of `scale`: the largest error of the sampled elements, and the rms error of all elements, estimated from the
/// projections on random directions.
fn digest_errors(name: &str, gradient: &[f32], digest: &[f32], scale: f64) -> (f64, f64) {
    assert_eq!(digest.len(), 1 + PROJECTIONS + SAMPLES);
    let (projections, samples) = digest[1..].split_at(PROJECTIONS);
    let sample_error = samples
        .iter()
        .enumerate()
        .map(|(k, &expected)| (f64::from(gradient[k * gradient.len() / SAMPLES]) - f64::from(expected)).abs())
        .map(|d| if d.is_nan() { f64::INFINITY } else { d })
        .fold(0.0, f64::max);
    let projection_errors = projections.iter().enumerate().map(|(j, &expected)| {
        let direction = portable_values::symmetric(&format!("projection.{j}.{name}"));
        let projection: f64 = gradient.iter().zip(direction).map(|(&g, v)| f64::from(g) * f64::from(v)).sum();
        projection - f64::from(expected)
    });
    // A direction's elements have variance 1/3.
    let rms_error = rms(projection_errors) * (3.0 / gradient.len() as f64).sqrt();
    let rms_error = if rms_error.is_nan() { f64::INFINITY } else { rms_error };
    (sample_error / scale, rms_error / scale)
}

/// Compares the network of `config` with the fixture, once for each convolution method, by a matrix unit and
/// by the CUDA backend: on the real thing if there is one, and emulated.
fn check(bytes: &[u8], config: &UnetConfig, tolerances: [Tolerance; 2]) {
    for tolerance in tolerances {
        check_on(bytes, config, tolerance);
    }
    // Twice what is measured on the worst of the small networks; CIFAR-10's has 4.3e-5 and 1.4e-4.
    for machine in machines::matrix_units() {
        if machine == Machine::MatrixUnit && config.channels > 64 {
            continue;
        }
        check_on(bytes, config, Tolerance { machine, output: 1.5e-4, gradient: 5e-4 });
    }
    for machine in machines::cuda(Precision::F32) {
        // The whole network at full size would take minutes.
        if matches!(machine, Machine::Emulated(_)) && config.channels > 64 {
            continue;
        }
        check_on(bytes, config, Tolerance { machine, output: 5e-5, gradient: 1e-4 });
    }
    // Single elements, after many roundings to 8 bits; the rms of all is a third of that and less.
    for machine in machines::cuda(Precision::Bf16) {
        if matches!(machine, Machine::Emulated(_)) && config.channels > 64 {
            continue;
        }
        check_on(bytes, config, Tolerance { machine, output: 1e-1, gradient: 3e-1 });
    }
}

fn check_on(bytes: &[u8], config: &UnetConfig, tolerance: Tolerance) {
    let fixture = Fixture::new(bytes);
    let timesteps = fixture.timesteps();
    let n = timesteps.len();
    let (size, channels) = (config.image_size, config.image_channels);

    let Unet { graph, x_t, timesteps: t, output: y } = Unet::new(config, n, Mode::Training);
    let output_channels = config.output_channels();
    assert_eq!(graph.layout().len(), fixture.parameters);

    // The same weights and inputs as on the other side.
    let mut weights = vec![0.0; graph.layout().len()];
    for spec in graph.layout().specs() {
        assert!(fixture.has(&format!("gradient/{}", spec.name)), "diffusers has no {}", spec.name);
        let mut values = portable_values::parameter(&spec.name, &pytorch_shape(&spec.shape));
        if spec.shape.len() > 1 || spec.name.ends_with(".bias") {
            values.iter_mut().for_each(|value| *value *= fixture.weight_scale);
        }
        weights[spec.range()].copy_from_slice(&parameter_from_pytorch(&values, &spec.shape));
    }
    let input: Vec<f32> = portable_values::symmetric("x")
        .take(n * size * size * channels)
        .map(|v| v * 3f64.sqrt() as f32)
        .collect();

    let backend = tolerance.machine.backend();
    let program = Program::training(&graph, &[y], &*backend);
    let mut session = Session::new(program, backend).unwrap();
    let run = Run::default();
    session.set_parameters(&weights);
    session.set(x_t, &nchw_to_nhwc(&input, [n, channels, size, size]));
    session.set(t, &timesteps);

    session.forward(&run);
    let mut output = vec![f32::NAN; graph.shape(y).len()];
    session.read(y, &mut output).unwrap();
    let output = nhwc_to_nchw(&output, [n, size, size, output_channels]);
    let exact = largest_error(&fixture.floats("output"), &output);
    let stock = largest_error(&fixture.floats("output_stock"), &output);
    println!("{:?}: output {exact:.2e} from float64, {stock:.2e} from stock float32", tolerance.machine);
    assert!(exact <= tolerance.output, "output: error {exact:e}");
    assert!(stock <= tolerance.output.max(1e-4), "output: {stock:e} from the stock model's");

    let r: Vec<f32> = portable_values::symmetric("r").take(output.len()).collect();
    session.set_gradient(y, &nchw_to_nhwc(&r, [n, output_channels, size, size]));
    session.clear_gradients();
    session.backward(&run);
    let gradients = session.buffer(Slot::Grads).unwrap();
    let mut worst = (0.0f64, 0.0f64);
    for spec in graph.layout().specs() {
        let digest = fixture.floats(&format!("gradient/{}", spec.name));
        // The key bias's exact gradient is 0; the query bias's tells the scale of what cancels in it.
        let scale_of = spec.name.replace("to_k.bias", "to_q.bias");
        let scale = f64::from(fixture.floats(&format!("gradient/{scale_of}"))[0]);
        let gradient = parameter_to_pytorch(&gradients[spec.range()], &spec.shape);
        let (largest, estimate) = digest_errors(&spec.name, &gradient, &digest, scale);
        assert!(largest <= tolerance.gradient, "{}: a sampled element is off by {largest:e}", spec.name);
        assert!(estimate <= tolerance.gradient, "{}: rms error {estimate:e}", spec.name);
        worst = (worst.0.max(largest), worst.1.max(estimate));
    }
    println!("{:?}: parameters' gradients: samples {:.2e}, rms {:.2e}", tolerance.machine, worst.0, worst.1);
}

/// A network of the family; what differs between the tests is set on it.
fn network(
    image_size: usize,
    channels: usize,
    channel_mult: &[usize],
    attention: usize,
    groups: usize,
) -> UnetConfig {
    let config = UnetConfig {
        image_size,
        image_channels: 3,
        learned_variance: false,
        channels,
        channel_mult: channel_mult.to_vec(),
        num_res_blocks: 1,
        attention_resolutions: vec![attention],
        dropout: 0.0,
        block_size: 1,
        norm_groups: groups,
        scale_shift_norm: false,
        conventions: Conventions::default(),
    };
    config.validate().unwrap();
    config
}

/// About three times what is measured, and never more than 1e-4. PyTorch's own float32 is no nearer to float64 than
/// the direct method: up to 8e-6 in the output, and in the gradients 2e-5 (small) and 4e-5 (CIFAR-10).
const SMALL: [Tolerance; 2] = [
    Tolerance { machine: Machine::Cpu(ConvMethod::Direct), output: 1.5e-5, gradient: 4e-5 },
    Tolerance { machine: Machine::Cpu(ConvMethod::Fast), output: 4e-5, gradient: 1e-4 },
];
const CIFAR10: [Tolerance; 2] = [
    Tolerance { machine: Machine::Cpu(ConvMethod::Direct), output: 2e-5, gradient: 9e-5 },
    Tolerance { machine: Machine::Cpu(ConvMethod::Fast), output: 6e-5, gradient: 1e-4 },
];

#[test]
fn tiny_rgb() {
    check(include_bytes!("../fixtures/tiny_rgb.safetensors"), &network(8, 32, &[1, 2], 4, 8), SMALL);
}

#[test]
fn gray_three_levels() {
    let config = UnetConfig { image_channels: 1, num_res_blocks: 2, ..network(16, 16, &[1, 2, 2], 8, 8) };
    check(include_bytes!("../fixtures/gray_three_levels.safetensors"), &config, SMALL);
}

#[test]
fn learned_variance() {
    let config = UnetConfig { learned_variance: true, ..network(8, 32, &[1, 2], 8, 16) };
    check(include_bytes!("../fixtures/learned.safetensors"), &config, SMALL);
}

#[test]
fn block_size_two() {
    let config = UnetConfig {
        learned_variance: true,
        block_size: 2,
        attention_resolutions: vec![4],
        ..network(16, 16, &[1, 2], 8, 8)
    };
    check(include_bytes!("../fixtures/block_size_two.safetensors"), &config, SMALL);
}

#[test]
fn diffusers_defaults() {
    let conventions = Conventions {
        norm_eps: 1e-5,
        freq_shift: 0,
        cosines_first: true,
        downsample_padding: 1,
        head_channels: Some(8),
        ..Conventions::default()
    };
    let config = UnetConfig { conventions, ..network(8, 32, &[1, 2], 4, 8) };
    check(include_bytes!("../fixtures/diffusers_defaults.safetensors"), &config, SMALL);
    let config = UnetConfig { scale_shift_norm: true, ..config };
    check(include_bytes!("../fixtures/scale_shift.safetensors"), &config, SMALL);
}

#[test]
fn cifar10() {
    let config = UnetConfig { num_res_blocks: 2, ..network(32, 128, &[1, 2, 2, 2], 16, 32) };
    check(include_bytes!("../fixtures/cifar10.safetensors"), &config, CIFAR10);
}
