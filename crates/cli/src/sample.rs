//! `ddpm sample`: images from noise.

use crate::Global;
use crate::failure::Failure;
use crate::model::{self, Model, ModelArgs};
use crate::progress::{self, Progress};
use crate::report::Report;
use crate::sample_output::{self, Output, Plan};
use crate::sampler_args::SamplerArgs;
use crate::signals::Signals;
use checkpoint::weights_fingerprint;
use diffusion::pixels::to_bytes;
use diffusion::{Denoiser, GaussianDiffusion, Sampling};
use engine::ImageShape;
use numpy::npz::NpzFile;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pixels of a batch when its size is not given: 16 images of 32×32.
const BATCH_PIXELS: usize = 16 * 32 * 32;
/// Images drawn when nothing says how many.
const DEFAULT_COUNT: usize = 64;
/// What x_T is called in its file.
const LATENTS: &str = "x_T";
/// Work that takes longer is announced.
const ANNOUNCED: Duration = Duration::from_secs(30);

/// Draw images from a trained model
///
/// Writes DIR/000000.png, DIR/000001.png, …, DIR/grid.png with the first 64 and DIR/samples.json, which says how they
/// were drawn; or, by the ending of --out, one file. Image k of a seed is the same whatever the number of images, the
/// batch, the threads, and however often the work was stopped and resumed.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm sample runs/shapes32 --n 16 --out new                       all T steps of the paper's sampler
  ddpm sample runs/shapes32 --out new --sampler ddim --steps 50    20 times faster
  ddpm sample runs/cifar10 --out new --sampler dpm-solver++ --steps 20
  ddpm sample runs/cifar10 --n 50000 --out samples.npz             arr_0, as evaluators want it; --resume after a stop
  ddpm sample runs/cifar10 --n 50000 --out samples.npz --dry-run   how long that takes
  ddpm sample runs/cifar10 --out new --weights raw --seed 7        the weights without averaging")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Images to draw, at least 1 [default: 64; with --x-t as many as that has]
    #[arg(long, value_name = "COUNT")]
    n: Option<NonZeroUsize>,

    /// Folder for the images; or a file ending in .npz (arr_0), .npy, .raw (bytes alone: image, row, column,
    /// channel) or .png (one picture of all)
    #[arg(long, value_name = "PATH")]
    out: PathBuf,

    #[command(flatten)]
    sampler: SamplerArgs,

    /// Begin at the x_T in this file, as `ddpm invert` writes it, instead of at noise of the seed; x̂0 is
    /// then not clipped
    #[arg(long, value_name = "X_T.npz")]
    x_t: Option<PathBuf>,

    /// Images drawn at once, at least 1: more take more memory [default: 16 of 32x32, fewer of larger ones]
    #[arg(long, value_name = "B")]
    batch: Option<NonZeroUsize>,

    /// Keep the images that an earlier call with the same settings has drawn, and draw those that are missing
    #[arg(long)]
    resume: bool,

    /// Say how long it takes and how much is written, from two network calls, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Measure where the time goes, by operation and shape, and say so at the end
    #[arg(long)]
    profile: bool,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let sampling = args.sampler.sampling().map_err(Failure::input)?;
    if !args.dry_run {
        sample_output::check_place(&args.out, args.resume)?;
    }
    let latents = args.x_t.as_deref().map(StoredLatents::open).transpose()?;
    let count = args
        .n
        .map_or_else(|| latents.as_ref().map_or(DEFAULT_COUNT, StoredLatents::count), NonZeroUsize::get);
    let batch = |image| args.batch.map_or_else(|| default_batch(image), NonZeroUsize::get).min(count);
    let mut model = model::open_sized(&args.model, batch, global.hardware())?;
    let batch = model.denoiser.batch();
    if let Some(device) = model.denoiser.device_report().filter(|_| !global.quiet) {
        progress::say(&format!("device: {device}"));
    }
    if args.profile {
        model.denoiser.start_profile();
    }
    let process = match &latents {
        Some(_) => model.unclipped_process()?,
        None => model.process()?,
    };
    let image = model.denoiser.image_shape();
    let seed = global.seed.unwrap_or(0);
    // Wrong options are found before anything is written.
    sampling.sampler(&process, image, seed, 0, 0).map_err(Failure::input)?;
    let latents = latents.map(|latents| latents.read(image, count)).transpose()?;
    let work = Work { sampling, process, image, seed, batch, count, latents };
    if args.dry_run {
        return work.dry_run(&mut model);
    }

    let identity = work.identity(&model);
    let plan = Plan { count, image, identity: identity.clone() };
    let mut output = Output::open(&args.out, plan)?;
    let first = output.written();
    let start = Instant::now();
    work.draw(&mut model, &mut output, &signals, global.quiet).map_err(|stop| match stop {
        Stop::Failed(failure) => failure,
        Stop::Signal(written) => {
            let message = format!(
                "stopped; {written} of {count} images are finished; --resume goes on with {}",
                args.out.display()
            );
            let json = json!({ "status": "stopped", "out": args.out, "images": written });
            Failure::stopped(signals.exit_status(), message, json)
        }
    })?;
    output.finish()?;

    let seconds = start.elapsed().as_secs_f64();
    if let Some(profile) = model.denoiser.profile() {
        progress::say(&profile.table(start.elapsed()));
    }
    let kept = if first > 0 { format!(", {first} of them from before") } else { String::new() };
    let words = format!(
        "{count} images of {image} in {}{kept} ({}, {}, {} steps, seed {seed}), {seconds:.1} s",
        args.out.display(),
        model.weights_name(),
        work.sampling.kind.name(),
        work.steps(),
    );
    let mut json = identity;
    let more = json!({
        "status": "finished", "out": args.out, "images": count, "resumed_from": first, "model": model.directory,
        "seconds": seconds,
    });
    if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
        json.extend(more);
    }
    Ok(Report::new(words, json))
}

