//! `ddpm interpolate`.

use crate::ddpm::{ddpm, fail, files, object, succeed, text, trained};
use crate::inception::write_weights;
use models::inception::Tap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A run of a tiny network (8x8, 20 steps), and two images and a mask beside it.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap() };
        trained(desk.dir.path());
        desk.picture("a.png", 8, |x, y| [(x * 30) as u8, (y * 30) as u8, 90]);
        desk.picture("b.png", 8, |x, y| [200, (255 - x * y * 5) as u8, (y * 20) as u8]);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn picture(&self, name: &str, size: u32, colour: impl Fn(u32, u32) -> [u8; 3]) {
        image::RgbImage::from_fn(size, size, |x, y| image::Rgb(colour(x, y))).save(self.path(name)).unwrap();
    }

    fn mask(&self, name: &str, size: u32, inside: impl Fn(u32, u32) -> bool) {
        self.picture(name, size, |x, y| [if inside(x, y) { 255 } else { 0 }; 3]);
    }

    /// `ddpm interpolate run ARGUMENTS --out OUT` in the folder.
    fn interpolate(&self, out: &str, arguments: &[&str]) -> Command {
        let mut command = ddpm(&["interpolate", "run"]);
        command
            .args(arguments)
            .args(["--out", out])
            .current_dir(self.dir.path())
            .env_remove("DDPM_INCEPTION");
        command
    }

    /// The pixels of a file.
    fn pixels(&self, name: impl AsRef<Path>) -> Vec<u8> {
        image::open(self.dir.path().join(name)).unwrap().to_rgb8().into_raw()
    }
}

