//! `ddpm evaluate`.

use crate::ddpm::{ddpm, fail, object, succeed, text, train_tiny, trained};
use crate::inception::write_weights;
use models::inception::Tap;
use std::path::Path;
use std::process::Command;

#[test]
fn quality_and_likelihood_stand_in_one_report() {
    let dir = tempfile::tempdir().unwrap();
    let inception = dir.path().join("inception.safetensors");
    write_weights(&inception, Tap::Pool1);
    let (first, images) = (trained(dir.path()), dir.path().join("images"));
    succeed(ddpm(&["sample", "--n", "5", "--steps", "2", "--out"]).arg(&images).arg(&first));
    let source = format!("images:{}", images.display());
    let run = dir.path().join("judged");
    succeed(&mut train_tiny(&run, &["train.steps=2"], &[]));
    let evaluate = |model: &Path, arguments: &[&str]| {
        let mut command = ddpm(&["evaluate", "--json", "--dims", "64", "--n", "4", "--likelihood-n", "3"]);
        command.args(["--data", &source]).args(arguments).arg(model).arg("--inception").arg(&inception);
        command.env("XDG_CACHE_HOME", dir.path().join("cache"));
        command
    };
    let output = evaluate(&run, &["--terms", "6"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = object(&output);
    let fid = &told["quality"][0];
    assert_eq!(fid["name"].as_str(), Some("FID data"));
    let changed = "quick, changed: --n 4 --likelihood-n 3 --terms 6 --dims 64";
    assert_eq!(told["protocol"].as_str(), Some(changed));
    assert!(fid["value"].as_f64().unwrap() > 0.0);
    assert_eq!((fid["samples"]["images"].as_u64(), fid["reference"]["images"].as_u64()), (Some(4), Some(5)));
    assert_eq!(fid["samples"]["samples"]["steps"].as_u64(), Some(20));
    assert_eq!(told["quality"].as_array().unwrap().len(), 1, "no Inception Score from 64 features");
    assert_eq!(told["likelihood"]["sets"][0]["summary"]["images"].as_u64(), Some(3));
    // Another number of images to compare with is another number.
    let output = evaluate(&run, &["--terms", "6", "--reference-n", "3"]).output().unwrap();
    let fewer = &object(&output)["quality"][0];
    assert_eq!(fewer["reference"]["images"].as_u64(), Some(3));
    assert_ne!(fewer["value"], fid["value"]);
    // It is the number of `ddpm fid`.
    let mut command =
        ddpm(&["fid", "--json", "--dims", "64", "--n", "4", "--image-size", "8", "--inception"]);
    command.arg(&inception).env("XDG_CACHE_HOME", dir.path().join("cache-of-its-own"));
    let alone = object(&command.arg(&run).arg(&source).output().unwrap());
    assert_eq!(alone["fid"], fid["value"]);

    let page = text(&ddpm(&["report"]).arg(&run).output().unwrap().stdout);
    let page = std::fs::read_to_string(page.split(" (and").next().unwrap()).unwrap();
    assert!(page.contains("<td>FID data</td>") && page.contains("64 features, pytorch-fid resize"), "{page}");
    fail(&mut evaluate(&run.join("checkpoints/step-00000002"), &[]), 2, &["--out"]);
    let mut command = ddpm(&["evaluate", "--data", &source, "--likelihood-n", "6"]);
    fail(command.arg(&run), 2, &["only 5 images"]);
}

/// A quick evaluation of `run` by so many terms, by the weights `inception`, with a cache of its own beside the run.
fn quick_look(run: &Path, inception: &Path, terms: &str) -> Command {
    let mut command = ddpm(&["evaluate", "--json", "--dims", "64", "--n", "2", "--reference-n", "2"]);
    command.args(["--data", "shapes32", "--likelihood-n", "2", "--terms", terms]).arg(run);
    command.arg("--inception").arg(inception).env("XDG_CACHE_HOME", run.with_file_name("cache"));
    command
}

#[test]
fn a_quick_look_is_not_in_the_way_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let inception = dir.path().join("inception.safetensors");
    write_weights(&inception, Tap::Pool1);
    let run = trained(dir.path());
    let out = dir.path().join("out");
    let evaluate = |terms: &str| {
        let mut command = quick_look(&run, &inception, terms);
        command.arg("--out").arg(&out);
        command
    };
    let told = |terms: &str| {
        let output = evaluate(terms).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        object(&output)
    };
    let terms = |told: &serde_json::Value| told["likelihood"]["sets"][0]["summary"]["terms"].as_u64();
    // What cannot be is refused before samples are drawn.
    fail(&mut evaluate("2"), 2, &["terms"]);
    assert!(!dir.path().join("cache").exists());

    let quick = told("4");
    assert_eq!(quick["likelihood_out"].as_str(), out.join("likelihood").to_str());
    let whole = told("20");
    assert_eq!((terms(&whole), terms(&quick)), (Some(20), Some(4)));
    assert_eq!(whole["likelihood_out"].as_str(), out.join("likelihood-2").to_str());
    // Each is gone on with where it is.
    assert_eq!(told("4")["likelihood_out"], quick["likelihood_out"]);
    assert_eq!(told("20")["likelihood_out"], whole["likelihood_out"]);
}

#[test]
fn a_report_shows_the_averaged_weights_where_both_were_judged() {
    let dir = tempfile::tempdir().unwrap();
    let inception = dir.path().join("inception.safetensors");
    write_weights(&inception, Tap::Pool1);
    let run = trained(dir.path());
    let evaluation = object(&quick_look(&run, &inception, "4").output().unwrap());
    let path = std::path::PathBuf::from(evaluation["out"].as_str().unwrap());
    let ema = std::fs::read_to_string(&path).unwrap();
    assert!(ema.contains("2 samples of"), "{ema}");
    // Those of the raw weights, in folders that are looked at before and after.
    let raw = ema.replace("\"ema\"", "\"raw\"").replace("2 samples of", "the raw weights, of");
    for name in ["a", "zz", "0", "raw"] {
        let folder = run.join("evaluation").join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("evaluation.json"), &raw).unwrap();
    }
    succeed(ddpm(&["report"]).arg(&run));
    let page = std::fs::read_to_string(run.join("report/report.html")).unwrap();
    assert!(page.contains("2 samples of") && !page.contains("the raw weights, of"), "{page}");
}

