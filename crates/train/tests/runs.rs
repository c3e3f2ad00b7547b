//! Whole runs of a tiny network: what they leave in their directory, and that stopping leaves no trace in the
//! weights.

use engine::CpuOptions;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use train::config::Config;
use train::observer::{Observer, Progress, Start};
use train::{Job, Outcome, StopCause, TrainError, config_text, train};

fn config(sets: &[&str]) -> Config {
    let tiny = [
        "data.image_size=8",
        "data.flip=true",
        "model.channels=8",
        "model.block_size=1",
        "diffusion.prediction=eps",
        "diffusion.variance=fixed_large",
        "model.channel_mult=[1,2]",
        "model.num_res_blocks=1",
        "model.attention_resolutions=[4]",
        "model.norm_groups=4",
        "model.dropout=0.1",
        "diffusion.timesteps=20",
        "train.steps=13",
        "train.batch_size=4",
        "train.warmup_steps=2",
        "train.decay_steps=0",
        "train.checkpoint_every=5",
        "log.every=3",
        "log.sample_every=6",
        "log.sample_count=3",
        "log.sample_steps=4",
    ];
    let sets: Vec<String> = tiny.iter().chain(sets).map(|text| text.to_string()).collect();
    config_text::load("shapes32", &sets).unwrap()
}

/// Sets a flag after so many updates, and keeps what it is told.
#[derive(Default)]
struct StopAfter {
    updates: Option<u64>,
    stop: AtomicBool,
    started_at: Option<u64>,
    saved: Vec<u64>,
    sampled: Vec<u64>,
    logged: Vec<u64>,
}

struct Listener<'a>(&'a mut StopAfter, &'a AtomicBool);

impl Observer for Listener<'_> {
    fn started(&mut self, start: &Start<'_>) {
        self.0.started_at = Some(start.completed);
    }
    fn updated(&mut self, progress: &Progress) {
        assert!(progress.loss.is_finite() && progress.images_per_second > 0.0);
        if self.0.updates == Some(progress.completed) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn logged(&mut self, record: &train::metrics::Record) {
        self.0.logged.push(record.step);
    }
    fn sampled(&mut self, completed: u64, grid: &Path) {
        assert!(grid.is_file());
        self.0.sampled.push(completed);
    }
    fn saved(&mut self, completed: u64, checkpoint: &Path) {
        assert!(checkpoint.is_dir());
        self.0.saved.push(completed);
    }
}

fn run(
    directory: &Path,
    config: &Config,
    resume: bool,
    stop_after: Option<u64>,
) -> (Result<Outcome, TrainError>, StopAfter) {
    let job = Job {
        config: config.clone(),
        directory: directory.to_owned(),
        resume,
        hardware: CpuOptions { threads: 1, ..CpuOptions::default() }.into(),
        profile: false,
    };
    let mut told = StopAfter { updates: stop_after, ..StopAfter::default() };
    let stop = std::mem::take(&mut told.stop);
    let result = train(&job, &stop, &mut Listener(&mut told, &stop));
    (result, told)
}

/// Every file below `directory` with its content, but for what tells the time.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = std::fs::read(&path).unwrap();
                found.insert(path.strip_prefix(directory).unwrap().to_owned(), content);
            }
        }
    }
    found
}

/// The lines of metrics but for the speed.
fn metrics(directory: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(directory.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        assert!(line["images_per_second"].as_f64().unwrap() > 0.0);
        line.as_object_mut().unwrap().remove("images_per_second");
    }
    lines
}