#[test]
fn images_between_two_files_are_the_same_in_any_batch() {
    let desk = Desk::new();
    let arguments = ["a.png", "b.png", "--t", "5,0", "--lambdas", "0,0.25,1"];
    let output = desk.interpolate("one", &arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = object(&output);
    assert_eq!((&told["status"], &told["pairs"][0][1]), (&"finished".into(), &"b.png".into()));
    // Two rows of A, three λ and B.
    let grid = image::open(desk.path("one/grid.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (5 * 8 + 4 * 2, 2 * 8 + 2));
    let (a, b) = (desk.pixels("a.png"), desk.pixels("b.png"));
    assert_eq!(
        (
            desk.pixels("one/images/pair0-t0000-lambda0.png"),
            desk.pixels("one/images/pair0-t0000-lambda1.png")
        ),
        (a.clone(), b.clone())
    );
    let quarter = desk.pixels("one/images/pair0-t0000-lambda0.25.png");
    let expected = a.iter().zip(&b).map(|(&a, &b)| 0.75 * f32::from(a) + 0.25 * f32::from(b));
    assert!(
        quarter.iter().zip(expected).all(|(&found, expected)| (f32::from(found) - expected).abs() <= 1.0)
    );
    assert_ne!(desk.pixels("one/images/pair0-t0005-lambda0.png"), a);
    // What was kept: all from t = 0.
    let rows = &told["reconstructions"]["by_t"];
    assert_eq!((&rows[0][0], &rows[0][1]["rmse"]["mean"]), (&0.into(), &0.0.into()));
    assert!(rows[1][0] == 5 && rows[1][1]["rmse"]["mean"].as_f64().unwrap() > 1.0, "{rows}");
    let table = std::fs::read_to_string(desk.path("one/reconstruction.csv")).unwrap();
    assert_eq!(table.lines().count(), 4);

    succeed(&mut desk.interpolate("two", &[&arguments[..], &["--batch", "2", "--threads", "1"]].concat()));
    let (one, mut two) = (files(&desk.path("one")), files(&desk.path("two")));
    two.insert("interpolation.json".into(), one[Path::new("interpolation.json")].clone());
    assert!(one == two);
    succeed(&mut desk.interpolate("three", &[&arguments[..], &["--seed", "1"]].concat()));
    assert_ne!(desk.pixels("three/grid.png"), desk.pixels("one/grid.png"));
    fail(&mut desk.interpolate("one", &arguments), 2, &["one", "not empty"]);
}

#[test]
fn a_mask_holds_the_rest_to_the_first_image() {
    let desk = Desk::new();
    desk.mask("white.png", 8, |_, _| true);
    desk.mask("black.png", 8, |_, _| false);
    desk.mask("left.png", 8, |x, _| x < 4);
    let arguments = ["a.png", "b.png", "--t", "12", "--lambdas", "0.5", "--sampler", "ddim", "--steps", "6"];
    succeed(&mut desk.interpolate("whole", &arguments));
    let name = "images/pair0-t0012-lambda0.5.png";
    let masked = |mask: &str| {
        succeed(&mut desk.interpolate(mask, &[&arguments[..], &["--mask", &format!("{mask}.png")]].concat()));
        desk.pixels(Path::new(mask).join(name))
    };
    let (whole, a) = (desk.pixels(Path::new("whole").join(name)), desk.pixels("a.png"));
    assert!(masked("white") == whole && masked("black") == a);
    let left = masked("left");
    let (mut held, mut differ) = (true, false);
    for (k, (found, a)) in left.chunks(3).zip(a.chunks(3)).enumerate() {
        match k % 8 < 4 {
            true => differ |= found != a,
            false => held &= found == a,
        }
    }
    assert!(held && differ);
}

#[test]
fn pairs_of_a_source_are_measured_in_features_too() {
    let desk = Desk::new();
    write_weights(&desk.path("weights.safetensors"), Tap::Pool1);
    let arguments = ["--data", "shapes32", "--t", "2,20", "--lambdas", "1,0", "--mixing", "spherical"];
    let features = ["--feature-distance", "--inception", "weights.safetensors", "--dims", "64", "--json"];
    let mut command = desk.interpolate("one", &[&arguments[..], &["--pairs", "3"], &features].concat());
    let told: serde_json::Value = serde_json::from_str(&succeed(&mut command)).unwrap();
    let kept = &told["reconstructions"];
    let distance = |row: &serde_json::Value| row["feature_distance"]["mean"].as_f64().unwrap();
    assert!(kept["images"] == 6 && told["features"]["dims"] == 64);
    assert!(distance(&kept["by_t"][0][1]) < distance(&kept["by_t"][1][1]), "{kept}");
    assert!(distance(&kept["between_pairs"]) > 0.0);
    // A pair has its numbers by its place, its images by their number.
    let members = ["--members", "0,1", "--members", "2,3", "--members", "4,5"];
    succeed(&mut desk.interpolate("two", &[&arguments[..], &members].concat()));
    assert_eq!(desk.pixels("two/grid.png"), desk.pixels("one/grid.png"));
}

#[test]
fn what_cannot_be_interpolated_is_refused_before_anything_is_written() {
    let desk = Desk::new();
    desk.picture("large.png", 9, |_, _| [1, 2, 3]);
    desk.mask("large_mask.png", 9, |_, _| true);
    std::fs::write(desk.path("broken.png"), b"\x89PNG\r\n\x1a\nnot much more").unwrap();
    std::fs::write(desk.path("words.txt"), "not an image").unwrap();
    let both = |rest: &[&'static str]| [&["a.png", "b.png"], rest].concat();
    let calls: [(Vec<&str>, &[&str]); 20] = [
        (vec![], &["--data"]),
        (vec!["a.png"], &["B"]),
        (vec!["a.png", "large.png"], &["large.png", "9x9", "8x8", "--fit"]),
        (vec!["a.png", "broken.png"], &["broken.png"]),
        (vec!["words.txt", "b.png"], &["words.txt"]),
        (vec!["nowhere.png", "b.png"], &["nowhere.png"]),
        (vec![".", "b.png"], &["folder"]),
        (both(&["--t", "21"]), &["--t 21", "0 to 20"]),
        (both(&["--t", "-1"]), &["-1"]),
        (both(&["--t", "half"]), &["half"]),
        (both(&["--lambdas", "0,x"]), &["x", "-1 to 2"]),
        (both(&["--lambdas", "NaN"]), &["NaN", "number"]),
        (both(&["--lambdas", "2.5"]), &["2.5", "-1 to 2"]),
        (both(&["--steps", "21"]), &["steps", "20"]),
        (both(&["--mask", "large_mask.png"]), &["large_mask.png", "9x9", "8x8"]),
        (both(&["--mask", "broken.png"]), &["broken.png"]),
        (both(&["--lambdas", "0.5", "--feature-distance"]), &["0 and 1"]),
        (both(&["--members", "1,2"]), &["--data"]),
        (vec!["--data", "shapes32"], &["--members"]),
        (vec!["--data", "shapes32", "--members", "1"], &["3,17"]),
    ];
    for (arguments, words) in calls {
        fail(&mut desk.interpolate("out", &arguments), 2, words);
        assert!(!desk.path("out").exists(), "{arguments:?}");
    }
    let lost = ["a.png", "b.png", "--feature-distance", "--inception", "nowhere.pth"];
    fail(&mut desk.interpolate("out", &lost), 2, &["nowhere.pth"]);
    let members = ["--data", "images:a.png", "--members", "0,1"];
    fail(&mut desk.interpolate("out", &members), 2, &["images:a.png", "no image 1"]);
    assert!(!desk.path("out").exists());
    // With --fit the large one is brought to size.
    succeed(&mut desk.interpolate("out", &["a.png", "large.png", "--fit", "--t", "1", "--lambdas", "1"]));
}
