//! Signals, kills, full disks: what was done is kept, and going on gives the bits of a run never stopped.
#![cfg(unix)]

use crate::ddpm::{fail, files, object, succeed, text, train_tiny, trained, wait_until};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const STEPS: &str = "train.steps=120";

fn weights(run: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let files = files(&run.join("checkpoints/step-00000120"));
    assert!(files.len() > 8);
    files
}

/// metrics.jsonl but for the speed.
fn metrics(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| line.split(",\"images_per_second\"").next().unwrap().to_owned()).collect()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn checkpoints(run: &Path) -> usize {
    std::fs::read_dir(run.join("checkpoints")).map_or(0, |entries| {
        entries
            .filter(|entry| !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
            .count()
    })
}

#[test]
fn kills_at_any_moment_leave_no_trace_in_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    // A checkpoint every other update: kills fall into saving as well as into training.
    let sets = [STEPS, "train.checkpoint_every=2", "train.keep_checkpoints=2"];
    let whole = dir.path().join("whole");
    succeed(&mut train_tiny(&whole, &sets, &[]));
    let killed = dir.path().join("killed");
    // Before there is anything, then at moments that fall differently on every machine.
    for milliseconds in [1, 20, 90, 170, 260, 410] {
        let mut child = train_tiny(&killed, &sets, &["--resume"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        // It may have finished on a fast machine; the comparison holds all the same.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let mut child = train_tiny(&killed, &sets, &["--resume"]).stderr(Stdio::null()).spawn().unwrap();
    let before = checkpoints(&killed);
    if before < 2 {
        wait_until(&mut child, || checkpoints(&killed) >= 2);
    }
    let _ = child.kill();
    child.wait().unwrap();
    succeed(&mut train_tiny(&killed, &sets, &["--resume"]));
    assert!(weights(&killed) == weights(&whole));
    assert_eq!(metrics(&killed), metrics(&whole));
    let names: Vec<_> = files(&killed.join("checkpoints"))
        .into_keys()
        .map(|path| path.components().next().unwrap().as_os_str().to_owned())
        .collect();
    assert!(names.iter().all(|name| name == "step-00000118" || name == "step-00000120"), "{names:?}");
}

#[test]
fn signals_save_and_stop() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    succeed(&mut train_tiny(&whole, &[STEPS], &[]));
    for (name, status) in [("-TERM", 143), ("-INT", 130)] {
        let run = dir.path().join(name);
        // No checkpoint but that of the signal.
        let sets = ["train.steps=1000000", "train.checkpoint_every=1000000"];
        let mut child = train_tiny(&run, &sets, &["--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(&mut child, || metrics_lines(&run) >= 2);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", text(&output.stderr));
        let result = object(&output);
        assert_eq!(result["status"], "stopped");
        let step = result["step"].as_u64().unwrap();
        assert!(step >= 4 && run.join(format!("checkpoints/step-{step:08}")).is_dir());
        assert_eq!(checkpoints(&run), 1);
        if step < 120 {
            let sets = [STEPS, "train.checkpoint_every=1000000"];
            succeed(&mut train_tiny(&run, &sets, &["--resume"]));
            let raw = |run: &Path| files(&run.join("checkpoints/step-00000120/raw"));
            assert!(raw(&run) == raw(&whole));
            assert_eq!(metrics(&run), metrics(&whole));
        } else {
            eprintln!("the machine was too fast for the comparison: {step} updates before {name}");
        }
    }
}

fn metrics_lines(run: &Path) -> usize {
    std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn one_trainer_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut child = train_tiny(&run, &["train.steps=1000000"], &[]).stderr(Stdio::null()).spawn().unwrap();
    wait_until(&mut child, || metrics_lines(&run) >= 1);
    fail(&mut train_tiny(&run, &["train.steps=1000000"], &["--resume"]), 2, &["another process"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A file size limit makes writes fail as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (run, whole) = (dir.path().join("run"), dir.path().join("whole"));
    succeed(&mut train_tiny(&whole, &["train.steps=6"], &[]));
    succeed(&mut train_tiny(&run, &["train.steps=3"], &[]));
    let before = files(&run.join("checkpoints"));
    let limited = train_tiny(&run, &["train.steps=6"], &["--resume"]);
    let mut shell = Command::new("sh");
    // Signal 25, SIGXFSZ, would kill the program before it can be told.
    shell
        .args(["-c", "trap '' 25; ulimit -f 32; exec \"$@\"", "sh"])
        .arg(limited.get_program())
        .args(limited.get_args());
    fail(&mut shell, 1, &["cannot be written", "last good checkpoint", "step-00000003"]);
    assert!(files(&run.join("checkpoints")) == before);
    succeed(&mut train_tiny(&run, &["train.steps=6"], &["--resume"]));
    let last = "checkpoints/step-00000006";
    assert!(files(&run.join(last)) == files(&whole.join(last)));
    assert_eq!(metrics(&run), metrics(&whole));
}

#[test]
fn sampling_stops_with_what_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let out = dir.path().join("images");
    let mut child = crate::ddpm::ddpm(&[
        "sample",
        run.to_str().unwrap(),
        "--n",
        "100000",
        "--batch",
        "1",
        "--json",
        "--out",
    ])
    .arg(&out)
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    wait_until(&mut child, || out.join("000001.png").is_file());
    signal(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    let images = object(&output)["images"].as_u64().unwrap();
    // Beside them, what they are, to go on with.
    let names: Vec<_> = files(&out).into_keys().filter(|name| !name.ends_with("samples.json")).collect();
    assert_eq!(names.len() as u64, images);
    assert!(names.iter().all(|name| image::open(out.join(name)).is_ok()), "{names:?}");
}

#[test]
fn figures_that_are_stopped_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    for arguments in [
        &["progressive", "run", "--n", "100000", "--frames", "2"][..],
        &["interpolate", "run", "--data", "shapes32", "--pairs", "2000"],
    ] {
        let mut child = crate::ddpm::ddpm(arguments)
            .args(["--batch", "1", "--json", "--out", "out"])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert!(line.contains("sampling 1/") || line.contains("interpolating 1/"), "{line}");
        signal(&child, "-INT");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{arguments:?}");
        assert_eq!(object(&output)["status"], "stopped");
        assert!(!dir.path().join("out").exists());
    }
}
