//! Checkpoints of a run: saved, resumed, pruned, damaged.

mod support;

use checkpoint::{
    Error, LocationKind, ModelLocation, RunDirectory, SavedTraining, TrainingBuffersMut, Weights, inspect,
};
use std::path::Path;
use support::{SmallRun, bits, files, set_json};

/// The run's state as read back from a checkpoint directory.
fn restore(directory: &Path) -> Result<SmallRun, Error> {
    let saved = SavedTraining::open(directory)?;
    let mut state = SmallRun::at(0);
    state.description = saved.description.clone();
    state.progress = saved.progress.clone();
    let len = state.layout.len();
    let fresh = || vec![f32::NAN; len];
    (state.raw, state.ema, state.first_moment, state.second_moment) = (fresh(), fresh(), fresh(), fresh());
    let buffers = TrainingBuffersMut {
        raw: &mut state.raw,
        ema: &mut state.ema,
        first_moment: &mut state.first_moment,
        second_moment: &mut state.second_moment,
    };
    saved.restore(&state.layout, buffers)?;
    Ok(state)
}

fn assert_same(found: &SmallRun, expected: &SmallRun) {
    assert_eq!(found.progress, expected.progress);
    assert_eq!(found.description, expected.description);
    assert_eq!(bits(&found.raw), bits(&expected.raw));
    assert_eq!(bits(&found.ema), bits(&expected.ema));
    assert_eq!(bits(&found.first_moment), bits(&expected.first_moment));
    assert_eq!(bits(&found.second_moment), bits(&expected.second_moment));
}

#[test]
fn a_run_is_resumed_with_the_bits_it_had() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(&root.path().join("new/run"));
    let state = SmallRun::at(1000);
    let directory = state.save(&run).unwrap();
    assert_eq!(directory, root.path().join("new/run/checkpoints/step-00001000"));
    assert_same(&restore(&directory).unwrap(), &state);
    assert_eq!(
        files(&directory),
        [
            "manifest.json",
            "model_index.json",
            "raw/model_index.json",
            "raw/scheduler/scheduler_config.json",
            "raw/unet/config.json",
            "raw/unet/ddpm.json",
            "raw/unet/diffusion_pytorch_model.safetensors",
            "scheduler/scheduler_config.json",
            "training/moments.safetensors",
            "training/state.json",
            "unet/config.json",
            "unet/ddpm.json",
            "unet/diffusion_pytorch_model.safetensors"
        ]
    );
}

#[test]
fn the_latest_complete_checkpoint_is_found_whatever_lies_around() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(root.path());
    assert_eq!(run.latest().unwrap(), None);
    for step in [5, 100_000_000, 20] {
        SmallRun::at(step).save(&run).unwrap();
    }
    let checkpoints = root.path().join("checkpoints");
    // A copy that was cut off, what a killed writer left, and what someone else put there.
    std::fs::create_dir_all(checkpoints.join("step-00000007/unet")).unwrap();
    std::fs::create_dir_all(checkpoints.join(".step-100000001.ddpm-partial/unet")).unwrap();
    std::fs::create_dir_all(checkpoints.join("step-+7")).unwrap();
    std::fs::write(checkpoints.join("notes.txt"), "").unwrap();
    let steps: Vec<u64> = run.checkpoints().unwrap().iter().map(|checkpoint| checkpoint.step).collect();
    assert_eq!(steps, [5, 20, 100_000_000]);
    assert_eq!(run.latest().unwrap().unwrap().directory, run.checkpoint(100_000_000));
    run.clean().unwrap();
    assert!(!checkpoints.join(".step-100000001.ddpm-partial").exists());
    assert!(checkpoints.join("notes.txt").exists());
}

