//! `ddpm ablate`: Table 2 of the paper.

use crate::Global;
use crate::failure::Failure;
use crate::image_count;
use crate::image_files::write_whole;
use crate::likelihood::{self, Measured, measure};
use crate::measured;
use crate::model::{self, Model};
use crate::model_samples::NetworkSamples;
use crate::own_folder;
use crate::progress::{self, Progress};
use crate::report::Report;
use crate::sample_quality::{Features, QualityProbe, score_names, tap};
use crate::signals::Signals;
use crate::train::{Teller, train_failure};
use clap::ValueEnum;
use data::{SourceSpec, Split};
use diffusion::{BetaSchedule, DiffusionError, NormalCdf, Prediction};
use eval::MeasureError;
use eval::ablation::{
    AblationTable, Budget, Measure, Objective, Outcome, QualityScore, SampleMeasure, TABLE_FILE, Variant,
    VariantResult,
};
use eval::image_set::{ImageSet, SourceImages, Unreadable};
use eval::inception_weights::{self, InceptionWeights};
use eval::likelihood::{ImageGroup, LikelihoodJob};
use models::Unet;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use train::training_run::TrainingRun;
use train::{Config, Job, StopCause, TrainError, config_text};

/// Train what the paper compares, and compare it (Table 2)
///
/// Trains one model for each combination of what the network predicts (x_{t-1}'s mean, or ε), what it is
/// trained on (the bound with a learned or a fixed variance, or the squared error), the noise schedule and
/// the seed, all with the same configuration and number of updates, and puts their likelihood side by side. A
/// training whose loss or gradient stops being finite is reported as unstable. Stopped, it goes on when
/// called again; called to measure in another way, it measures again what is trained.
///
/// Writes DIR/ablation.md, .csv and .json, and each training's run into DIR/NAME.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm ablate mnist32 --set data.source=mnist:DIR --set train.steps=1000
  ddpm ablate shapes32 --set train.steps=500 --schedules linear,quad,const --predictions eps --objectives mse
  ddpm ablate cifar10 --set data.source=cifar10:DIR --seeds 3")]
pub struct Args {
    /// A preset or a TOML file: everything that is alike
    #[arg(value_name = "PRESET|CONFIG.toml")]
    config: String,

    /// Folder for the table and the runs: new, empty or an ablation's [default: runs/ablate- and the name of the
    /// preset or file]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Override a setting, for example train.steps=1000; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,

    /// What networks predict: xprev, eps, xstart
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "xprev,eps", value_parser = named::<Prediction>)]
    predictions: Vec<Prediction>,

    /// What they are trained on
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_enum,
          default_values_t = [ObjectiveName::BoundLearned, ObjectiveName::BoundFixed, ObjectiveName::Mse])]
    objectives: Vec<ObjectiveName>,

    /// Noise schedules: linear, quad, const, warmup10, warmup50, jsd, cosine [default: the configuration's]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = named::<BetaSchedule>)]
    schedules: Vec<BetaSchedule>,

    /// Trainings of each combination, with seeds from the configuration's (or --seed) on
    #[arg(long, value_name = "COUNT", default_value = "1")]
    seeds: NonZeroU64,

    /// Images to measure on [default: the test split of data.source, if it has one, else data.source]
    #[arg(long, value_name = "SRC")]
    test_data: Option<SourceSpec>,

    /// Images whose likelihood is measured
    #[arg(long, value_name = "COUNT", default_value = "200")]
    n: NonZeroU64,

    /// Samples drawn of each model for its FID against data.source, and its Inception Score if they are 10 or
    /// more and --dims is 2048; 0: neither
    #[arg(long, value_name = "COUNT", default_value = "0")]
    samples: u64,

    /// Inception features of the FID: 64, 192, 768 or 2048
    #[arg(long, value_name = "DIMS", default_value = "2048")]
    dims: usize,

    /// Images of data.source that samples are compared with [default: all]
    #[arg(long, value_name = "COUNT")]
    reference_n: Option<NonZeroU64>,

    /// The Inception network's weights [default: $DDPM_INCEPTION, else from the cache folder]
    #[arg(long, value_name = "FILE")]
    inception: Option<PathBuf>,

    /// Terms of the bound evaluated of each, 3 to T [default: 50, or T if that is less]
    #[arg(long, value_name = "K")]
    terms: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ObjectiveName {
    /// The variational bound, with a diagonal variance that the network gives
    BoundLearned,
    /// The variational bound, with a fixed variance
    BoundFixed,
    /// The squared error of the prediction
    Mse,
}

impl From<ObjectiveName> for Objective {
    fn from(name: ObjectiveName) -> Self {
        match name {
            ObjectiveName::BoundLearned => Self::BoundLearned,
            ObjectiveName::BoundFixed => Self::BoundFixed,
            ObjectiveName::Mse => Self::Mse,
        }
    }
}

