//! `ddpm progressive`: x̂0 along the reverse process.

use crate::Global;
use crate::animation::animated_png;
use crate::failure::Failure;
use crate::feature_args::{FeatureArgs, SamplingArgs, SetArgs};
use crate::image_count;
use crate::image_files::{ImageFolder, write_whole};
use crate::measured::{self, Measuring};
use crate::model::{self, Model};
use crate::progress::{self, Progress};
use crate::report::Report;
use crate::signals::Signals;
use data::{ImageSource, SourceSpec};
use diffusion::pixels::{PIXEL_VALUES_PER_UNIT, from_bytes, to_bytes};
use diffusion::{Denoiser, GaussianDiffusion, NormalCdf, Sampler, Sampling, branches, noise};
use engine::ImageShape;
use eval::frechet::frechet_distance;
use eval::image_distances::pixel_rmse;
use eval::image_set::{ImageSet, ImagesInMemory, Unreadable};
use eval::progressive_quality::{Moment, ProgressiveQuality};
use eval::{Estimate, RunningMean};
use serde_json::json;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use train::grid::{self, Picture};

/// Samples shown in strip.png.
const STRIP_SAMPLES: usize = 16;
/// Samples shown in animation.png.
const ANIMATED_SAMPLES: usize = 64;

/// Show how samples emerge from noise, step by step, and how good they are by then
///
/// Draws samples and keeps x̂0, the network's idea of the final image, at moments spread evenly over the
/// reverse process (Fig. 6 of the paper). Measures how far x̂0 is from what the sample becomes; with --data
/// also from real images that were taken to the same t (the distortion of Fig. 5), and with --fid how alike
/// the sets of x̂0 and of real images are (Fig. 10). Lastly draws samples that have x_t in common, for some t
/// (Fig. 7): what they share was decided before t.
///
/// Writes into the folder --out: strip.png (a row for each of the first 16 samples), animation.png (an
/// animated PNG of the first 64), shared.png (a row for each t: x_t, and samples that share it), quality.csv,
/// quality.svg and .png, progressive.json.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm progressive runs/shapes32 --out progressive                      all T steps of the paper's sampler
  ddpm progressive runs/shapes32 --out progressive --sampler ddim --steps 50
  ddpm progressive runs/digits --out progressive --n 64 --frames 50 --shared-t 1000,900,800,700
  ddpm progressive runs/cifar10 --out progressive --n 1000 --data cifar10:DIR:test --fid --dims 768

--shared-t needs a sampler that adds noise: ancestral, or ddim with --eta. A sample of a seed is the same image as that of
ddpm sample, and the first of those that share x_t is sample 0 itself.")]
pub struct Args {
    /// A run directory (its last checkpoint), a checkpoint, or a directory in diffusers' layout
    model: PathBuf,

    /// Samples to draw, at least 1; figures get better with more
    #[arg(long, value_name = "COUNT", default_value = "16")]
    n: NonZeroUsize,

    /// Moments at which x̂0 is kept, at least 1, at most one for each step; the last is the end. Takes COUNT
    /// bytes of memory for each pixel value of the samples
    #[arg(long, value_name = "COUNT", default_value = "20")]
    frames: NonZeroUsize,

    /// The t whose x_t samples share, 1 to the model's T [default: T and 3/4, 1/2 and 1/4 of it]
    #[arg(long, value_name = "T,…", value_delimiter = ',')]
    shared_t: Vec<usize>,

    /// Samples that share each x_t; 0: none are drawn
    #[arg(long, value_name = "COUNT", default_value = "8")]
    shared_n: usize,

    /// Real images to compare with: the error of x̂0 is measured on the first n of them
    #[arg(long, value_name = "SRC")]
    data: Option<SourceSpec>,

    /// Measure FID of x̂0 against --data at every moment
    #[arg(long, requires = "data")]
    fid: bool,

    /// Images of --data that FID is measured against, its first [default: all]
    #[arg(long, value_name = "COUNT", requires = "fid")]
    reference_n: Option<NonZeroU64>,

    /// The folder for the results; must not have anything in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    features: FeatureArgs,
}

/// What is to be drawn.
struct Work<'a> {
    args: &'a Args,
    sampling: Sampling,
    /// The process of the network, with all its steps.
    process: GaussianDiffusion,
    /// That over the steps that are taken.
    taken: GaussianDiffusion,
    image: ImageShape,
    seed: u64,
    /// For each frame, the steps that remain after it.
    frames: Vec<usize>,
    /// For each shared x_t, from the first on, the steps that remain.
    shared: Vec<usize>,
}

