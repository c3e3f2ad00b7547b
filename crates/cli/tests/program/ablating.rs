//! `ddpm ablate`.

use crate::ddpm::{ddpm, fail, files, object, succeed, text, tiny_sets, wait_until};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

fn ablate(out: &Path, sets: &[&str], arguments: &[&str]) -> Command {
    measured_by(&["--n", "3", "--terms", "6"], out, sets, arguments)
}

fn measured_by(measure: &[&str], out: &Path, sets: &[&str], arguments: &[&str]) -> Command {
    let mut command = ddpm(&["ablate", "shapes32"]);
    command.args(measure).arg("--out").arg(out).args(arguments);
    for set in tiny_sets().iter().chain(sets) {
        command.args(["--set", set]);
    }
    command
}

fn statuses(table: &Value) -> Vec<&str> {
    table["results"].as_array().unwrap().iter().map(|result| result["status"].as_str().unwrap()).collect()
}

#[test]
fn the_papers_table_comes_out_and_is_not_computed_twice() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("table");
    // Grids of samples by fewer steps than T, too, which a network that predicts x_{t-1} cannot have.
    let sets = ["train.steps=2", "log.sample_every=2", "log.sample_steps=5", "log.sample_count=2"];
    let output = ablate(&out, &sets, &["--json"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = object(&output);
    assert_eq!(statuses(&table), ["finished"; 6]);
    let bits: Vec<f64> = (table["results"].as_array().unwrap().iter())
        .map(|result| result["bits_per_dim"]["mean"].as_f64().unwrap())
        .collect();
    assert!(bits.iter().all(|bits| bits.is_finite() && *bits > 1.0), "{bits:?}");
    let markdown = std::fs::read_to_string(out.join("ablation.md")).unwrap();
    for word in [
        "| xprev | L, learned diagonal Σ |",
        "| eps | ‖ε − ε_θ‖² (L_simple) |",
        "2 updates of 4 images, T = 20",
    ] {
        assert!(markdown.contains(word), "{word}: {markdown}");
    }
    assert!(out.join("linear-eps-mse-seed0/checkpoints/step-00000002").is_dir());

    let before = files(&out);
    let again = object(&ablate(&out, &sets, &["--json"]).output().unwrap());
    assert_eq!(again, table);
    assert!(files(&out) == before);
    // A larger budget goes on from where the runs are.
    let arguments = ["--json", "--predictions", "eps", "--objectives", "mse"];
    let longer =
        object(&ablate(&out, &["train.steps=3", "log.sample_every=0"], &arguments).output().unwrap());
    assert_eq!(longer["results"][0]["variant"]["prediction"], "eps");
    assert!(out.join("linear-eps-mse-seed0/checkpoints/step-00000003").is_dir());
    // The table would say so many updates of weights that have more.
    fail(&mut ablate(&out, &["train.steps=1"], &[]), 2, &["at update 2 already", "give more steps"]);
    // Anything else is another ablation.
    fail(&mut ablate(&out, &["train.steps=2", "train.batch_size=2"], &[]), 2, &["train.batch_size", "--out"]);
}

#[test]
fn what_was_measured_in_another_way_is_measured_again_without_training() {
    let dir = tempfile::tempdir().unwrap();
    let (out, other) = (dir.path().join("table"), dir.path().join("other"));
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for number in 0..3u8 {
        let image =
            image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([number * 80, (x * y) as u8, y as u8 * 9]));
        image.save(images.join(format!("{number}.png"))).unwrap();
    }
    let images = format!("images:{}", images.display());
    let measures: [&[&str]; 3] = [
        &["--n", "3", "--terms", "6"],
        &["--n", "3", "--terms", "12"],
        &["--n", "3", "--terms", "6", "--test-data", &images],
    ];
    let (sets, arguments) = (["train.steps=2"], ["--json", "--predictions", "eps", "--objectives", "mse"]);
    let told = |measure: &[&str], out: &Path| {
        let output = measured_by(measure, out, &sets, &arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let again = text(&output.stderr).contains("it is measured again");
        (object(&output), again)
    };
    let run = out.join("linear-eps-mse-seed0");
    let (first, _) = told(measures[0], &out);
    let trained = (files(&run.join("checkpoints")), std::fs::read(run.join("metrics.jsonl")).unwrap());
    let mut bits = vec![first["results"][0]["bits_per_dim"].clone()];
    for measure in &measures[1..] {
        let (table, again) = told(measure, &out);
        assert!(again, "{measure:?}");
        assert!(!bits.contains(&table["results"][0]["bits_per_dim"]), "{measure:?}: {table}");
        bits.push(table["results"][0]["bits_per_dim"].clone());
        assert_eq!(table["results"][0]["measure"]["terms"], table["budget"]["terms"]);
        assert_eq!(table["results"][0]["measure"]["test_data"], table["budget"]["test_data"]);
    }
    assert_eq!(told(measures[1], &other).0["results"][0]["bits_per_dim"], bits[1]);
    assert_eq!(told(measures[0], &out), (first.clone(), true));
    assert_eq!(told(measures[0], &out), (first.clone(), false));

    // Earlier versions did not write what they had measured by.
    let path = run.join("result.json");
    let mut result: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    result.as_object_mut().unwrap().remove("measure").unwrap();
    result["bits_per_dim"]["mean"] = 1.into();
    std::fs::write(&path, result.to_string()).unwrap();
    assert_eq!(told(measures[0], &out), (first, true));
    let now = (files(&run.join("checkpoints")), std::fs::read(run.join("metrics.jsonl")).unwrap());
    assert!(now == trained);

    // What cannot be read may be the result of hours: it is not made anew without a word.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    fail(&mut ablate(&out, &sets, &arguments), 2, &["result.json", "remove it to measure again"]);
}

#[test]
fn a_training_that_diverges_is_reported_with_its_step_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("table");
    // With steps as large as the weights, a learned log variance soon is a number whose exponential is infinite.
    let sets = ["train.steps=40", "train.learning_rate=1", "train.warmup_steps=0", "train.grad_clip=0"];
    let arguments = ["--json", "--predictions", "eps", "--objectives", "bound-learned,mse"];
    let output = ablate(&out, &sets, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = object(&output);
    assert_eq!(statuses(&table), ["unstable", "finished"]);
    let unstable = &table["results"][0];
    let step = unstable["step"].as_u64().unwrap();
    assert!(step < 40, "{unstable}");
    assert!(unstable["reason"].as_str().unwrap().contains(&format!("of update {}", step + 1)), "{unstable}");
    let markdown = std::fs::read_to_string(out.join("ablation.md")).unwrap();
    assert_eq!(markdown.matches("unstable: ").count(), 1, "{markdown}");
    let again = object(&ablate(&out, &sets, &arguments).output().unwrap());
    assert_eq!(again, table);
}

#[test]
fn schedules_and_seeds_are_axes_too() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("table");
    let arguments = [
        "--predictions",
        "eps",
        "--objectives",
        "mse",
        "--schedules",
        "quad,const",
        "--seeds",
        "2",
        "--seed",
        "7",
    ];
    let told = succeed(&mut ablate(&out, &["train.steps=1"], &arguments));
    assert!(told.contains("| β | predicts | trained on | seed |"), "{told}");
    for name in ["quad-eps-mse-seed7", "quad-eps-mse-seed8", "const-eps-mse-seed7", "const-eps-mse-seed8"] {
        assert!(out.join(name).join("result.json").is_file(), "{name}");
    }
    fail(&mut ablate(&out, &[], &["--schedules", "straight"]), 2, &["straight", "warmup10"]);
    fail(&mut ablate(&out, &[], &["--predictions", "noise"]), 2, &["noise", "xprev"]);
}