/// A value as configurations name it.
fn named<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(name.to_owned())).map_err(|error| error.to_string())
}

/// The file in a variant's folder that says what came of it.
const RESULT_FILE: &str = "result.json";

/// An ablation under way.
struct Ablation<'a> {
    args: &'a Args,
    global: &'a Global,
    base: Config,
    out: PathBuf,
    test: ImageGroup,
    measure: Measure,
    signals: Signals,
    /// Opened when the first samples are to be judged.
    probe: Option<QualityProbe>,
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    let signals = Signals::watch().map_err(Failure::work)?;
    let mut overrides = args.overrides.clone();
    overrides.extend(global.seed.map(|seed| format!("train.seed={seed}")));
    let base = config_text::load(&args.config, &overrides).map_err(Failure::input)?;
    let test = args.test_images(&base)?;
    let terms = args.terms.unwrap_or_else(|| base.diffusion.timesteps.min(50));
    let out = args.out.clone().unwrap_or_else(|| {
        let name = Path::new(&args.config).file_stem().unwrap_or_default().to_string_lossy();
        Path::new("runs").join(format!("ablate-{name}"))
    });
    // Killed in its first training, an ablation has runs and no table yet.
    own_folder::check(&out, "an ablation's", &[TABLE_FILE], |entry| {
        entry.is_dir() && TrainingRun::check(entry, true).is_ok()
    })?;
    let measure = Measure {
        test_data: test.source.description(),
        images: test.images,
        terms,
        samples: args.sample_measure(&base)?,
    };
    let mut ablation = Ablation { args, global, base, out, test, measure, signals, probe: None };
    let table = ablation.run_all()?;
    let mut json = serde_json::to_value(&table).map_err(Failure::work)?;
    json["status"] = json!("finished");
    json["out"] = json!(ablation.out);
    let words = format!("{}\nthe table and the runs are in {}", table.markdown(), ablation.out.display());
    Ok(Report::new(words, json))
}

impl Args {
    fn variants(&self, base: &Config) -> Vec<Variant> {
        let schedules = match self.schedules.as_slice() {
            [] => vec![base.diffusion.schedule],
            some => some.to_vec(),
        };
        let objectives: Vec<_> = self.objectives.iter().map(|&name| name.into()).collect();
        let first = base.train.seed;
        let seeds: Vec<_> = (first..first.saturating_add(self.seeds.get())).collect();
        Variant::all(&schedules, &self.predictions, &objectives, &seeds)
    }

    fn test_images(&self, base: &Config) -> Result<ImageGroup, Failure> {
        let spec = match &self.test_data {
            Some(spec) => spec.clone(),
            None => base.data.source.parse::<SourceSpec>().map_err(Failure::input)?.with_split(Split::Test),
        };
        let source = base.data.open(&spec).map_err(Failure::input)?;
        let images = image_count::at_most("--n", self.n.get(), &spec, &*source)?;
        Ok(ImageGroup { name: spec.split_name().unwrap_or("data").into(), source, images })
    }

    /// What samples are to be judged by, if any are; the weights file is looked at for that, so that it is
    /// found to be missing before the first training.
    fn sample_measure(&self, base: &Config) -> Result<Option<SampleMeasure>, Failure> {
        match self.samples {
            0 => return Ok(None),
            1 => return Err(Failure::input("--samples 1: a FID needs at least 2")),
            _ => tap(self.dims)?,
        };
        let path = inception_weights::locate(self.inception.as_deref()).map_err(measured::failure)?;
        let weights = InceptionWeights::open(&path).map_err(measured::failure)?;
        let reference = self.reference(base)?;
        Ok(Some(SampleMeasure {
            count: self.samples,
            dims: self.dims,
            inception_sha256: weights.sha256().to_owned(),
            reference: reference.description(),
            reference_images: reference.len(),
        }))
    }

    /// The images that samples are compared with.
    fn reference(&self, base: &Config) -> Result<SourceImages, Failure> {
        let spec: SourceSpec = base.data.source.parse().map_err(Failure::input)?;
        let source = base.data.open(&spec).map_err(Failure::input)?;
        Ok(SourceImages::new(source, self.reference_n.map(NonZeroU64::get), Unreadable::Refuse))
    }
}

