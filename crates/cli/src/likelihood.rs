//! `ddpm likelihood`: bits/dim by the variational bound.

use crate::Global;
use crate::failure::Failure;
use crate::model::{self, Model, ModelArgs};
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use clap::ValueEnum;
use data::{ImageOptions, ImageSource, SourceSpec};
use diffusion::{Denoiser, NormalCdf};
use eval::likelihood::{
    Gap, IMAGES_HEADER, Identity, LikelihoodReport, Measurement, MeasurementError, SetReport, Strata,
    Summary, TermFile, TermFileError, image_line,
};
use serde_json::json;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Measure a model's likelihood: bits/dim, rate and distortion
///
/// Evaluates the variational bound on images: all T terms of each image with fresh noise for each, or with --terms an
/// unbiased choice of them. Every number comes with a 95 % confidence interval. Results are the same bits for any batch
/// and number of threads. Stopped, it goes on when called again with the same --out; with a larger --n it adds images.
///
/// Writes into the folder --out: likelihood.json, a table by t and one of images for each set (test.csv,
/// test.images.csv), rate_distortion.svg and .png (Fig. 5 of the paper), and test.terms, from which it goes on.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm likelihood runs/digits --data mnist:DIR --n 500 --terms 50    a quick look, train and test
  ddpm likelihood runs/cifar10 --data cifar10:DIR:test              the published protocol: every image and term
  ddpm likelihood runs/mine --data images:NEW --train-data images:OLD --n 1000 --terms 100

An image costs as many calls of the network as there are terms.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Images to measure. Of a data set with splits, if none is named, both are measured, and their difference
    #[arg(long, value_name = "SRC")]
    data: SourceSpec,

    /// Images that the model was trained on, to compare with where --data has no splits
    #[arg(long, value_name = "SRC")]
    train_data: Option<SourceSpec>,

    /// Images to measure of each set, a random choice that depends on the seed [default: all]
    #[arg(long, value_name = "COUNT")]
    n: Option<NonZeroU64>,

    /// Terms to evaluate of each image, 3 to the model's T [default: T, the full bound]
    #[arg(long, value_name = "K")]
    terms: Option<usize>,

    /// The cumulative distribution function of the decoder
    #[arg(long, value_enum, default_value_t = DecoderName::Tanh)]
    decoder: DecoderName,

    /// Folder for the results [default: likelihood/ and the weights' name in a run's directory; else required]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Calls of the network made at once, at least 1: more take more memory
    #[arg(long, value_name = "B", default_value = "16")]
    batch: NonZeroUsize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum DecoderName {
    /// The original code's approximation, which published figures use
    Tanh,
    /// Exact
    Erf,
}

/// A set of images to measure.
struct Set {
    name: &'static str,
    source: std::sync::Arc<dyn ImageSource>,
    images: u64,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let mut model = model::open(&args.model, args.batch.get(), global.cpu())?;
    let process = model.process()?;
    let terms = args.terms.unwrap_or(process.timesteps());
    let strata = Strata::new(&process, terms).map_err(|error| Failure::input(format!("--terms: {error}")))?;
    let sets = args.sets(&model)?;
    let out = args.out_folder(&model)?;
    std::fs::create_dir_all(&out)
        .map_err(|error| Failure::input(format!("{}: cannot make the folder: {error}", out.display())))?;

    let shape = model.denoiser.image_shape();
    let seed = global.seed.unwrap_or(0);
    let cdf = match args.decoder {
        DecoderName::Tanh => NormalCdf::Tanh,
        DecoderName::Erf => NormalCdf::Erf,
    };
    let diffusion = model.stored.diffusion.clone().unwrap_or_default();
    let identity = |set: &Set| Identity {
        model: model.fingerprint.clone(),
        diffusion: diffusion.clone(),
        data: set.source.description(),
        data_images: set.source.len(),
        image: [shape.height, shape.width, shape.channels],
        decoder_cdf: cdf,
        terms,
        seed,
        convolutions: global.conv.name().into(),
    };
    // All that can be wrong with the call is found before anything is measured.
    let mut files = Vec::new();
    for set in &sets {
        let path = out.join(format!("{}.terms", set.name));
        files.push(TermFile::open(&path, &identity(set)).map_err(term_failure)?);
    }
    let facts = model.facts();
    let mut reports = Vec::new();
    for (set, file) in sets.iter().zip(&mut files) {
        let mut measurement = Measurement::new(&process, &strata, set.source.as_ref(), shape, cdf, seed)
            .map_err(|error| Failure::input(format!("{}: {error}", set.source.description())))?;
        let (mut progress, mut first, start) = (None, None, Instant::now());
        let mut done = 0;
        let finished = measurement.run(
            &mut model.denoiser,
            set.images,
            args.batch.get(),
            file,
            signals.stop(),
            &mut |now, total| {
                first.get_or_insert(now);
                done = now;
                let progress =
                    progress.get_or_insert_with(|| Progress::new(set.name, now, total, global.quiet));
                progress.update(now, &format!("{}/{} images", now / terms as u64, set.images));
            },
        );
        if let Some(progress) = progress {
            progress.finish();
        }
        if !finished.map_err(measurement_failure)? {
            return Err(stopped(&signals, set, done / terms as u64, &out));
        }
        let measured = done - first.unwrap_or(done);
        let seconds_per_image =
            (measured > 0).then(|| start.elapsed().as_secs_f64() / measured as f64 * terms as f64);
        let mut table = IMAGES_HEADER.to_owned();
        let summary = Summary::of(
            file,
            &strata,
            seed,
            set.images,
            |place| measurement.image(place),
            |image, bound| table.push_str(&image_line(image, bound)),
        )
        .map_err(term_failure)?;
        crate::image_files::write_whole(&out.join(format!("{}.images.csv", set.name)), table.as_bytes())?;
        reports.push(SetReport {
            name: set.name.into(),
            data: set.source.description(),
            data_images: (!set.source.is_endless()).then(|| set.source.len()),
            seconds_per_image,
            summary,
        });
    }
    let report = LikelihoodReport {
        model: facts,
        diffusion,
        decoder_cdf: cdf,
        seed,
        convolutions: global.conv.name().into(),
        gap: Gap::between(&reports),
        sets: reports,
    };
    report.write(&out).map_err(Failure::work)?;
    told(&report, &out)
}

