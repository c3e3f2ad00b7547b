//! Calls that are wrong, help, and JSON.

use crate::ddpm::{ddpm, fail, object, succeed, train_tiny, trained};
use std::path::Path;

#[test]
fn wrong_calls_end_with_2_and_a_hint() {
    fail(&mut ddpm(&[]), 2, &["Usage"]);
    fail(&mut ddpm(&["tarin"]), 2, &["tarin", "train"]);
    fail(&mut ddpm(&["train"]), 2, &["PRESET|CONFIG.toml"]);
    fail(&mut ddpm(&["train", "shapes32", "--sett", "a=b"]), 2, &["--sett", "--set"]);
    fail(&mut ddpm(&["train", "shapes", "--out", "nowhere"]), 2, &["shapes32", "mnist32"]);
    fail(&mut ddpm(&["train", "shapes32", "--out", "nowhere", "--set", "train.step=1"]), 2, &["train.steps"]);
    fail(&mut ddpm(&["train", "shapes32", "--out", "nowhere", "--set", "train.steps=0"]), 2, &["from 1"]);
    fail(&mut ddpm(&["sample", "nowhere"]), 2, &["--out"]);
    fail(&mut ddpm(&["sample", "nowhere", "--out", "x"]), 2, &["nowhere"]);
    fail(&mut ddpm(&["sample", "nowhere", "--out", "x", "--n", "0"]), 2, &["--n"]);
    fail(&mut ddpm(&["sample", "nowhere", "--out", "x", "--sampler", "euler"]), 2, &["ancestral", "ddim"]);
    for threads in ["0", "1025", "100000", "many"] {
        let mut command = ddpm(&["sample", "nowhere", "--out", "x", "--threads", threads]);
        fail(&mut command, 2, &["--threads", "1 to 1024"]);
    }
    fail(&mut ddpm(&["sample", "nowhere", "--out", "x", "--seed", "9223372036854775808"]), 2, &["--seed"]);
    fail(&mut ddpm(&["inspect", "nowhere"]), 2, &["nowhere"]);
    fail(&mut ddpm(&["denoise", "nowhere", "--x", "x.npy", "--t", "1", "--out", "y.npy"]), 2, &["x.npy"]);
    assert!(!Path::new("nowhere").exists());
}

#[test]
fn a_configuration_file_with_an_unknown_key_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    std::fs::write(&file, "[data]\nsource = \"shapes32\"\n[train]\nlerning_rate = 1e-3\n").unwrap();
    let run = dir.path().join("run");
    let mut command = ddpm(&["train"]);
    command.arg(&file).arg("--out").arg(&run);
    fail(
        &mut command,
        2,
        &["mine.toml, line 4, column 1", "train.lerning_rate", "did you mean train.learning_rate?"],
    );
    assert!(!run.exists());
}

#[test]
fn help_and_version_end_with_0() {
    for command in ["train", "sample", "inspect", "denoise", "completions"] {
        assert!(succeed(&mut ddpm(&["help"])).contains(command));
        let help = succeed(&mut ddpm(&[command, "--help"]));
        assert!(help.contains("--json") && help.contains("--threads"), "{help}");
    }
    let help = succeed(&mut ddpm(&["train", "--help"]));
    assert!(help.contains("lsun_bedroom_large") && help.contains("256M"), "{help}");
    assert!(succeed(&mut ddpm(&["--version"])).starts_with("ddpm "));
    assert!(succeed(&mut ddpm(&["train", "--list-presets"])).contains("cifar10_small"));
    assert!(succeed(&mut ddpm(&["completions", "bash"])).contains("complete -F _ddpm"));
}