/// What was drawn.
struct Drawn {
    /// x̂0 of all samples, frame by frame.
    frames: Vec<Vec<u8>>,
    /// For each shared x_t, x_t itself and the samples.
    shared: Vec<Vec<u8>>,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    ImageFolder::check_vacant(&args.out)?;
    let mut model =
        model::open_at(&args.model, args.sampling.weights(), args.features.batch.get(), global.hardware())?;
    let work = Work::new(args, &model, global)?;
    let source = args.data.as_ref().map(|spec| work.open_source(spec, &model)).transpose()?;
    // The network of features first: if it is missing, that is known before the work.
    let input = args.model.to_string_lossy();
    let mut measuring = match args.fid {
        true => {
            Some(Measuring::new(&args.features, &args.sampling, global, &signals)?.beside_models(&[&input])?)
        }
        false => None,
    };
    if work.shared.is_empty() && args.shared_n > 0 && !global.quiet {
        progress::say("no shared.png: without fresh noise, samples that share x_t are one and the same");
    }

    let drawn = work.draw(&mut model, &signals, global.quiet)?;
    let to_data = match &source {
        Some(source) => Some(work.errors_on_data(&mut model, source.as_ref(), &signals, global.quiet)?),
        None => None,
    };
    let fids = match (&mut measuring, &args.data) {
        (Some(measuring), Some(spec)) => Some(args.fids(measuring, spec, &drawn, work.image)?),
        _ => None,
    };
    let last = drawn.frames.last().cloned().unwrap_or_default();
    let moments = drawn.frames.iter().enumerate().map(|(frame, pixels)| {
        let t = work.t_of(frame);
        Moment {
            t,
            reverse_steps: work.process.timesteps() - t + 1,
            rmse_to_final: pixel_rmse(pixels, &last, work.image.len()),
            rmse_to_data: to_data.as_ref().map(|errors| errors[frame]),
            fid: fids.as_ref().map(|fids| fids[frame]),
        }
    });
    let quality = ProgressiveQuality { moments: moments.collect() };

    work.write(&drawn)?;
    let figure = quality.figure();
    write_whole(&args.out.join("quality.csv"), quality.csv().as_bytes())?;
    write_whole(&args.out.join("quality.svg"), figure.svg().map_err(Failure::work)?.as_bytes())?;
    write_whole(&args.out.join("quality.png"), &figure.png().map_err(Failure::work)?)?;
    let (kind, steps) = (work.sampling.kind, work.taken.timesteps());
    let json = json!({
        "status": "finished", "out": args.out, "model": model.facts(), "samples": args.n,
        "image": [work.image.height, work.image.width, work.image.channels],
        "sampler": kind.name(), "steps": steps, "spacing": work.sampling.spacing(), "eta": kind.eta(),
        "seed": work.seed, "shared_t": work.shared.iter().map(|&left| work.level(left)).collect::<Vec<_>>(),
        "data": args.data, "features": measuring.as_mut().map(|measuring| measuring.settings()),
        "quality": quality,
    });
    let text = serde_json::to_string_pretty(&json).map_err(Failure::work)?;
    write_whole(&args.out.join("progressive.json"), text.as_bytes())?;
    let words = format!(
        "{} samples at {} moments in {} ({}, {}, {steps} steps, seed {})\n{}",
        args.n,
        work.frames.len(),
        args.out.display(),
        model.weights_name(),
        kind.name(),
        work.seed,
        words(&quality),
    );
    Ok(Report::new(words, json))
}

/// A table of a few moments, for people.
fn words(quality: &ProgressiveQuality) -> String {
    let count = quality.moments.len();
    let mut text = "x̂0: reverse steps, RMSE to the final sample".to_owned();
    let first = quality.moments.first();
    text.push_str(if first.is_some_and(|m| m.rmse_to_data.is_some()) { ", to real images" } else { "" });
    text.push_str(if first.is_some_and(|m| m.fid.is_some()) { ", FID\n" } else { "\n" });
    let shown = count.min(6);
    for k in 1..=shown {
        let moment = &quality.moments[k * count / shown - 1];
        text.push_str(&format!("  {:>6}  {:8.2}", moment.reverse_steps, moment.rmse_to_final.mean));
        for number in [moment.rmse_to_data.map(|estimate| estimate.mean), moment.fid].into_iter().flatten() {
            text.push_str(&format!("  {number:8.2}"));
        }
        text.push('\n');
    }
    text
}

