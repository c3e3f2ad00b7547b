//! `ddpm evaluate`: FID, Inception Score and likelihood in one report.

use crate::Global;
use crate::failure::Failure;
use crate::feature_args::{FeatureArgs, ResizeName, SamplingArgs, SetArgs};
use crate::image_count;
use crate::likelihood::{self, Measured, measure};
use crate::measured::{self, Measuring};
use crate::model;
use crate::progress;
use crate::report::Report;
use crate::signals::Signals;
use clap::ValueEnum;
use data::SourceSpec;
use diffusion::NormalCdf;
use eval::ResizeMode;
use eval::evaluation_report::{EvaluationReport, QualityMeasure};
use eval::frechet::frechet_distance;
use eval::image_set::Unreadable;
use eval::inception_score::SPLITS;
use eval::likelihood::{ImageGroup, LikelihoodJob};
use models::inception::Tap;
use serde_json::json;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// Measure a model as the paper does: FID, Inception Score, likelihood
///
/// Draws samples and compares them with the training and the test images, and evaluates the bound on both.
/// Samples' features and terms of the bound are kept: stopped, it goes on when called again. Terms of other
/// settings (a quick look's --terms, another --seed) are kept apart, in likelihood folders that end in -2 and
/// so on. ddpm report shows the result of a run.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm evaluate runs/cifar10 --data cifar10:DIR --protocol paper           as published: days on a CPU
  ddpm evaluate runs/digits --data mnist:DIR --sampler ddim --steps 50     a first look
  ddpm evaluate runs/digits --data mnist:DIR --n 5000 --dims 768

--protocol paper: 50000 samples by all T steps, FID against all training and all test images, the Inception Score in 10 parts, all
terms of the bound on all images. quick: 1000 samples against the first 5000 images of each set, 200 images of each by 50 terms.
--n, --reference-n, --likelihood-n and --terms change the parts, and so do the options of samples and features; what was changed is
told with the protocol.

Figures published from 2017 to 2020, the paper's among them, were computed with TensorFlow 1, whose way of resizing is --resize
torch-fidelity: give that to compare with them. The protocol leaves the default, pytorch-fid.")]
pub struct Args {
    /// A run directory (its last checkpoint), a checkpoint, or a directory in diffusers' layout
    model: PathBuf,

    /// The images it was trained on. Of a data set with splits, if none is named, both are compared with
    #[arg(long, value_name = "SRC")]
    data: SourceSpec,

    /// How much is measured
    #[arg(long, value_enum, default_value_t = Protocol::Quick)]
    protocol: Protocol,

    /// Samples to draw, at least 2 [default: the protocol's]
    #[arg(long, value_name = "COUNT")]
    n: Option<NonZeroU64>,

    /// Images of each set that samples are compared with, the first ones [default: the protocol's]
    #[arg(long, value_name = "COUNT")]
    reference_n: Option<NonZeroU64>,

    /// Images of each set whose likelihood is measured [default: the protocol's]
    #[arg(long, value_name = "COUNT")]
    likelihood_n: Option<NonZeroU64>,

    /// Terms of the bound evaluated of each, 3 to T [default: the protocol's]
    #[arg(long, value_name = "K")]
    terms: Option<usize>,

    /// Folder for the results [default: a run's directory, in evaluation/ and likelihood/; else required]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    #[command(flatten)]
    features: FeatureArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Protocol {
    /// What published figures have
    Paper,
    /// Minutes for a small model
    Quick,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Quick => "quick",
        }
    }

    fn samples(self) -> u64 {
        match self {
            Self::Paper => 50_000,
            Self::Quick => 1000,
        }
    }

    /// Images of a set that samples are compared with; `None`: all.
    fn reference_images(self) -> Option<NonZeroU64> {
        match self {
            Self::Paper => None,
            Self::Quick => NonZeroU64::new(5000),
        }
    }

    /// Images of a set of `all` (none: without end) whose likelihood is measured.
    fn likelihood_images(self, all: Option<u64>) -> u64 {
        match (self, all) {
            (Self::Paper, Some(all)) => all,
            (Self::Paper, None) => 10_000,
            (Self::Quick, all) => all.unwrap_or(u64::MAX).min(200),
        }
    }

    fn terms(self, timesteps: usize) -> usize {
        match self {
            Self::Paper => timesteps,
            Self::Quick => timesteps.min(50),
        }
    }
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let batch = args.features.batch.get();
    let mut model = model::open_at(&args.model, args.sampling.weights(), batch, global.hardware())?;
    let process = model.process()?;
    let (quality_out, likelihood_out) = match (&args.out, &model.run) {
        (Some(out), _) => (out.clone(), out.join("likelihood")),
        (None, Some(run)) => {
            let slug = model.weights_slug();
            (run.join("evaluation").join(&slug), run.join("likelihood").join(&slug))
        }
        (None, None) => {
            let problem = "the model is not a run's directory: say where to write by --out DIR";
            return Err(Failure::input(problem));
        }
    };
    let specs = args.data.splits();
    let (mut sets, mut likelihood_images) = (Vec::new(), Vec::new());
    let options = model.image_options()?;
    for spec in &specs {
        let source = data::open(spec, &options).map_err(Failure::input)?;
        let all = image_count::available(&*source);
        let own = args.protocol.likelihood_images(all);
        likelihood_images.push(own);
        let images = args.likelihood_n.map_or(own, NonZeroU64::get);
        let images = image_count::at_most("--likelihood-n", images, spec, &*source)?;
        sets.push(ImageGroup { name: spec.split_name().unwrap_or("data").into(), source, images });
    }

    let protocol = args.protocol_words(process.timesteps(), &likelihood_images)?;

    // The network of features first: if it is missing, that is known before hours of work.
    let input = args.model.to_string_lossy();
    let measuring = Measuring::new(&args.features, &args.sampling, global, &signals)?;
    let mut measuring = measuring.beside_models(&[&input])?;
    if args.features.dims == Tap::Pool3 {
        measuring.open_classifier()?;
    }
    let job = LikelihoodJob {
        model: model.facts(),
        diffusion: model.stored.diffusion.clone().unwrap_or_default(),
        terms: Some(args.terms.unwrap_or_else(|| args.protocol.terms(process.timesteps()))),
        decoder_cdf: NormalCdf::Tanh,
        seed: global.seed.unwrap_or(0),
        convolutions: global.convolutions().into(),
        batch,
    };
    // Nor can what is in the way of the likelihood wait: terms of a quick look stay, beside those of the whole.
    let likelihood_out = job.folder(&model.denoiser, &sets, &likelihood_out).map_err(likelihood::failure)?;
    let quality = args.quality(&mut measuring, &specs, global.quiet)?;

    let measured = measure(&job, &mut model.denoiser, &sets, &likelihood_out, &signals, global.quiet)?;
    let likelihood = match measured {
        Measured::All(report) => *report,
        Measured::Diverged(problem) => return Err(Failure::work(problem)),
        Measured::Stopped { set, images, of } => {
            let message =
                format!("stopped; {images} of {of} images of {set} are measured; call again to go on");
            let json = json!({ "status": "stopped", "set": set, "images": images });
            return Err(Failure::stopped(signals.exit_status(), message, json));
        }
    };
    let report = EvaluationReport { protocol, model: model.facts(), quality, likelihood };
    let path = report.write(&quality_out).map_err(Failure::work)?;
    let mut json = serde_json::to_value(&report).map_err(Failure::work)?;
    // The tables by t are in the files.
    for set in json["likelihood"]["sets"].as_array_mut().into_iter().flatten() {
        if let Some(summary) = set["summary"].as_object_mut() {
            summary.remove("steps");
        }
    }
    json["status"] = json!("finished");
    json["out"] = json!(path);
    json["likelihood_out"] = json!(likelihood_out);
    let words = format!(
        "{}\nall of it is in {}, the likelihood's tables in {}",
        report.words(),
        path.display(),
        likelihood_out.display()
    );
    Ok(Report::new(words, json))
}

