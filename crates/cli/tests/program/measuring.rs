//! `ddpm stats`, `fid`, `inception-score` and `neighbours`, with the first layers of a random Inception network.

use crate::ddpm::{ddpm, fail, files, object, succeed, text, trained, wait_until};
use crate::inception::write_weights;
use models::inception::Tap;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A folder to work in: weights, and a cache of its own.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_weights(&dir.path().join("weights.safetensors"), Tap::Pool1);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program in that folder, with 64 features.
    fn measure(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare(arguments);
        command.args(["--dims", "64"]).env("DDPM_INCEPTION", self.path("weights.safetensors"));
        command
    }

    /// The program in that folder, without weights.
    fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = ddpm(arguments);
        command
            .current_dir(self.dir.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env_remove("DDPM_INCEPTION");
        command
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.measure(arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        object(&output)
    }

    /// A folder of images `[8, 8]` in plain colours, one for each of `values`.
    fn images(&self, name: &str, values: impl IntoIterator<Item = u8>) {
        let folder = self.path(name);
        std::fs::create_dir(&folder).unwrap();
        for (index, value) in values.into_iter().enumerate() {
            let image = image::RgbImage::from_fn(8, 8, |x, y| {
                image::Rgb([value, value.wrapping_mul(3), ((x * y) as u8).wrapping_mul(value)])
            });
            image.save(folder.join(format!("{index:03}.png"))).unwrap();
        }
    }

    fn features(&self) -> usize {
        self.path("cache/ddpm/features").read_dir().map_or(0, Iterator::count)
    }
}

fn near(value: &Value, expected: f64, tolerance: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - expected).abs() <= tolerance, "{value} instead of {expected}");
}