/// Going on from an older one without a word would lose what was trained since.
#[test]
fn a_newest_checkpoint_without_its_manifest_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(root.path());
    for step in [5, 20] {
        SmallRun::at(step).save(&run).unwrap();
    }
    let newest = run.checkpoint(20);
    let manifest = newest.join("manifest.json");
    let refused = |problem: &str| {
        let said = run.latest().unwrap_err().to_string();
        for words in [newest.to_str().unwrap(), problem, "restore this checkpoint, or remove it"] {
            assert!(said.contains(words), "{said}");
        }
        // A model's directory is looked for by other words, but not in an older checkpoint either.
        assert_eq!(ModelLocation::resolve(root.path()).unwrap_err().to_string(), said);
        // It does not keep a training that has gone on beyond it from tidying up.
        run.prune(30, 2).unwrap();
    };
    std::fs::remove_file(&manifest).unwrap();
    refused("it has no manifest.json");
    std::fs::create_dir(&manifest).unwrap();
    refused("manifest.json in it is no file");
    #[cfg(unix)]
    {
        std::fs::remove_dir(&manifest).unwrap();
        // Not even root can follow it, as others cannot what they have no permission for.
        std::os::unix::fs::symlink("manifest.json", &manifest).unwrap();
        refused("manifest.json in it cannot be read (");
    }
    std::fs::remove_dir_all(&newest).unwrap();
    assert_eq!(run.latest().unwrap().unwrap().step, 5);
}

#[test]
fn the_last_checkpoints_are_kept_and_the_newest_always() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(root.path());
    let steps = || run.checkpoints().unwrap().iter().map(|checkpoint| checkpoint.step).collect::<Vec<_>>();
    for step in [1, 2, 3, 4, 5] {
        SmallRun::at(step).save(&run).unwrap();
    }
    run.prune(4, 2).unwrap();
    assert_eq!(steps(), [3, 4, 5]);
    run.prune(5, 0).unwrap();
    assert_eq!(steps(), [5]);
    assert_same(&restore(&run.checkpoint(5)).unwrap(), &SmallRun::at(5));
    assert_eq!(std::fs::read_dir(root.path().join("checkpoints")).unwrap().count(), 1);
}

#[test]
fn a_step_saved_twice_holds_what_was_saved_last() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(root.path());
    SmallRun::at(7).save(&run).unwrap();
    let mut state = SmallRun::at(8);
    state.progress.step = 7;
    state.save(&run).unwrap();
    assert_same(&restore(&run.checkpoint(7)).unwrap(), &state);
    assert_eq!(std::fs::read_dir(root.path().join("checkpoints")).unwrap().count(), 1);
}

#[test]
fn both_kinds_of_weights_are_found_from_the_run_and_from_the_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(root.path());
    let state = SmallRun::at(3);
    let directory = state.save(&run).unwrap();
    for (path, kind) in [(root.path(), LocationKind::Run), (&directory, LocationKind::Checkpoint)] {
        let location = ModelLocation::resolve(path).unwrap();
        assert_eq!((location.kind, &location.directory), (kind, &directory));
        let read = |wanted| {
            let mut model = location.open(wanted).unwrap();
            assert_eq!(model.step, Some(3));
            (model.weights.unwrap(), bits(&model.read_parameters(&state.layout).unwrap()))
        };
        assert_eq!(read(None), (Weights::Ema, bits(&state.ema)));
        assert_eq!(read(Some(Weights::Ema)), (Weights::Ema, bits(&state.ema)));
        assert_eq!(read(Some(Weights::Raw)), (Weights::Raw, bits(&state.raw)));
    }
    // The raw weights alone are a diffusers directory that says what it holds.
    let raw = ModelLocation::resolve(&directory.join("raw")).unwrap();
    assert_eq!(raw.open(None).unwrap().weights, Some(Weights::Raw));
    assert!(matches!(raw.open(Some(Weights::Ema)), Err(Error::WeightsNotThere { .. })));
}

#[test]
fn a_checkpoint_is_inspected_without_its_weights() {
    let root = tempfile::tempdir().unwrap();
    let state = SmallRun::at(3);
    let directory = state.save(&RunDirectory::new(root.path())).unwrap();
    // Other numbers of the same length: nobody looks at them.
    let weights = directory.join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let len = bytes.len();
    bytes[len - 1000..].fill(0xff);
    std::fs::write(&weights, bytes).unwrap();
    let summary = inspect(root.path()).unwrap();
    assert_eq!((summary.kind, &summary.directory), (LocationKind::Run, &directory));
    assert_eq!(summary.training.as_ref(), Some(&state.progress));
    let kinds: Vec<_> =
        summary.weights.iter().map(|file| (file.weights, file.step, file.parameters)).collect();
    let parameters = state.layout.len() as u64;
    assert_eq!(kinds, [(Some(Weights::Ema), Some(3), parameters), (Some(Weights::Raw), Some(3), parameters)]);
    assert!(summary.checkpoint_bytes.unwrap() > 16 * parameters);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["weights"][1]["weights"], "raw");
    assert_eq!(json["model"]["channels"], 4);
}

