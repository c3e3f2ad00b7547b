//! Time and memory of saving, checking and resuming a checkpoint of the paper's networks.
//!
//! `cargo run --release -p ddpm-checkpoint --example checkpoint_time -- DIR [CHANNELS]` writes to
//! `DIR/checkpoints` and removes it again. 128 channels are CIFAR-10's network (the default, 0.6 GB), 352 a
//! network of 270M parameters (4.3 GB).

use checkpoint::{
    ModelDescription, ModelLocation, RunDirectory, SavedTraining, TrainingBuffers, TrainingBuffersMut,
    TrainingProgress, save_checkpoint,
};
use diffusion::DiffusionConfig;
use models::{Unet, UnetConfig};
use peak_alloc::PeakAlloc;
use std::path::Path;
use std::time::Instant;

#[global_allocator]
static ALLOCATIONS: PeakAlloc = PeakAlloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("which directory?")?;
    let channels = arguments.next().map_or(Ok(128), |channels| channels.parse())?;
    let model = UnetConfig {
        image_size: 32,
        image_channels: 3,
        learned_variance: false,
        channels,
        channel_mult: vec![1, 2, 2, 2],
        num_res_blocks: 2,
        attention_resolutions: vec![16],
        dropout: 0.1,
        block_size: 1,
        norm_groups: 32,
        scale_shift_norm: false,
        conventions: models::Conventions::default(),
    };
    let layout = Unet::layout(&model);
    let description = ModelDescription { model, diffusion: DiffusionConfig::default() };
    println!("{} parameters", layout.len());
    let mut buffers: Vec<Vec<f32>> = (0..4).map(|seed| layout.initialise(seed)).collect();
    let progress = TrainingProgress { step: 1, samples: 128, seed: 0, config: String::new() };
    let run = RunDirectory::new(Path::new(&directory));

    let [raw, ema, first_moment, second_moment] = buffers.as_slice() else { unreachable!() };
    let view = TrainingBuffers { raw, ema, first_moment, second_moment };
    let place = timed("save", || save_checkpoint(&run, &description, &layout, view, &progress))?;
    timed("save again", || save_checkpoint(&run, &description, &layout, view, &progress))?;
    let saved = timed("open, all checked", || SavedTraining::open(&place))?;
    let [raw, ema, first_moment, second_moment] = buffers.as_mut_slice() else { unreachable!() };
    timed("restore", || {
        saved.restore(&layout, TrainingBuffersMut { raw, ema, first_moment, second_moment })
    })?;
    let location = ModelLocation::resolve(&place)?;
    let mut stored = timed("open for sampling", || location.open(None))?;
    timed("read the weights", || stored.read_parameters(&layout))?;
    timed("inspect", || checkpoint::inspect(&place))?;
    Ok(std::fs::remove_dir_all(Path::new(&directory).join("checkpoints"))?)
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.current_usage();
    ALLOCATIONS.reset_peak_usage();
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = (ALLOCATIONS.peak_usage() - before) as f64 / 1e6;
    println!("{what:20} {seconds:6.2} s, at most {megabytes:.0} MB more");
    result
}
