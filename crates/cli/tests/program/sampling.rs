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
    let expected =
        ["000000.png", "000001.png", "000002.png", "000003.png", "000004.png", "grid.png", "samples.json"];
    assert_eq!(names, expected);
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
    assert_eq!(fewer.len(), 4);
    assert!(fewer.iter().all(|(name, image)| name.ends_with("grid.png") || reference[name] == *image));
    let others = [
        &["--seed", "1"][..],
        &["--weights", "raw"],
        &["--steps", "7"],
        &["--sampler", "ddim"],
        &["--sampler", "ddim", "--eta", "1"],
    ];
    let mut seen = Vec::new();
    for (index, arguments) in others.iter().enumerate() {
        let arguments = [&["--n", "5"][..], arguments].concat();
        let mut images = draw(&format!("other-{index}"), &arguments);
        images.remove(Path::new("samples.json"));
        assert!(images.iter().any(|(name, image)| reference[name] != *image), "{arguments:?}");
        assert!(!seen.contains(&images), "{arguments:?}");
        seen.push(images);
    }
    // What an untrained network draws hardly depends on the solver; that it is taken is in the record.
    let solved =
        draw("solved", &["--n", "1", "--sampler", "dpm-solver++", "--steps", "10", "--spacing", "trailing"]);
    let record: serde_json::Value = serde_json::from_slice(&solved[Path::new("samples.json")]).unwrap();
    assert_eq!((&record["sampler"], &record["spacing"]), (&"dpm-solver++".into(), &"trailing".into()));
    // Image 0 and image 1 are not the same.
    assert_ne!(reference[Path::new("000000.png")], reference[Path::new("000001.png")]);
}

#[test]
fn one_file_has_the_bytes_of_the_folders_images() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let arguments = ["--n", "5", "--sampler", "ddim", "--steps", "5"];
    let folder = sample(&run, &dir.path().join("folder"), &arguments);
    let pixels: Vec<u8> = (0..5)
        .flat_map(|index| {
            let file = &folder[Path::new(&format!("{index:06}.png"))];
            image::load_from_memory(file).unwrap().to_rgb8().into_raw()
        })
        .collect();
    for (name, resume) in [("x.raw", false), ("x.npy", true), ("x.npz", true), ("x.png", false)] {
        let out = dir.path().join("files").join(name);
        std::fs::create_dir_all(out.parent().unwrap()).unwrap();
        let mut command = ddpm(&["sample", "--out"]);
        command.arg(&out).arg(&run).args(arguments);
        if resume {
            // Where nothing is to be resumed, all is drawn.
            command.arg("--resume");
        }
        succeed(&mut command);
        let found = std::fs::read(&out).unwrap();
        match name {
            "x.raw" => assert!(found == pixels),
            "x.npy" => assert!(found.ends_with(&pixels) && found.starts_with(b"\x93NUMPY")),
            "x.npz" => {
                let mut member = numpy::NpzFile::open(&out).unwrap().member("arr_0").unwrap();
                assert_eq!(member.header().shape, [5, 8, 8, 3]);
                let mut bytes = vec![0; pixels.len()];
                member.read_bytes(&mut bytes).unwrap();
                assert!(bytes == pixels);
                member.finish().unwrap();
            }
            _ => assert!(found == folder[Path::new("grid.png")]),
        }
        let mut again = ddpm(&["sample", "--out"]);
        fail(again.arg(&out).arg(&run).args(arguments), 2, &[name, "exists already"]);
    }
    // Nothing but the four files is left.
    assert_eq!(files(&dir.path().join("files")).len(), 4);
}

#[test]
fn what_was_drawn_is_kept_and_the_rest_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let whole = sample(&run, &dir.path().join("whole"), &["--n", "7"]);
    let out = dir.path().join("out");
    sample(&run, &out, &["--n", "4"]);
    std::fs::remove_file(out.join("000002.png")).unwrap();
    std::fs::write(out.join("000001.png"), &whole[Path::new("000000.png")]).unwrap();
    let call = |arguments: &[&str]| {
        let mut command = ddpm(&["sample", "--n", "7", "--out"]);
        command.arg(&out).arg(&run).args(arguments);
        command
    };
    fail(&mut call(&[]), 2, &["--resume"]);
    for (arguments, key) in [
        (&["--resume", "--seed", "3"][..], "seed"),
        (&["--resume", "--steps", "9"], "steps"),
        (&["--resume", "--weights", "raw"], "weights"),
        (&["--resume", "--sampler", "ddim"], "sampler"),
    ] {
        fail(&mut call(arguments), 2, &["samples.json", key]);
    }
    succeed(&mut call(&["--resume"]));
    let resumed = files(&out);
    assert_eq!(resumed.len(), whole.len());
    for (name, content) in &whole {
        let is_kept = name == Path::new("000001.png");
        // The grid shows what is in the folder.
        let may_differ = is_kept || name == Path::new("grid.png");
        assert!(may_differ || resumed[name] == *content, "{name:?}");
        assert!(!is_kept || resumed[name] == whole[Path::new("000000.png")]);
    }
    // An array that was stopped in the middle of an image.
    let array = dir.path().join("x.npz");
    let mut command = ddpm(&["sample", "--n", "7", "--out"]);
    succeed(command.arg(&array).arg(&run));
    let expected = std::fs::read(&array).unwrap();
    std::fs::remove_file(&array).unwrap();
    let pixels: Vec<u8> = (0..3)
        .flat_map(|i| {
            image::load_from_memory(&whole[Path::new(&format!("{i:06}.png"))]).unwrap().to_rgb8().into_raw()
        })
        .collect();
    std::fs::write(dir.path().join("x.npz.unfinished"), &pixels[..2 * 192 + 50]).unwrap();
    std::fs::copy(out.join("samples.json"), dir.path().join("x.npz.unfinished.json")).unwrap();
    let mut command = ddpm(&["sample", "--n", "7", "--out"]);
    fail(command.arg(&array).arg(&run), 2, &["x.npz.unfinished", "--resume"]);
    let mut command = ddpm(&["sample", "--n", "7", "--resume", "--json", "--out"]);
    let report: serde_json::Value = serde_json::from_str(&succeed(command.arg(&array).arg(&run))).unwrap();
    assert_eq!(report["resumed_from"], 2);
    assert!(std::fs::read(&array).unwrap() == expected);
}

#[test]
fn a_dry_run_says_how_long_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let out = dir.path().join("x.npz");
    let mut command = ddpm(&["sample", "--n", "1000", "--batch", "8", "--dry-run", "--json", "--out"]);
    let report: serde_json::Value = serde_json::from_str(&succeed(command.arg(&out).arg(&run))).unwrap();
    assert_eq!((&report["network_calls"], &report["bytes"]), (&2500.into(), &192_000.into()));
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
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
    refused(&new, &["--eta", "0.5"], &["--eta", "ddim"]);
    refused(&new, &["--eta", "2", "--sampler", "ddim"], &["eta", "from 0 to 1"]);
    refused(&dir.path().join("x.png"), &["--resume"], &["cannot be resumed"]);
    assert!(!new.exists());
    for name in ["x.jpg", "x.WebP", "-"] {
        let mut command = ddpm(&["sample", "--n", "1", "--steps", "1", "--out", name]);
        fail(command.arg(&run).current_dir(&dir), 2, &[name, ".npz, .npy, .raw or .png", "folder"]);
        assert!(!dir.path().join(name).exists());
    }
    let mut versioned = ddpm(&["sample", "--n", "1", "--steps", "1", "--out", "v1.5"]);
    succeed(versioned.arg(&run).current_dir(&dir));
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
