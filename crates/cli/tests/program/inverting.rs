//! `ddpm invert`, and `ddpm sample --x-t` on the way back.

use crate::ddpm::{ddpm, fail, object, succeed, trained};
use std::path::Path;

/// Images of the run's own, as files.
fn drawn(run: &Path, folder: &Path) {
    let mut command =
        ddpm(&["sample", "--n", "3", "--sampler", "ddim", "--steps", "10", "--seed", "5", "--out"]);
    succeed(command.arg(folder).arg(run));
}

#[test]
fn images_come_back_from_their_latents() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let images = dir.path().join("images");
    drawn(&run, &images);
    let image = |number: usize| images.join(format!("00000{number}.png"));
    let call = |out: &str, arguments: &[&str]| {
        let mut command = ddpm(&["invert", "--json", "--steps", "20", "--out"]);
        command.arg(dir.path().join(out)).args(arguments).arg(&run).args([image(0), image(1), image(2)]);
        command
    };
    let grid = dir.path().join("grid.png");
    let report = |command: &mut std::process::Command| object(&command.output().unwrap());
    let once = report(&mut call("x_T.npz", &["--iterations", "1", "--grid", grid.to_str().unwrap()]));
    let exact = report(&mut call("exact.npz", &["--iterations", "8"]));
    let rmse = |report: &serde_json::Value| report["rmse"].as_f64().unwrap();
    // All steps of the process, each inverted by iteration: what is left is the rounding to bytes.
    assert!(rmse(&exact) < 0.6 && rmse(&exact) <= rmse(&once), "{exact} {once}");
    assert_eq!(once["images"].as_array().unwrap().len(), 3);
    assert!(std::fs::read(&grid).unwrap().starts_with(b"\x89PNG"));

    // The same way back by the other command: the images themselves.
    let back = dir.path().join("back");
    let mut command = ddpm(&["sample", "--sampler", "ddim", "--steps", "20", "--out"]);
    succeed(command.arg(&back).arg(&run).arg("--x-t").arg(dir.path().join("exact.npz")));
    let pixels = |folder: &Path, number: usize| {
        image::open(folder.join(format!("00000{number}.png"))).unwrap().into_rgb8().into_raw()
    };
    for number in 0..3 {
        let (there, back) = (pixels(&images, number), pixels(&back, number));
        let largest = there.iter().zip(&back).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(largest <= 3, "image {number} is off by up to {largest}");
    }
    assert!(!back.join("000003.png").exists());
}

#[test]
fn wrong_calls_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let images = dir.path().join("images");
    drawn(&run, &images);
    let out = dir.path().join("x_T.npz");
    let call = |arguments: &[&str]| {
        let mut command = ddpm(&["invert", "--out"]);
        command.arg(&out).args(arguments).arg(&run);
        command
    };
    fail(call(&["--steps", "21"]).arg(images.join("000000.png")), 2, &["21"]);
    fail(call(&["--steps", "5"]).arg(images.join("grid.png")), 2, &["grid.png", "--fit"]);
    fail(call(&["--steps", "5"]).arg(dir.path().join("none.png")), 2, &["none.png"]);
    assert!(!out.exists());
    succeed(call(&["--steps", "5", "--fit"]).arg(images.join("grid.png")));
    fail(call(&["--steps", "5"]).arg(images.join("000000.png")), 2, &["exists already"]);

    let sample = |arguments: &[&str]| {
        let mut command = ddpm(&["sample", "--sampler", "ddim", "--steps", "5", "--out"]);
        command.arg(dir.path().join("back")).args(arguments).arg(&run).arg("--x-t");
        command
    };
    fail(sample(&["--n", "2"]).arg(&out), 2, &["x_T.npz", "[1, 8, 8, 3]"]);
    fail(sample(&[]).arg(images.join("grid.png")), 2, &["grid.png"]);
    let other = dir.path().join("other.npz");
    succeed(ddpm(&["sample", "--n", "1", "--steps", "2", "--out"]).arg(&other).arg(&run));
    fail(sample(&[]).arg(&other), 2, &["x_T"]);
    // A shape that is wrong is seen before the numbers, which are not all there.
    let mut bytes = Vec::new();
    let mut writer = numpy::NpzWriter::new(&mut bytes);
    writer.add_f32("x_T", &[1, 8, 8, 4], &[f32::NAN; 256]).unwrap();
    writer.finish().unwrap();
    let huge = dir.path().join("huge.npz");
    std::fs::write(&huge, &bytes).unwrap();
    fail(sample(&[]).arg(&huge), 2, &["huge.npz", "[1, 8, 8, 4]", "[1 or more, 8, 8, 3]"]);
}
