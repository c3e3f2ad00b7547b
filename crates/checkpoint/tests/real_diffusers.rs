//! What we write, opened by diffusers itself. Needs a Python with diffusers, named by the environment variable
//! `DDPM_TEST_PYTHON`.

mod support;

use checkpoint::{Dtype, ModelDescription, RunDirectory, export};
use diffusion::{BetaSchedule, Denoiser, DiffusionConfig, Loss, Prediction, Variance};
use engine::{ConvMethod, Cpu, CpuOptions};
use models::{Conventions, UnetConfig, UnetDenoiser};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as StoredDtype, TensorView};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{SmallRun, labelled, layout_of, noise, small_model, small_unet};

/// The Python to use, or a loud word that the test is skipped.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("DDPM_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!(
            "SKIPPED: DDPM_TEST_PYTHON does not name a Python with diffusers; nothing was compared with it"
        );
    }
    python
}

/// Lets diffusers open `directory` and, given an input, predict; returns its report.
fn check(python: &Path, directory: &Path, arrays: Option<(&Path, &Path)>) -> Value {
    let mut command = command(python, directory);
    if let Some((input, output)) = arrays {
        command.arg("--input").arg(input).arg("--output").arg(output);
    }
    let output = command.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "diffusers complains: {text}\n{errors}");
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn command(python: &Path, directory: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/check_diffusers.py");
    let mut command = Command::new(python);
    command.arg(script).arg(directory);
    command
}

/// A backend whose only error is that of rounding: differences then are about the files.
fn direct_backend() -> Cpu {
    Cpu::with_options(CpuOptions { threads: 1, conv: ConvMethod::Direct, ..CpuOptions::default() }).unwrap()
}

/// Weights near what a network starts with, but none zero.
fn weights(description: &ModelDescription) -> Vec<f32> {
    let layout = layout_of(description);
    let mut weights = layout.initialise(5);
    for (weight, noise) in weights.iter_mut().zip(noise(layout.len(), 5)) {
        *weight += 0.05 * noise.clamp(-1.0, 1.0);
    }
    weights
}

/// Compares our network's prediction with that of diffusers for the model in `directory`.
fn assert_same_prediction(python: &Path, directory: &Path, config: &UnetConfig, weights: &[f32]) {
    let (batch, size, channels) = (2, config.image_size, config.image_channels);
    let x_t: Vec<f32> =
        noise(batch * size * size * channels, 9).iter().map(|value| value.clamp(-2.0, 2.0)).collect();
    let timesteps = [3.0, 917.0];
    let mut network = UnetDenoiser::new(config, weights, batch, Box::new(direct_backend())).unwrap();
    let mut ours = vec![0.0; batch * size * size * network.output_channels()];
    network.denoise(&x_t, &timesteps, &mut ours).unwrap();

    let planes = |values: &[f32], channels: usize| -> Vec<f32> {
        let element = |n: usize, c: usize, pixel: usize| values[(n * size * size + pixel) * channels + c];
        let places = (0..batch).flat_map(|n| (0..channels).map(move |c| (n, c)));
        places.flat_map(|(n, c)| (0..size * size).map(move |pixel| element(n, c, pixel))).collect()
    };
    let files = tempfile::tempdir().unwrap();
    let (input, output) = (files.path().join("in.safetensors"), files.path().join("out.safetensors"));
    let x_bytes: Vec<u8> = planes(&x_t, channels).iter().flat_map(|value| value.to_le_bytes()).collect();
    let t_bytes: Vec<u8> = timesteps.iter().flat_map(|&t| (t as i64).to_le_bytes()).collect();
    let arrays = [
        ("x_t", TensorView::new(StoredDtype::F32, vec![batch, channels, size, size], &x_bytes).unwrap()),
        ("timesteps", TensorView::new(StoredDtype::I64, vec![batch], &t_bytes).unwrap()),
    ];
    std::fs::write(&input, safetensors::serialize(arrays, None).unwrap()).unwrap();
    check(python, directory, Some((&input, &output)));

    let bytes = std::fs::read(&output).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let theirs = stored.tensor("prediction").unwrap();
    let theirs: Vec<f32> =
        theirs.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
    let ours = planes(&ours, network.output_channels());
    assert_eq!(ours.len(), theirs.len());
    let rms = (theirs.iter().map(|value| f64::from(value * value)).sum::<f64>() / theirs.len() as f64).sqrt();
    let error =
        ours.iter().zip(&theirs).map(|(one, other)| f64::from((one - other).abs())).fold(0.0, f64::max);
    eprintln!("largest difference from diffusers: {:.1e} of the output's rms", error / rms);
    assert!(error <= 1e-4 * rms, "{error} of {rms}");
}

