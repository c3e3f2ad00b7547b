//! `ddpm sample`.

use crate::ddpm::{ddpm, fail, files, succeed, trained};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn sample(model: &Path, out: &Path, arguments: &[&str]) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut command = ddpm(&["sample"]);
    command.arg(model).arg("--out").arg(out).args(arguments);
    succeed(&mut command);
    files(out)
}

#[test]
fn images_are_numbered_and_depend_on_the_seed_alone() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let draw = |name: &str, arguments: &[&str]| sample(&run, &dir.path().join(name), arguments);
    let reference = draw("a", &["--n", "5"]);
    let names: Vec<String> = reference.keys().map(|name| name.display().to_string()).collect();
    assert_eq!(names, ["000000.png", "000001.png", "000002.png", "000003.png", "000004.png", "grid.png"]);
    for name in &names[..5] {
        let image = image::load_from_memory(&reference[Path::new(name)]).unwrap();
        assert_eq!((image.width(), image.height(), image.color()), (8, 8, image::ColorType::Rgb8));
    }
    let grid = image::load_from_memory(&reference[Path::new("grid.png")]).unwrap();
    assert_eq!((grid.width(), grid.height()), (28, 18));

    assert!(draw("b", &["--n", "5", "--batch", "1", "--threads", "1"]) == reference);
    assert!(draw("c", &["--n", "5", "--batch", "3", "--threads", "3", "--seed", "0"]) == reference);
    assert!(draw("d", &["--n", "5", "--steps", "20"]) == reference);
    assert!(draw("e", &["--n", "5", "--weights", "ema"]) == reference);
    // Fewer images are the first of more.
    let fewer = draw("f", &["--n", "2"]);
    assert_eq!(fewer.len(), 3);
    assert!(fewer.iter().all(|(name, image)| name.ends_with("grid.png") || reference[name] == *image));
    let others = [&["--seed", "1"][..], &["--weights", "raw"], &["--steps", "7"], &["--sampler", "ddim"]];
    for (index, arguments) in others.iter().enumerate() {
        let arguments = [&["--n", "5"][..], arguments].concat();
        assert!(draw(&format!("other-{index}"), &arguments) != reference, "{arguments:?}");
    }
    // Image 0 and image 1 are not the same.
    assert_ne!(reference[Path::new("000000.png")], reference[Path::new("000001.png")]);
}

#[test]
fn a_run_a_checkpoint_and_its_raw_weights_are_models() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let checkpoint = run.join("checkpoints/step-00000004");
    let of_run = sample(&run, &dir.path().join("a"), &["--n", "1"]);
    assert!(sample(&checkpoint, &dir.path().join("b"), &["--n", "1"]) == of_run);
    let raw = sample(&run, &dir.path().join("c"), &["--n", "1", "--weights", "raw"]);
    assert!(sample(&checkpoint.join("raw"), &dir.path().join("d"), &["--n", "1"]) == raw);
    let mut command = ddpm(&["sample", "--weights", "ema", "--out", "nowhere"]);
    fail(command.arg(checkpoint.join("raw")), 2, &["no ema weights"]);
}

#[test]
fn places_and_options_that_cannot_be_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let (file, full) = (dir.path().join("file"), dir.path().join("full"));
    std::fs::write(&file, "mine").unwrap();
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("grid.png"), "mine").unwrap();
    let refused = |out: &Path, arguments: &[&str], words: &[&str]| {
        let mut command = ddpm(&["sample"]);
        command.arg(&run).arg("--out").arg(out).args(arguments);
        fail(&mut command, 2, words);
    };
    refused(&file, &[], &["file", "is a file"]);
    refused(&file.join("below"), &[], &["file"]);
    refused(&full, &[], &["full", "not empty"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    assert_eq!(files(&full).into_values().collect::<Vec<_>>(), [b"mine"]);
    let new = dir.path().join("new");
    refused(&new, &["--steps", "0"], &["steps", "20"]);
    refused(&new, &["--steps", "21"], &["steps", "20"]);
    assert!(!new.exists());
}

#[test]
fn damaged_weights_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let weights = run.join("checkpoints/step-00000004/unet/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&weights, &bytes).unwrap();
    let new = dir.path().join("new");
    let mut command = ddpm(&["sample", "--out"]);
    fail(command.arg(&new).arg(&run), 2, &["diffusion_pytorch_model.safetensors", "corrupted"]);
    bytes.truncate(middle);
    std::fs::write(&weights, &bytes).unwrap();
    let mut command = ddpm(&["sample", "--out"]);
    fail(command.arg(&new).arg(&run), 2, &["diffusion_pytorch_model.safetensors", "truncated"]);
    assert!(!new.exists());
}

#[test]
fn the_model_in_the_repository_draws_digits() {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mnist32");
    let images =
        sample(&model, &dir.path().join("digits"), &["--n", "4", "--sampler", "ddim", "--steps", "20"]);
    for name in ["000000.png", "000001.png", "000002.png", "000003.png"] {
        let digit = image::load_from_memory(&images[Path::new(name)]).unwrap().to_luma8();
        assert_eq!(digit.dimensions(), (32, 32));
        // Strokes of ink in the middle of a black page.
        let ink = digit.pixels().filter(|pixel| pixel.0[0] > 127).count();
        assert!((20..350).contains(&ink), "{name}: {ink} bright pixels");
        let margin =
            digit.enumerate_pixels().filter(|(x, y, _)| !(3..29).contains(x) || !(3..29).contains(y));
        let brightest = margin.map(|(_, _, pixel)| pixel.0[0]).max().unwrap();
        assert!(brightest < 100, "{name}: the margin is as bright as {brightest}");
    }
}
