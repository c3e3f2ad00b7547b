//! `ddpm inception-score`.

use crate::Global;
use crate::failure::Failure;
use crate::feature_args::{FeatureArgs, INPUTS, ImagesArgs, SamplingArgs};
use crate::measured::{self, Measuring};
use crate::report::Report;
use crate::signals::Signals;
use eval::inception_score::SPLITS;
use models::inception::{CLASSES, Tap};
use serde_json::json;
use std::num::NonZeroUsize;

/// Measure the Inception Score of a set of images: how certain and how varied its classes are
///
/// As openai's code computes it: the network's 1008 outputs without their bias, consecutive parts, mean and
/// deviation over the parts. The higher the better; CIFAR-10's training images have 11.24.
#[derive(clap::Args, Debug)]
#[command(after_long_help = after_help())]
pub struct Args {
    /// The set of images
    #[arg(value_name = "SET")]
    input: String,

    /// Parts that the score is averaged over, from 1 to the number of images
    #[arg(long, value_name = "COUNT", default_value_t = NonZeroUsize::new(SPLITS).unwrap_or(NonZeroUsize::MIN))]
    splits: NonZeroUsize,

    #[command(flatten)]
    images: ImagesArgs,

    #[command(flatten)]
    features: FeatureArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

fn after_help() -> String {
    format!(
        "Examples:
  ddpm inception-score runs/cifar10 --n 50000
  ddpm inception-score cifar10:DIR:train                   what real images score

{INPUTS}"
    )
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    if measured::statistics_file(&args.input)?.is_some() {
        let problem = "a statistics file; the Inception Score needs the images";
        return Err(Failure::input(format!("{}: {problem}", args.input)));
    }
    if args.features.dims != Tap::Pool3 {
        return Err(Failure::input("--dims: the Inception Score is made from the 2048 features"));
    }
    let signals = Signals::watch().map_err(Failure::work)?;
    let mut measuring = Measuring::new(&args.features, &args.sampling, global, &signals)?;
    // Before the features of all images: weights without a classifier are refused at once.
    measuring.open_classifier()?;
    let set = measuring.measure(args.images.set(&args.input))?;
    let score = measuring.inception_score(&set, args.splits.get())?;
    let words = format!(
        "Inception Score {:.4} ± {:.4} ({} parts)\n  of {}\n  {}, 1008 outputs",
        score.mean,
        score.std,
        args.splits,
        measured::side_words(Some(&set.about), &args.input),
        measured::settings_words(&set.about),
    );
    let json = json!({
        "status": "finished", "inception_score": score.mean, "std": score.std, "splits": score.splits,
        "classes": CLASSES, "set": measured::side_json(Some(&set.about), &args.input),
    });
    Ok(Report::new(words, json))
}
