//! `ddpm stats`: the mean and covariance of a set's features, to compare with later.

use crate::Global;
use crate::failure::Failure;
use crate::feature_args::{FeatureArgs, INPUTS, ImagesArgs, SamplingArgs};
use crate::image_files::check_file_place;
use crate::measured::{self, Measuring};
use crate::report::Report;
use crate::signals::Signals;
use serde_json::json;
use std::path::PathBuf;

/// Write the statistics that FID compares: mean and covariance of Inception features
///
/// The file is an .npz with mu and sigma, as pytorch-fid and TTUR read and write it, and what they are of.
#[derive(clap::Args, Debug)]
#[command(after_long_help = after_help())]
pub struct Args {
    /// The set of images
    #[arg(value_name = "SET")]
    input: String,

    /// The file to write; replaced if it is there
    #[arg(long, value_name = "FILE.npz")]
    out: PathBuf,

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
  ddpm stats cifar10:DIR:train --out cifar10-train.npz       what published CIFAR-10 figures compare with
  ddpm stats images:photos --image-size 256 --out photos.npz

{INPUTS}"
    )
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    if measured::statistics_file(&args.input)?.is_some() {
        return Err(Failure::input(format!("{}: is a statistics file already; give images", args.input)));
    }
    check_file_place(&args.out, "--out")?;
    let signals = Signals::watch().map_err(Failure::work)?;
    let mut measuring = Measuring::new(&args.features, &args.sampling, global, &signals)?;
    let set = measuring.measure(args.images.set(&args.input))?;
    let statistics = set.statistics().map_err(measured::failure)?;
    statistics.write(&args.out).map_err(measured::failure)?;
    let about = &set.about;
    let words = format!(
        "mean and covariance in {}\n  of {}\n  {}",
        args.out.display(),
        measured::side_words(Some(about), &args.input),
        measured::settings_words(about),
    );
    let json = json!({ "status": "finished", "out": args.out, "about": about });
    Ok(Report::new(words, json))
}