#[cfg(unix)]
#[test]
fn stopped_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (out, whole) = (dir.path().join("stopped"), dir.path().join("whole"));
    let arguments = ["--json", "--objectives", "bound-fixed", "--predictions", "eps"];
    let sets = ["train.steps=60"];
    let mut child =
        ablate(&out, &sets, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(&mut child, || out.join("linear-eps-bound-fixed-seed0/metrics.jsonl").is_file());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    // A fast machine may have been through.
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
        assert_eq!(object(&output)["status"], "stopped");
    }
    let stopped = object(&ablate(&out, &sets, &arguments).output().unwrap());
    let expected = object(&ablate(&whole, &sets, &arguments).output().unwrap());
    assert_eq!(stopped["results"], expected["results"]);
}

#[test]
fn nothing_is_written_among_what_is_somebody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    std::fs::create_dir_all(photos.join("holiday")).unwrap();
    std::fs::write(photos.join("holiday/a.png"), "a picture").unwrap();
    let before = files(&photos);
    let arguments = ["--predictions", "eps", "--objectives", "mse"];
    let words = ["photos", "holiday", "not an ablation's", "--out"];
    fail(&mut ablate(&photos, &["train.steps=1"], &arguments), 2, &words);
    assert!(files(&photos) == before);
    let file = photos.join("holiday/a.png");
    fail(&mut ablate(&file, &["train.steps=1"], &arguments), 2, &["is a file"]);

    // What was killed in its first training, and notes beside a table, are an ablation's.
    let out = dir.path().join("table");
    std::fs::create_dir_all(out.join("linear-eps-mse-seed0")).unwrap();
    succeed(&mut ablate(&out, &["train.steps=1"], &arguments));
    std::fs::remove_file(out.join("ablation.json")).unwrap();
    std::fs::remove_file(out.join("ablation.md")).unwrap();
    std::fs::remove_file(out.join("ablation.csv")).unwrap();
    succeed(&mut ablate(&out, &["train.steps=1"], &arguments));
    std::fs::write(out.join("notes.txt"), "better than last year's").unwrap();
    succeed(&mut ablate(&out, &["train.steps=1"], &arguments));

    // A report goes into a new folder, its own, or a run's.
    let run = out.join("linear-eps-mse-seed0");
    let report = |out: &Path| {
        let mut command = ddpm(&["report", "--out"]);
        command.arg(out).arg(&run);
        command
    };
    fail(&mut report(&photos), 2, &["photos", "holiday", "not a report's or a run's", "--out"]);
    assert!(files(&photos) == before);
    for _ in 0..2 {
        succeed(&mut report(&dir.path().join("page")));
    }
    succeed(&mut report(&run));
}