impl Ablation<'_> {
    fn run_all(&mut self) -> Result<AblationTable, Failure> {
        let variants = self.args.variants(&self.base);
        // All that can be wrong with a configuration is found before the first training.
        let configs = variants.iter().map(|variant| self.config(variant)).collect::<Result<Vec<_>, _>>()?;
        let mut table = AblationTable { budget: self.budget()?, variants, results: Vec::new() };
        for (index, config) in configs.iter().enumerate() {
            let variant = table.variants[index];
            self.say(&format!("training {} of {}: {variant}", index + 1, configs.len()));
            let result = match self.stored_result(&variant, config)? {
                Some(result) => result,
                None => self.train_and_measure(&variant, config)?,
            };
            if let Outcome::Unstable { step, reason } = &result.outcome {
                self.say(&format!("{variant} is unstable: {reason} (after {step} updates)"));
            }
            table.results.push(result);
            table.write(&self.out).map_err(Failure::work)?;
        }
        Ok(table)
    }

    fn say(&self, line: &str) {
        if !self.global.quiet {
            progress::say(line);
        }
    }

    fn config(&self, variant: &Variant) -> Result<Config, Failure> {
        let mut config = self.base.clone();
        config.diffusion = variant.diffusion(&self.base.diffusion);
        config.train.seed = variant.seed;
        // The table judges; its trainings are not judged on their way.
        config.log.evaluate_every = 0;
        if variant.prediction == Prediction::Xprev {
            // Such a network cannot leave out steps.
            config.log.sample_steps = config.diffusion.timesteps;
        }
        // The text is checked as a user's would be.
        let text = config_text::render(&config).map_err(Failure::input)?;
        config_text::parse(&text, &format!("the configuration of {variant}"), &[]).map_err(Failure::input)
    }

    fn budget(&self) -> Result<Budget, Failure> {
        let spec: SourceSpec = self.base.data.source.parse().map_err(Failure::input)?;
        let Config { train, diffusion, .. } = &self.base;
        let measure = &self.measure;
        Ok(Budget {
            data: self.base.data.open(&spec).map_err(Failure::input)?.description(),
            test_data: measure.test_data.clone(),
            parameters: Unet::layout(&self.base.unet()).len(),
            steps: train.steps,
            batch_size: train.batch_size,
            timesteps: diffusion.timesteps,
            likelihood_images: measure.images,
            terms: measure.terms,
            quality: measure.samples.as_ref().map(SampleMeasure::words).unwrap_or_default(),
        })
    }

    fn folder(&self, variant: &Variant) -> PathBuf {
        self.out.join(variant.to_string())
    }

    /// The result of a variant that was trained and measured before in the same way.
    fn stored_result(&self, variant: &Variant, config: &Config) -> Result<Option<VariantResult>, Failure> {
        let path = self.folder(variant).join(RESULT_FILE);
        let unusable = |error: &dyn Display| {
            Failure::input(format!("{}: {error}; remove it to measure again", path.display()))
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            // What may be the result of hours is not silently made anew.
            Err(error) => return Err(unusable(&error)),
        };
        let result: VariantResult = serde_json::from_str(&text).map_err(|error| unusable(&error))?;
        if result.config != config_text::render(config).map_err(Failure::work)? {
            // The trainer says what differs, or goes on for longer.
            return Ok(None);
        }
        if !result.is_by(&self.measure) {
            self.say(&format!(
                "{variant} is trained, but was not measured in this way: it is measured again"
            ));
            return Ok(None);
        }
        Ok(Some(result))
    }

    /// The scores of sample quality that are asked for, with what tells them from others.
    fn score_names(&self) -> Vec<String> {
        let samples = self.args.samples;
        score_names(self.args.dims, samples).iter().map(|name| format!("{name} of {samples}")).collect()
    }

    fn train_and_measure(&mut self, variant: &Variant, config: &Config) -> Result<VariantResult, Failure> {
        let directory = self.folder(variant);
        let job = Job {
            config: config.clone(),
            directory: directory.clone(),
            resume: true,
            hardware: self.global.hardware(),
            profile: false,
        };
        let mut teller = Teller::new(self.global.quiet);
        let trained = train::train(&job, self.signals.stop(), &mut teller);
        teller.finish();
        let (outcome, measure) = match trained {
            Ok(trained) if trained.completed < trained.steps => return Err(self.stopped(variant)),
            Ok(trained) => {
                let loss = trained.last.map_or(f64::NAN, |last| last.loss);
                (self.measure(variant, config, loss)?, Some(self.measure.clone()))
            }
            Err(error) => match divergence(&error) {
                Some(outcome) => (outcome, None),
                None => return Err(train_failure(error)),
            },
        };
        let config = config_text::render(config).map_err(Failure::work)?;
        let result = VariantResult { variant: *variant, outcome, config, measure };
        let text = serde_json::to_string_pretty(&result).map_err(Failure::work)?;
        write_whole(&directory.join(RESULT_FILE), text.as_bytes())?;
        Ok(result)
    }

    fn measure(&mut self, variant: &Variant, config: &Config, loss: f64) -> Result<Outcome, Failure> {
        let batch = config.train.pass_size().clamp(1, 64);
        let directory = self.folder(variant);
        let mut model: Model = model::open_at(&directory, None, batch, self.global.hardware())?;
        let job = LikelihoodJob {
            model: model.facts(),
            diffusion: config.diffusion.clone(),
            terms: Some(self.measure.terms),
            decoder_cdf: NormalCdf::Tanh,
            seed: 0,
            convolutions: self.global.convolutions().into(),
            batch,
        };
        let sets = std::slice::from_ref(&self.test);
        let out = directory.join("likelihood").join(model.weights_slug());
        let out = job.folder(&model.denoiser, sets, &out).map_err(likelihood::failure)?;
        match measure(&job, &mut model.denoiser, sets, &out, &self.signals, self.global.quiet)? {
            Measured::All(report) => {
                let summary = &report.sets[0].summary;
                let quality = match self.quality(variant, config, &mut model)? {
                    Judged::Scores(scores) => scores,
                    Judged::Diverged(reason) => {
                        return Ok(Outcome::Unstable { step: config.train.steps, reason });
                    }
                };
                Ok(Outcome::Finished {
                    loss,
                    bits_per_dim: summary.bits_per_dim,
                    rate: summary.rate,
                    distortion: summary.distortion,
                    quality,
                })
            }
            Measured::Diverged(reason) => Ok(Outcome::Unstable { step: config.train.steps, reason }),
            Measured::Stopped { .. } => Err(self.stopped(variant)),
        }
    }

    /// The scores of samples by all T steps of the paper's sampler.
    fn quality(&mut self, variant: &Variant, config: &Config, model: &mut Model) -> Result<Judged, Failure> {
        let count = self.args.samples;
        if count == 0 {
            return Ok(Judged::Scores(Vec::new()));
        }
        let names = self.score_names();
        self.open_probe(variant)?;
        let stopped = self.stopped(variant);
        let Some(probe) = &mut self.probe else { return Err(stopped) };
        let process = model.process()?;
        let mut samples = NetworkSamples {
            denoiser: &mut model.denoiser,
            process: &process,
            sampling: train::sampling::sampling_in(process.timesteps(), process.timesteps()),
            seed: config.train.seed,
            count,
            stop: self.signals.stop(),
        };
        let mut shown = Progress::new("sampling", 0, count, self.global.quiet);
        let scores = probe.scores(&mut samples, &mut |done| shown.update(done, ""));
        shown.finish();
        match scores {
            Ok(scores) => {
                let named = names.into_iter().zip(scores).map(|(name, score)| QualityScore { name, ..score });
                Ok(Judged::Scores(named.collect()))
            }
            Err(MeasureError::Stopped { .. }) => Err(stopped),
            Err(MeasureError::Sampling { reason }) => Ok(Judged::Diverged(reason)),
            Err(error) => Err(measured::failure(error)),
        }
    }

    fn open_probe(&mut self, variant: &Variant) -> Result<(), Failure> {
        if self.probe.is_some() {
            return Ok(());
        }
        let mut reference = self.args.reference(&self.base)?;
        let features = Features {
            inception: self.args.inception.as_deref(),
            dims: self.args.dims,
            convolutions: self.global.convolutions(),
            hardware: self.global.hardware(),
        };
        let mut shown = Progress::new("reference features", 0, reference.len(), self.global.quiet);
        let probe = QualityProbe::new(&features, &mut reference, self.signals.stop(), &mut |done| {
            shown.update(done, "");
        });
        shown.finish();
        self.probe = probe?;
        if self.probe.is_none() { Err(self.stopped(variant)) } else { Ok(()) }
    }

    fn stopped(&self, variant: &Variant) -> Failure {
        let message =
            format!("stopped in {variant}; call it again to go on, the runs are in {}", self.out.display());
        let json = json!({ "status": "stopped", "out": self.out, "variant": variant.to_string() });
        Failure::stopped(self.signals.exit_status(), message, json)
    }
}

/// How good samples are.
enum Judged {
    /// So good; empty if nobody asked.
    Scores(Vec<QualityScore>),
    /// The network gives numbers that are not finite.
    Diverged(String),
}

/// What a training that diverged comes to; `None` for any other error.
fn divergence(error: &TrainError) -> Option<Outcome> {
    let TrainError::Stopped { source, completed, .. } = error else { return None };
    let reason = match source.as_ref() {
        StopCause::NotFinite(reason) => reason.to_string(),
        StopCause::Sample(error @ DiffusionError::NonFiniteOutput { .. }) => error.to_string(),
        _ => return None,
    };
    Some(Outcome::Unstable { step: *completed, reason })
}