#[test]
fn json_is_one_object_whatever_happens() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let finished = train_tiny(&run, &["train.steps=3"], &["--json"]).output().unwrap();
    let result = object(&finished);
    assert_eq!((&result["status"], &result["step"]), (&"finished".into(), &3.into()));
    assert!(result["loss"].as_f64().unwrap().is_finite());
    assert!(!finished.stderr.is_empty(), "what is for people goes to standard error");

    let presets = object(&ddpm(&["train", "--list-presets", "--json"]).output().unwrap());
    assert_eq!(presets["presets"][0]["name"], "shapes32");

    let run_text = run.to_str().unwrap();
    let inspected = object(&ddpm(&["inspect", run_text, "--json"]).output().unwrap());
    assert_eq!(inspected["training"]["step"], 3);
    assert_eq!(inspected["model"]["channels"], 16);
    assert_eq!(inspected["weights"][0]["weights"], "ema");
    assert_eq!(inspected["weights"][1]["weights"], "raw");

    for wrong in
        [&["inspect", "nowhere", "--json"][..], &["sample", "--json"], &["--json", "train", "x.toml"]]
    {
        let output = ddpm(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        let error = object(&output);
        assert_eq!(error["status"], 2);
        assert!(!error["error"].as_str().unwrap().is_empty());
    }
}

#[test]
fn inspect_says_what_is_in_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let run = run.to_str().unwrap();
    let words = succeed(&mut ddpm(&["inspect", run]));
    for word in
        ["8x8x3", "16 channels", "T = 20", "predicts eps", "fixed_large", "ema after 4", "raw after 4"]
    {
        assert!(words.contains(word), "{word:?} is missing in: {words}");
    }
    assert!(!words.contains("conv_in.weight"));
    assert!(succeed(&mut ddpm(&["inspect", run, "--tensors"])).contains("conv_in.weight [16, 3, 3, 3] F32"));
}

#[test]
fn quiet_says_nothing_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let output = train_tiny(&dir.path().join("run"), &["train.steps=2"], &["--quiet"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(crate::ddpm::text(&output.stdout).contains("2 updates"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let status = std::process::Command::new("sh")
        .args(["-c", "\"$1\" completions bash | head -n 1 >/dev/null; \"$1\" completions zsh | true", "sh"])
        .arg(env!("CARGO_BIN_EXE_ddpm"))
        .output()
        .unwrap();
    assert!(status.status.success() && status.stderr.is_empty(), "{status:?}");
}

#[cfg(unix)]
#[test]
fn arguments_that_are_not_utf_8_are_refused_before_any_work() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join(OsStr::from_bytes(b"run\xff"));
    let output = train_tiny(&run, &["train.steps=1"], &["--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(object(&output)["error"].as_str().unwrap().contains("not UTF-8"));
    assert!(!run.exists());
}

#[test]
fn a_place_where_no_file_can_be_written_is_refused_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let blocked = dir.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let inside = blocked.join("inside");
    for out in [&folder, &inside] {
        let name = out.file_name().unwrap().to_str().unwrap();
        let mut command = ddpm(&["compress"]);
        fail(command.arg(&run).args(["shapes32", "--n", "1", "--out"]).arg(out), 2, &[name, "--out"]);
        let mut command = ddpm(&["data", "info", "shapes32", "--sheet"]);
        fail(command.arg(out), 2, &[name, "--sheet"]);
    }
    // What is missing is made.
    let file = dir.path().join("new/folders/c.ddpm");
    let mut command = ddpm(&["compress"]);
    succeed(command.arg(&run).args(["shapes32", "--n", "1", "--target-rate", "4", "--out"]).arg(&file));
    assert!(file.is_file());
}

#[test]
fn a_run_is_gone_on_with_by_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = ddpm(&["train", "--resume"]);
    fail(command.arg(dir.path()), 2, &["is a folder", "--resume --out"]);
    fail(&mut ddpm(&["train", "--resume"]), 2, &["--out DIR"]);
}

#[test]
fn a_folder_with_a_presets_name_does_not_hide_the_preset() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("shapes32")).unwrap();
    let run = dir.path().join("run");
    succeed(train_tiny(&run, &["train.steps=1"], &[]).current_dir(dir.path()));
    assert!(run.join("config.toml").is_file());
}