impl Args {
    /// The protocol's name, and what the call has changed of it.
    fn protocol_words(&self, timesteps: usize, likelihood_images: &[u64]) -> Result<String, Failure> {
        let mut changed = Vec::new();
        let counts = [
            ("--n", self.n, NonZeroU64::new(self.protocol.samples())),
            ("--reference-n", self.reference_n, self.protocol.reference_images()),
        ];
        for (option, given, own) in counts {
            changed.extend(given.filter(|_| given != own).map(|given| format!("{option} {given}")));
        }
        let own = |&images: &u64| self.likelihood_n.is_none_or(|given| given.get() == images);
        if !likelihood_images.iter().all(own) {
            changed.extend(self.likelihood_n.map(|given| format!("--likelihood-n {given}")));
        }
        let terms = self.terms.filter(|&given| given != self.protocol.terms(timesteps));
        changed.extend(terms.map(|terms| format!("--terms {terms}")));
        let FeatureArgs { dims, resize, image_size, .. } = &self.features;
        if *dims != Tap::Pool3 {
            changed.push(format!("--dims {}", dims.dims()));
        }
        if *resize != ResizeName::PytorchFid {
            changed.push(format!("--resize {}", ResizeMode::from(*resize)));
        }
        changed.extend(image_size.map(|size| format!("--image-size {size}")));
        changed.extend(self.sampling.changed(timesteps).map_err(Failure::input)?);
        let name = self.protocol.name();
        Ok(match changed.is_empty() {
            true => name.to_owned(),
            false => format!("{name}, changed: {}", changed.join(" ")),
        })
    }

    /// The Inception Score of samples, where the network reaches so far, and their FID against each of `specs`.
    fn quality(
        &self,
        measuring: &mut Measuring<'_>,
        specs: &[SourceSpec],
        quiet: bool,
    ) -> Result<Vec<QualityMeasure>, Failure> {
        let count = self.n.or(NonZeroU64::new(self.protocol.samples()));
        let input = self.model.to_string_lossy();
        let samples = measuring.measure(SetArgs { input: &input, count, unreadable: Unreadable::Refuse })?;
        let statistics = samples.statistics().map_err(measured::failure)?;
        let mut quality = Vec::new();
        for spec in specs {
            let text = spec.to_string();
            let count = self.reference_n.or(self.protocol.reference_images());
            let reference = SetArgs { input: &text, count, unreadable: Unreadable::Refuse };
            let reference = measuring.measure(reference)?;
            measured::note_few_images([Some(&samples.about), Some(&reference.about)], quiet);
            let value = frechet_distance(&statistics, &reference.statistics().map_err(measured::failure)?)
                .map_err(measured::failure)?;
            quality.push(QualityMeasure {
                name: format!("FID {}", spec.split_name().unwrap_or("data")),
                value,
                deviation: None,
                samples: samples.about.clone(),
                reference: Some(reference.about.clone()),
            });
        }
        if self.features.dims != Tap::Pool3 {
            if !quiet {
                progress::say("no Inception Score: it is made from 2048 features (--dims 2048)");
            }
            return Ok(quality);
        }
        let score = measuring.inception_score(&samples, SPLITS)?;
        quality.push(QualityMeasure {
            name: "Inception Score".into(),
            value: score.mean,
            deviation: Some(score.std),
            samples: samples.about.clone(),
            reference: None,
        });
        Ok(quality)
    }
}
