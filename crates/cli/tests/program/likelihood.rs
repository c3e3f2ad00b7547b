//! `ddpm likelihood`.

use crate::ddpm::{ddpm, fail, files, object, succeed, text, trained, wait_until};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

fn likelihood(run: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = ddpm(&["likelihood", "--data", "shapes32", "--out"]);
    command.arg(out).arg(run).args(arguments);
    command
}

/// The report but for the time it took.
fn report(out: &Path) -> Value {
    let mut report: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("likelihood.json")).unwrap()).unwrap();
    for set in report["sets"].as_array_mut().unwrap() {
        set["seconds_per_image"] = Value::Null;
    }
    report
}

#[test]
fn a_measurement_is_the_same_in_any_batch_and_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let out = dir.path().join("a");
    let output = likelihood(&run, &out, &["--n", "5", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = object(&output);
    let set = &told["sets"][0];
    let summary = &set["summary"];
    assert_eq!((set["name"].as_str(), summary["images"].as_u64()), (Some("data"), Some(5)));
    assert_eq!((summary["terms"].as_u64(), summary["timesteps"].as_u64()), (Some(20), Some(20)));
    assert_eq!((told["model"]["weights"].as_str(), told["model"]["step"].as_u64()), (Some("ema"), Some(4)));
    let number = |value: &Value| value.as_f64().unwrap();
    let mean = |name: &str| number(&summary[name]["mean"]);
    assert!((mean("rate") + mean("distortion") - mean("bits_per_dim")).abs() < 1e-9);
    assert!(number(&summary["bits_per_dim"]["low"]) < mean("bits_per_dim"));
    assert!(number(&set["seconds_per_image"]) > 0.0);
    assert!(told["gap"].is_null());
    let names: Vec<_> = files(&out).into_keys().map(|name| name.display().to_string()).collect();
    let expected = [
        "data.csv",
        "data.images.csv",
        "data.terms",
        "likelihood.json",
        "rate_distortion.png",
        "rate_distortion.svg",
    ];
    assert_eq!(names, expected);
    let rows = |name: &str| std::fs::read_to_string(out.join(name)).unwrap().lines().count();
    assert_eq!((rows("data.csv"), rows("data.images.csv")), (21, 6));

    let other = dir.path().join("b");
    succeed(&mut likelihood(&run, &other, &["--n", "2", "--batch", "1", "--threads", "1"]));
    // More images in the same folder: those measured are kept.
    succeed(&mut likelihood(&run, &other, &["--n", "5", "--batch", "7", "--threads", "3"]));
    assert_eq!(report(&other), report(&out));
    assert!(std::fs::read(other.join("data.csv")).unwrap() == std::fs::read(out.join("data.csv")).unwrap());
    // Nothing is left to do.
    let again = object(&likelihood(&run, &other, &["--n", "5", "--json"]).output().unwrap());
    assert!(again["sets"][0]["seconds_per_image"].is_null());
    // Not the same numbers in the same folder.
    let error = fail(
        &mut likelihood(&run, &other, &["--n", "5", "--seed", "1"]),
        2,
        &["seed = 0, now it is 1", "--out"],
    );
    assert!(error.contains("data.terms"), "{error}");
    fail(&mut likelihood(&run, &other, &["--n", "5", "--terms", "7"]), 2, &["terms = 20, now it is 7"]);
}

#[test]
fn two_sets_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let images = dir.path().join("images");
    let mut sample = ddpm(&["sample", "--n", "4", "--steps", "2", "--out"]);
    succeed(sample.arg(&images).arg(&run));
    std::fs::remove_file(images.join("grid.png")).unwrap();
    let out = dir.path().join("out");
    let train = format!("images:{}", images.display());
    let told = succeed(&mut likelihood(&run, &out, &["--n", "4", "--terms", "5", "--train-data", &train]));
    for word in ["train: ", "4 of 4 images, 5 of 20 terms", "data less train: ", "by the choice of terms"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let report = report(&out);
    let mean = |set: usize| report["sets"][set]["summary"]["bits_per_dim"]["mean"].as_f64().unwrap();
    assert!((report["gap"]["bits_per_dim"]["mean"].as_f64().unwrap() - (mean(1) - mean(0))).abs() < 1e-9);
    fail(
        &mut likelihood(&run, &out, &["--n", "5", "--terms", "5", "--train-data", &train]),
        2,
        &["only 4 images"],
    );
}

#[test]
fn calls_that_cannot_be_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let out = dir.path().join("out");
    fail(&mut likelihood(&run, &out, &["--n", "1", "--terms", "2"]), 2, &["terms", "3 to 20"]);
    fail(&mut likelihood(&run, &out, &["--n", "1", "--terms", "21"]), 2, &["3 to 20"]);
    fail(&mut likelihood(&run, &out, &[]), 2, &["no end", "--n"]);
    let mut lost = ddpm(&["likelihood", "--data", "images:nowhere", "--out"]);
    fail(lost.arg(&out).arg(&run), 2, &["nowhere"]);
    assert!(!out.exists());
    let checkpoint = run.join("checkpoints/step-00000004");
    let mut nowhere = ddpm(&["likelihood", "--data", "shapes32", "--n", "1"]);
    fail(nowhere.arg(checkpoint), 2, &["--out"]);
    // A run has a place of its own for its results.
    let mut home = ddpm(&["likelihood", "--data", "shapes32", "--n", "1", "--terms", "3"]);
    succeed(home.arg(&run));
    assert!(run.join("likelihood/ema-00000004/likelihood.json").is_file());
}

#[cfg(unix)]
#[test]
fn stopped_and_killed_it_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let arguments = ["--n", "60", "--batch", "2", "--json"];
    succeed(&mut likelihood(&run, &whole, &arguments));
    let size = |out: &Path| std::fs::metadata(out.join("data.terms")).map_or(0, |file| file.len());
    for signal in ["-KILL", "-INT"] {
        let before = size(&stopped);
        let mut child = likelihood(&run, &stopped, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(&mut child, || size(&stopped) > before + 400);
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        if signal == "-INT" {
            assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
            let told = object(&output);
            assert_eq!(told["status"], "stopped");
            assert!(told["images"].as_u64().unwrap() < 60, "{told}");
        }
        assert!(!stopped.join("likelihood.json").exists());
    }
    succeed(&mut likelihood(&run, &stopped, &arguments));
    assert_eq!(report(&stopped), report(&whole));
    let table = |out: &Path| std::fs::read(out.join("data.images.csv")).unwrap();
    assert!(table(&stopped) == table(&whole));
}
