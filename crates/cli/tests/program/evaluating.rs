//! `ddpm evaluate`.

use crate::ddpm::{ddpm, fail, object, succeed, text, train_tiny, trained};
use std::path::Path;

/// With the real Inception weights, as far as they are there; needs `DDPM_TEST_INCEPTION`, that file.
#[test]
fn quality_and_likelihood_stand_in_one_report() {
    let Ok(inception) = std::env::var("DDPM_TEST_INCEPTION") else {
        eprintln!("SKIPPED: DDPM_TEST_INCEPTION does not name the Inception weights");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (first, images) = (trained(dir.path()), dir.path().join("images"));
    succeed(ddpm(&["sample", "--n", "5", "--steps", "2", "--out"]).arg(&images).arg(&first));
    std::fs::remove_file(images.join("grid.png")).unwrap();
    let source = format!("images:{}", images.display());
    let run = dir.path().join("judged");
    succeed(&mut train_tiny(&run, &["train.steps=2"], &[]));
    let evaluate = |model: &Path, arguments: &[&str]| {
        let mut command = ddpm(&["evaluate", "--json", "--dims", "64", "--n", "4", "--likelihood-n", "3"]);
        command.args(["--data", &source, "--inception", &inception]).args(arguments).arg(model);
        command.env("XDG_CACHE_HOME", dir.path().join("cache"));
        command
    };
    let output = evaluate(&run, &["--terms", "6"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = object(&output);
    let fid = &told["quality"][0];
    assert_eq!((fid["name"].as_str(), told["protocol"].as_str()), (Some("FID data"), Some("quick")));
    assert!(fid["value"].as_f64().unwrap() > 0.0);
    assert_eq!((fid["samples"]["images"].as_u64(), fid["reference"]["images"].as_u64()), (Some(4), Some(5)));
    assert_eq!(fid["samples"]["samples"]["steps"].as_u64(), Some(20));
    assert_eq!(told["quality"].as_array().unwrap().len(), 1, "no Inception Score from 64 features");
    assert_eq!(told["likelihood"]["sets"][0]["summary"]["images"].as_u64(), Some(3));
    // It is the number of `ddpm fid`.
    let mut command =
        ddpm(&["fid", "--json", "--dims", "64", "--n", "4", "--inception", &inception, "--image-size", "8"]);
    let alone = object(&command.arg(&run).arg(&source).output().unwrap());
    assert_eq!(alone["fid"], fid["value"]);

    let page = text(&ddpm(&["report"]).arg(&run).output().unwrap().stdout);
    let page = std::fs::read_to_string(page.split(" (and").next().unwrap()).unwrap();
    assert!(page.contains("<td>FID data</td>") && page.contains("64 features, pytorch-fid resize"), "{page}");
    fail(&mut evaluate(&run.join("checkpoints/step-00000002"), &[]), 2, &["--out"]);
    let mut command = ddpm(&["evaluate", "--data", &source, "--likelihood-n", "6"]);
    fail(command.arg(&run), 2, &["only 5 images"]);
}

#[test]
fn a_missing_inception_network_is_named_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let mut command = ddpm(&["evaluate", "--data", "shapes32", "--inception", "nowhere.pth"]);
    fail(command.arg(&run), 2, &["nowhere.pth"]);
    assert!(!run.join("evaluation").exists() && !run.join("likelihood").exists());
}
