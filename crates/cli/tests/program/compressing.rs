//! `ddpm compress` and `ddpm decompress`.

use crate::ddpm::{ddpm, fail, files, object, succeed, trained};
use std::path::{Path, PathBuf};
use std::process::Command;

fn compress(run: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = ddpm(&["compress"]);
    command.arg(run).args(["shapes32", "--n", "3", "--out"]).arg(out).args(arguments);
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
        &["half.ddpm", "cut off", "--allow-partial"],
    );
    assert!(!at("cut").exists());
    succeed(&mut decompress(&run, &at("half.ddpm"), &at("cut"), &["--allow-partial"]));
    assert!(files(&at("cut")) == half);
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
    fail(&mut compress(&run, &file, &["--target-rate", "0"]), 2, &["above 0"]);
    fail(&mut compress(&run, &file, &["--target-rate", "0.1"]), 2, &["the header alone"]);
    fail(
        &mut compress(&run, &file, &["--target-rate", "1", "--target-psnr", "9"]),
        2,
        &["cannot be used with"],
    );
    // What was there is still there.
    assert!(std::fs::read(&file).unwrap() == bytes);
}