#[test]
fn a_run_leaves_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let (outcome, told) = run(&path, &config(&[]), false, None);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.completed, outcome.steps), (13, 13));
    assert_eq!(told.started_at, Some(0));
    assert_eq!(told.saved, [5, 10, 13]);
    assert_eq!(told.sampled, [6, 12, 13]);
    assert_eq!(told.logged, [3, 6, 9, 12, 13]);
    let lines = metrics(&path);
    assert_eq!(lines.len(), 5);
    assert_eq!((&lines[1]["step"], &lines[1]["images"]), (&6.into(), &24.into()));
    let grid = image::open(path.join("samples/step-00000013.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (18, 18));
    assert_eq!(outcome.checkpoint, path.join("checkpoints/step-00000013"));
    assert_eq!(std::fs::read_dir(path.join("tensorboard")).unwrap().count(), 1);
    let stored = train::training_run::stored_config(&path).unwrap();
    assert_eq!(stored, Some(config(&[])));
}

#[test]
fn a_stopped_run_ends_with_the_bits_of_one_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    run(&whole, &config(&[]), false, None).0.unwrap();
    // At a checkpoint, within a line of metrics, while samples are drawn, right before the end.
    for stop_after in [1, 5, 6, 7, 12] {
        let path = dir.path().join(format!("stopped-{stop_after}"));
        let (outcome, told) = run(&path, &config(&[]), false, Some(stop_after));
        assert_eq!(outcome.unwrap().completed, stop_after);
        assert_eq!(told.saved.last(), Some(&stop_after));
        let (outcome, told) = run(&path, &config(&[]), true, None);
        assert_eq!(outcome.unwrap().completed, 13);
        assert_eq!(told.started_at, Some(stop_after));
        let last = "checkpoints/step-00000013";
        let (ours, theirs) = (files(&path.join(last)), files(&whole.join(last)));
        assert!(ours.len() > 8 && ours == theirs, "stopped after {stop_after}");
        assert_eq!(metrics(&path), metrics(&whole), "stopped after {stop_after}");
        assert_eq!(files(&path.join("samples")), files(&whole.join("samples")), "stopped after {stop_after}");
    }
}

#[test]
fn the_last_checkpoints_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let config = config(&["train.checkpoint_every=2", "train.keep_checkpoints=2", "log.sample_every=0"]);
    run(&path, &config, false, None).0.unwrap();
    let mut names: Vec<_> = std::fs::read_dir(path.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step-00000012", "step-00000013"]);
    assert!(!path.join("samples").exists());
}

#[test]
fn a_finished_run_can_go_on_for_longer() {
    let dir = tempfile::tempdir().unwrap();
    let (short, long) = (dir.path().join("short"), dir.path().join("long"));
    run(&long, &config(&["train.steps=9"]), false, None).0.unwrap();
    run(&short, &config(&["train.steps=7"]), false, None).0.unwrap();
    let before = metrics(&short);
    let (again, told) = run(&short, &config(&["train.steps=7"]), true, None);
    assert_eq!((again.unwrap().completed, told.saved.len()), (7, 0));
    assert_eq!((metrics(&short), before.len()), (before, 3));
    run(&short, &config(&["train.steps=9"]), true, None).0.unwrap();
    assert!(
        files(&short.join("checkpoints/step-00000009")) == files(&long.join("checkpoints/step-00000009"))
    );
}

#[test]
fn divergence_names_the_update_and_the_last_good_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    // With steps as large as the weights, a learned log variance soon is a number whose exponential is
    // infinite.
    let config = config(&[
        "train.steps=60",
        "train.checkpoint_every=1",
        "train.warmup_steps=0",
        "train.learning_rate=1",
        "diffusion.loss=kl",
        "diffusion.variance=learned",
        "log.sample_every=0",
    ]);
    let path = dir.path().join("run");
    let error = run(&path, &config, false, None).0.unwrap_err();
    let TrainError::Stopped { source, completed, checkpoint, .. } = &error else { panic!("{error}") };
    assert!(matches!(**source, StopCause::NotFinite(_)), "{error}");
    let last = path.join(format!("checkpoints/step-{completed:08}"));
    assert_eq!(checkpoint.as_ref(), Some(&last));
    let (update, after) = (format!("update {}", completed + 1), format!("stopped after {completed} of 60"));
    let message = error.to_string();
    for word in [&update, last.to_str().unwrap(), "train.learning_rate", &after] {
        assert!(message.contains(word), "{word} is missing in: {message}");
    }
    assert!(!error.is_input());
}

