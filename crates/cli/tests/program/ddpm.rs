//! Calls of the program, as a shell makes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A network small enough that an update takes milliseconds.
const TINY: [&str; 15] = [
    "data.image_size=8",
    "data.flip=true",
    "model.channels=16",
    "model.block_size=1",
    "diffusion.prediction=eps",
    "diffusion.variance=fixed_large",
    "model.channel_mult=[1,2]",
    "model.num_res_blocks=1",
    "model.attention_resolutions=[4]",
    "model.norm_groups=4",
    "model.dropout=0.1",
    "diffusion.timesteps=20",
    "train.batch_size=4",
    "log.sample_every=0",
    "log.every=2",
];

/// The program with these arguments.
pub fn ddpm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `ddpm train` of a tiny network on the built-in images into `run`, with further arguments.
pub fn train_tiny(run: &Path, sets: &[&str], arguments: &[&str]) -> Command {
    let mut command = ddpm(&["train", "shapes32", "--out"]);
    command.arg(run);
    for set in TINY.iter().chain(sets) {
        command.args(["--set", set]);
    }
    command.args(arguments);
    command
}

/// The settings of the tiny network.
pub fn tiny_sets() -> &'static [&'static str] {
    &TINY
}

/// A run of a few updates.
pub fn trained(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    succeed(&mut train_tiny(&run, &["train.steps=4"], &[]));
    run
}

/// Standard output of a call that must succeed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a call that must end with `status`, saying each of `words`.
#[track_caller]
pub fn fail(command: &mut Command, status: i32, words: &[&str]) -> String {
    let output = command.output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{command:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
    message
}

/// The one JSON object on standard output.
#[track_caller]
pub fn object(output: &Output) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)));
    assert!(value.is_object(), "{value}");
    value
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `condition` holds while `child` runs; at most a minute.
#[track_caller]
pub fn wait_until(child: &mut Child, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(child.try_wait().unwrap().is_none(), "the program ended before its time");
        assert!(start.elapsed() < Duration::from_secs(60), "nothing happened for a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every file below `directory` with its content.
pub fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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
