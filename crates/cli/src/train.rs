//! `ddpm train`: from images to a model.

use crate::Global;
use crate::failure::Failure;
use crate::progress::{self, Progress};
use crate::report::Report;
use crate::signals::Signals;
use crate::training_evaluation::TrainingEvaluation;
use serde_json::json;
use std::path::{Path, PathBuf};
use train::observer::{self, Start};
use train::training_run::TrainingRun;
use train::{Config, Evaluation, Evaluator, Job, Observer, TrainError, config_text, presets, training_run};

/// Train a model
///
/// Writes everything into the run's directory: config.toml with every setting, checkpoints/, metrics.jsonl (a
/// JSON object a line), tensorboard/ (event files), samples/ (grids drawn with the averaged weights); where
/// log.evaluate_every asks for it, evaluations.jsonl and best/ (the best weights so far). Ctrl-C and SIGTERM
/// save and stop.
#[derive(clap::Args, Debug)]
#[command(after_help = presets_help(), after_long_help = format!("{}\n\n{}", presets_help(), EXAMPLES))]
pub struct Args {
    /// A preset, or a TOML file with the sections data, model, diffusion, train and log; with --resume the
    /// run's own if left out
    #[arg(value_name = "PRESET|CONFIG.toml", required_unless_present_any = ["resume", "list_presets"])]
    config: Option<String>,

    /// The run's directory, new or empty unless --resume [default: runs/ and the name of the preset or file]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Go on with the run in the directory from its last checkpoint: the weights get the same bits as if it had never
    /// stopped. A run that has no checkpoint yet begins
    #[arg(long)]
    resume: bool,

    /// Override a setting, for example train.steps=1000 or data.source=cifar10:DIR; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,

    /// The Inception network's weights, where log.evaluate_every asks for FIDs
    /// [default: $DDPM_INCEPTION, else from the cache folder]
    #[arg(long, value_name = "FILE")]
    inception: Option<PathBuf>,

    /// Measure where the time goes, by operation and shape, and say so at the end
    #[arg(long)]
    profile: bool,

    /// List the presets and what they are
    #[arg(long, conflicts_with_all = ["config", "out", "resume", "overrides"])]
    list_presets: bool,
}

const EXAMPLES: &str = "Examples:
  ddpm train shapes32                                              no data needed
  ddpm train mnist32 --set data.source=mnist:DIR --out runs/digits
  ddpm train cifar10 --set data.source=cifar10:DIR --set train.micro_batch=16
  ddpm train celebahq256 --set data.source=images:DIR --set train.recompute=convolutions
  ddpm train --resume --out runs/digits                            go on
  ddpm train --resume --out runs/digits --set train.steps=20000    go on for longer

runs/NAME/config.toml shows every setting there is, with its value.";

