//! `ddpm report`: a run in one HTML page.

use crate::failure::Failure;
use crate::own_folder;
use crate::report::Report;
use eval::ablation::AblationTable;
use eval::evaluation_report::EvaluationReport;
use eval::likelihood::LikelihoodReport;
use eval::run_report::{PAGE_FILE, Pictures, QualityLine, RunReport, ScoreLine};
use models::Unet;
use serde_json::json;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use train::metrics::{Record, read_lines};
use train::{Config, Evaluation, config_text, training_run};

/// Put a run into one page: samples, loss, scores, bits/dim, rate and distortion
///
/// Writes DIR/report.html, which needs no other file and no network, and the figures' SVG, PNG and CSV beside
/// it. Shows what has been measured so far: evaluations while training (log.evaluate_every), results of ddpm
/// likelihood in the run's own folder, an ablation if one is given.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  ddpm report runs/digits
  ddpm report runs/digits --ablation runs/ablate-mnist32 --out digits-report")]
pub struct Args {
    /// A run's directory
    run: PathBuf,

    /// Folder for the page and the figures: new, empty, or a report's or a run's [default: report/ in the run's
    /// directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// The folder of an ablation to show, as ddpm ablate wrote it
    #[arg(long, value_name = "DIR")]
    ablation: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<Report, Failure> {
    let Some(config) = training_run::stored_config(&args.run).map_err(Failure::input)? else {
        let problem = "holds no run of ddpm train (no config.toml); give a run's directory";
        return Err(Failure::input(format!("{}: {problem}", args.run.display())));
    };
    // The run's own report/ is nobody else's.
    let marks = [PAGE_FILE, training_run::CONFIG_FILE];
    args.out.iter().try_for_each(|out| own_folder::check(out, "a report's or a run's", &marks, |_| false))?;
    let report = gather(args, &config)?;
    let out = args.out.clone().unwrap_or_else(|| args.run.join("report"));
    let files = report.write(&out).map_err(Failure::work)?;
    let words = format!("{} (and {} files beside it)", files[0].display(), files.len() - 1);
    let json = json!({ "status": "finished", "report": files[0], "files": files });
    Ok(Report::new(words, json))
}

fn gather(args: &Args, config: &Config) -> Result<RunReport, Failure> {
    let metrics: Vec<Record> = read_lines(&training_run::metrics_path(&args.run)).map_err(Failure::input)?;
    let evaluations: Vec<Evaluation> =
        read_lines(&training_run::evaluations_path(&args.run)).map_err(Failure::input)?;
    let ablation = match &args.ablation {
        None => None,
        Some(folder) => Some(AblationTable::read(folder).map_err(Failure::input)?.ok_or_else(|| {
            Failure::input(format!("{}: no ablation.json of ddpm ablate is in this folder", folder.display()))
        })?),
    };
    let completed = metrics.last().map_or(0, |line| line.step);
    let name = args.run.canonicalize().unwrap_or_else(|_| args.run.clone());
    let log = &config.log;
    Ok(RunReport {
        title: name.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        subtitle: format!(
            "{completed} of {} updates, {} images seen",
            config.train.steps,
            metrics.last().map_or(0, |line| line.images)
        ),
        setup: setup(config),
        samples: samples(&args.run, config)?,
        loss: metrics.iter().map(|line| (line.step, line.loss)).collect(),
        loss_words: format!(
            "The training loss ({}), each point the mean of {} updates.",
            loss_name(config),
            log.every
        ),
        scores: (evaluations.into_iter())
            .map(|line| ScoreLine {
                step: line.step,
                scores: line.scores.into_iter().map(|score| (score.name, score.value)).collect(),
            })
            .collect(),
        scores_words: format!(
            "Of the averaged weights while training. FID: {} samples in {} steps against the training images, {} Inception \
             features, pytorch-fid resize. Likelihood: {} images.",
            log.evaluate_samples, log.evaluate_steps, log.evaluate_dims, log.evaluate_images
        ),
        likelihood: likelihood(&args.run)?,
        quality: quality(&args.run)?,
        ablation,
        config: config_text::render(config).map_err(Failure::work)?,
    })
}

fn loss_name(config: &Config) -> String {
    let text = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let diffusion = &config.diffusion;
    format!(
        "{} of {}, variance {}",
        text(serde_json::to_value(diffusion.loss)),
        diffusion.prediction,
        text(serde_json::to_value(diffusion.variance))
    )
}

/// The paragraph in which the paper says what it trains.
fn setup(config: &Config) -> Vec<(String, String)> {
    let Config { data, model, diffusion, train, .. } = config;
    let schedule = serde_json::to_value(diffusion.schedule).unwrap_or_default();
    let row = |name: &str, value: String| (name.to_owned(), value);
    vec![
        row(
            "data",
            format!("{}, {size}x{size}, {} channels", data.source, data.channels, size = data.image_size),
        ),
        row("random flips", data.flip.to_string()),
        row(
            "network",
            format!(
                "U-Net of {} parameters: {} channels times {:?}, {} residual blocks a level, attention at {:?}, dropout {}",
                Unet::layout(&config.unet()).len(),
                model.channels,
                model.channel_mult,
                model.num_res_blocks,
                model.attention_resolutions,
                model.dropout
            ),
        ),
        row(
            "forward process",
            format!(
                "T = {}, β {} from {} to {}",
                diffusion.timesteps,
                schedule.as_str().unwrap_or_default(),
                diffusion.beta_start,
                diffusion.beta_end
            ),
        ),
        row("objective", loss_name(config)),
        row(
            "optimiser",
            format!(
                "Adam, learning rate {} after {} updates of warm-up, {} images in each, gradient clipped at {}, EMA {}",
                train.learning_rate, train.warmup_steps, train.batch_size, train.grad_clip, train.ema_decay
            ),
        ),
        row("seed", train.seed.to_string()),
    ]
}

/// What is in `folder`; nothing if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error| {
        let problem = "cannot be read, so that what is in it would be missing from the report";
        Failure::input(format!("{}: {problem}: {error}; make it a folder that can be read", folder.display()))
    };
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(unreadable)).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(unreadable(error)),
    }
}

