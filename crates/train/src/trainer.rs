//! The training loop: batches in, checkpoints, metrics and samples out, from wherever the run stands.

use crate::config::Config;
use crate::config_text;
use crate::evaluation::{Evaluation, Evaluator};
use crate::logs::Logs;
use crate::metrics::Record;
use crate::observer::{Observer, Progress, Start};
use crate::preview::Preview;
use crate::step::{SetupError, StepOutcome, TrainingStep};
use crate::train_error::{StopCause, TrainError};
use crate::training_run::{self, TrainingRun};
use checkpoint::{
    Checkpoint, LabelledWeights, ModelDescription, RunDirectory, SavedTraining, TrainingBuffers,
    TrainingBuffersMut, TrainingProgress, Weights, replace_export, save_checkpoint,
};
use data::{DataError, ImageSource, Loader, LoaderOptions, SourceSpec};
use diffusion::GaussianDiffusion;
use engine::{Hardware, Slot};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What to train, and where.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Job {
    /// The run's configuration.
    pub config: Config,
    /// The run's directory.
    pub directory: PathBuf,
    /// Whether to go on with the run there; else there must be none.
    pub resume: bool,
    /// What the network is computed on.
    pub hardware: Hardware,
    /// Whether to measure where the time goes.
    pub profile: bool,
}

/// How a run ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Updates done.
    pub completed: u64,
    /// Updates in the whole run; `completed` is less if it was told to stop.
    pub steps: u64,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The last line of metrics.
    pub last: Option<Record>,
}

/// Trains a run until it has all its updates, or `stop` is set; then it saves where it is.
///
/// # Errors
/// [`TrainError`]: [`TrainError::Config`] before anything is written if a value of the configuration is out
/// of range. What had been saved before is untouched.
pub fn train(job: &Job, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    train_evaluated(job, stop, observer, None)
}

/// [`train`] on images that the caller brings, whatever `data.source` says (`memory` says that it was so). They are
/// brought to the configuration's size and channels.
///
/// # Errors
/// As [`train`].
pub fn train_on(
    images: Arc<dyn ImageSource>,
    job: &Job,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    let options = job.config.data.image_options();
    run(job, stop, observer, None, || {
        options.validate()?;
        Ok(data::convert(images, &options))
    })
}

/// [`train`], with what scores the averaged weights every `log.evaluate_every` updates and at the end.
///
/// # Errors
/// [`TrainError`], also when `log.evaluate_every` asks for evaluations and `evaluator` is none.
pub fn train_evaluated<'a>(
    job: &'a Job,
    stop: &'a AtomicBool,
    observer: &'a mut dyn Observer,
    evaluator: Option<&'a mut (dyn Evaluator + 'a)>,
) -> Result<Outcome, TrainError> {
    run(job, stop, observer, evaluator, || open_data(&job.config))
}

fn run<'a>(
    job: &'a Job,
    stop: &'a AtomicBool,
    observer: &'a mut dyn Observer,
    evaluator: Option<&'a mut (dyn Evaluator + 'a)>,
    open_images: impl FnOnce() -> Result<Arc<dyn ImageSource>, DataError>,
) -> Result<Outcome, TrainError> {
    let config = &job.config;
    // Its fields are public: it need not come from a text that was checked.
    config_text::check(config, "the job's configuration")?;
    if config.log.evaluate_every > 0 && evaluator.is_none() {
        return Err(TrainError::NoEvaluator { every: config.log.evaluate_every });
    }
    // All that can be wrong with the call is found before anything is written.
    TrainingRun::check(&job.directory, job.resume)?;
    let description = ModelDescription { model: config.unet(), diffusion: config.diffusion.clone() };
    description.check_expressible()?;
    let source = open_images()?;
    let mut step = TrainingStep::new(config, job.hardware.open()?)?;
    if job.profile {
        step.start_profile();
    }
    let process = GaussianDiffusion::new(&config.diffusion).map_err(SetupError::from)?;

    let run = TrainingRun::open(&job.directory, job.resume)?;
    run.continue_with(config)?;
    let checkpoints = RunDirectory::new(run.path());
    checkpoints.clean()?;
    let saved = resume(config, &description, &checkpoints, &mut step)?;
    let completed = saved.as_ref().map_or(0, |checkpoint| checkpoint.step);
    let trainer = Trainer {
        config,
        description,
        logs: Logs::open(config, &run, completed)?,
        run,
        checkpoints,
        step,
        process,
        preview: None,
        hardware: job.hardware,
        completed,
        saved,
        stop,
        observer,
        evaluator,
    };
    trainer.observer.started(&Start {
        run: trainer.run.path(),
        data: source.description(),
        device: trainer.step.device_report(),
        parameters: trainer.step.layout().len(),
        completed: trainer.completed,
        steps: config.train.steps,
    });
    trainer.run_to_the_end(source)
}

fn open_data(config: &Config) -> Result<Arc<dyn ImageSource>, DataError> {
    let spec: SourceSpec = config.data.source.parse()?;
    config.data.open(&spec)
}