fn presets_help() -> String {
    let lines = presets::ALL.iter().map(|preset| format!("  {:20} {}", preset.name, preset.summary()));
    std::iter::once("Presets:".to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
}

pub fn run(args: &Args, global: &Global) -> Result<Report, Failure> {
    if args.list_presets {
        return Ok(list_presets());
    }
    let signals = Signals::watch().map_err(Failure::work)?;
    let directory = args.directory()?;
    let mut overrides = args.overrides.clone();
    overrides.extend(global.seed.map(|seed| format!("train.seed={seed}")));
    let config = args.configuration(&directory, &overrides)?;
    let job =
        Job { config, directory, resume: args.resume, hardware: global.hardware(), profile: args.profile };
    let mut teller = Teller::new(global.quiet);
    // Before the evaluation's features, which may take hours.
    TrainingRun::check(&job.directory, job.resume)
        .and_then(|()| training_run::check_steps(&job.directory, job.config.train.steps))
        .map_err(|error| train_failure(error.into()))?;
    let mut evaluation =
        TrainingEvaluation::new(&job.config, args.inception.as_deref(), global, signals.stop())?;
    if evaluation.is_none() && signals.stopped() {
        let json = json!({ "status": "stopped", "run": job.directory });
        return Err(Failure::stopped(signals.exit_status(), "stopped before training began", json));
    }
    let evaluator = evaluation.as_mut().map(|evaluation| evaluation as &mut dyn Evaluator);
    let ended = train::train_evaluated(&job, signals.stop(), &mut teller, evaluator);
    teller.finish();
    let outcome = ended.map_err(train_failure)?;

    let stopped = outcome.completed < outcome.steps;
    let json = json!({
        "status": if stopped { "stopped" } else { "finished" },
        "run": job.directory, "step": outcome.completed, "steps": outcome.steps, "checkpoint": outcome.checkpoint,
        "loss": outcome.last.as_ref().map(|last| last.loss),
    });
    if stopped {
        let message = format!(
            "stopped after {} of {} updates, saved in {}; go on with: ddpm train --resume --out {}",
            outcome.completed,
            outcome.steps,
            outcome.checkpoint.display(),
            job.directory.display()
        );
        return Err(Failure::stopped(signals.exit_status(), message, json));
    }
    let loss = outcome.last.map_or_else(String::new, |last| format!(", loss {:.4}", last.loss));
    let words = format!("{} updates{loss}; the model is in {}", outcome.completed, job.directory.display());
    Ok(Report::new(words, json))
}

/// A trainer's error as the program's failure.
pub fn train_failure(error: TrainError) -> Failure {
    match error.is_input() {
        true => Failure::input(error),
        false => Failure::work(error),
    }
}

impl Args {
    fn directory(&self) -> Result<PathBuf, Failure> {
        if let Some(out) = &self.out {
            return Ok(out.clone());
        }
        let name = self.config.as_deref().map(Path::new).and_then(Path::file_stem);
        let name = name.ok_or_else(|| Failure::input("give the run's directory by --out DIR"))?;
        Ok(Path::new("runs").join(name))
    }

    /// The configuration asked for, or that of the run in `directory`, with `overrides`.
    fn configuration(&self, directory: &Path, overrides: &[String]) -> Result<Config, Failure> {
        if let Some(name) = &self.config {
            if presets::find(name).is_none() && Path::new(name).is_dir() {
                let remedy = format!("to go on with the run in it: ddpm train --resume --out {name}");
                return Err(Failure::input(format!(
                    "{name}: is a folder, where a configuration is needed; {remedy}"
                )));
            }
            return config_text::load(name, overrides).map_err(Failure::input);
        }
        let path = training_run::config_path(directory);
        if !path.exists() {
            return Err(Failure::input(format!(
                "{}: there is no run in this directory to take the configuration from; name a preset or a file",
                directory.display()
            )));
        }
        let text = path.to_string_lossy();
        config_text::load(&text, overrides).map_err(Failure::input)
    }
}

fn list_presets() -> Report {
    let list: Vec<_> = presets::ALL
        .iter()
        .map(|preset| json!({ "name": preset.name, "summary": preset.summary(), "config": preset.text }))
        .collect();
    Report::new(presets_help(), json!({ "presets": list }))
}

/// Shows how training goes.
pub struct Teller {
    quiet: bool,
    progress: Option<Progress>,
}

impl Teller {
    /// Says nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, progress: None }
    }

    fn say(&self, line: &str) {
        match &self.progress {
            Some(progress) => progress.say(line),
            None if self.quiet => {}
            None => progress::say(line),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(progress) = &self.progress {
            progress.finish();
        }
    }
}

impl Observer for Teller {
    fn started(&mut self, start: &Start<'_>) {
        self.say(&format!("data: {}", start.data));
        if let Some(device) = &start.device {
            self.say(&format!("device: {device}"));
        }
        let from = match start.completed {
            0 => String::new(),
            completed => format!(", going on after update {completed}"),
        };
        self.say(&format!(
            "run: {}, {} parameters, {} updates{from}",
            start.run.display(),
            start.parameters,
            start.steps
        ));
        self.progress = Some(Progress::new("training", start.completed, start.steps, self.quiet));
    }

    fn updated(&mut self, update: &observer::Progress) {
        if let Some(progress) = &mut self.progress {
            let detail = format!("loss {:.4}  {:.1} images/s", update.loss, update.images_per_second);
            progress.update(update.completed, &detail);
        }
    }

    fn sampled(&mut self, _completed: u64, grid: &Path) {
        self.say(&format!("samples: {}", grid.display()));
    }

    fn evaluated(&mut self, evaluation: &Evaluation, best: bool) {
        let scores = evaluation.scores.iter().map(|score| format!("{} {:.4}", score.name, score.value));
        let best = if best { ", the best so far" } else { "" };
        let scores = scores.collect::<Vec<_>>().join(", ");
        self.say(&format!("after {} updates: {scores}{best}", evaluation.step));
    }

    fn profiled(&mut self, table: &str) {
        self.say(table);
    }

    fn saved(&mut self, _completed: u64, checkpoint: &Path) {
        self.say(&format!("saved: {}", checkpoint.display()));
    }
}
