//! The network's bits do not depend on threads, vector width or batch: predictions, gradients, and the
//! weights after a step.

use engine::cpu::Level;
use engine::random::{Purpose, Stream};
use engine::{AdamStep, BackendError, ConvMethod, Cpu, CpuOptions, Program, Run, Session, Slot};
use models::{Mode, Unet, UnetConfig};

fn config() -> UnetConfig {
    UnetConfig {
        image_size: 16,
        image_channels: 3,
        learned_variance: false,
        channels: 20,
        channel_mult: vec![1, 2],
        num_res_blocks: 1,
        attention_resolutions: vec![8],
        dropout: 0.2,
        block_size: 1,
        norm_groups: 4,
        scale_shift_norm: false,
        conventions: models::Conventions::default(),
    }
}

fn normals(purpose_step: u32, sample: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Stream::new(3, Purpose::Test, purpose_step, sample).normals(0, &mut values);
    values
}

const IMAGE: usize = 16 * 16 * 3;
const SAMPLES: usize = 5;

/// With the matrix unit emulated where there is none.
fn cpu(options: CpuOptions) -> Cpu {
    match Cpu::with_options(options) {
        Err(BackendError::NoMatrixUnit) => {
            eprintln!("SKIPPED, only emulated: {}", BackendError::NoMatrixUnit);
            Cpu::with_emulated_matrix_unit(options).unwrap()
        }
        cpu => cpu.unwrap(),
    }
}

/// Predictions, gradients and updated weights for [`SAMPLES`] samples, computed `batch` at a time.
fn train_step(conv: ConvMethod, level: Level, threads: usize, batch: usize) -> [Vec<u32>; 3] {
    let config = config();
    let layout = Unet::layout(&config);
    let weights: Vec<f32> = normals(0, 0, layout.len()).iter().map(|v| 0.1 * v).collect();
    let backend = || Box::new(cpu(CpuOptions { threads, level, conv }));
    let mut grads = vec![0.0; layout.len()];
    let mut predictions = Vec::new();
    let mut updated = Vec::new();
    let mut start = 0;
    while start < SAMPLES {
        let n = batch.min(SAMPLES - start);
        let Unet { graph, x_t, timesteps, output } = Unet::new(&config, n, Mode::Training);
        let backend = backend();
        let program = Program::training(&graph, &[output], backend.as_ref());
        let mut session = Session::new(program, backend).unwrap();
        session.set_parameters(&weights);
        session.set_buffer(Slot::Grads, &grads);
        let run = Run { seed: 1, first_sample: 40 + start as u64 };
        let samples = start as u64..(start + n) as u64;
        let gather = |step| samples.clone().flat_map(|s| normals(step, s, IMAGE)).collect::<Vec<_>>();
        session.set(x_t, &gather(1));
        session.set(timesteps, &samples.clone().map(|s| (s * 200) as f32).collect::<Vec<_>>());
        session.forward(&run);
        let mut out = vec![0.0; n * IMAGE];
        session.read(output, &mut out).unwrap();
        predictions.extend(out);
        session.set_gradient(output, &gather(2));
        session.backward(&run);
        grads = session.buffer(Slot::Grads).unwrap();
        start += n;
        if start == SAMPLES {
            let norm = session.update(&AdamStep { max_gradient_norm: 1.0, ..AdamStep::default() }).unwrap();
            assert!(norm > 1.0, "the gradient is too short to be clipped: {norm}");
            updated = session.buffer(Slot::Params).unwrap();
            assert_eq!(session.buffer(Slot::Ema).unwrap(), updated);
        }
    }
    [predictions, grads, updated].map(|values| values.iter().map(|v| v.to_bits()).collect())
}

/// FNV-1a over the words.
fn digest(values: &[Vec<u32>]) -> u64 {
    values.iter().flatten().fold(0xCBF2_9CE4_8422_2325, |hash, &word| {
        (hash ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// A change of these numbers is a change of all results. The same ones on x86 and on ARM.
#[test]
fn a_training_step_has_these_bits_on_every_processor() {
    for (conv, expected) in [
        (ConvMethod::Direct, 0x73CB_5015_3068_D233),
        (ConvMethod::Fast, 0x21EE_BF5F_8108_B29F),
        (ConvMethod::Bf16x3, 0x0DA8_90EF_208A_E4F5),
    ] {
        let digest = digest(&train_step(conv, Level::detect(), 2, SAMPLES));
        assert_eq!(digest, expected, "{conv:?}: {digest:#018x}");
    }
}

#[test]
fn a_training_step_has_the_same_bits_at_any_threads_width_and_batch() {
    for conv in [ConvMethod::Direct, ConvMethod::Fast, ConvMethod::Bf16x3] {
        let reference = train_step(conv, Level::detect(), 2, SAMPLES);
        for level in Level::available() {
            assert!(train_step(conv, level, 3, SAMPLES) == reference, "{conv:?}, level {}", level.name());
        }
        for threads in [1, 7] {
            assert!(
                train_step(conv, Level::detect(), threads, SAMPLES) == reference,
                "{conv:?}, {threads} threads"
            );
        }
        for batch in [1, 2] {
            let split = train_step(conv, Level::detect(), 2, batch);
            assert!(split[0] == reference[0], "{conv:?}, prediction in batches of {batch}");
            if conv == ConvMethod::Direct {
                assert!(split == reference, "gradients in batches of {batch}");
            }
        }
    }
    assert!(
        train_step(ConvMethod::Fast, Level::detect(), 2, SAMPLES)
            != train_step(ConvMethod::Direct, Level::detect(), 2, SAMPLES)
    );
}
