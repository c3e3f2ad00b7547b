//! `ddpm compress` and `ddpm decompress`.

use crate::ddpm::{ddpm, fail, files, object, succeed, trained};
use std::path::{Path, PathBuf};
use std::process::Command;

fn compress(run: &Path, out: &Path, arguments: &[&str]) -> Command {
    compress_first("3", run, out, arguments)
}

fn compress_first(n: &str, run: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = ddpm(&["compress"]);
    command.arg(run).args(["shapes32", "--n", n, "--out"]).arg(out).args(arguments);
    command
}

fn decompress(run: &Path, file: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = ddpm(&["decompress"]);
    command.arg(run).arg(file).arg("--out").arg(out).args(arguments);
    command
}

#[test]
fn any_prefix_becomes_the_same_images_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let at = |name: &str| dir.path().join(name);
    let file = at("images.ddpm");
    let output = compress(&run, &file, &["--json", "--target-rate", "2", "--curve", "curve.csv"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = object(&output);
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(said["bytes"], bytes.len());
    assert_eq!(said["images"], 3);
    assert!(said["bits_per_dim"].as_f64().unwrap() <= 2.0);
    let curve = std::fs::read_to_string(at("curve.csv")).unwrap();
    assert_eq!(curve.lines().count() as u64, said["steps"].as_u64().unwrap() + 1);
    // Other threads and batches, the same file.
    succeed(&mut compress(&run, &at("same.ddpm"), &["--target-rate", "2", "--threads", "1", "--batch", "2"]));
    assert!(std::fs::read(at("same.ddpm")).unwrap() == bytes);
    // How convolutions are computed is in the file, and taken from it.
    succeed(&mut compress(&run, &at("direct.ddpm"), &["--target-rate", "1", "--conv", "direct"]));
    succeed(&mut decompress(&run, &at("direct.ddpm"), &at("direct"), &[]));

    succeed(&mut decompress(&run, &file, &at("whole"), &[]));
    let whole = files(&at("whole"));
    assert_eq!(whole.len(), 3);
    succeed(&mut decompress(&run, &file, &at("again"), &["--threads", "1", "--batch", "1"]));
    assert!(files(&at("again")) == whole);
    let prefix = (bytes.len() / 2).to_string();
    succeed(&mut decompress(&run, &file, &at("prefix"), &["--prefix", &prefix]));
    let half = files(&at("prefix"));
    assert!(half != whole && half.len() == 3);
    std::fs::write(at("half.ddpm"), &bytes[..bytes.len() / 2]).unwrap();
    fail(
        &mut decompress(&run, &at("half.ddpm"), &at("cut"), &[]),
        2,
        &["half.ddpm", "cut off, or damaged", "if it is cut off, --allow-partial"],
    );
    assert!(!at("cut").exists());
    succeed(&mut decompress(&run, &at("half.ddpm"), &at("cut"), &["--allow-partial"]));
    assert!(files(&at("cut")) == half);
}

#[test]
fn a_target_that_is_missed_is_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let file = dir.path().join("images.ddpm");
    // Of one image, for it is a long way to the end of the process.
    let told = |option: &str, target: &str| succeed(&mut compress_first("1", &run, &file, &[option, target]));
    let missed = told("--target-psnr", "500");
    assert!(missed.contains("--target-psnr 500 was not reached"), "{missed}");
    let reached = told("--target-psnr", "1");
    assert!(!reached.contains("reached"), "{reached}");
    let arguments = ["--target-rate", "2", "--json"];
    let said = object(&compress_first("1", &run, &file, &arguments).output().unwrap());
    assert_eq!(said["target_reached"], true);
}