/// Whether something that happens every `every` updates happens after `completed`; `every` = 0: never.
pub(crate) fn due(completed: u64, every: u64) -> bool {
    every > 0 && completed.is_multiple_of(every)
}

struct Trainer<'a> {
    config: &'a Config,
    description: ModelDescription,
    run: TrainingRun,
    checkpoints: RunDirectory,
    step: TrainingStep,
    process: GaussianDiffusion,
    /// Made when the first samples are due.
    preview: Option<Preview>,
    hardware: Hardware,
    logs: Logs,
    completed: u64,
    saved: Option<Checkpoint>,
    stop: &'a AtomicBool,
    observer: &'a mut dyn Observer,
    evaluator: Option<&'a mut (dyn Evaluator + 'a)>,
}

impl Trainer<'_> {
    fn run_to_the_end(mut self, source: Arc<dyn ImageSource>) -> Result<Outcome, TrainError> {
        let steps = self.config.train.steps;
        if let Err(source) = self.train(source) {
            if source.leaves_good_weights() {
                self.rescue();
            }
            let checkpoint = self.saved.map(|checkpoint| checkpoint.directory);
            let source = Box::new(source);
            return Err(TrainError::Stopped { source, completed: self.completed, steps, checkpoint });
        }
        let checkpoint = self.saved.map(|checkpoint| checkpoint.directory).unwrap_or_default();
        Ok(Outcome { completed: self.completed, steps, checkpoint, last: self.logs.last })
    }

    fn train(&mut self, source: Arc<dyn ImageSource>) -> Result<(), StopCause> {
        let train = &self.config.train;
        // A run stopped while it drew samples has saved without them.
        if self.due_now(self.config.log.sample_every) && !self.run.sample_grid(self.completed).exists() {
            self.sample()?;
        }
        if self.due_now(self.config.log.evaluate_every) && !self.logs.has_evaluation(self.completed) {
            self.evaluate()?;
        }
        let mut loader = Loader::new(
            source,
            LoaderOptions {
                batch_size: train.batch_size,
                seed: train.seed,
                flip: self.config.data.flip,
                start: self.completed * train.batch_size as u64,
                ..LoaderOptions::default()
            },
        )?;
        let mut training = Duration::ZERO;
        while self.completed < train.steps && !self.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let batch = loader.next_batch()?;
            let outcome = self.step.run(self.completed, batch.first_sample(), batch.images())?;
            drop(batch);
            self.completed += 1;
            training += start.elapsed();
            self.report(&outcome, start.elapsed().as_secs_f64())?;
            if self.due_now(self.config.log.sample_every) {
                self.sample()?;
            }
            if self.due_now(self.config.log.evaluate_every) {
                self.evaluate()?;
            }
            if due(self.completed, train.checkpoint_every) {
                self.save()?;
            }
        }
        if let Some(profile) = self.step.profile() {
            self.observer.profiled(&profile.table(training));
        }
        self.save()
    }

    /// Sums up an update, and writes a line of metrics when one is due.
    fn report(&mut self, outcome: &StepOutcome, seconds: f64) -> Result<(), StopCause> {
        let config = self.config;
        let batch_size = config.train.batch_size as u64;
        self.logs.window.add(outcome.loss, outcome.grad_norm, seconds);
        let so_far = self.logs.window.clone().take_record(batch_size, outcome.learning_rate);
        self.observer.updated(&Progress {
            completed: self.completed,
            steps: config.train.steps,
            loss: so_far.loss,
            images_per_second: so_far.images_per_second,
        });
        let line_due = due(self.completed, config.log.every);
        if line_due || self.completed == config.train.steps {
            self.logs.write(&so_far)?;
            self.observer.logged(&so_far);
        }
        // A line cut short by the end is taken back if the run goes on for longer.
        if line_due {
            self.logs.window.take_record(batch_size, outcome.learning_rate);
        }
        Ok(())
    }

    /// Whether what happens every `every` updates (0: never) belongs to the weights as they are now:
    /// regularly, and at the end.
    fn due_now(&self, every: u64) -> bool {
        let at_the_end = every > 0 && self.completed == self.config.train.steps;
        self.completed > 0 && (due(self.completed, every) || at_the_end)
    }

    fn sample(&mut self) -> Result<(), StopCause> {
        let weights = self.step.buffer(Slot::Ema)?;
        let preview = match &mut self.preview {
            Some(preview) => preview,
            none => {
                let backend = self.hardware.open()?;
                none.insert(Preview::new(self.config, &self.process, &weights, backend)?)
            }
        };
        let Some(picture) = preview.draw(&weights, self.stop)? else { return Ok(()) };
        let path = self.run.sample_grid(self.completed);
        let write_error = |source| checkpoint::Error::Write { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(write_error).map_err(StopCause::Output)?;
        }
        let png = picture.to_png()?;
        checkpoint::atomic::write_file(&path, |out| out.write_all(&png).map_err(write_error))
            .map_err(StopCause::Output)?;
        if let Some(events) = &mut self.logs.events {
            events.image(self.completed, "samples", &picture)?;
        }
        self.observer.sampled(self.completed, &path);
        Ok(())
    }

    fn evaluate(&mut self) -> Result<(), StopCause> {
        let Some(evaluator) = &mut self.evaluator else { return Ok(()) };
        let ema = self.step.buffer(Slot::Ema)?;
        let scores = evaluator.evaluate(self.completed, &ema, self.stop).map_err(StopCause::Evaluation)?;
        // Told to stop: the weights are scored when the run goes on.
        let Some(scores) = scores else { return Ok(()) };
        let evaluation = Evaluation { step: self.completed, scores };
        let best = self.logs.is_best(&evaluation);
        // First the weights, then the line: what has a line is not evaluated again after a kill between the
        // two.
        if best {
            let weights = LabelledWeights { parameters: &ema, weights: Weights::Ema, step: self.completed };
            let directory = training_run::best_path(self.run.path());
            replace_export(&directory, &self.description, self.step.layout(), weights)
                .map_err(StopCause::Output)?;
        }
        self.logs.evaluated(&evaluation)?;
        self.observer.evaluated(&evaluation, best);
        Ok(())
    }

    /// Saves a checkpoint, unless there is one of this update, and removes the oldest.
    fn save(&mut self) -> Result<(), StopCause> {
        if self.is_saved() {
            return Ok(());
        }
        self.logs.keep()?;
        self.write_checkpoint()?;
        self.checkpoints.prune(self.completed, self.config.train.keep_checkpoints)?;
        Ok(())
    }

    /// Saves what there is when the run ends by an error that the weights have no part in. The error to
    /// report is that one, not what goes wrong here. No older checkpoint is removed: should the weights be to
    /// blame after all, there is one from before.
    fn rescue(&mut self) {
        if self.is_saved() {
            return;
        }
        // A line of metrics that is lost is less than the updates since the last checkpoint.
        let _ = self.logs.keep();
        let _ = self.write_checkpoint();
    }

    fn is_saved(&self) -> bool {
        self.saved.as_ref().is_some_and(|checkpoint| checkpoint.step == self.completed)
    }

    fn write_checkpoint(&mut self) -> Result<(), StopCause> {
        let train = &self.config.train;
        let buffer = |slot| self.step.buffer(slot);
        let (raw, ema) = (buffer(Slot::Params)?, buffer(Slot::Ema)?);
        let (first, second) = (buffer(Slot::FirstMoment)?, buffer(Slot::SecondMoment)?);
        let progress = TrainingProgress {
            step: self.completed,
            samples: self.completed * train.batch_size as u64,
            seed: train.seed,
            config: config_text::render(self.config)?,
        };
        let buffers = TrainingBuffers { raw: &raw, ema: &ema, first_moment: &first, second_moment: &second };
        let directory =
            save_checkpoint(&self.checkpoints, &self.description, self.step.layout(), buffers, &progress)?;
        self.observer.saved(self.completed, &directory);
        self.saved = Some(Checkpoint { step: self.completed, directory });
        Ok(())
    }
}

