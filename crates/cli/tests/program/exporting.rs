//! `ddpm export`, and the options on how networks are computed.

use crate::ddpm::{ddpm, fail, files, object, succeed, trained};
use std::path::Path;
use std::process::Command;

fn export(model: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = ddpm(&["export"]);
    command.arg(model).arg("--out").arg(out).args(arguments);
    command
}

#[test]
fn an_exported_model_draws_the_same_images() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let path = |name: &str| dir.path().join(name);
    let draw = |model: &Path, name: &str| {
        succeed(ddpm(&["sample", "--n", "2", "--out"]).arg(path(name)).arg(model));
        files(&path(name))
    };
    succeed(&mut export(&run, &path("ema"), &[]));
    succeed(&mut export(&run, &path("half"), &["--dtype", "f16"]));
    succeed(&mut export(&run, &path("raw"), &["--weights", "raw"]));
    let reference = draw(&run, "images");
    assert!(draw(&path("ema"), "images-ema") == reference);
    assert!(draw(&path("raw"), "images-raw") != reference);
    let size = |model: &str| {
        path(model).join("unet/diffusion_pytorch_model.safetensors").metadata().unwrap().len() as f64
    };
    assert!(size("half") < 0.6 * size("ema"), "{} of {}", size("half"), size("ema"));
    let inspected = object(&ddpm(&["inspect", "--json"]).arg(path("raw")).output().unwrap());
    assert!(inspected.to_string().contains("raw"), "{inspected}");
    fail(&mut export(&run, &path("ema"), &[]), 2, &["ema"]);
    fail(&mut export(&path("nowhere"), &path("x"), &[]), 2, &["nowhere"]);
}

#[test]
fn a_profile_adds_up_and_direct_convolutions_are_another_way_to_the_same_prediction() {
    let dir = tempfile::tempdir().unwrap();
    // Large enough for Winograd's way.
    let run = dir.path().join("run");
    let mut train = ddpm(&["train", "shapes32", "--profile", "--out"]);
    train.arg(&run);
    for set in ["train.steps=2", "train.batch_size=2", "log.sample_every=0", "diffusion.timesteps=4"] {
        train.args(["--set", set]);
    }
    let output = train.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    let milliseconds = |operation: &str| -> f64 {
        let line = words.lines().find(|line| line.trim_end().ends_with(operation));
        let line = line.unwrap_or_else(|| panic!("no line for {operation} in: {words}"));
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    for operation in
        ["conv", "conv input grad", "conv weight grad", "group norm grad", "adam, average", "all else"]
    {
        assert!(milliseconds(operation) <= milliseconds("total"), "{operation}");
    }
    assert!(milliseconds("conv") > 0.0);

    let draw = |name: &str, arguments: &[&str]| {
        let out = dir.path().join(name);
        let mut command = ddpm(&["sample", "--n", "1"]);
        succeed(command.arg(&run).arg("--out").arg(&out).args(arguments));
        image::open(out.join("000000.png")).unwrap().to_rgb8().into_raw()
    };
    let (fast, direct) = (draw("fast", &[]), draw("direct", &["--conv", "direct"]));
    let largest = fast.iter().zip(&direct).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(largest <= 2, "images differ by {largest} of 255");
}
