//! Runs whose weights are scored on the way.

use engine::{CpuOptions, Hardware};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use train::evaluation::EvaluationError;
use train::{
    Config, Evaluation, Evaluator, Job, Observer, Outcome, Score, StopCause, TrainError, config_text, train,
    train_evaluated,
};

fn config(sets: &[&str]) -> Config {
    let tiny = [
        "data.image_size=8",
        "model.channels=8",
        "model.block_size=1",
        "model.channel_mult=[1,2]",
        "model.attention_resolutions=[4]",
        "model.norm_groups=4",
        "diffusion.timesteps=20",
        "train.steps=11",
        "train.batch_size=2",
        "train.warmup_steps=2",
        "train.checkpoint_every=3",
        "train.keep_checkpoints=9",
        "log.every=100",
        "log.sample_every=0",
        "log.sample_steps=4",
        "log.evaluate_every=4",
    ];
    let sets: Vec<String> = tiny.iter().chain(sets).map(|text| text.to_string()).collect();
    config_text::load("shapes32", &sets).unwrap()
}

/// Prefers the weights after 8 updates; stops or fails when told to.
#[derive(Default)]
struct Judge {
    asked: Vec<u64>,
    stop_at: Option<u64>,
    fail_at: Option<u64>,
}

impl Evaluator for Judge {
    fn evaluate(
        &mut self,
        completed: u64,
        ema: &[f32],
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Score>>, EvaluationError> {
        self.asked.push(completed);
        if self.fail_at == Some(completed) {
            return Err("the judge is ill".into());
        }
        if self.stop_at == Some(completed) {
            stop.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let score = |name: &str, value| Score { name: name.into(), value };
        let sum = ema.iter().map(|&weight| f64::from(weight)).sum();
        Ok(Some(vec![score("FID", 1.0 + completed.abs_diff(8) as f64), score("sum", sum)]))
    }
}

#[derive(Default)]
struct Told(Vec<(u64, bool)>);

impl Observer for Told {
    fn evaluated(&mut self, evaluation: &Evaluation, best: bool) {
        self.0.push((evaluation.step, best));
    }
}

fn run(directory: &Path, config: &Config, judge: &mut Judge) -> (Result<Outcome, TrainError>, Told) {
    let job = Job {
        config: config.clone(),
        directory: directory.to_owned(),
        resume: true,
        hardware: CpuOptions { threads: 1, ..CpuOptions::default() }.into(),
        profile: false,
    };
    let mut told = Told::default();
    let result = train_evaluated(&job, &AtomicBool::new(false), &mut told, Some(judge));
    (result, told)
}

/// The scores written, and the best weights kept.
fn left(directory: &Path) -> (String, Vec<u8>) {
    let lines = std::fs::read_to_string(directory.join("evaluations.jsonl")).unwrap();
    let weights = std::fs::read(directory.join("best/unet/diffusion_pytorch_model.safetensors")).unwrap();
    (lines, weights)
}

#[test]
fn weights_are_scored_regularly_and_the_best_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut judge = Judge::default();
    let (outcome, told) = run(dir.path(), &config(&[]), &mut judge);
    outcome.unwrap();
    assert_eq!(judge.asked, [4, 8, 11]);
    assert_eq!(told.0, [(4, true), (8, true), (11, false)]);
    let (lines, weights) = left(dir.path());
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[1]["step"], &lines[1]["scores"][0]["value"]), (&8.into(), &1.0.into()));
    // The best are the averaged weights after 8 updates, as a run that ends there has them.
    let shorter = tempfile::tempdir().unwrap();
    run(shorter.path(), &config(&["train.steps=8"]), &mut Judge::default()).0.unwrap();
    let checkpoint =
        shorter.path().join("checkpoints/step-00000008/unet/diffusion_pytorch_model.safetensors");
    assert!(std::fs::read(checkpoint).unwrap() == weights);
}

#[test]
fn stopped_while_scoring_a_run_goes_on_as_if_it_had_not() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    run(&whole, &config(&[]), &mut Judge::default()).0.unwrap();
    for stop_at in [4, 8, 11] {
        let mut judge = Judge { stop_at: Some(stop_at), ..Judge::default() };
        let outcome = run(&stopped, &config(&[]), &mut judge).0.unwrap();
        assert_eq!((outcome.completed, judge.asked.last()), (stop_at, Some(&stop_at)));
    }
    let mut judge = Judge::default();
    run(&stopped, &config(&[]), &mut judge).0.unwrap();
    assert_eq!(judge.asked, [11], "what was scored is not scored again");
    assert!(left(&stopped) == left(&whole));
}

#[test]
fn weights_that_are_the_best_are_kept_before_it_is_written_that_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, hindered) = (dir.path().join("whole"), dir.path().join("hindered"));
    run(&whole, &config(&["train.steps=4"]), &mut Judge::default()).0.unwrap();
    // Stopped in the first evaluation, then again by something in the place of the best weights.
    let config = config(&["train.steps=4"]);
    run(&hindered, &config, &mut Judge { stop_at: Some(4), ..Judge::default() }).0.unwrap();
    std::fs::write(hindered.join("best"), "in the way").unwrap();
    let error = run(&hindered, &config, &mut Judge::default()).0.unwrap_err();
    assert!(error.to_string().contains("best"), "{error}");
    assert_eq!(std::fs::read_to_string(hindered.join("evaluations.jsonl")).unwrap(), "");
    std::fs::remove_file(hindered.join("best")).unwrap();
    run(&hindered, &config, &mut Judge::default()).0.unwrap();
    assert!(left(&hindered) == left(&whole));
}

#[test]
fn an_evaluation_that_fails_loses_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, failed) = (dir.path().join("whole"), dir.path().join("failed"));
    run(&whole, &config(&[]), &mut Judge::default()).0.unwrap();
    let mut judge = Judge { fail_at: Some(8), ..Judge::default() };
    let error = run(&failed, &config(&[]), &mut judge).0.unwrap_err();
    let TrainError::Stopped { source, completed: 8, .. } = &error else { panic!("{error}") };
    assert!(matches!(**source, StopCause::Evaluation(_)));
    assert!(
        error.to_string().contains("the judge is ill") && error.to_string().contains("step-00000008"),
        "{error}"
    );
    let mut judge = Judge::default();
    run(&failed, &config(&[]), &mut judge).0.unwrap();
    assert_eq!(judge.asked, [8, 11], "what failed is tried again");
    assert!(left(&failed) == left(&whole));
}

#[test]
fn evaluations_asked_for_must_be_possible() {
    let dir = tempfile::tempdir().unwrap();
    let job = Job {
        config: config(&[]),
        directory: dir.path().join("run"),
        resume: false,
        hardware: Hardware::default(),
        profile: false,
    };
    let error = train(&job, &AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("log.evaluate_every = 4"), "{error}");
    assert!(!job.directory.exists());
    for (sets, word) in [
        (["log.evaluate_dims=100", ""], "64, 192, 768 or 2048"),
        (["log.evaluate_samples=0", ""], "something to evaluate"),
        (["log.evaluate_samples=1", ""], "at least 2"),
    ] {
        let mut all: Vec<String> =
            sets.iter().filter(|set| !set.is_empty()).map(|set| set.to_string()).collect();
        all.push("log.evaluate_every=4".into());
        let error = config_text::load("shapes32", &all).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
