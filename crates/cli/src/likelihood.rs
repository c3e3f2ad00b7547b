//! `ddpm likelihood`: bits/dim by the variational bound.

use crate::Global;
use crate::failure::Failure;
use crate::image_count;
use crate::model::{self, Model, ModelArgs};
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use clap::ValueEnum;
use data::SourceSpec;
use diffusion::{Denoiser, NormalCdf};
use eval::likelihood::{ImageGroup, LikelihoodError, LikelihoodJob, LikelihoodReport};
use serde_json::json;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

/// Measure a model's likelihood: bits/dim, rate and distortion
///
/// Evaluates the variational bound on images: all T terms of each image with fresh noise for each, or with
/// --terms an unbiased choice of them. Every number comes with a 95 % confidence interval. Results are the
/// same bits for any batch and number of threads. Stopped, it goes on when called again with the same --out;
/// with a larger --n it adds images.
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

impl From<DecoderName> for NormalCdf {
    fn from(name: DecoderName) -> Self {
        match name {
            DecoderName::Tanh => Self::Tanh,
            DecoderName::Erf => Self::Erf,
        }
    }
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let mut model = model::open(&args.model, args.batch.get(), global.hardware())?;
    model.process()?;
    let sets = args.sets(&model)?;
    let out = args.out_folder(&model)?;
    let job = LikelihoodJob {
        model: model.facts(),
        diffusion: model.stored.diffusion.clone().unwrap_or_default(),
        terms: args.terms,
        decoder_cdf: args.decoder.into(),
        seed: global.seed.unwrap_or(0),
        convolutions: global.convolutions().into(),
        batch: args.batch.get(),
    };
    match measure(&job, &mut model.denoiser, &sets, &out, &signals, global.quiet)? {
        Measured::All(report) => told(&report, &out),
        Measured::Diverged(problem) => Err(Failure::work(problem)),
        Measured::Stopped { set, images, of } => {
            let message = format!(
                "stopped; {images} of {of} images of {set} are measured, in {}; call it again to go on",
                out.display()
            );
            let json = json!({ "status": "stopped", "out": out, "set": set, "images": images });
            Err(Failure::stopped(signals.exit_status(), message, json))
        }
    }
}

/// How a measurement ended.
pub enum Measured {
    /// With all images measured.
    All(Box<LikelihoodReport>),
    /// With a number that is not finite: the training diverged.
    Diverged(String),
    /// By a signal, in this set after so many images.
    Stopped { set: String, images: u64, of: u64 },
}

/// Measures likelihood, showing how it goes.
///
/// # Errors
/// If the call or the input was wrong, or the work failed.
pub fn measure(
    job: &LikelihoodJob,
    denoiser: &mut dyn Denoiser,
    sets: &[ImageGroup],
    out: &Path,
    signals: &Signals,
    quiet: bool,
) -> Result<Measured, Failure> {
    let mut shown: Option<(String, Progress)> = None;
    let mut last = ("".to_owned(), 0, 0);
    let finished = job.run(denoiser, sets, out, signals.stop(), &mut |now| {
        if shown.as_ref().is_none_or(|(set, _)| set != now.set) {
            if let Some((_, progress)) = &shown {
                progress.finish();
            }
            shown = Some((now.set.to_owned(), Progress::new(now.set, now.terms, now.all_terms, quiet)));
        }
        if let Some((_, progress)) = &mut shown {
            progress.update(now.terms, &format!("{}/{} images", now.images, now.all_images));
        }
        last = (now.set.to_owned(), now.images, now.all_images);
    });
    if let Some((_, progress)) = &shown {
        progress.finish();
    }
    match finished {
        Ok(Some(report)) => Ok(Measured::All(Box::new(report))),
        Ok(None) => {
            let (set, images, of) = last;
            Ok(Measured::Stopped { set, images, of })
        }
        Err(error) if error.is_divergence() => Ok(Measured::Diverged(error.to_string())),
        Err(error) => Err(failure(error)),
    }
}

/// What a command ends with when likelihood cannot be measured.
pub fn failure(error: LikelihoodError) -> Failure {
    match error.is_input() {
        true => Failure::input(error),
        false => Failure::work(error),
    }
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
    fn sets(&self, model: &Model) -> Result<Vec<ImageGroup>, Failure> {
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

    fn set(&self, name: &str, spec: &SourceSpec, model: &Model) -> Result<ImageGroup, Failure> {
        let options = model.image_options()?;
        let source = data::open(spec, &options).map_err(Failure::input)?;
        let images = image_count::or_all("--n", self.n.map(NonZeroU64::get), spec, &*source)?;
        Ok(ImageGroup { name: name.into(), source, images })
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
