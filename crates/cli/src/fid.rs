//! `ddpm fid`: how far two sets of images are apart.

use crate::Global;
use crate::failure::Failure;
use crate::feature_args::{FeatureArgs, INPUTS, ImagesArgs, SamplingArgs, SetArgs};
use crate::measured::{self, MeasuredSet, Measuring};
use crate::report::Report;
use crate::signals::Signals;
use eval::Statistics;
use eval::frechet::frechet_distance;
use eval::kid::{Kid, KidOptions, kernel_distance};
use eval::precision_recall::{NEIGHBOURS, PrecisionRecall, precision_recall};
use serde_json::{Value, json};
use std::num::{NonZeroU64, NonZeroUsize};

/// Measure how far two sets of images are apart: FID, and KID, precision and recall
///
/// The lower FID and KID, the more alike. A figure means something beside others of the same number of
/// images, reference, resize and Inception weights only; all of these are reported with it.
#[derive(clap::Args, Debug)]
#[command(after_long_help = after_help())]
pub struct Args {
    /// The generated images, or their statistics
    #[arg(value_name = "SET")]
    first: String,

    /// The reference: real images, or their statistics
    #[arg(value_name = "REFERENCE")]
    second: String,

    #[command(flatten)]
    images: ImagesArgs,

    /// Take REFERENCE's first COUNT images [default: all; of a model 50000]
    #[arg(long, value_name = "COUNT")]
    reference_n: Option<NonZeroU64>,

    /// Also the Kernel Inception Distance, which is unbiased for few images
    #[arg(long)]
    kid: bool,

    /// Random subsets that KID is averaged over
    #[arg(long, value_name = "COUNT", default_value = "100")]
    kid_subsets: NonZeroUsize,

    /// Images of each set in a subset, at least 2
    #[arg(long, value_name = "COUNT", default_value = "1000")]
    kid_subset_size: NonZeroUsize,

    /// Also precision and recall: takes time in proportion to the square of the number of images
    #[arg(long)]
    precision_recall: bool,

    /// The neighbour that precision's and recall's neighbourhoods reach to
    #[arg(long, value_name = "K", default_value_t = NEIGHBOURS as u8, value_parser = clap::value_parser!(u8).range(1..))]
    neighbourhood: u8,

    #[command(flatten)]
    features: FeatureArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

fn after_help() -> String {
    format!(
        "Examples:
  ddpm fid runs/cifar10 cifar10:DIR:train --n 50000        the published protocol
  ddpm fid samples.npz cifar10-train.npz                   drawn images against statistics of ddpm stats
  ddpm fid new photos --kid --precision-recall             two folders of image files
  ddpm fid a b --resize clean                              as clean-fid has it

{INPUTS}"
    )
}

/// One side: its statistics, and its features where it is no statistics file.
struct Side {
    statistics: Statistics,
    set: Option<MeasuredSet>,
}

impl Side {
    fn rows(&self, input: &str, what: &str) -> Result<Vec<f32>, Failure> {
        let set = self.set.as_ref().ok_or_else(|| {
            Failure::input(format!(
                "{input}: {what} needs the images; a statistics file has only their mean and covariance"
            ))
        })?;
        set.rows().map_err(measured::failure)
    }
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let dims = args.features.dims.dims();
    let files = [&args.first, &args.second].map(|input| measured::statistics_file(input));
    let [first, second] = files;
    let (first, second) = (first?, second?);
    // What cannot be is found before hours of work.
    for (input, file) in [(&args.first, &first), (&args.second, &second)] {
        if let Some(file) = file
            && file.dims() != dims
            && (first.is_none() || second.is_none())
        {
            let problem =
                format!("{input}: statistics of {} features; add --dims {}", file.dims(), file.dims());
            return Err(Failure::input(problem));
        }
        if file.is_some() && (args.kid || args.precision_recall) {
            let problem = "KID, precision and recall need the images; a statistics file has only their mean and covariance";
            return Err(Failure::input(format!("{input}: {problem}")));
        }
    }
    let sets = [(&args.first, &first), (&args.second, &second)];
    let inputs: Vec<&str> =
        sets.iter().filter(|(_, file)| file.is_none()).map(|(input, _)| input.as_str()).collect();
    let mut measuring = match inputs[..] {
        [] => None,
        _ => Some(Measuring::new(&args.features, &args.sampling, global, &signals)?.beside_models(&inputs)?),
    };
    let mut side = |input, count, file: Option<Statistics>| -> Result<Side, Failure> {
        match (file, &mut measuring) {
            (None, Some(measuring)) => {
                let set = measuring.measure(SetArgs { count, ..args.images.set(input) })?;
                let statistics = set.statistics().map_err(measured::failure)?;
                Ok(Side { statistics, set: Some(set) })
            }
            (Some(statistics), _) => Ok(Side { statistics, set: None }),
            (None, None) => Err(Failure::work("a set of images without a network to measure it")),
        }
    };
    let first = side(&args.first, args.images.n, first)?;
    let second = side(&args.second, args.reference_n, second)?;
    let abouts = [&first, &second].map(|side| side.statistics.about.as_ref());
    if let [Some(about), Some(other)] = abouts {
        about.check_comparable(other).map_err(measured::failure)?;
    }
    measured::note_unlike_sizes(abouts, global.quiet);
    measured::note_few_images(abouts, global.quiet);
    let fid = frechet_distance(&first.statistics, &second.statistics).map_err(measured::failure)?;
    let kid = args.kid(&first, &second, global.seed.unwrap_or(0))?;
    let both = args.precision_recall(&first, &second)?;
    Ok(args.report(fid, kid, both, [&first, &second], global.seed.unwrap_or(0)))
}

impl Args {
    fn kid(&self, first: &Side, second: &Side, seed: u64) -> Result<Option<Kid>, Failure> {
        if !self.kid {
            return Ok(None);
        }
        let (rows, others) = (first.rows(&self.first, "KID")?, second.rows(&self.second, "KID")?);
        let options =
            KidOptions { subsets: self.kid_subsets.get(), subset_size: self.kid_subset_size.get(), seed };
        let kid = kernel_distance(&rows, &others, self.features.dims.dims(), &options);
        kid.map(Some).map_err(measured::failure)
    }