#[test]
fn a_damaged_checkpoint_is_named_with_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    run(&path, &config(&[]), false, None).0.unwrap();
    let last = path.join("checkpoints/step-00000013");
    let moments = last.join("training/moments.safetensors");
    let mut bytes = std::fs::read(&moments).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&moments, bytes).unwrap();
    let before = files(&path);
    let error = run(&path, &config(&["train.steps=20"]), true, None).0.unwrap_err();
    assert!(matches!(error, TrainError::Resume { .. }) && error.is_input(), "{error}");
    for word in ["moments.safetensors", "step-00000013", "step-00000010"] {
        assert!(error.to_string().contains(word), "{word} is missing in: {error}");
    }
    let after = files(&path);
    let changed: Vec<_> = after.iter().filter(|(name, content)| before.get(*name) != Some(content)).collect();
    assert!(changed.iter().all(|(name, _)| name.ends_with("config.toml")), "{:?}", changed[0].0);
    // Nor does it go on from the one before when the manifest is gone.
    std::fs::remove_file(last.join("manifest.json")).unwrap();
    let error = run(&path, &config(&["train.steps=20"]), true, None).0.unwrap_err();
    assert!(error.is_input(), "{error}");
    for word in ["step-00000013", "no manifest.json", "remove it"] {
        assert!(error.to_string().contains(word), "{word} is missing in: {error}");
    }
    std::fs::remove_dir_all(last).unwrap();
    assert_eq!(run(&path, &config(&[]), true, None).1.started_at, Some(10));
}

#[test]
fn samples_that_cannot_be_written_lose_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, failed) = (dir.path().join("whole"), dir.path().join("failed"));
    // One checkpoint is kept regularly; what is saved in need removes none.
    let config = config(&["train.checkpoint_every=4", "train.keep_checkpoints=1"]);
    run(&whole, &config, false, None).0.unwrap();
    run(&failed, &config, false, Some(1)).0.unwrap();
    std::fs::write(failed.join("samples"), "in the way").unwrap();
    let error = run(&failed, &config, true, None).0.unwrap_err();
    let TrainError::Stopped { source, completed: 6, checkpoint, .. } = &error else { panic!("{error}") };
    assert!(matches!(**source, StopCause::Output(_)), "{error}");
    assert_eq!(*checkpoint, Some(failed.join("checkpoints/step-00000006")));
    assert!(failed.join("checkpoints/step-00000004").is_dir());
    std::fs::remove_file(failed.join("samples")).unwrap();
    let (outcome, told) = run(&failed, &config, true, None);
    assert_eq!((outcome.unwrap().completed, told.started_at), (13, Some(6)));
    assert!(files(&failed.join("checkpoints")) == files(&whole.join("checkpoints")));
    assert_eq!(metrics(&failed), metrics(&whole));
    assert_eq!(files(&failed.join("samples")), files(&whole.join("samples")));
}

#[test]
fn a_configuration_put_together_in_code_is_checked_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    type Change = fn(&mut Config);
    let changes: [(Change, &str); 5] = [
        (|config| config.train.micro_batch = 3, "train.micro_batch = 3: must divide train.batch_size = 4"),
        (|config| config.train.learning_rate = 1e37, "train.learning_rate"),
        (|config| config.model.channel_mult = vec![], "model.channel_mult"),
        (|config| config.diffusion.timesteps = 0, "timesteps"),
        (|config| config.log.sample_steps = 21, "log.sample_steps"),
    ];
    for (change, word) in changes {
        let mut config = config(&[]);
        change(&mut config);
        let error = run(&path, &config, false, None).0.unwrap_err();
        assert!(matches!(error, TrainError::Config(_)) && error.is_input(), "{error}");
        assert!(error.to_string().contains(word), "{word} is missing in: {error}");
        assert!(!path.exists(), "{word}");
    }
}

#[test]
fn nothing_is_made_when_the_images_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let error = run(&path, &config(&["data.source=images:/no/such/folder"]), false, None).0.unwrap_err();
    assert!(matches!(error, TrainError::Data(_)) && error.is_input(), "{error}");
    assert!(!path.exists());
}

/// The paper's networks, by their numbers of parameters.
#[test]
fn presets_have_the_published_sizes() {
    for (name, parameters) in [
        ("cifar10", 35_746_307),
        ("celebahq256", 113_673_219),
        ("lsun_bedroom", 113_673_219),
        ("lsun_bedroom_large", 255_677_955),
        ("lsun_cat", 113_673_219),
        ("lsun_church", 113_673_219),
        ("cifar10_small", 5_041_347),
    ] {
        let config = config_text::load(name, &[]).unwrap();
        assert_eq!(models::Unet::layout(&config.unet()).len(), parameters, "{name}");
    }
}