#[test]
fn what_cannot_be_decoded_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let file = dir.path().join("images.ddpm");
    succeed(&mut compress(&run, &file, &["--target-rate", "1"]));
    let bytes = std::fs::read(&file).unwrap();
    let out = dir.path().join("out");
    let refused = |name: &str, bytes: &[u8], words: &[&str]| {
        let path: PathBuf = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        fail(&mut decompress(&run, &path, &out, &[]), 2, &[&[name], words].concat());
        assert!(!out.exists());
    };
    refused("foreign", b"\x89PNG\r\n\x1a\n and more", &["not a file of compressed images"]);
    refused("empty", b"", &["not a file of compressed images"]);
    refused("header", &bytes[..10], &["header"]);
    let mut damaged = bytes.clone();
    damaged[bytes.len() - 3] ^= 16;
    refused("damaged", &damaged, &["damaged"]);
    refused("longer", &[&bytes[..], b"tail"].concat(), &["4 bytes follow"]);

    fail(decompress(&run, &file, &out, &[]).args(["--weights", "raw"]), 2, &["another model"]);
    fail(&mut decompress(&run, &dir.path().join("missing"), &out, &[]), 2, &["missing"]);
    fail(&mut compress(&run, &file, &["--target-rate", "0"]), 2, &["--target-rate 0: ", "above 0"]);
    fail(&mut compress(&run, &file, &["--target-psnr", "0"]), 2, &["--target-psnr 0: "]);
    fail(
        &mut compress(&run, &file, &["--target-rate", "0.1"]),
        2,
        &["--target-rate 0.1: ", "the header alone"],
    );
    fail(
        &mut compress(&run, &file, &["--target-rate", "1", "--target-psnr", "9"]),
        2,
        &["cannot be used with"],
    );
    // What was there is still there.
    assert!(std::fs::read(&file).unwrap() == bytes);
}

#[test]
fn images_that_would_be_changed_are_not_compressed_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let at = |name: &str| dir.path().join(name);
    // The network's images are 8×8.
    for (name, width) in [("same.png", 8), ("wide.png", 12)] {
        image::RgbImage::from_fn(width, 8, |x, y| image::Rgb([20 * x as u8, 30 * y as u8, 7]))
            .save(at(name))
            .unwrap();
    }
    let compress = |image: &str, arguments: &[&str]| {
        let mut command = ddpm(&["compress"]);
        command.arg(&run).arg(at(image)).arg("--out").arg(at("c.ddpm")).args(arguments);
        command
    };
    fail(&mut compress("wide.png", &["--lossless"]), 2, &["wide.png", "8x12", "--fit"]);
    assert!(!at("c.ddpm").exists());
    let said = object(&compress("wide.png", &["--lossless", "--fit", "--json"]).output().unwrap());
    assert_eq!(said["changed"], 1);
    let output = compress("wide.png", &["--target-rate", "1", "--json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("cropped and resized"));
    assert_eq!(object(&output)["changed"], 1);
    let said = object(&compress("same.png", &["--lossless", "--json"]).output().unwrap());
    assert_eq!(said["changed"], 0);
    succeed(&mut decompress(&run, &at("c.ddpm"), &at("back"), &[]));
    let back = image::open(at("back/000000.png")).unwrap().into_rgb8();
    assert!(back == image::open(at("same.png")).unwrap().into_rgb8());
}

#[test]
fn an_image_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    let path = photos.join("a.png");
    image::RgbImage::new(8, 8).save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let mut command = ddpm(&["compress"]);
    fail(command.arg(&run).arg(&path).arg("--out").arg(&path), 2, &["a.png", "choose another --out"]);
    // Nor one in a folder of them; what was compressed before may lie there.
    let compress_all = |name: &str| {
        let mut command = ddpm(&["compress", "--n", "1", "--target-rate", "2", "--out"]);
        command.arg(photos.join(name)).arg(&run).arg(format!("images:{}", photos.display()));
        command
    };
    fail(&mut compress_all("a.png"), 2, &["a.png", "a file among them", "choose another --out"]);
    let mut with_curve = compress_all("all.ddpm");
    fail(with_curve.arg("--curve").arg(&path), 2, &["a.png", "choose another --curve"]);
    assert!(std::fs::read(&path).unwrap() == bytes);
    for _ in 0..2 {
        succeed(&mut compress_all("all.ddpm"));
    }
}
