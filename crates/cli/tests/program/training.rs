//! `ddpm train`: where it writes, and where it doesn't.

use crate::ddpm::{ddpm, fail, files, object, succeed, text, train_tiny};
use crate::inception::write_weights;
use models::inception::Tap;
use std::path::Path;

#[test]
fn training_fills_the_run_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("deep/run");
    let sets = ["train.steps=5", "log.sample_every=2", "log.sample_count=4", "log.sample_steps=3"];
    let output = train_tiny(&run, &sets, &[]).output().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("5 updates, loss "));
    let said = text(&output.stderr);
    for word in ["shapes32", "training 5/5", "loss ", "images/s", "step-00000005"] {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains('\x1b') && !said.contains('\r'), "plain lines in a pipe: {said}");
    for name in ["config.toml", "metrics.jsonl", "samples/step-00000004.png", "samples/step-00000005.png"] {
        assert!(run.join(name).is_file(), "{name}");
    }
    assert!(run.join("checkpoints/step-00000005/unet/diffusion_pytorch_model.safetensors").is_file());
}

#[test]
fn the_seed_and_nothing_else_decides_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let weights = |name: &str, arguments: &[&str]| {
        let run = dir.path().join(name);
        succeed(&mut train_tiny(&run, &["train.steps=3", "train.warmup_steps=0"], arguments));
        files(&run.join("checkpoints/step-00000003/raw/unet"))
    };
    let one = weights("one", &["--threads", "1", "--seed", "5"]);
    assert!(one == weights("other", &["--threads", "3", "--set", "train.seed=5"]));
    assert!(one != weights("another", &["--seed", "6"]));
}

#[test]
fn what_is_there_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("thesis.txt"), "years of work").unwrap();
    let file = full.join("thesis.txt");
    let sets = ["train.steps=2"];
    fail(&mut train_tiny(&full, &sets, &[]), 2, &["full", "--resume", "--out"]);
    fail(&mut train_tiny(&full, &sets, &["--resume"]), 2, &["full", "holds no run"]);
    fail(&mut train_tiny(&file, &sets, &[]), 2, &["thesis.txt", "is a file"]);
    fail(&mut train_tiny(&file.join("run"), &sets, &[]), 2, &["thesis.txt"]);
    let left = files(&full);
    assert_eq!(left.len(), 1);
    assert_eq!(left.values().next().unwrap(), b"years of work");

    let run = dir.path().join("run");
    succeed(&mut train_tiny(&run, &sets, &[]));
    let before = files(&run);
    fail(&mut train_tiny(&run, &sets, &[]), 2, &["--resume"]);
    fail(
        &mut train_tiny(&run, &["train.steps=4", "train.batch_size=8"], &["--resume"]),
        2,
        &["train.batch_size", "4", "8"],
    );
    assert!(files(&run) == before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_place_that_cannot_be_written_is_named() {
    // Not even the superuser makes folders there.
    let run = std::path::Path::new("/proc/ddpm/run");
    fail(&mut train_tiny(run, &["train.steps=1"], &[]), 2, &["/proc/ddpm"]);
}

#[test]
fn a_run_goes_on_with_its_own_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    succeed(&mut train_tiny(&run, &["train.steps=2"], &[]));
    let run_text = run.to_str().unwrap();
    let said = succeed(&mut ddpm(&["train", "--resume", "--out", run_text, "--set", "train.steps=4"]));
    assert!(said.contains("4 updates"), "{said}");
    assert!(run.join("checkpoints/step-00000004").is_dir());
    let elsewhere = dir.path().join("none");
    let mut command = ddpm(&["train", "--resume", "--out", elsewhere.to_str().unwrap()]);
    fail(&mut command, 2, &["there is no run"]);
    assert!(!elsewhere.exists());
}

#[test]
fn a_run_is_not_made_shorter() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    succeed(&mut train_tiny(&run, &["train.steps=4"], &[]));
    let before = files(&run);
    let words = ["at update 4 already", "train.steps is 3", "give more steps"];
    let resume = |set: &str| {
        let mut command = ddpm(&["train", "--resume", "--set", set, "--out"]);
        command.arg(&run);
        command
    };
    fail(&mut resume("train.steps=3"), 2, &words);
    assert!(files(&run) == before);
    succeed(&mut resume("train.steps=4"));
    assert_eq!(files(&run)[Path::new("config.toml")], before[Path::new("config.toml")]);
}

#[test]
fn missing_images_are_named_and_no_run_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let source = format!("data.source=images:{}", dir.path().join("none").display());
    fail(&mut train_tiny(&run, &[&source], &[]), 2, &["none"]);
    assert!(!run.exists());
}

