//! `ddpm progressive`.

use crate::ddpm::{ddpm, fail, files, object, succeed, text, trained};
use crate::inception::write_weights;
use models::inception::Tap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn progressive(folder: &Path, out: &str, arguments: &[&str]) -> Command {
    let mut command = ddpm(&["progressive", "run", "--out", out]);
    command
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .env_remove("DDPM_INCEPTION");
    command
}

/// Cell (row, column) of a grid of 8x8 images.
fn cell(picture: &Path, row: u32, column: u32) -> Vec<u8> {
    let picture = image::open(picture).unwrap().to_rgb8();
    image::imageops::crop_imm(&picture, column * 10, row * 10, 8, 8).to_image().into_raw()
}

fn pixels(path: PathBuf) -> Vec<u8> {
    image::open(path).unwrap().to_rgb8().into_raw()
}

#[test]
fn the_end_of_every_way_is_the_sample() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    let at = |name: &str| dir.path().join(name);
    let arguments = ["--n", "5", "--frames", "4", "--shared-n", "3", "--shared-t", "20,6"];
    let output = progressive(dir.path(), "one", &arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = object(&output);
    let moments = told["quality"]["moments"].as_array().unwrap();
    let steps: Vec<_> =
        moments.iter().map(|m| (m["t"].as_u64().unwrap(), m["reverse_steps"].as_u64().unwrap())).collect();
    assert_eq!(steps, [(16, 5), (11, 10), (6, 15), (1, 20)]);
    let errors: Vec<_> = moments.iter().map(|m| m["rmse_to_final"]["mean"].as_f64().unwrap()).collect();
    assert!(errors[0] > errors[2] && errors[2] > 0.0 && errors[3] == 0.0, "{errors:?}");
    assert_eq!(std::fs::read_to_string(at("one/quality.csv")).unwrap().lines().count(), 5);

    let mut sample = ddpm(&["sample", "--n", "5", "--out"]);
    succeed(sample.arg(at("samples")).arg(at("run")));
    for k in 0..5 {
        let sample = pixels(at(&format!("samples/00000{k}.png")));
        assert!(cell(&at("one/strip.png"), k, 3) == sample && cell(&at("one/strip.png"), k, 0) != sample);
    }
    // Rows of x_t and three samples; the first is sample 0, the others are not.
    let shared = at("one/shared.png");
    let first = pixels(at("samples/000000.png"));
    for row in 0..2 {
        assert_eq!(cell(&shared, row, 1), first);
        assert!(cell(&shared, row, 2) != first && cell(&shared, row, 2) != cell(&shared, row, 3));
    }
    // What differs below t = 6 is less than what differs below t = 20.
    let apart = |row| -> u32 {
        let pairs = cell(&shared, row, 1).into_iter().zip(cell(&shared, row, 2));
        pairs.map(|(a, b)| u32::from(a.abs_diff(b))).sum()
    };
    assert!(apart(1) < apart(0));
    let animation = std::fs::read(at("one/animation.png")).unwrap();
    assert!(
        animation.windows(4).any(|bytes| bytes == b"acTL")
            && animation.windows(4).filter(|bytes| bytes == b"fdAT").count() == 3
    );

    succeed(&mut progressive(
        dir.path(),
        "two",
        &[&arguments[..], &["--batch", "2", "--threads", "1"]].concat(),
    ));
    let (one, mut two) = (files(&at("one")), files(&at("two")));
    two.insert("progressive.json".into(), one[Path::new("progressive.json")].clone());
    assert!(one == two);
}

#[test]
fn x0_is_compared_with_real_images() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    write_weights(&dir.path().join("weights.safetensors"), Tap::Pool1);
    let arguments = [
        "--n",
        "6",
        "--frames",
        "2",
        "--sampler",
        "ddim",
        "--steps",
        "10",
        "--data",
        "shapes32",
        "--fid",
        "--reference-n",
        "20",
        "--dims",
        "64",
        "--inception",
        "weights.safetensors",
        "--json",
    ];
    let output = progressive(dir.path(), "out", &arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("no shared.png"), "{}", text(&output.stderr));
    let told = object(&output);
    assert!(!dir.path().join("out/shared.png").exists());
    let moments = told["quality"]["moments"].as_array().unwrap();
    let number = |frame: usize, name: &str| moments[frame][name]["mean"].as_f64().unwrap();
    assert!(number(0, "rmse_to_data") > number(1, "rmse_to_data"), "{told}");
    assert!(moments.iter().all(|moment| moment["fid"].as_f64().unwrap() > 0.0));

    // The FID at the end is that of the samples.
    let mut sample = ddpm(&["sample", "--n", "6", "--sampler", "ddim", "--steps", "10", "--out"]);
    succeed(sample.arg(dir.path().join("samples.npz")).arg(dir.path().join("run")));
    let mut fid =
        ddpm(&["fid", "samples.npz", "shapes32", "--reference-n", "20", "--image-size", "8", "--dims", "64"]);
    fid.args(["--inception", "weights.safetensors", "--json"]).current_dir(dir.path());
    let fid: serde_json::Value =
        serde_json::from_str(&succeed(fid.env("XDG_CACHE_HOME", dir.path().join("cache")))).unwrap();
    let (found, expected) = (moments[1]["fid"].as_f64().unwrap(), fid["fid"].as_f64().unwrap());
    assert!((found - expected).abs() < 1e-6 * expected, "{found} {expected}");
}

#[test]
fn what_cannot_be_shown_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    let calls: [(&[&str], &[&str]); 10] = [
        (&["--shared-t", "21"], &["--shared-t 21", "1 to 20"]),
        (&["--shared-t", "0"], &["--shared-t 0", "1 to 20"]),
        (&["--shared-t", "5", "--sampler", "ddim"], &["--shared-t", "adds no noise"]),
        (&["--shared-t", "2", "--spacing", "trailing", "--steps", "4"], &["--shared-t 2", "4 steps"]),
        (&["--frames", "0"], &["0"]),
        (&["--steps", "21"], &["steps", "20"]),
        (&["--fid"], &["--data"]),
        (&["--fid", "--data", "shapes32", "--inception", "nowhere.pth"], &["no end", "--reference-n"]),
        (
            &["--fid", "--data", "shapes32", "--reference-n", "9", "--inception", "nowhere.pth"],
            &["nowhere.pth"],
        ),
        (&["--data", "images:nowhere"], &["nowhere"]),
    ];
    for (arguments, words) in calls {
        fail(&mut progressive(dir.path(), "out", arguments), 2, words);
        assert!(!dir.path().join("out").exists(), "{arguments:?}");
    }
    std::fs::create_dir(dir.path().join("out")).unwrap();
    std::fs::write(dir.path().join("out/strip.png"), "mine").unwrap();
    fail(&mut progressive(dir.path(), "out", &[]), 2, &["out", "not empty"]);
}
