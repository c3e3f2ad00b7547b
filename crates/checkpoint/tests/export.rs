//! Models written and read back: every setting, every number format.

mod support;

use checkpoint::diffusers::{scheduler_from_json, scheduler_to_json, unet_from_json, unet_to_json};
use checkpoint::{Dtype, Error, ModelDescription, ModelLocation, StoredModel, Weights, export};
use diffusion::{BetaSchedule, DiffusionConfig, Loss, Prediction, Variance};
use models::{Conventions, UnetConfig};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use support::{bits, files, labelled, layout_of, noise, set_json, small_model, small_unet};

fn export_to(directory: &Path, description: &ModelDescription, dtype: Dtype) -> Vec<f32> {
    let layout = layout_of(description);
    let parameters = noise(layout.len(), 1);
    export(directory, description, &layout, labelled(&parameters), dtype).unwrap();
    parameters
}

fn open(directory: &Path) -> Result<StoredModel, Error> {
    ModelLocation::resolve(directory)?.open(None)
}

fn read(directory: &Path) -> Vec<f32> {
    let mut model = open(directory).unwrap();
    let layout = models::Unet::layout(&model.unet);
    model.read_parameters(&layout).unwrap()
}

#[test]
fn the_files_are_those_of_diffusers_and_one_of_ours() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("model");
    export_to(&directory, &small_model(), Dtype::F32);
    assert_eq!(
        files(&directory),
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/ddpm.json",
            "unet/diffusion_pytorch_model.safetensors"
        ]
    );
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1, "a temporary was left behind");
}

#[test]
fn single_precision_comes_back_bit_for_bit_and_half_within_its_precision() {
    for (dtype, precision) in [(Dtype::F32, 0.0), (Dtype::F16, 2f32.powi(-11)), (Dtype::Bf16, 2f32.powi(-8))]
    {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("model");
        let parameters = export_to(&directory, &small_model(), dtype);
        let back = read(&directory);
        if dtype == Dtype::F32 {
            assert_eq!(bits(&back), bits(&parameters));
        }
        for (index, (back, exact)) in back.iter().zip(&parameters).enumerate() {
            // Below 2^-14, f16 has steps of 2^-24.
            let allowed =
                (precision * exact.abs()).max(if dtype == Dtype::F16 { 2f32.powi(-25) } else { 0.0 });
            assert!((back - exact).abs() <= allowed, "{dtype}: element {index} is {back}, was {exact}");
        }
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let parent = tempfile::tempdir().unwrap();
    let (one, other) = (parent.path().join("one"), parent.path().join("other"));
    export_to(&one, &small_model(), Dtype::F16);
    export_to(&other, &small_model(), Dtype::F16);
    for file in files(&one) {
        assert_eq!(
            std::fs::read(one.join(&file)).unwrap(),
            std::fs::read(other.join(&file)).unwrap(),
            "{file}"
        );
    }
}

#[test]
fn the_file_says_which_weights_it_holds() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("model");
    export_to(&directory, &small_model(), Dtype::F32);
    let location = ModelLocation::resolve(&directory).unwrap();
    let model = location.open(Some(Weights::Ema)).unwrap();
    assert_eq!((model.weights, model.step), (Some(Weights::Ema), Some(42)));
    assert_eq!(model.file().labels()["format"], "pt");
    let error = location.open(Some(Weights::Raw)).unwrap_err().to_string();
    assert!(error.contains("no raw weights") && error.contains("holds the ema weights"), "{error}");
}

#[test]
fn numbers_that_are_no_weights_are_not_written() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("model");
    let layout = layout_of(&small_model());
    let place = layout.find("conv_out.bias").unwrap().offset;
    let cases =
        [(f32::NAN, Dtype::F32, "NaN"), (f32::INFINITY, Dtype::Bf16, "inf"), (65520.0, Dtype::F16, "f16")];
    for (value, dtype, word) in cases {
        let mut parameters = noise(layout.len(), 1);
        parameters[place + 1] = value;
        let error = export(&directory, &small_model(), &layout, labelled(&parameters), dtype)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`conv_out.bias`") && error.contains("element 1"), "{error}");
        assert!(error.contains(word), "{error}");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0, "something was left behind");
    }
}

#[test]
fn a_directory_in_use_is_not_overwritten() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("model");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("thesis.tex"), "years of work").unwrap();
    let layout = layout_of(&small_model());
    let parameters = noise(layout.len(), 1);
    let export = |to: &Path| export(to, &small_model(), &layout, labelled(&parameters), Dtype::F32);
    assert!(matches!(export(&directory), Err(Error::Occupied { .. })));
    assert!(matches!(export(&directory.join("thesis.tex")), Err(Error::Occupied { .. })));
    assert_eq!(files(&directory), ["thesis.tex"]);
    std::fs::remove_file(directory.join("thesis.tex")).unwrap();
    export(&directory).unwrap();
}