/// On real digits; needs `DDPM_TEST_DATA`, a folder with MNIST's files in `mnist/`.
#[test]
fn real_digits_are_learnt_from() {
    let Ok(data) = std::env::var("DDPM_TEST_DATA") else {
        eprintln!("SKIPPED: DDPM_TEST_DATA does not name a folder with mnist/");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let source = format!("data.source=mnist:{data}/mnist");
    let sets = [
        &source,
        "data.channels=1",
        "data.image_size=32",
        "data.flip=false",
        "model.attention_resolutions=[]",
    ];
    let more = ["train.steps=60", "train.learning_rate=2e-3", "train.warmup_steps=5", "log.every=10"];
    succeed(&mut train_tiny(&run, &[&sets[..], &more].concat(), &[]));
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    let losses: Vec<f64> = metrics.lines().map(loss).collect();
    assert_eq!(losses.len(), 6);
    assert!(losses[5] < 0.8 * losses[0], "{losses:?}");
}

#[test]
fn weights_are_judged_on_the_way_and_the_best_are_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let sets = [
        "train.steps=6",
        "log.evaluate_every=2",
        "log.evaluate_samples=0",
        "log.evaluate_images=3",
        "log.evaluate_dims=64",
    ];
    let output = train_tiny(&run, &sets, &[]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stderr);
    assert!(told.contains("after 4 updates: bits_per_dim "), "{told}");
    let lines = std::fs::read_to_string(run.join("evaluations.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scores: Vec<f64> = lines.iter().map(|line| line["scores"][0]["value"].as_f64().unwrap()).collect();
    assert_eq!(scores.len(), 3);
    assert!(scores.iter().all(|score| (1.0..40.0).contains(score)), "{scores:?}");
    let best = (0..3).min_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
    // The best is a model like any other, and its likelihood is what it was judged by.
    let out = dir.path().join("likelihood");
    let mut command =
        ddpm(&["likelihood", "--data", "shapes32", "--n", "3", "--terms", "20", "--json", "--out"]);
    let measured = object(&command.arg(&out).arg(run.join("best")).output().unwrap());
    assert_eq!(measured["model"]["step"].as_u64(), lines[best]["step"].as_u64());
    assert_eq!(measured["sets"][0]["summary"]["bits_per_dim"]["mean"].as_f64(), Some(scores[best]));

    // Without the Inception network there is no FID, and that is said before training.
    let other = dir.path().join("other");
    let mut without = train_tiny(&other, &["log.evaluate_every=2"], &["--inception", "nowhere.pth"]);
    fail(&mut without, 2, &["nowhere.pth"]);
    assert!(!other.exists());
}

#[test]
fn samples_are_judged_by_fid_while_training_and_in_an_ablation() {
    let dir = tempfile::tempdir().unwrap();
    let inception = dir.path().join("inception.safetensors");
    write_weights(&inception, Tap::Pool1);
    let inception = inception.to_str().unwrap();
    let digits = dir.path().join("shapes");
    let first = dir.path().join("first");
    succeed(&mut train_tiny(&first, &["train.steps=1"], &[]));
    succeed(ddpm(&["sample", "--n", "6", "--steps", "2", "--out"]).arg(&digits).arg(&first));
    let source = format!("data.source=images:{}", digits.display());
    let sets = [
        source.as_str(),
        "train.steps=2",
        "log.evaluate_every=2",
        "log.evaluate_samples=5",
        "log.evaluate_dims=64",
        "log.evaluate_steps=3",
    ];
    let run = dir.path().join("run");
    let cache = dir.path().join("cache");
    let output =
        train_tiny(&run, &sets, &["--inception", inception]).env("XDG_CACHE_HOME", &cache).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("after 2 updates: FID-64 "), "{}", text(&output.stderr));
    assert!(run.join("best/model_index.json").is_file());

    let out = dir.path().join("table");
    let mut ablate = ddpm(&["ablate"]);
    ablate.arg(run.join("config.toml")).arg("--out").arg(&out).env("XDG_CACHE_HOME", &cache);
    ablate.args([
        "--n",
        "4",
        "--terms",
        "5",
        "--samples",
        "5",
        "--dims",
        "64",
        "--inception",
        inception,
        "--json",
    ]);
    let table = object(&ablate.args(["--predictions", "eps", "--objectives", "mse"]).output().unwrap());
    let quality = &table["results"][0]["quality"][0];
    assert_eq!(quality["name"], "FID-64 of 5");
    assert!(quality["value"].as_f64().unwrap() > 0.0, "{table}");
    let words = table["budget"]["quality"].as_str().unwrap();
    assert!(
        words.contains("64 Inception features (pytorch-fid resize") && words.contains("6 images"),
        "{words}"
    );
    assert_eq!(object(&ablate.output().unwrap()), table);

    // Samples are judged again by another reference, or by other weights; where those are missing, before any
    // training.
    let fewer = object(&ablate.args(["--reference-n", "3"]).output().unwrap());
    let quality = &fewer["results"][0]["quality"][0];
    assert_ne!(quality["value"], table["results"][0]["quality"][0]["value"], "{fewer}");
    assert!(fewer["budget"]["quality"].as_str().unwrap().contains("against 3 images"), "{fewer}");
    let sha256 = &fewer["results"][0]["measure"]["samples"]["inception_sha256"];
    assert_eq!(sha256.as_str().map(str::len), Some(64), "{fewer}");
    let nowhere = dir.path().join("nowhere");
    let mut without = ddpm(&["ablate"]);
    without.arg(run.join("config.toml")).arg("--out").arg(&nowhere);
    without.args(["--n", "4", "--terms", "5", "--samples", "5", "--inception", "nowhere.pth"]);
    fail(&mut without, 2, &["nowhere.pth"]);
    assert!(!nowhere.exists());
}