/// The last grid of samples.
fn samples(run: &Path, config: &Config) -> Result<Option<Pictures>, Failure> {
    let mut grids: Vec<PathBuf> = entries(&run.join("samples"))?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "png"))
        .filter(|path| path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("step-")))
        .collect();
    grids.sort();
    let Some(path) = grids.pop() else { return Ok(None) };
    let png = std::fs::read(&path).map_err(|error| Failure::input(format!("{}: {error}", path.display())))?;
    let step = path.file_stem().unwrap_or_default().to_string_lossy();
    let step = step.trim_start_matches("step-").trim_start_matches('0').to_owned();
    let log = &config.log;
    let sampler = if log.sample_steps < config.diffusion.timesteps { "ddim" } else { "ancestral" };
    let words = format!(
        "{} samples of the averaged weights after {step} updates: {sampler} sampler, {} steps, seed {}. Not chosen.",
        log.sample_count, log.sample_steps, config.train.seed
    );
    Ok(Some(Pictures { png, words }))
}

/// The evaluation of the latest weights in the run's own folder; of one step's, that of the averaged ones.
fn quality(run: &Path) -> Result<Vec<QualityLine>, Failure> {
    let rank =
        |report: &EvaluationReport| (report.model.step, report.model.weights.as_deref() == Some("ema"));
    let mut latest: Option<EvaluationReport> = None;
    for entry in entries(&run.join("evaluation"))? {
        let Some(found) = EvaluationReport::read(&entry).map_err(Failure::input)? else { continue };
        if latest.as_ref().is_none_or(|latest| rank(&found) >= rank(latest)) {
            latest = Some(found);
        }
    }
    let lines = latest.into_iter().flat_map(|report| report.quality).map(|measure| QualityLine {
        value: measure.value_words(),
        words: measure.words(),
        name: measure.name,
    });
    Ok(lines.collect())
}

/// Measurements in the run's own folder, those of the latest weights first.
fn likelihood(run: &Path) -> Result<Vec<LikelihoodReport>, Failure> {
    let mut reports = Vec::new();
    for entry in entries(&run.join("likelihood"))? {
        reports.extend(LikelihoodReport::read(&entry).map_err(Failure::input)?);
    }
    // Of equal weights, the one with more images.
    let rank = |report: &LikelihoodReport| {
        let ema = report.model.weights.as_deref() == Some("ema");
        let images: u64 = report.sets.iter().map(|set| set.summary.images).sum();
        (report.model.step, ema, images)
    };
    reports.sort_by_key(|report| std::cmp::Reverse(rank(report)));
    Ok(reports)
}