#[test]
fn a_missing_inception_network_is_named_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let mut command = ddpm(&["evaluate", "--data", "shapes32", "--inception", "nowhere.pth"]);
    fail(command.arg(&run), 2, &["nowhere.pth"]);
    assert!(!run.join("evaluation").exists() && !run.join("likelihood").exists());
}

#[test]
fn the_whole_network_gives_the_same_scores_wherever_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let inception = dir.path().join("inception.safetensors");
    write_weights(&inception, Tap::Pool3);
    let told = |arguments: &[&str], paths: &[&Path]| {
        let mut command = ddpm(arguments);
        command.args(paths).arg("--json").arg("--inception").arg(&inception);
        let output = command.env("XDG_CACHE_HOME", dir.path().join("cache")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        object(&output)
    };
    let alone = told(&["inception-score", "--n", "12", "--splits", "10"], &[&run]);
    let score = alone["inception_score"].as_f64().unwrap();
    assert!(score > 1.0 && score < 12.0, "{alone}");
    assert_eq!((alone["splits"].as_array().unwrap().len(), alone["classes"].as_u64()), (10, Some(1008)));

    let images = dir.path().join("images");
    succeed(ddpm(&["sample", "--n", "4", "--steps", "2", "--out"]).arg(&images).arg(&run));
    let source = format!("images:{}", images.display());
    let n = ["--n", "12", "--likelihood-n", "2", "--terms", "6"];
    let report = told(&[&["evaluate", "--data", &source][..], &n].concat(), &[&run]);
    let inception_score = &report["quality"][1];
    assert_eq!(
        (inception_score["name"].as_str(), &inception_score["value"]),
        (Some("Inception Score"), &alone["inception_score"])
    );
    assert_eq!(inception_score["deviation"], alone["std"]);

    // A training judges its last weights by the same numbers, and an ablation its only row.
    let config = run.join("config.toml");
    let set = format!("data.source={source}");
    let paper = ["--predictions", "eps", "--objectives", "mse", "--n", "2", "--terms", "6"];
    let out = dir.path().join("table");
    let common = ["ablate", "--samples", "12", "--set", &set, "--set", "train.steps=1"];
    let table = told(&[&common[..], &paper].concat(), &[&config, Path::new("--out"), &out]);
    let quality = &table["results"][0]["quality"];
    assert_eq!(
        (&quality[0]["name"], &quality[1]["name"]),
        (&"FID of 12".into(), &"Inception Score of 12".into())
    );
    let model = out.join("linear-eps-mse-seed0");
    let again = told(&["inception-score", "--n", "12"], &[&model]);
    assert_eq!((&quality[1]["value"], &quality[1]["deviation"]), (&again["inception_score"], &again["std"]));
    let again = told(&["fid", "--n", "12", "--image-size", "8"], &[&model, Path::new(&source)]);
    assert_eq!(quality[0]["value"], again["fid"]);
}

#[test]
fn images_are_resized_as_for_the_training() {
    let dir = tempfile::tempdir().unwrap();
    let (inception, images) = (dir.path().join("inception.safetensors"), dir.path().join("images"));
    write_weights(&inception, Tap::Pool1);
    std::fs::create_dir(&images).unwrap();
    for number in 0..3u8 {
        let image =
            image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([number * 80, (x * y) as u8, y as u8 * 9]));
        image.save(images.join(format!("{number}.png"))).unwrap();
    }
    let source = format!("images:{}", images.display());
    for filter in ["lanczos", "area"] {
        let run = dir.path().join(filter);
        succeed(&mut train_tiny(&run, &["train.steps=1", &format!("data.resize={filter}")], &[]));
        let mut command =
            ddpm(&["evaluate", "--json", "--dims", "64", "--n", "2", "--terms", "6", "--data", &source]);
        command.arg(&run).arg("--inception").arg(&inception).env("XDG_CACHE_HOME", dir.path().join("cache"));
        let told = object(&command.output().unwrap());
        let told = [&told["quality"][0]["reference"], &told["likelihood"]["sets"]].map(ToString::to_string);
        assert!(told.iter().all(|told| told.contains(&format!("8x8 ({filter})"))), "{told:?}");
    }
}