impl Args {
    /// FID of each frame's x̂0.
    fn fids(
        &self,
        measuring: &mut Measuring,
        spec: &SourceSpec,
        drawn: &Drawn,
        shape: ImageShape,
    ) -> Result<Vec<f64>, Failure> {
        let input = spec.to_string();
        let reference = SetArgs { input: &input, count: self.reference_n, unreadable: Unreadable::Refuse };
        let reference = measuring.measure(reference)?.statistics().map_err(measured::failure)?;
        let of_frame = |pixels: &Vec<u8>| {
            let (pixels, description) = (pixels.clone(), "x̂0".to_owned());
            let mut images = ImagesInMemory { pixels, shape, description };
            let store = measuring.features_of(&mut images)?;
            let statistics =
                store.statistics(images.len(), &images.description).map_err(measured::failure)?;
            frechet_distance(&statistics, &reference).map_err(measured::failure)
        };
        drawn.frames.iter().map(of_frame).collect()
    }
}

impl<'a> Work<'a> {
    fn new(args: &'a Args, model: &Model, global: &Global) -> Result<Self, Failure> {
        let sampling = args.sampling.sampling().map_err(Failure::input)?;
        let (process, image) = (model.process()?, model.denoiser.image_shape());
        let seed = global.seed.unwrap_or(0);
        let taken = sampling.respace(&process).map_err(Failure::input)?;
        sampling.sampler(&process, image, seed, 0, 0).map_err(Failure::input)?;
        if args.fid && args.n.get() < 2 {
            return Err(Failure::input("--fid: a covariance needs 2 samples at least: --n"));
        }
        let steps = taken.timesteps();
        let count = args.frames.get().min(steps);
        let frames = (1..=count).map(|frame| steps - frame * steps / count).collect();
        let mut work = Self { args, sampling, process, taken, image, seed, frames, shared: Vec::new() };
        work.shared = work.shared_levels()?;
        Ok(work)
    }

    /// The steps that remain below each x_t that is shared.
    fn shared_levels(&self) -> Result<Vec<usize>, Failure> {
        let timesteps = self.process.timesteps();
        let is_random = self.sampling.kind.is_random();
        let asked = match &self.args.shared_t[..] {
            _ if self.args.shared_n == 0 => return Ok(Vec::new()),
            [] if !is_random => return Ok(Vec::new()),
            [] => [4, 3, 2, 1].map(|quarters| (quarters * timesteps / 4).max(1)).to_vec(),
            asked => asked.to_vec(),
        };
        if !is_random {
            return Err(Failure::input(format!(
                "--shared-t: {} adds no noise, so samples that share x_t are one and the same; use ancestral, or ddim with --eta",
                self.sampling.kind.name()
            )));
        }
        let mut levels = Vec::new();
        for t in asked {
            if !(1..=timesteps).contains(&t) {
                return Err(Failure::input(format!(
                    "--shared-t {t}: the model's process has the steps 1 to {timesteps}"
                )));
            }
            let below =
                (0..self.taken.timesteps()).filter(|&step| self.taken.network_timestep(step) < t).count();
            if below == 0 {
                return Err(Failure::input(format!(
                    "--shared-t {t}: none of the {} steps taken is below it",
                    self.taken.timesteps()
                )));
            }
            levels.push(below);
        }
        levels.sort_unstable_by(|one, other| other.cmp(one));
        levels.dedup();
        Ok(levels)
    }

    /// The t of x_t when `left` steps remain, as the paper counts.
    fn level(&self, left: usize) -> usize {
        match left == self.taken.timesteps() {
            true => self.process.timesteps(),
            false => self.taken.network_timestep(left - 1) + 1,
        }
    }

    /// The t whose x_t a frame's x̂0 is predicted from, as the paper counts.
    fn t_of(&self, frame: usize) -> usize {
        self.taken.network_timestep(self.frames[frame]) + 1
    }

    fn open_source(&self, spec: &SourceSpec, model: &Model) -> Result<Arc<dyn ImageSource>, Failure> {
        let source = data::open(spec, &model.image_options()?).map_err(Failure::input)?;
        image_count::at_most("--n", self.args.n.get() as u64, spec, &*source)?;
        if self.args.fid && self.args.reference_n.is_none() {
            image_count::or_all("--reference-n", None, spec, &*source)?;
        }
        Ok(source)
    }

    fn stopped(&self, signals: &Signals) -> Failure {
        let json = json!({ "status": "stopped", "out": self.args.out });
        Failure::stopped(signals.exit_status(), "stopped; nothing is written", json)
    }