#[test]
fn images_and_their_statistics_are_the_same_distance_away() {
    let desk = Desk::new();
    desk.images("a", 0..20);
    desk.images("b", 30..60);
    let direct = desk.json(&["fid", "a", "b", "--kid", "--precision-recall", "--kid-subset-size", "10"]);
    let fid = direct["fid"].as_f64().unwrap();
    assert!(fid > 0.01, "{direct}");
    assert_eq!((&direct["dims"], &direct["resize"]), (&64.into(), &"pytorch-fid".into()));
    assert_eq!(direct["inception_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(direct["set"]["about"]["images"], 20);
    assert_eq!(direct["reference"]["about"]["images"], 30);
    assert!(direct["kid"]["mean"].as_f64().unwrap().is_finite());
    assert_eq!((&direct["kid"]["subsets"], &direct["kid"]["subset_size"]), (&100.into(), &10.into()));
    assert!((0.0..=1.0).contains(&direct["precision_recall"]["precision"].as_f64().unwrap()));
    // Kept features: the weights are still asked for, images are not computed again.
    assert_eq!(desk.features(), 2);

    let words = succeed(&mut desk.measure(&["stats", "b", "--out", "b.npz"]));
    assert!(words.contains("30 images") && words.contains("64 features"), "{words}");
    assert_eq!(desk.features(), 2);
    let against_file = desk.json(&["fid", "a", "b.npz"]);
    assert_eq!(against_file["fid"].as_f64(), Some(fid));
    assert_eq!(against_file["reference"]["about"]["input"], "b");
    near(&desk.json(&["fid", "b", "b.npz"])["fid"], 0.0, 1e-5);
    // A set and itself, or its copy, have features in one file.
    desk.images("copy", 0..20);
    for other in ["a", "copy"] {
        near(&desk.json(&["fid", "a", other])["fid"], 0.0, 1e-9);
    }
    assert_eq!(desk.features(), 2);
    // Two files need no network.
    succeed(&mut desk.measure(&["stats", "a", "--out", "a.npz"]));
    let words = succeed(&mut desk.bare(&["fid", "a.npz", "b.npz"]));
    assert!(words.starts_with(&format!("FID {fid:.4}")), "{words}");
    assert!(words.contains("not the published ones") && words.contains("statistics in a.npz"), "{words}");

    // Neither the batch, nor the threads, nor the cache change a bit.
    let again = desk.json(&["fid", "a", "b", "--batch", "3", "--threads", "1", "--no-cache"]);
    assert_eq!(again["fid"].as_f64(), Some(fid));
    // Another resize, or fewer images, are another figure.
    assert_ne!(desk.json(&["fid", "a", "b", "--resize", "clean"])["fid"].as_f64(), Some(fid));
    assert_ne!(desk.json(&["fid", "a", "b", "--n", "10"])["fid"].as_f64(), Some(fid));
}

#[test]
fn a_distance_of_few_images_says_so() {
    let desk = Desk::new();
    desk.images("few", 0..20);
    desk.images("enough", 0..65);
    let told = |arguments: &[&str]| {
        let output = desk.measure(&["fid"]).args(arguments).output().unwrap();
        assert!(output.status.success());
        text(&output.stderr)
    };
    let of_few = told(&["enough", "few"]);
    assert!(of_few.contains("20 images are fewer than 64 features need"), "{of_few}");
    assert!(told(&["enough", "enough", "--n", "64"]).contains("64 images are fewer"));
    for arguments in [["enough", "few", "-q"], ["enough", "enough", "--n=65"]] {
        assert!(!told(&arguments).contains("are fewer"), "{arguments:?}");
    }
}

#[test]
fn an_array_that_is_not_what_its_archive_says_is_not_measured() {
    let desk = Desk::new();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/tests/fixtures/sources/stored.npz");
    let mut bytes = std::fs::read(fixture).unwrap();
    // A pixel.
    bytes[5000] ^= 1;
    std::fs::write(desk.path("flipped.npz"), bytes).unwrap();
    let mut stats = desk.measure(&["stats", "npz:flipped.npz", "--out", "stats.npz"]);
    fail(&mut stats, 2, &["flipped.npz/arr_0", "CRC"]);
}

#[test]
fn a_model_is_its_samples() {
    let desk = Desk::new();
    let run = trained(desk.dir.path());
    let run = run.to_str().unwrap();
    succeed(&mut desk.bare(&[
        "sample",
        run,
        "--n",
        "6",
        "--out",
        "drawn",
        "--sampler",
        "ddim",
        "--steps",
        "3",
    ]));
    let model = ["--n", "6", "--sampler", "ddim", "--steps", "3"];
    let result = desk.json(&[&["fid", run, "drawn"][..], &model].concat());
    near(&result["fid"], 0.0, 1e-6);
    let samples = &result["set"]["about"]["samples"];
    assert_eq!(
        (&samples["sampler"], &samples["steps"], &samples["seed"]),
        (&"ddim".into(), &3.into(), &0.into())
    );
    assert_eq!((&samples["model"]["weights"], &samples["model"]["step"]), (&"ema".into(), &4.into()));
    // Fewer samples are the first of more: nothing new is drawn or kept.
    let kept = files(&desk.path("cache"));
    let fewer = desk.json(&[
        "fid",
        run,
        "drawn",
        "--n",
        "4",
        "--reference-n",
        "4",
        "--sampler",
        "ddim",
        "--steps",
        "3",
    ]);
    near(&fewer["fid"], 0.0, 1e-6);
    assert_eq!(fewer["set"]["about"]["images"], 4);
    assert!(kept.iter().all(|(path, bytes)| files(&desk.path("cache")).get(path) == Some(bytes)));
    // Images beside a model's are brought to its size, as for training.
    desk.images("larger", 0..4);
    for file in files(&desk.path("larger")).into_keys() {
        let file = desk.path("larger").join(file);
        let image = image::open(&file).unwrap().resize_exact(24, 24, image::imageops::FilterType::Nearest);
        image.save(&file).unwrap();
    }
    let beside = desk.json(&["fid", run, "larger", "--n", "4", "--sampler", "ddim", "--steps", "3"]);
    assert_eq!(beside["reference"]["about"]["image"], serde_json::json!([8, 8, 3]));
    let output = desk.measure(&["fid", "drawn", "larger"]).output().unwrap();
    assert!(text(&output.stderr).contains("8x8 against images of 24x24"), "{}", text(&output.stderr));
    // Raw weights are other samples.
    let raw = [&["fid", run, "drawn", "--weights", "raw"][..], &model].concat();
    let raw = desk.json(&raw);
    assert_ne!(raw["fid"], result["fid"]);
    assert_eq!(raw["set"]["about"]["samples"]["model"]["weights"], "raw");
}

#[test]
fn a_stopped_measurement_goes_on() {
    let desk = Desk::new();
    let arguments = ["stats", "shapes32", "--n", "150", "--out", "s.npz"];
    let mut child = desk.measure(&arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let features = || desk.path("cache/ddpm/features").read_dir().ok()?.next()?.ok()?.metadata().ok();
    wait_until(&mut child, || features().is_some_and(|file| file.len() > 5000));
    terminate(child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("call again to go on"));
    assert!(!desk.path("s.npz").exists());
    let before = features().unwrap().len();
    let output = desk.measure(&arguments).output().unwrap();
    assert!(output.status.success());
    // It begins with what was kept.
    let first = text(&output.stderr);
    let first = first.lines().find(|line| line.starts_with("features ")).unwrap().to_owned();
    assert!(!first.starts_with("features 16/"), "{first}");
    assert!(before > 5000 && features().unwrap().len() > before);
    let resumed = std::fs::read(desk.path("s.npz")).unwrap();
    succeed(desk.measure(&arguments).args(["--no-cache", "--batch", "7"]));
    assert!(resumed == std::fs::read(desk.path("s.npz")).unwrap());
}

fn terminate(process: u32) {
    let status = Command::new("kill").args(["-TERM", &process.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn neighbours_find_the_image_itself() {
    let desk = Desk::new();
    desk.images("train", 0..12);
    desk.images("new", [5, 9]);
    let result = desk.json(&["neighbours", "new", "train", "--k", "3", "--n", "2", "--out", "strip.png"]);
    let first = |row: usize| {
        (&result["neighbours"][row][0]["image"], result["neighbours"][row][0]["distance"].as_f64())
    };
    assert_eq!(first(0), (&5.into(), Some(0.0)));
    assert_eq!(first(1), (&9.into(), Some(0.0)));
    let strip = image::open(desk.path("strip.png")).unwrap().to_rgb8();
    assert_eq!(strip.dimensions(), (8 + 8 + 3 * 10 - 2, 8 * 2 + 2));
    assert_eq!(strip.get_pixel(3, 3), strip.get_pixel(8 + 8 + 3, 3));
    fail(
        &mut desk.measure(&["neighbours", "new", "train", "--k", "13", "--out", "x.png"]),
        2,
        &["12 images, but 13"],
    );
    assert!(!desk.path("x.png").exists());
}

#[test]
fn bad_images_are_named_or_counted() {
    let desk = Desk::new();
    desk.images("a", 0..6);
    std::fs::write(desk.path("a/003.png"), b"not a picture").unwrap();
    fail(&mut desk.measure(&["stats", "a", "--out", "a.npz"]), 2, &["003.png"]);
    assert!(!desk.path("a.npz").exists());
    let output = desk.measure(&["stats", "a", "--out", "a.npz", "--skip-bad", "--json"]).output().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("passed over: ") && text(&output.stderr).contains("003.png"));
    let about = &object(&output)["about"];
    assert_eq!((&about["images"], &about["unreadable"]), (&5.into(), &1.into()));

    desk.images("mixed", 0..3);
    image::RgbImage::new(9, 8).save(desk.path("mixed/zz.png")).unwrap();
    fail(&mut desk.measure(&["fid", "mixed", "a.npz"]), 2, &["zz.png", "8x9", "size"]);
    let resized = desk.json(&["stats", "mixed", "--out", "m.npz", "--image-size", "8"]);
    assert_eq!(resized["about"]["images"], 4);

    desk.images("one", [1]);
    fail(&mut desk.measure(&["stats", "one", "--out", "x.npz"]), 2, &["1 images, but 2"]);
    std::fs::create_dir(desk.path("none")).unwrap();
    fail(&mut desk.measure(&["stats", "none", "--out", "x.npz"]), 2, &["none", "no image"]);
    assert!(!desk.path("x.npz").exists());
}

#[test]
fn calls_that_cannot_be_are_refused_at_once() {
    let desk = Desk::new();
    desk.images("a", 0..4);
    succeed(&mut desk.measure(&["stats", "a", "--out", "a.npz"]));
    let refused = |arguments: &[&str], words: &[&str]| fail(&mut desk.measure(arguments), 2, words);
    refused(&["fid", "a", "nowhere"], &["nowhere", "images:DIR"]);
    refused(&["fid", "a", "cifar11:x"], &["cifar11:x"]);
    refused(&["fid", "a", "a.npz", "--kid"], &["a.npz", "KID", "need the images"]);
    refused(&["inception-score", "a"], &["--dims", "2048"]);
    refused(&["stats", "a.npz", "--out", "b.npz"], &["a.npz", "already"]);
    refused(&["neighbours", "a.npz", "a", "--out", "x.png"], &["a.npz", "need the images"]);
    fail(&mut desk.bare(&["fid", "a", "a.npz", "--dims", "100"]), 2, &["64, 192, 768 or 2048"]);
    fail(&mut desk.bare(&["fid", "a", "a.npz", "--resize", "bicubic"]), 2, &["torch-fidelity", "clean"]);
    // The weights: nowhere, too short, of another network; statistics of another number of features or network.
    let missing = fail(
        &mut desk.bare(&["fid", "a", "a"]),
        2,
        &["pt_inception-2015-12-05-6726825d.pth", "https://", "DDPM_INCEPTION"],
    );
    assert!(missing.contains("cache/ddpm"), "{missing}");
    fail(&mut desk.bare(&["fid", "a", "a", "--inception", "no.pth"]), 2, &["no.pth", "https://"]);
    let weights = desk.path("weights.safetensors");
    let with = |arguments: &[&str], words: &[&str]| {
        fail(desk.bare(arguments).arg("--inception").arg(&weights), 2, words);
    };
    with(&["fid", "a", "a", "--dims", "192"], &["Conv2d_3b_1x1", "--dims 192", "up to --dims 64"]);
    with(&["fid", "a", "a.npz"], &["a.npz", "64 features", "--dims 64"]);
    with(&["inception-score", "a"], &["--dims 2048", "up to --dims 64"]);
    let text = fail(
        &mut desk.measure(&["fid", "a", "a.npz", "--resize", "clean"]),
        2,
        &["resize mode", "clean", "pytorch-fid"],
    );
    assert!(text.contains("same settings"), "{text}");
    let named = desk.path("pt_inception-2015-12-05-6726825d.pth");
    std::fs::copy(&weights, &named).unwrap();
    let mut command = desk.bare(&["fid", "a", "a", "--inception"]);
    fail(
        command.arg(&named),
        2,
        &["its SHA-256 is", "expected 6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"],
    );
    let mut bytes = std::fs::read(&weights).unwrap();
    bytes.truncate(5000);
    std::fs::write(desk.path("short.safetensors"), bytes).unwrap();
    fail(
        &mut desk.bare(&["fid", "a", "a", "--inception", "short.safetensors"]),
        2,
        &["truncated", "SHA-256", "6726825d"],
    );
}

#[test]
fn statistics_are_numpys() {
    let Some(python) = std::env::var_os("DDPM_TEST_PYTHON") else {
        eprintln!("SKIPPED: DDPM_TEST_PYTHON is not set");
        return;
    };
    let desk = Desk::new();
    desk.images("a", 0..20);
    succeed(&mut desk.measure(&["stats", "a", "--out", "ours.npz"]));
    // As pytorch-fid reads and writes it, and one in single precision, as some published files are.
    let script = "
import numpy as np
with np.load('ours.npz') as f:
    mu, sigma = f['mu'][:], f['sigma'][:]
assert mu.shape == (64,) and sigma.shape == (64, 64) and mu.dtype == sigma.dtype == np.float64
assert np.array_equal(sigma, sigma.T) and (np.linalg.eigvalsh(sigma) > -1e-9).all()
assert '\"images\":20' in str(np.load('ours.npz')['ddpm'])
np.savez_compressed('theirs.npz', mu=mu, sigma=sigma)
np.savez('single.npz', mu=mu.astype(np.float32), sigma=sigma.astype(np.float32))
";
    let status = Command::new(python).args(["-c", script]).current_dir(desk.dir.path()).status().unwrap();
    assert!(status.success());
    near(&desk.json(&["fid", "ours.npz", "theirs.npz"])["fid"], 0.0, 1e-6);
    near(&desk.json(&["fid", "single.npz", "a"])["fid"], 0.0, 1e-3);
    let words = succeed(&mut desk.measure(&["fid", "a", "theirs.npz"]));
    assert!(words.contains("statistics of another program"), "{words}");
}