/// As many images as have the pixels of 16 small ones, at least one: memory grows with the pixels.
fn default_batch(image: ImageShape) -> usize {
    (BATCH_PIXELS / (image.height * image.width)).clamp(1, 16)
}

/// What is to be drawn.
struct Work {
    sampling: Sampling,
    process: GaussianDiffusion,
    image: ImageShape,
    seed: u64,
    batch: usize,
    count: usize,
    /// The images' x_T, if they do not begin at noise of the seed.
    latents: Option<Vec<f32>>,
}

/// A file of x_T, as `ddpm invert` writes it, of which only the header is read.
struct StoredLatents {
    path: PathBuf,
    /// `[n, height, width, channels]`.
    array: numpy::Member,
}

impl StoredLatents {
    fn open(path: &Path) -> Result<Self, Failure> {
        let array = NpzFile::open(path).and_then(|mut file| file.member(LATENTS)).map_err(Failure::input)?;
        Ok(Self { path: path.to_owned(), array })
    }

    fn count(&self) -> usize {
        self.array.header().shape.first().copied().unwrap_or(0)
    }

    /// Reads them; refuses those of other images than the model's, or too few, before.
    fn read(self, image: ImageShape, count: usize) -> Result<Vec<f32>, Failure> {
        let of_model = [image.height, image.width, image.channels];
        let shape = &self.array.header().shape;
        if shape.len() != 4 || shape[1..] != of_model || count == 0 || count > self.count() {
            return Err(Failure::input(format!(
                "{}: {LATENTS} has the shape {shape:?}, not [{} or more, {}, {}, {}] as {count} images of this model need",
                self.path.display(),
                count.max(1),
                image.height,
                image.width,
                image.channels,
            )));
        }
        let values = self.array.read_f64().map_err(Failure::input)?;
        if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
            return Err(Failure::input(format!("{}: {LATENTS} holds {bad}", self.path.display())));
        }
        Ok(values.into_iter().map(|value| value as f32).collect())
    }
}