    fn draw(&self, model: &mut Model, signals: &Signals, quiet: bool) -> Result<Drawn, Failure> {
        let (n, batch, len) = (self.args.n.get(), self.args.features.batch.get(), self.image.len());
        let steps = self.taken.timesteps();
        let total = n.div_ceil(batch) * steps + self.shared.iter().sum::<usize>();
        let mut progress = Progress::new("sampling", 0, total as u64, quiet);
        let mut done = 0;
        let mut step = |sampler: &mut dyn Sampler| -> Result<bool, Failure> {
            if signals.stopped() {
                progress.finish();
                return Err(self.stopped(signals));
            }
            let more = sampler.step(&mut model.denoiser).map_err(Failure::work)?.is_some();
            done += u64::from(more);
            progress.update(done, "");
            Ok(more)
        };
        let mut frames = vec![Vec::with_capacity(n * len); self.frames.len()];
        let mut shared = Vec::new();
        for first in (0..n).step_by(batch) {
            let samples = batch.min(n - first);
            let sampler = self.sampling.sampler(&self.process, self.image, self.seed, first as u64, samples);
            let mut sampler = sampler.map_err(Failure::input)?;
            loop {
                let left = sampler.chain().steps_left();
                if first == 0 && self.shared.contains(&left) {
                    let branch = branches(self.sampling.kind, sampler.chain(), 0, 0, self.args.shared_n);
                    shared.push(branch.map_err(Failure::input)?);
                }
                if !step(sampler.as_mut())? {
                    break;
                }
                let left = sampler.chain().steps_left();
                if let Some(frame) = self.frames.iter().position(|&at| at == left) {
                    frames[frame].extend(to_bytes(sampler.chain().pred_xstart()));
                }
            }
        }
        let mut rows = Vec::new();
        for mut sampler in shared {
            let mut row = to_bytes(&sampler.chain().x_t()[..len]);
            while step(sampler.as_mut())? {}
            row.extend(to_bytes(sampler.chain().x_t()));
            rows.push(row);
        }
        progress.finish();
        Ok(Drawn { frames, shared: rows })
    }

    /// The error of x̂0 on real images, frame by frame.
    fn errors_on_data(
        &self,
        model: &mut Model,
        source: &dyn ImageSource,
        signals: &Signals,
        quiet: bool,
    ) -> Result<Vec<Estimate>, Failure> {
        let (n, batch, len) = (self.args.n.get(), self.args.features.batch.get(), self.image.len());
        let total = (self.frames.len() * n.div_ceil(batch)) as u64;
        let mut progress = Progress::new("real images", 0, total, quiet);
        let mut means = vec![RunningMean::default(); self.frames.len()];
        let mut done = 0;
        for first in (0..n).step_by(batch) {
            let mut pixels = vec![0; batch.min(n - first) * len];
            for (number, pixels) in (first as u64..).zip(pixels.chunks_exact_mut(len)) {
                source.read(number, pixels).map_err(Failure::input)?;
            }
            let x_start = from_bytes(&pixels);
            for (frame, mean) in means.iter_mut().enumerate() {
                if signals.stopped() {
                    progress.finish();
                    return Err(self.stopped(signals));
                }
                let t = vec![self.t_of(frame) - 1; pixels.len() / len];
                let noise = noise::forward_noise(self.seed, first as u64, &t, len);
                let x_t = self.process.q_sample(&x_start, &t, &noise);
                let terms = self
                    .process
                    .bound_term(&mut model.denoiser, &x_start, &x_t, &t, NormalCdf::Tanh)
                    .map_err(Failure::work)?;
                terms.iter().for_each(|term| mean.add(term.xstart_mse));
                done += 1;
                progress.update(done, "");
            }
        }
        progress.finish();
        Ok(means.iter().map(|mean| mean.estimate().root().times(PIXEL_VALUES_PER_UNIT)).collect())
    }

    fn write(&self, drawn: &Drawn) -> Result<(), Failure> {
        let len = self.image.len();
        let folder = ImageFolder::create(&self.args.out, 0)?;
        let n = self.args.n.get();
        let of_sample =
            |sample: usize| drawn.frames.iter().flat_map(move |frame| &frame[sample * len..][..len]);
        let strip: Vec<u8> = (0..n.min(STRIP_SAMPLES)).flat_map(of_sample).copied().collect();
        folder.write_picture("strip.png", &grid::rows(&strip, self.image, drawn.frames.len()))?;
        let animated = n.min(ANIMATED_SAMPLES) * len;
        let pictures: Vec<Picture> =
            drawn.frames.iter().map(|frame| grid::grid(&frame[..animated], self.image)).collect();
        let animation = animated_png(&pictures).map_err(Failure::work)?;
        write_whole(&self.args.out.join("animation.png"), &animation)?;
        if !drawn.shared.is_empty() {
            let columns = self.args.shared_n + 1;
            folder.write_picture("shared.png", &grid::rows(&drawn.shared.concat(), self.image, columns))?;
        }
        Ok(())
    }
}
