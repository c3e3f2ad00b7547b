//! Times the Inception network's features with random weights.
//!
//! `cargo run --release -p ddpm-models --example inception_time -- [dims] [batch] [repeats] [threads] [fast|direct|bf16x3] [profile]`
//! prints one JSON object, with `profile` also where the time went (on standard error).

use engine::{Cpu, CpuOptions};
use models::inception::{FeatureNetwork, IMAGE_SIZE, Inception, Tap};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| -> Result<usize, std::num::ParseIntError> {
        arguments.get(index).map_or(Ok(default), |text| text.parse())
    };
    let (dims, batch, repeats, threads) = (number(0, 2048)?, number(1, 16)?, number(2, 3)?, number(3, 2)?);
    let conv = arguments.get(4).map_or("fast", String::as_str).parse()?;
    let tap = Tap::with_dims(dims).ok_or("dims is 64, 192, 768 or 2048")?;
    let weights = Inception::layout(tap).initialise(0);
    let backend = Box::new(Cpu::with_options(CpuOptions { threads, conv, ..CpuOptions::default() })?);
    let mut network = FeatureNetwork::new(tap, &weights, batch, backend)?;
    let images: Vec<f32> =
        (0..batch * IMAGE_SIZE * IMAGE_SIZE * 3).map(|i| ((i * 7 % 255) as f32 - 127.0) / 127.0).collect();
    let mut times = Vec::new();
    for index in 0..=repeats {
        // The first touches memory for the first time.
        if index == 1 && arguments.iter().any(|argument| argument == "profile") {
            network.start_profile();
        }
        let start = Instant::now();
        network.features(&images)?;
        if index > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    if let Some(profile) = network.profile() {
        eprintln!("{}", profile.table(Duration::from_secs_f64(times.iter().sum())));
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!(
        "{{\"dims\": {dims}, \"batch\": {batch}, \"ms_per_image\": {:.2}, \"images_per_second\": {:.2}}}",
        median * 1e3 / batch as f64,
        batch as f64 / median
    );
    Ok(())
}
