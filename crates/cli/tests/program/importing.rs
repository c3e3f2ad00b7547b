//! `ddpm import`.

use crate::ddpm::{ddpm, fail, object, succeed, trained};
use std::path::Path;

#[test]
fn a_model_in_diffusers_layout_is_imported_and_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let checkpoint = run.join("checkpoints/step-00000004");
    let call = |arguments: &[&str]| {
        let mut command = ddpm(&["import"]);
        command.arg(&checkpoint).args(arguments);
        command
    };
    let report = object(&call(&["--dry-run", "--json"]).output().unwrap());
    assert_eq!((&report["weights"], &report["step"]), (&"ema".into(), &4.into()));
    let out = dir.path().join("imported");
    succeed(call(&["--weights", "raw", "--out"]).arg(&out));
    let images = |model: &Path, weights: &str, name: &str| {
        let folder = dir.path().join(name);
        let mut command = ddpm(&["sample", "--n", "1", "--weights", weights, "--out"]);
        succeed(command.arg(&folder).arg(model));
        std::fs::read(folder.join("000000.png")).unwrap()
    };
    assert!(images(&run, "raw", "a") == images(&out, "raw", "b"));
    fail(call(&["--out"]).arg(&out), 2, &["imported"]);
    fail(&mut call(&[]), 2, &["--out"]);
}

#[test]
fn what_is_no_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.ckpt");
    std::fs::write(&file, "not a model").unwrap();
    let mut command = ddpm(&["import", "--dry-run"]);
    fail(command.arg(&file), 2, &["model.ckpt", "no PyTorch file"]);
    let mut command = ddpm(&["import", "--dry-run"]);
    fail(command.arg(dir.path().join("model.ckpt-7")), 2, &["model.ckpt-7"]);
}