#[test]
fn every_file_that_is_truncated_or_altered_is_named() {
    let root = tempfile::tempdir().unwrap();
    let directory = SmallRun::at(3).save(&RunDirectory::new(root.path())).unwrap();
    for file in files(&directory) {
        let path = directory.join(&file);
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        let middle = good.len() / 2;
        flipped[middle] ^= 0x10;
        for bad in [&good[..good.len() - 2], &good[..0], &flipped] {
            std::fs::write(&path, bad).unwrap();
            let error = restore(&directory).err().unwrap_or_else(|| panic!("{file} was not missed"));
            assert!(error.is_input());
            let message = error.to_string();
            // A manifest that was altered accuses another file, or itself.
            assert!(message.contains(&file) || file == "manifest.json", "{message}");
        }
        std::fs::remove_file(&path).unwrap();
        let message = restore(&directory).err().unwrap().to_string();
        assert!(message.contains(&file), "{message}");
        std::fs::write(&path, good).unwrap();
    }
    restore(&directory).unwrap();
}

#[test]
fn sampling_looks_at_the_files_it_reads_and_at_no_others() {
    let root = tempfile::tempdir().unwrap();
    let directory = SmallRun::at(3).save(&RunDirectory::new(root.path())).unwrap();
    let flip = |file: &str| {
        let path = directory.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let place = bytes.len() - 3;
        bytes[place] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    let location = ModelLocation::resolve(root.path()).unwrap();
    flip("training/moments.safetensors");
    location.open(Some(Weights::Raw)).unwrap();
    flip("raw/unet/diffusion_pytorch_model.safetensors");
    location.open(None).unwrap();
    let message = location.open(Some(Weights::Raw)).unwrap_err().to_string();
    assert!(message.contains("corrupted") && message.contains("raw/unet"), "{message}");
    flip("unet/diffusion_pytorch_model.safetensors");
    assert!(location.open(None).unwrap_err().to_string().contains("corrupted"));
}

#[test]
fn the_manifest_reaches_no_file_outside() {
    let root = tempfile::tempdir().unwrap();
    let directory = SmallRun::at(3).save(&RunDirectory::new(root.path())).unwrap();
    for name in ["../../secret", "/etc/hostname", "unet/../../x"] {
        let files = serde_json::json!({ name: { "bytes": 1, "xxh3": "" } });
        set_json(&directory.join("manifest.json"), "files", files);
        let message = SavedTraining::open(&directory).unwrap_err().to_string();
        assert!(message.contains("not a file of this checkpoint"), "{message}");
    }
}

#[test]
fn a_state_with_numbers_that_are_none_is_not_saved() {
    let root = tempfile::tempdir().unwrap();
    let run = RunDirectory::new(root.path());
    SmallRun::at(1).save(&run).unwrap();
    for which in 0..4 {
        let mut state = SmallRun::at(2);
        let SmallRun { raw, ema, first_moment, second_moment, .. } = &mut state;
        [raw, ema, first_moment, second_moment][which][17] = f32::NAN;
        let message = state.save(&run).unwrap_err().to_string();
        assert!(message.contains("NaN"), "{message}");
    }
    assert_eq!(run.latest().unwrap().unwrap().step, 1);
    assert_eq!(std::fs::read_dir(root.path().join("checkpoints")).unwrap().count(), 1);
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let state = SmallRun::at(3);
    let directory = state.save(&RunDirectory::new(root.path())).unwrap();
    let saved = SavedTraining::open(&directory).unwrap();
    let other = models::Unet::layout(&models::UnetConfig { channels: 8, ..support::small_unet() });
    let mut buffers = vec![vec![0.0; other.len()]; 4];
    let [raw, ema, first_moment, second_moment] = buffers.as_mut_slice() else { unreachable!() };
    let buffers = TrainingBuffersMut { raw, ema, first_moment, second_moment };
    let message = saved.restore(&other, buffers).unwrap_err().to_string();
    assert!(message.contains("conv_in.weight (is [4, 3, 3, 3], expected [8, 3, 3, 3])"), "{message}");
}