/// Goes to where the last checkpoint was saved, and returns that, if there is one.
fn resume(
    config: &Config,
    description: &ModelDescription,
    checkpoints: &RunDirectory,
    step: &mut TrainingStep,
) -> Result<Option<Checkpoint>, TrainError> {
    let Some(last) = checkpoints.latest()? else { return Ok(None) };
    let mut older = checkpoints.checkpoints()?;
    older.retain(|checkpoint| checkpoint.step < last.step);
    let path = &last.directory;
    let cannot = |source| TrainError::Resume {
        source: Box::new(source),
        damaged: path.clone(),
        before: older.last().map(|checkpoint| checkpoint.directory.clone()),
    };
    let saved = SavedTraining::open(path).map_err(cannot)?;
    let samples = last.step * config.train.batch_size as u64;
    let TrainingProgress { step: saved_step, samples: saved_samples, seed, .. } = saved.progress;
    if saved.description != *description
        || (saved_step, saved_samples, seed) != (last.step, samples, config.train.seed)
    {
        return Err(TrainError::OtherModel { path: path.clone() });
    }
    let layout = step.layout().clone();
    let empty = || vec![0.0; layout.len()];
    let (mut raw, mut ema, mut first, mut second) = (empty(), empty(), empty(), empty());
    let buffers = TrainingBuffersMut {
        raw: &mut raw,
        ema: &mut ema,
        first_moment: &mut first,
        second_moment: &mut second,
    };
    saved.restore(&layout, buffers).map_err(cannot)?;
    for (slot, values) in
        [(Slot::Params, raw), (Slot::Ema, ema), (Slot::FirstMoment, first), (Slot::SecondMoment, second)]
    {
        step.set_buffer(slot, &values);
    }
    Ok(Some(last))
}