#[test]
fn diffusers_predicts_what_we_predict() {
    let Some(python) = python() else { return };
    let parent = tempfile::tempdir().unwrap();
    let models = [
        small_unet(),
        UnetConfig {
            image_channels: 1,
            learned_variance: true,
            channels: 32,
            norm_groups: 8,
            ..small_unet()
        },
        // diffusers' own defaults.
        UnetConfig {
            channels: 32,
            norm_groups: 8,
            conventions: Conventions {
                norm_eps: 1e-5,
                freq_shift: 0,
                cosines_first: true,
                downsample_padding: 1,
                head_channels: Some(8),
                ..Conventions::default()
            },
            ..small_unet()
        },
        UnetConfig { channels: 32, norm_groups: 8, scale_shift_norm: true, ..small_unet() },
    ];
    for (index, model) in models.into_iter().enumerate() {
        let diffusion = match model.learned_variance {
            true => DiffusionConfig { variance: Variance::Learned, loss: Loss::Kl, ..Default::default() },
            false => DiffusionConfig::default(),
        };
        let description = ModelDescription { model, diffusion };
        let directory = parent.path().join(index.to_string());
        let weights = weights(&description);
        export(&directory, &description, &layout_of(&description), labelled(&weights), Dtype::F32).unwrap();
        assert_same_prediction(&python, &directory, &description.model, &weights);
    }
}

#[test]
fn diffusers_stops_at_what_it_would_compute_differently() {
    let Some(python) = python() else { return };
    let scaled = Conventions { time_scale: 0.25, ..Conventions::default() };
    let wide = UnetConfig {
        channels: 8,
        channel_mult: vec![1, 2],
        attention_resolutions: vec![8, 4],
        ..small_unet()
    };
    let models = [UnetConfig { conventions: scaled, ..small_unet() }, wide.with_heads(2)];
    for model in models {
        let description = ModelDescription { model, ..small_model() };
        description.model.validate().unwrap();
        let (parent, weights) = (tempfile::tempdir().unwrap(), weights(&description));
        let directory = parent.path().join("model");
        export(&directory, &description, &layout_of(&description), labelled(&weights), Dtype::F32).unwrap();
        // We read it, and as what it is.
        let stored = checkpoint::ModelLocation::resolve(&directory).unwrap().open(None).unwrap();
        assert_eq!(stored.unet, description.model);
        let output = command(&python, &directory).output().unwrap();
        assert!(!output.status.success(), "diffusers opens {:?}", description.model);
    }
}

#[test]
fn diffusers_opens_a_checkpoint_and_its_raw_weights_without_a_warning() {
    let Some(python) = python() else { return };
    let root = tempfile::tempdir().unwrap();
    let state = SmallRun::at(12);
    let directory = state.save(&RunDirectory::new(root.path())).unwrap();
    for (directory, kind) in [(directory.clone(), "ema"), (directory.join("raw"), "raw")] {
        let report = check(&python, &directory, None);
        assert_eq!(report["labels"]["weights"], kind);
        assert_eq!(report["labels"]["step"], "12");
        assert_eq!(report["parameters"], state.layout.len());
        assert_eq!(report["sampling_refused"], Value::Null);
    }
}

#[test]
fn diffusers_reads_half_precision() {
    let Some(python) = python() else { return };
    let parent = tempfile::tempdir().unwrap();
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let directory = parent.path().join(dtype.name());
        let description = small_model();
        // Rounded beforehand, so that nothing is lost on the way.
        let weights: Vec<f32> =
            weights(&description).iter().map(|weight| (weight * 128.0).round() / 128.0).collect();
        export(&directory, &description, &layout_of(&description), labelled(&weights), dtype).unwrap();
        check(&python, &directory, None);
        let mut model = checkpoint::ModelLocation::resolve(&directory).unwrap().open(None).unwrap();
        let parameters = model.read_parameters(&layout_of(&description)).unwrap();
        assert_same_prediction(&python, &directory, &description.model, &parameters);
    }
}

#[test]
fn diffusers_has_our_betas_and_refuses_what_it_would_compute_differently() {
    let Some(python) = python() else { return };
    use BetaSchedule::*;
    let parent = tempfile::tempdir().unwrap();
    let schedules = [Linear, Quad, Const, Warmup10, Jsd, Cosine].map(|schedule| (schedule, Prediction::Eps));
    for (index, (schedule, prediction)) in
        schedules.into_iter().chain([(Linear, Prediction::Xprev)]).enumerate()
    {
        let diffusion =
            DiffusionConfig { schedule, prediction, timesteps: 500, ..DiffusionConfig::default() };
        let description = ModelDescription { diffusion, ..small_model() };
        let directory = parent.path().join(index.to_string());
        let weights = weights(&description);
        export(&directory, &description, &layout_of(&description), labelled(&weights), Dtype::F32).unwrap();
        let report = check(&python, &directory, None);
        let betas = diffusion::schedule::betas(&description.diffusion);
        assert_eq!(report["timesteps"], 500);
        let (sum, expected) = (report["beta_sum"].as_f64().unwrap(), betas.iter().sum::<f64>());
        assert!((sum / expected - 1.0).abs() < 1e-5, "{schedule:?}: {sum} instead of {expected}");
        let refused = report["sampling_refused"].as_str();
        assert_eq!(refused.is_some(), prediction == Prediction::Xprev, "{refused:?}");
    }
}
