//! `ddpm invert`: images to the latents that DDIM would draw them from, and back.

use crate::Global;
use crate::failure::Failure;
use crate::image_files::{check_file_place, read_image, write_whole};
use crate::model::{self, Model, ModelArgs};
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use data::ImageOptions;
use diffusion::pixels::{from_bytes, to_bytes};
use diffusion::{DdimInversion, Denoiser, GaussianDiffusion, SamplerKind, Sampling};
use engine::ImageShape;
use eval::image_distances::pixel_rmse;
use numpy::npz::NpzWriter;
use serde_json::json;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use train::grid;

/// Images that go through the network at once.
const BATCH: usize = 4;

/// Encode images to x_T, and back
///
/// Runs DDIM backwards, from each image to the noise x_T that DDIM would draw it from, then forwards again,
/// and says how far what comes back is from the image. More steps come nearer, and more iterations.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm invert runs/faces a.png b.png --out x_T.npz
  ddpm invert runs/faces a.png --fit --steps 200 --iterations 5 --out x_T.npz --grid there-and-back.png
  ddpm sample runs/faces --sampler ddim --steps 100 --x-t x_T.npz --out back    the images again

The .npz has x_T, float32 [n, height, width, channels].")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// The images: PNG, JPEG, WebP, GIF or BMP files of the model's size
    #[arg(required = true, value_name = "IMG")]
    images: Vec<PathBuf>,

    /// The file for x_T (.npz); must not exist
    #[arg(long, value_name = "X_T.npz")]
    out: PathBuf,

    /// Steps there, and back, from 1 to the model's T
    #[arg(long, value_name = "K", default_value = "100")]
    steps: usize,

    /// Network calls per step on the way to x_T: 1 is the method as published, more come nearer to an exact inverse
    #[arg(long, value_name = "COUNT", default_value = "3")]
    iterations: NonZeroUsize,

    /// Bring the images to the model's size, as for training: cut to the square in the middle, and resized
    #[arg(long)]
    fit: bool,

    /// Write a picture of the images beside what has come back of them to this file (.png)
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    if args.out.exists() {
        let problem = format!("{}: exists already; choose another --out, or remove it", args.out.display());
        return Err(Failure::input(problem));
    }
    check_file_place(&args.out, "--out")?;
    args.grid.iter().try_for_each(|path| check_file_place(path, "--grid"))?;
    let mut model = model::open(&args.model, args.images.len().min(BATCH), global.hardware())?;
    let image = model.denoiser.image_shape();
    let way = Sampling { kind: SamplerKind::Ddim { eta: 0.0 }, steps: Some(args.steps), spacing: None };
    let process = way.respace(&model.unclipped_process()?).map_err(Failure::input)?;
    let pixels = args.read_images(image, model.image_options()?)?;
    let round_trip = RoundTrip { args, process, image, signals: &signals };
    let (latents, back) = round_trip.run(&mut model, &pixels, global.quiet)?;

    let mut file = Vec::new();
    let mut writer = NpzWriter::new(&mut file);
    let shape = [args.images.len(), image.height, image.width, image.channels];
    writer.add_f32("x_T", &shape, &latents).and_then(|()| writer.finish()).map_err(Failure::work)?;
    write_whole(&args.out, &file)?;
    if let Some(path) = &args.grid {
        let pairs = pixels.chunks_exact(image.len()).zip(back.chunks_exact(image.len()));
        let beside: Vec<u8> = pairs.flat_map(|(there, back)| [there, back].concat()).collect();
        write_whole(path, &grid::grid(&beside, image).to_png().map_err(Failure::work)?)?;
    }

    let rmse = pixel_rmse(&pixels, &back, image.len());
    let spread = |values: &[f32]| {
        let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
        (squares / values.len() as f64).sqrt()
    };
    let words = format!(
        "{} images of {image} in {} ({}, {} steps, {} network calls each); what comes back is off by {:.2} of 255 (RMSE); \
         x_T has a root mean square of {:.3}",
        args.images.len(),
        args.out.display(),
        model.weights_name(),
        args.steps,
        args.iterations,
        rmse.mean,
        spread(&latents),
    );
    let each = |(path, (there, back)): (&PathBuf, (&[u8], &[u8]))| json!({ "image": path.to_string_lossy(), "rmse": pixel_rmse(there, back, image.len()).mean });
    let pairs = pixels.chunks_exact(image.len()).zip(back.chunks_exact(image.len()));
    let json = json!({
        "status": "finished", "out": args.out, "model": model.facts(), "steps": args.steps, "iterations": args.iterations,
        "rmse": rmse.mean, "images": args.images.iter().zip(pairs).map(each).collect::<Vec<_>>(),
        "x_t_rms": spread(&latents), "grid": args.grid,
    });
    Ok(Report::new(words, json))
}

impl Args {
    /// The pixels of all images.
    fn read_images(&self, image: ImageShape, options: ImageOptions) -> Result<Vec<u8>, Failure> {
        let options = ImageOptions { size: options.size.filter(|_| self.fit), ..options };
        let mut pixels = Vec::new();
        for path in &self.images {
            let (shape, image_pixels) = read_image(path, &options).map_err(Failure::input)?;
            if shape != image {
                let problem = format!(
                    "{}: is {shape}, the model draws {image}; --fit brings it to that",
                    path.display()
                );
                return Err(Failure::input(problem));
            }
            pixels.extend(image_pixels);
        }
        Ok(pixels)
    }
}

/// The way to x_T and back.
struct RoundTrip<'a> {
    args: &'a Args,
    process: GaussianDiffusion,
    image: ImageShape,
    signals: &'a Signals,
}

impl RoundTrip<'_> {
    /// x_T of all images, and the pixels that come back.
    fn run(&self, model: &mut Model, pixels: &[u8], quiet: bool) -> Result<(Vec<f32>, Vec<u8>), Failure> {
        let batches = pixels.chunks(model.denoiser.batch() * self.image.len());
        let steps = self.process.timesteps() as u64;
        let mut progress = Progress::new("inverting", 0, batches.len() as u64 * 2 * steps, quiet);
        let mut done = 0;
        let mut step = |progress: &mut Progress| match self.signals.stopped() {
            true => {
                progress.finish();
                let json = json!({ "status": "stopped" });
                Err(Failure::stopped(self.signals.exit_status(), "stopped; nothing is written", json))
            }
            false => {
                done += 1;
                progress.update(done, "");
                Ok(())
            }
        };
        let (mut latents, mut back) = (Vec::new(), Vec::new());
        for batch in batches {
            let (process, iterations) = (self.process.clone(), self.args.iterations.get());
            let mut inversion = DdimInversion::new(process, self.image, from_bytes(batch), iterations)
                .map_err(Failure::input)?;
            while inversion.step(&mut model.denoiser).map_err(Failure::work)?.is_some() {
                step(&mut progress)?;
            }
            let kind = SamplerKind::Ddim { eta: 0.0 };
            let samples = batch.len() / self.image.len();
            let mut sampler =
                kind.sampler(self.process.clone(), self.image, 0, 0, samples).map_err(Failure::input)?;
            sampler.chain_mut().set_latents(inversion.x_t().to_vec());
            while sampler.step(&mut model.denoiser).map_err(Failure::work)?.is_some() {
                step(&mut progress)?;
            }
            latents.extend_from_slice(inversion.x_t());
            back.extend(to_bytes(sampler.chain().x_t()));
        }
        progress.finish();
        Ok((latents, back))
    }
}
