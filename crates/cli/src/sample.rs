//! `ddpm sample`: images from noise.

use crate::Global;
use crate::failure::Failure;
use crate::image_files::ImageFolder;
use crate::model::{self, ModelArgs};
use crate::progress::{self, Progress};
use crate::report::Report;
use crate::signals::Signals;
use clap::ValueEnum;
use diffusion::Denoiser;
use serde_json::json;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;
use train::sampling::{SamplerKind, Sampling, to_bytes};

/// Most images shown in grid.png.
const GRID_IMAGES: usize = 64;

/// Draw images from a trained model
///
/// Writes DIR/000000.png, DIR/000001.png, … and DIR/grid.png with the first 64. Image k of a seed is the same whatever
/// the number of images, the batch and the threads.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm sample runs/shapes32 --n 16 --out new                       all T steps of the paper's sampler
  ddpm sample runs/shapes32 --out new --sampler ddim --steps 50    20 times faster
  ddpm sample runs/cifar10 --out new --weights raw --seed 7        the weights without averaging")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Images to draw, at least 1
    #[arg(long, value_name = "COUNT", default_value = "64")]
    n: NonZeroUsize,

    /// Folder for the images; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// The way from noise to image
    #[arg(long, value_enum, default_value_t = SamplerName::Ancestral)]
    sampler: SamplerName,

    /// Network calls per image, from 1 to the model's T [default: T]
    #[arg(long, value_name = "K")]
    steps: Option<usize>,

    /// Images drawn at once, at least 1: more take more memory
    #[arg(long, value_name = "B", default_value = "16")]
    batch: NonZeroUsize,

    /// Measure where the time goes, by operation and shape, and say so at the end
    #[arg(long)]
    profile: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum SamplerName {
    /// The paper's: fresh noise at each step
    Ancestral,
    /// Without fresh noise: better when few steps are taken
    Ddim,
}

impl From<SamplerName> for SamplerKind {
    fn from(name: SamplerName) -> Self {
        match name {
            SamplerName::Ancestral => Self::Ancestral,
            SamplerName::Ddim => Self::Ddim,
        }
    }
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    ImageFolder::check_vacant(&args.out)?;
    let count = args.n.get();
    let batch = args.batch.get().min(count);
    let mut model = model::open(&args.model, batch, global.cpu())?;
    if args.profile {
        model.denoiser.start_profile();
    }
    let process = model.process()?;
    let image = model.denoiser.image_shape();
    let seed = global.seed.unwrap_or(0);
    let sampling = Sampling { kind: args.sampler.into(), steps: args.steps };
    // Wrong options are found before the folder is made.
    sampling.sampler(&process, image, seed, 0, 0).map_err(Failure::input)?;
    let folder = ImageFolder::create(&args.out, count)?;

    let steps = sampling.steps(&process);
    let total = (count.div_ceil(batch) * steps) as u64;
    let mut progress = Progress::new("sampling", 0, total, global.quiet);
    let start = Instant::now();
    let (mut calls, mut written) = (0, 0);
    let mut grid = Vec::new();
    let stopped = |written: usize| {
        let message = format!("stopped; {written} of {count} images are finished, in {}", args.out.display());
        let json = json!({ "status": "stopped", "out": args.out, "images": written });
        Failure::stopped(signals.exit_status(), message, json)
    };
    while written < count {
        let samples = batch.min(count - written);
        let mut sampler =
            sampling.sampler(&process, image, seed, written as u64, samples).map_err(Failure::input)?;
        loop {
            if signals.stopped() {
                progress.finish();
                return Err(stopped(written));
            }
            if sampler.step(&mut model.denoiser).map_err(Failure::work)?.is_none() {
                break;
            }
            calls += 1;
            progress.update(calls, &format!("{written}/{count} images"));
        }
        let images = to_bytes(sampler.chain().x_t());
        for pixels in images.chunks_exact(image.len()) {
            folder.write_image(written, pixels, image)?;
            written += 1;
        }
        let shown = GRID_IMAGES * image.len();
        grid.extend(&images[..images.len().min(shown - grid.len())]);
    }
    progress.finish();
    folder.write_picture("grid.png", &train::grid::grid(&grid, image))?;

    let seconds = start.elapsed().as_secs_f64();
    if let Some(profile) = model.denoiser.profile() {
        progress::say(&profile.table(start.elapsed()));
    }
    let words = format!(
        "{count} images of {image} in {} ({}, {steps} steps, seed {seed}), {seconds:.1} s",
        args.out.display(),
        model.weights_name(),
    );
    let json = json!({
        "status": "finished", "out": args.out, "images": count, "image": [image.height, image.width, image.channels],
        "model": model.directory, "weights": model.stored.weights, "step": model.stored.step,
        "sampler": SamplerKind::from(args.sampler).name(), "steps": steps, "seed": seed, "seconds": seconds,
    });
    Ok(Report::new(words, json))
}