    fn precision_recall(&self, first: &Side, second: &Side) -> Result<Option<PrecisionRecall>, Failure> {
        if !self.precision_recall {
            return Ok(None);
        }
        let what = "precision and recall";
        let (rows, others) = (first.rows(&self.first, what)?, second.rows(&self.second, what)?);
        let both = precision_recall(&rows, &others, self.features.dims.dims(), self.neighbourhood.into());
        both.map(Some).map_err(measured::failure)
    }

    fn report(
        &self,
        fid: f64,
        kid: Option<Kid>,
        both: Option<PrecisionRecall>,
        sides: [&Side; 2],
        seed: u64,
    ) -> Report {
        let abouts = sides.map(|side| side.statistics.about.as_ref());
        let about = abouts.into_iter().flatten().next();
        let settings = match about {
            Some(about) => measured::settings_words(about),
            None => format!(
                "{} features, whose network and resize the files do not say",
                sides[0].statistics.dims()
            ),
        };
        let mut words = format!("FID {fid:.4}\n");
        let (mut kid_json, mut both_json) = (Value::Null, Value::Null);
        if let Some(Kid { mean, std, subsets, subset_size }) = kid {
            words.push_str(&match subsets {
                1 => format!("KID {mean:.6} (all {subset_size} images of both sets)\n"),
                _ => format!("KID {mean:.6} ± {std:.6} ({subsets} subsets of {subset_size}, seed {seed})\n"),
            });
            kid_json = json!({
                "mean": mean, "std": std, "subsets": subsets, "subset_size": subset_size, "seed": seed,
            });
        }
        if let Some(PrecisionRecall { precision, recall }) = both {
            let k = self.neighbourhood;
            words.push_str(&format!("precision {precision:.4}, recall {recall:.4} (k = {k})\n"));
            both_json = json!({ "precision": precision, "recall": recall, "k": k });
        }
        words.push_str(&format!(
            "  of        {}\n  against   {}\n  {settings}",
            measured::side_words(abouts[0], &self.first),
            measured::side_words(abouts[1], &self.second),
        ));
        let json = json!({
            "status": "finished", "fid": fid, "kid": kid_json, "precision_recall": both_json,
            "dims": sides[0].statistics.dims(),
            "resize": about.map(|about| about.resize), "inception_sha256": about.map(|about| &about.inception_sha256),
            "set": measured::side_json(abouts[0], &self.first),
            "reference": measured::side_json(abouts[1], &self.second),
        });
        Report::new(words, json)
    }
}
