//! What is left of a run when its process is killed, or its disk full, in the middle of a checkpoint.
#![cfg(unix)]

mod support;

use checkpoint::{RunDirectory, SavedTraining, TrainingBuffersMut};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{SmallRun, bits};

const RUN: &str = "DDPM_TEST_RUN";
const STEPS: &str = "DDPM_TEST_STEPS";

/// The state that the child saves for `step`: what it says there, `origin` says whose numbers they are.
fn state(step: u64, origin: u64) -> SmallRun {
    let mut state = SmallRun::at(origin);
    state.progress.step = step;
    state
}

/// Not a test of its own: the process that is killed. Saves every step twice, with other numbers the second time.
#[test]
#[ignore = "run by the other tests of this file"]
fn child() {
    let run = RunDirectory::new(Path::new(&std::env::var(RUN).unwrap()));
    let steps: u64 = std::env::var(STEPS).unwrap().parse().unwrap();
    run.clean().unwrap();
    let first = run.latest().unwrap().map_or(1, |checkpoint| checkpoint.step);
    for step in first..first.saturating_add(steps) {
        for origin in [step, step + 1_000_000] {
            if let Err(error) = state(step, origin).save(&run) {
                eprintln!("not saved: {error}");
                std::process::exit(1);
            }
        }
        run.prune(step, 2).unwrap();
    }
}

/// This test binary as a child that saves `steps` steps, started by `command`.
fn child_command(mut command: Command, run: &Path, steps: u64) -> Command {
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    command.env(RUN, run).env(STEPS, steps.to_string());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Checks that every checkpoint that can be seen is one of those saved, whole; returns the latest step.
fn assert_all_whole(run: &RunDirectory) -> Option<u64> {
    for checkpoint in run.checkpoints().unwrap() {
        let saved = SavedTraining::open(&checkpoint.directory).unwrap();
        let origin = saved.progress.samples / 128;
        let expected = state(checkpoint.step, origin);
        assert!(origin % 1_000_000 == checkpoint.step);
        assert_eq!(saved.progress, expected.progress);
        let mut buffers = vec![vec![0.0; expected.layout.len()]; 4];
        let [raw, ema, first_moment, second_moment] = buffers.as_mut_slice() else { unreachable!() };
        saved
            .restore(&expected.layout, TrainingBuffersMut { raw, ema, first_moment, second_moment })
            .unwrap();
        for (found, expected) in buffers.iter().zip([
            &expected.raw,
            &expected.ema,
            &expected.first_moment,
            &expected.second_moment,
        ]) {
            assert_eq!(bits(found), bits(expected), "numbers of two checkpoints are mixed");
        }
    }
    run.latest().unwrap().map(|checkpoint| checkpoint.step)
}

#[test]
fn a_kill_at_any_moment_leaves_whole_checkpoints() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(root.path());
    let mut last = None;
    for round in 0..16u64 {
        let mut child = child_command(Command::new(std::env::current_exe().unwrap()), root.path(), u64::MAX)
            .spawn()
            .unwrap();
        // Wait until the child is at work, then for a moment that is another one in every round.
        let start = Instant::now();
        while run.latest().unwrap().map(|checkpoint| checkpoint.step) == last {
            assert!(start.elapsed() < Duration::from_secs(60), "the child saves nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(2_700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let latest = assert_all_whole(&run);
        assert!(latest > last, "a checkpoint was lost: {latest:?} after {last:?}");
        last = latest;
    }
    run.clean().unwrap();
    let checkpoints = root.path().join("checkpoints");
    let leftovers = std::fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(leftovers.into_iter().all(|name| name.to_str().unwrap().starts_with("step-")));
}

#[test]
fn a_full_disk_leaves_the_checkpoints_that_were_there() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(root.path());
    state(1, 1).save(&run).unwrap();
    // A limit on the length of files stands in for the end of the disk: writes fail half way, at another file
    // for each limit (in blocks of 512 bytes; the weights have 61 kB, the moments 94 kB).
    for blocks in [0, 1, 8, 90, 150] {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -f {blocks}; trap '' XFSZ; exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(std::env::current_exe().unwrap());
        let output = child_command(shell, root.path(), 1).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{blocks} blocks are not too few");
        assert!(message.contains("not saved: ") && message.contains("cannot be written"), "{message}");
        assert!(message.contains("step-00000001"), "{message}");
        assert_eq!(assert_all_whole(&run), Some(1));
        assert_eq!(SavedTraining::open(&run.checkpoint(1)).unwrap().progress.samples, 128);
        assert_eq!(
            std::fs::read_dir(root.path().join("checkpoints")).unwrap().count(),
            1,
            "a temporary is left"
        );
    }
    // There is nothing wrong with the child otherwise.
    let output =
        child_command(Command::new(std::env::current_exe().unwrap()), root.path(), 1).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(SavedTraining::open(&run.checkpoint(1)).unwrap().progress.samples, 128 * 1_000_001);
}