fn told(report: &LikelihoodReport, out: &Path) -> Result<Report, Failure> {
    let mut json = serde_json::to_value(report).map_err(Failure::work)?;
    // The tables by t are in the files.
    for set in json["sets"].as_array_mut().into_iter().flatten() {
        if let Some(summary) = set["summary"].as_object_mut() {
            summary.remove("steps");
        }
    }
    json["status"] = json!("finished");
    json["out"] = json!(out);
    let words = format!("{}\ntables and figures are in {}", report.words(), out.display());
    Ok(Report::new(words, json))
}

impl Args {
    /// The sets of images asked for, train before test.
    fn sets(&self, model: &Model) -> Result<Vec<Set>, Failure> {
        let mut specs: Vec<(&'static str, SourceSpec)> = match self.data.splits().as_slice() {
            [train, test] => vec![("train", train.clone()), ("test", test.clone())],
            _ => vec![(self.data.split_name().unwrap_or("data"), self.data.clone())],
        };
        if let Some(train) = &self.train_data {
            if specs.len() > 1 || specs[0].0 == "train" {
                let problem =
                    format!("--train-data: {} means training images already; name its :test", self.data);
                return Err(Failure::input(problem));
            }
            specs.insert(0, ("train", train.clone()));
        }
        specs.into_iter().map(|(name, spec)| self.set(name, &spec, model)).collect()
    }

    fn set(&self, name: &'static str, spec: &SourceSpec, model: &Model) -> Result<Set, Failure> {
        let shape = model.denoiser.image_shape();
        let options = ImageOptions {
            size: Some(shape.height),
            channels: Some(shape.channels),
            ..ImageOptions::default()
        };
        let source = data::open(spec, &options).map_err(Failure::input)?;
        let images = match (self.n.map(NonZeroU64::get), source.is_endless()) {
            (Some(n), false) if n > source.len() => {
                let problem = format!("--n {n}: {spec} has only {} images", source.len());
                return Err(Failure::input(problem));
            }
            (Some(n), _) => n,
            (None, false) => source.len(),
            (None, true) => {
                return Err(Failure::input(format!("{spec} has no end: say how many images by --n")));
            }
        };
        Ok(Set { name, source, images })
    }

    fn out_folder(&self, model: &Model) -> Result<PathBuf, Failure> {
        match (&self.out, &model.run) {
            (Some(out), _) => Ok(out.clone()),
            (None, Some(run)) => Ok(run.join("likelihood").join(model.weights_slug())),
            (None, None) => {
                Err(Failure::input("the model is not a run's directory: say where to write by --out DIR"))
            }
        }
    }
}

fn stopped(signals: &Signals, set: &Set, images: u64, out: &Path) -> Failure {
    let message = format!(
        "stopped; {images} of {} images of {} are measured, in {}; call it again to go on",
        set.images,
        set.name,
        out.display()
    );
    let json = json!({ "status": "stopped", "out": out, "set": set.name, "images": images });
    Failure::stopped(signals.exit_status(), message, json)
}

fn term_failure(error: TermFileError) -> Failure {
    match error.is_input() {
        true => Failure::input(error),
        false => Failure::work(error),
    }
}

fn measurement_failure(error: MeasurementError) -> Failure {
    match error {
        MeasurementError::Data(error) => Failure::input(error),
        MeasurementError::Terms(error) => term_failure(error),
        other => Failure::work(other),
    }
}