#[test]
fn what_diffusers_has_no_words_for_is_said_before_training() {
    let model = UnetConfig { channel_mult: vec![2, 4], ..small_unet() };
    let error = ModelDescription { model, ..small_model() }.check_expressible().unwrap_err().to_string();
    assert!(error.contains("channel_mult"), "{error}");
    small_model().check_expressible().unwrap();
}

#[test]
fn files_that_contradict_each_other_are_refused() {
    for (file, key, value, named) in [
        ("unet/config.json", "dropout", json!(0.25), "dropout"),
        ("unet/config.json", "out_channels", json!(6), "learned_variance"),
        ("scheduler/scheduler_config.json", "clip_sample", json!(false), "clip_denoised"),
        ("scheduler/scheduler_config.json", "beta_end", json!(0.03), "beta_end"),
    ] {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("model");
        export_to(&directory, &small_model(), Dtype::F32);
        set_json(&directory.join(file), key, value);
        let error = open(&directory).unwrap_err();
        assert!(matches!(error, Error::Contradiction { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains(file) && message.contains("ddpm.json") && message.contains(named),
            "{message}"
        );
    }
}

#[test]
fn what_diffusers_cannot_do_is_in_words_it_refuses() {
    let config =
        |prediction, variance| DiffusionConfig { prediction, variance, ..DiffusionConfig::default() };
    let json =
        |prediction, variance| scheduler_to_json(&config(prediction, variance))["prediction_type"].clone();
    assert_eq!(json(Prediction::Eps, Variance::FixedSmall), "epsilon");
    assert_eq!(json(Prediction::Xprev, Variance::FixedSmall), "xprev");
    assert_eq!(json(Prediction::Eps, Variance::Learned), "epsilon+log_variance");
    assert_eq!(json(Prediction::Eps, Variance::LearnedRange), "epsilon");
    for variance in [Variance::FixedSmall, Variance::FixedLarge, Variance::Learned, Variance::LearnedRange] {
        let config = DiffusionConfig { loss: variance.usual_loss(), ..config(Prediction::Eps, variance) };
        assert_eq!(scheduler_from_json(on_disk(&scheduler_to_json(&config)).path()).unwrap(), config);
    }
}

#[test]
fn long_processes_keep_the_names_of_their_schedules() {
    use BetaSchedule::*;
    for schedule in [Linear, Quad, Const, Warmup10, Warmup50, Jsd, Cosine] {
        let config = DiffusionConfig { schedule, ..DiffusionConfig::default() };
        assert_eq!(scheduler_from_json(on_disk(&scheduler_to_json(&config)).path()).unwrap(), config);
    }
}

#[test]
fn betas_of_a_known_schedule_are_recognised_in_single_precision_and_without_their_range() {
    let config = DiffusionConfig {
        schedule: BetaSchedule::Warmup50,
        beta_start: 1e-3,
        beta_end: 0.03,
        timesteps: 100,
        ..DiffusionConfig::default()
    };
    let mut json = scheduler_to_json(&config);
    let betas = json["trained_betas"].as_array().unwrap().iter();
    json["trained_betas"] = betas.map(|beta| json!(f64::from(beta.as_f64().unwrap() as f32))).collect();
    let object = json.as_object_mut().unwrap();
    object.remove("beta_start");
    object.remove("beta_end");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    let read = scheduler_from_json(file.path()).unwrap();
    assert_eq!(read.schedule, BetaSchedule::Warmup50);
    assert!((read.beta_start - 1e-3).abs() < 1e-9 && (read.beta_end - 0.03).abs() < 1e-8, "{read:?}");

    json["trained_betas"][17] = json!(0.5);
    std::fs::write(file.path(), json.to_string()).unwrap();
    let message = scheduler_from_json(file.path()).unwrap_err().to_string();
    assert!(message.contains("no schedule known here"), "{message}");
}

fn unets() -> impl Strategy<Value = UnetConfig> {
    (
        prop::sample::select(vec![1usize, 3]),
        any::<bool>(),
        prop::collection::vec(1usize..4, 0..3),
        1usize..3,
        prop::collection::vec(0u32..4, 0..3),
        prop::sample::select(vec![1usize, 2, 4]),
        0u8..10,
        (any::<bool>(), prop::sample::select(vec![1usize, 2, 4]), any::<bool>()),
        conventions(),
    )
        .prop_map(
            |(
                image_channels,
                learned_variance,
                mult,
                num_res_blocks,
                levels,
                block_size,
                dropout,
                (count_heads, heads, scale_shift_norm),
                conventions,
            )| {
                let reached = levels.iter().filter(|level| **level as usize <= mult.len());
                let attention_resolutions = reached.map(|level| 16 >> level).collect();
                let config = UnetConfig {
                    image_size: 16 * block_size,
                    image_channels,
                    learned_variance,
                    channels: 8,
                    channel_mult: std::iter::once(1).chain(mult).collect(),
                    num_res_blocks,
                    attention_resolutions,
                    dropout: f32::from(dropout) / 10.0,
                    block_size,
                    norm_groups: 4,
                    scale_shift_norm,
                    conventions,
                };
                if count_heads { config.with_heads(heads) } else { config }
            },
        )
}

fn conventions() -> impl Strategy<Value = Conventions> {
    // Heads narrower than any level.
    let head_channels = prop::sample::select(vec![None, Some(2), Some(4)]);
    let time_scale = prop_oneof![Just(1.0f32), 1e-3f32..10.0];
    (1e-7f32..1e-3, 0usize..2, any::<bool>(), 0usize..2, head_channels, time_scale).prop_map(
        |(norm_eps, freq_shift, cosines_first, downsample_padding, head_channels, time_scale)| Conventions {
            norm_eps,
            freq_shift,
            cosines_first,
            downsample_padding,
            head_channels,
            heads: None,
            time_scale,
        },
    )
}

fn processes() -> impl Strategy<Value = DiffusionConfig> {
    use BetaSchedule::*;
    (
        1usize..200,
        prop::sample::select(vec![Linear, Quad, Const, Warmup10, Warmup50, Jsd, Cosine]),
        (1e-6f64..0.5, 1e-6f64..0.999),
        prop::sample::select(vec![Prediction::Eps, Prediction::Xstart, Prediction::Xprev]),
        prop::sample::select(vec![Variance::FixedSmall, Variance::FixedLarge]),
        any::<(bool, bool)>(),
    )
        .prop_map(
            |(timesteps, schedule, (beta_start, beta_end), prediction, variance, (kl, clip_denoised))| {
                DiffusionConfig {
                    timesteps,
                    schedule,
                    beta_start,
                    beta_end,
                    prediction,
                    variance,
                    loss: if kl { Loss::Kl } else { Loss::Mse },
                    clip_denoised,
                }
            },
        )
}

fn on_disk(json: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_network_survives_the_words_of_diffusers(config in unets()) {
        let json = unet_to_json(&config).unwrap();
        prop_assert_eq!(
            json["in_channels"].as_u64().unwrap() as usize,
            config.image_channels * config.block_size * config.block_size
        );
        let back = unet_from_json(on_disk(&json).path(), config.block_size).unwrap();
        // Their order is lost.
        let sizes = (0..config.channel_mult.len()).map(|level| config.level_size(level));
        let attends: Vec<usize> = sizes.filter(|size| config.attention_resolutions.contains(size)).collect();
        prop_assert_eq!(back, UnetConfig { attention_resolutions: attends, ..config });
    }

    #[test]
    fn every_process_survives_the_words_of_diffusers(config in processes()) {
        let back = scheduler_from_json(on_disk(&scheduler_to_json(&config)).path()).unwrap();
        // In a short process two schedules may be one, by rounding: β is what counts. The loss is not in the file.
        for (back, beta) in diffusion::schedule::betas(&back).iter().zip(diffusion::schedule::betas(&config)) {
            prop_assert!((back / beta - 1.0).abs() < 1e-6, "{back} instead of {beta}");
        }
        let DiffusionConfig { loss, schedule, beta_start, beta_end, .. } = config;
        prop_assert_eq!(DiffusionConfig { loss, schedule, beta_start, beta_end, ..back }, config);
    }

    #[test]
    fn every_model_comes_back_whole(model in unets(), process in processes(), seed in any::<u64>()) {
        let diffusion = match model.learned_variance {
            true => DiffusionConfig { variance: Variance::Learned, loss: Loss::Kl, ..process },
            false => process,
        };
        let description = ModelDescription { model, diffusion };
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("model");
        let layout = layout_of(&description);
        let parameters = noise(layout.len(), seed);
        export(&directory, &description, &layout, labelled(&parameters), Dtype::F32).unwrap();
        let mut stored = open(&directory).unwrap();
        prop_assert_eq!(&stored.unet, &description.model);
        prop_assert_eq!(stored.diffusion.as_ref(), Some(&description.diffusion));
        prop_assert_eq!(bits(&stored.read_parameters(&layout).unwrap()), bits(&parameters));
        // The network's folder alone is enough.
        let alone = open(&directory.join("unet")).unwrap();
        prop_assert_eq!(alone.diffusion, Some(description.diffusion));
    }
}
