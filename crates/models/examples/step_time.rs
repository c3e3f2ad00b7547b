//! Times the paper's networks: forward, or a training step.
//!
//! `cargo run --release -p ddpm-models --example step_time -- [forward|train] [batch] [repeats] [threads] [cifar10|celebahq256] [profile] [--image-size N] [--channels N] [--recompute nothing|cheap|convolutions] [--conv fast|direct|bf16x3] [--device cpu|cuda[:N]] [--precision f32|tf32|bf16] [--deterministic true|false]`
//! prints one JSON object (`fastest`: the least disturbed time), with `profile` also where the time went (on
//! standard error).

use diffusion::{DiffusionConfig, Objective};
use engine::{
    AdamStep, Algorithms, CpuOptions, Graph, Hardware, Precision, Program, Recomputation, Run, Session,
    TrainingOptions,
};
use models::{Conventions, Mode, Unet, UnetConfig};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str, default: &str| match arguments.iter().position(|argument| argument == name)
    {
        Some(index) if index + 1 < arguments.len() => {
            arguments.drain(index..index + 2).nth(1).unwrap_or_default()
        }
        _ => default.to_owned(),
    };
    let device = option("--device", "cpu").parse()?;
    let precision = match option("--precision", "f32").as_str() {
        "f32" => Precision::F32,
        "tf32" => Precision::Tf32,
        "bf16" => Precision::Bf16,
        other => return Err(format!("{other}: give f32, tf32 or bf16").into()),
    };
    let conv = option("--conv", "fast").parse()?;
    let algorithms = match option("--deterministic", "true").parse()? {
        true => Algorithms::Reproducible,
        false => Algorithms::Fastest,
    };
    let recomputation = match option("--recompute", "cheap").as_str() {
        "nothing" => Recomputation::Nothing,
        "cheap" => Recomputation::Cheap,
        "convolutions" => Recomputation::Convolutions,
        other => return Err(format!("{other}: give nothing, cheap or convolutions").into()),
    };
    let image_size = option("--image-size", "");
    let channels = option("--channels", "");
    let argument =
        |index: usize, default: &str| arguments.get(index).map_or(default.to_string(), String::clone);
    let kind = argument(0, "train");
    let batch: usize = argument(1, "8").parse()?;
    let repeats: usize = argument(2, "3").parse()?;
    let threads: usize = argument(3, "2").parse()?;
    let cifar10 = UnetConfig {
        image_size: 32,
        image_channels: 3,
        learned_variance: false,
        channels: 128,
        channel_mult: vec![1, 2, 2, 2],
        num_res_blocks: 2,
        attention_resolutions: vec![16],
        dropout: 0.1,
        block_size: 1,
        norm_groups: 32,
        scale_shift_norm: false,
        conventions: Conventions::default(),
    };
    let mut config = match argument(4, "cifar10").as_str() {
        "cifar10" => cifar10,
        "celebahq256" => {
            UnetConfig { image_size: 256, channel_mult: vec![1, 1, 2, 2, 4, 4], dropout: 0.0, ..cifar10 }
        }
        other => return Err(format!("{other}: give cifar10 or celebahq256").into()),
    };
    if !image_size.is_empty() {
        config.image_size = image_size.parse()?;
    }
    if !channels.is_empty() {
        config.channels = channels.parse()?;
    }
    let training = kind == "train";
    let objective = Objective::new(&DiffusionConfig::default(), config.image_shape())?;
    let mut graph = Graph::new();
    // What is set, what is read, and in training what the objective has recorded.
    let ([x_t, timesteps], result, recorded) = if training {
        let recorded = objective.record(&mut graph, batch).ok_or("the loss is not the network's")?;
        let inputs = [recorded.x_t, recorded.timesteps];
        let output = Unet::record(&config, &mut graph, inputs, Mode::Training);
        (inputs, recorded.loss(&mut graph, output), Some(recorded))
    } else {
        let unet = Unet::new(&config, batch, Mode::Inference);
        graph = unet.graph;
        ([unet.x_t, unet.timesteps], unet.output, None)
    };
    let cpu = CpuOptions { threads, conv, ..CpuOptions::default() };
    let backend = Hardware { device, precision, algorithms, cpu }.open()?;
    let program = if training {
        let options = TrainingOptions { recomputation, accumulates: false };
        Program::training_with(&graph, &[result], backend.as_ref(), options)
    } else {
        Program::inference(&graph, &[result], backend.as_ref())
    };
    let mib = |words: usize| words as f64 * 4.0 / (1 << 20) as f64;
    // Parameters; in training also two moments and the average; gradients are in the arena.
    let (arena, buffers) = (program.arena_len(), if training { 4 } else { 1 });
    let (arena_mib, memory_mib) = (mib(arena), mib(arena + buffers * program.layout().len()));
    let weights = program.layout().initialise(0);
    let mut session = Session::new(program, backend)?;
    session.set_parameters(&weights);
    drop(weights);
    let x: Vec<f32> = (0..graph.shape(x_t).len()).map(|i| ((i % 17) as f32 - 8.0) / 8.0).collect();
    let mut out = vec![0.0; graph.shape(result).len()];
    let mut times = Vec::new();
    for number in 0..=repeats {
        // The first touches memory for the first time.
        if number == 1 && arguments.iter().any(|argument| argument == "profile") {
            session.start_profile();
        }
        let start = Instant::now();
        let run = Run { seed: 0, first_sample: (number * batch) as u64 };
        if let Some(recorded) = &recorded {
            recorded.set(&mut session, &x, &objective.draw_steps(run.seed, run.first_sample, batch));
            session.forward(&run);
            session.set_gradient(result, &vec![1.0 / batch as f32; batch]);
            session.backward(&run);
            session.read(result, &mut out)?;
            session.update(&AdamStep {
                number: number as u64 + 1,
                learning_rate: 1e-4,
                max_gradient_norm: 1.0,
                ema_decay: 0.9999,
                ..AdamStep::default()
            })?;
        } else {
            session.set(x_t, &x);
            session.set(timesteps, &vec![500.0; batch]);
            session.forward(&run);
            session.read(result, &mut out)?;
        }
        if number > 0 {
            times.push(start.elapsed().as_secs_f64() * 1e3 / batch as f64);
        }
    }
    // Only now it knows whether steps were recorded.
    if let Some(report) = session.device_report() {
        eprintln!("{report}");
    }
    if let Some(profile) = session.profile() {
        let whole = times.iter().sum::<f64>() * batch as f64 / 1e3;
        eprintln!("{}", profile.table(Duration::from_secs_f64(whole)));
    }
    times.sort_by(f64::total_cmp);
    let name = if training { "train_ms_per_image" } else { "forward_ms_per_image" };
    println!(
        "{{\"{name}\": {:.5}, \"fastest\": {:.5}, \"batch\": {batch}, \"arena_mib\": {arena_mib:.1}, \"memory_mib\": {memory_mib:.1}}}",
        times[times.len() / 2],
        times[0]
    );
    Ok(())
}