/// Why drawing ended early.
enum Stop {
    /// A signal, after so many images.
    Signal(usize),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Work {
    fn steps(&self) -> usize {
        self.sampling.steps(&self.process)
    }

    /// All that decides the images' pixels.
    fn identity(&self, model: &Model) -> Value {
        json!({
            "weights": model.stored.weights, "step": model.stored.step, "weights_xxh3": model.fingerprint,
            "image": [self.image.height, self.image.width, self.image.channels],
            "sampler": self.sampling.kind.name(), "steps": self.steps(), "spacing": self.sampling.spacing(),
            "eta": self.sampling.kind.eta(), "seed": self.seed,
            "x_t_xxh3": self.latents.as_ref().map(|latents| weights_fingerprint(latents)),
        })
    }

    fn draw(
        &self,
        model: &mut Model,
        output: &mut Output,
        signals: &Signals,
        quiet: bool,
    ) -> Result<(), Stop> {
        let (count, steps, first) = (self.count, self.steps(), output.written());
        let total = ((count - first).div_ceil(self.batch) * steps) as u64;
        let mut progress = Progress::new("sampling", 0, total, quiet);
        let mut calls = 0;
        let mut pace = None;
        while output.written() < count {
            let written = output.written();
            let samples = self.batch.min(count - written);
            let sampler =
                self.sampling.sampler(&self.process, self.image, self.seed, written as u64, samples);
            let mut sampler = sampler.map_err(Failure::input)?;
            if let Some(latents) = &self.latents {
                let len = self.image.len();
                let of_batch = &latents[written * len..][..samples * len];
                sampler.chain_mut().set_latents(of_batch.to_vec());
            }
            loop {
                if signals.stopped() {
                    progress.finish();
                    return Err(Stop::Signal(written));
                }
                let start = Instant::now();
                if sampler.step(&mut model.denoiser).map_err(Failure::work)?.is_none() {
                    break;
                }
                calls += 1;
                // The first call also prepares filters and memory.
                if calls == 2 && pace.is_none() {
                    pace = Some(start.elapsed());
                    let expected = start.elapsed().mul_f64((total - calls) as f64);
                    if !quiet && expected > ANNOUNCED {
                        progress.say(&format!(
                            "{} to go: {}",
                            self.calls_in_words(first),
                            progress::duration(expected)
                        ));
                    }
                }
                progress.update(calls, &format!("{written}/{count} images"));
            }
            output.push(&to_bytes(sampler.chain().x_t()))?;
        }
        progress.finish();
        Ok(())
    }

    fn calls_in_words(&self, first: usize) -> String {
        let batches = (self.count - first).div_ceil(self.batch);
        let images = if self.batch == 1 { "1 image".to_owned() } else { format!("{} images", self.batch) };
        format!("{batches} batches of {images}, {} network calls each", self.steps())
    }

    /// Times the second of two network calls.
    fn dry_run(&self, model: &mut Model) -> Result<Report, Failure> {
        let mut sampler = self
            .sampling
            .sampler(&self.process, self.image, self.seed, 0, self.batch)
            .map_err(Failure::input)?;
        sampler.step(&mut model.denoiser).map_err(Failure::work)?;
        let start = Instant::now();
        // A chain of one step has no second: then the first is done again.
        if sampler.step(&mut model.denoiser).map_err(Failure::work)?.is_none() {
            let again = self.sampling.sampler(&self.process, self.image, self.seed, 0, self.batch);
            again.and_then(|mut again| again.step(&mut model.denoiser)).map_err(Failure::work)?;
        }
        let call = start.elapsed();
        let calls = self.count.div_ceil(self.batch) * self.steps();
        let seconds = call.as_secs_f64() * calls as f64;
        let bytes = self.count as u64 * self.image.len() as u64;
        let expected = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let words = format!(
            "{}, {:.3} s a call: {} for {} images of {}, {:.1} MB uncompressed",
            self.calls_in_words(0),
            call.as_secs_f64(),
            progress::duration(expected),
            self.count,
            self.image,
            bytes as f64 / 1e6
        );
        let json = json!({
            "status": "dry run", "images": self.count, "batch": self.batch, "network_calls": calls,
            "seconds_per_call": call.as_secs_f64(), "seconds": seconds, "bytes": bytes,
        });
        Ok(Report::new(words, json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_images_come_in_smaller_batches() {
        let batch = |size| default_batch(ImageShape::new(size, size, 3));
        assert_eq!((batch(8), batch(32), batch(64), batch(128), batch(256)), (16, 16, 4, 1, 1));
    }
}
