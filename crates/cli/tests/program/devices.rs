//! `--device`, `--precision`, and the ways to compute that only some processors have.

use crate::ddpm::{ddpm, fail, succeed, text, train_tiny};
use engine::{ConvMethod, CpuOptions};

/// Whether the program finds no CUDA device here: then it must say what is missing.
fn is_without_cuda() -> bool {
    engine::Cuda::find(0).is_err()
}

#[test]
fn a_device_that_is_not_there_is_an_error_with_a_remedy() {
    if !is_without_cuda() {
        println!("SKIPPED: there is a CUDA device");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    succeed(&mut train_tiny(&run, &["train.steps=1"], &[]));
    let (run, out) = (run.to_str().unwrap(), dir.path().join("new"));
    let sample =
        ["sample", run, "--n", "1", "--out", out.to_str().unwrap(), "--steps", "2", "--sampler", "ddim"];
    for device in ["cuda", "cuda:1"] {
        let mut command = ddpm(&sample);
        command.args(["--device", device]);
        fail(&mut command, 1, &["cannot be loaded", "--device cpu"]);
    }
    let mut train = train_tiny(&dir.path().join("other"), &["train.steps=1"], &["--device", "cuda"]);
    fail(&mut train, 1, &["cannot be loaded", "--device cpu"]);
    assert!(!dir.path().join("other").exists(), "found before anything is written");

    let mut command = ddpm(&sample);
    let output = command.args(["--device", "auto"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("device: ")).collect();
    let [choice, report] = lines[..] else { panic!("{said}") };
    assert!(
        choice.contains("the CPU, since") && report.contains("the CPU, ") && report.contains("MiB"),
        "{said}"
    );
}

#[test]
fn what_a_device_cannot_do_is_said() {
    fail(&mut ddpm(&["sample", "x", "--out", "y", "--device", "gpu"]), 2, &["gpu", "cuda:N"]);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    for precision in ["tf32", "bf16"] {
        for device in ["cpu", "auto"] {
            let options = &["--precision", precision, "--device", device];
            fail(&mut train_tiny(&run, &["train.steps=1"], options), 2, &["f32", "--device cuda"]);
        }
    }
    fail(&mut ddpm(&["sample", "x", "--out", "y", "--deterministic", "maybe"]), 2, &["maybe", "true, false"]);
    assert!(!run.exists());
}

#[test]
fn the_codec_stays_on_the_cpu() {
    let arguments = ["compress", "model", "a.png", "--out", "b.ddpm", "--device", "cuda"];
    fail(&mut ddpm(&arguments), 2, &["same bits", "CPU"]);
    let arguments = ["compress", "model", "a.png", "--out", "b.ddpm", "--conv", "bf16x3"];
    let words: &[&str] = if has_matrix_unit() { &["every machine", "--conv bf16x3"] } else { &["AMX"] };
    fail(&mut ddpm(&arguments), 2, words);
}

fn has_matrix_unit() -> bool {
    let cpu = CpuOptions { conv: ConvMethod::Bf16x3, ..CpuOptions::default() };
    cpu.validate().is_ok()
}

#[test]
fn the_cpu_says_what_it_takes_and_which_unit_it_leaves_unused() {
    let dir = tempfile::tempdir().unwrap();
    for conv in ["fast", "direct"] {
        let arguments = ["--conv", conv, "--threads", "2"];
        let output = train_tiny(&dir.path().join(conv), &["train.steps=1"], &arguments).output().unwrap();
        let told = text(&output.stderr);
        assert!(output.status.success() && told.contains("device: the CPU, 2 threads, "), "{told}");
        assert_eq!(told.contains("--conv bf16x3 would"), conv == "fast" && has_matrix_unit(), "{told}");
    }
}

#[test]
fn a_matrix_unit_trains_and_samples_or_is_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut train = train_tiny(&run, &["train.steps=2"], &["--conv", "bf16x3"]);
    if !has_matrix_unit() {
        fail(&mut train, 2, &["AMX", "--conv fast"]);
        assert!(!run.exists());
        println!("SKIPPED: this processor has no matrix unit");
        return;
    }
    succeed(&mut train);
    let other = dir.path().join("other");
    succeed(&mut train_tiny(&other, &["train.steps=2"], &["--conv", "direct"]));
    let losses = |run: &std::path::Path| -> Vec<serde_json::Value> {
        let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].clone())
            .collect()
    };
    assert!(losses(&run).iter().all(serde_json::Value::is_f64));
    assert_ne!(losses(&run), losses(&other), "both were computed the same way");
    let draw = |conv: &str| {
        let out = dir.path().join(conv);
        let mut command = ddpm(&["sample", "--n", "1", "--conv", conv]);
        succeed(command.arg(&run).arg("--out").arg(&out));
        image::open(out.join("000000.png")).unwrap().to_rgb8().into_raw()
    };
    let (unit, direct) = (draw("bf16x3"), draw("direct"));
    let largest = unit.iter().zip(&direct).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(largest <= 2, "images differ by {largest} of 255");
}
