//! Models that diffusers wrote: what we make of them, and what we refuse.

mod support;

use checkpoint::{Error, LocationKind, ModelLocation, StoredModel, Weights, inspect};
use diffusion::{DiffusionConfig, Variance};
use models::{Conventions, Unet};
use serde_json::{Value, json};
use std::path::Path;
use support::{copy_tree, fixture, set_json, small_unet};

fn open(path: &Path) -> Result<StoredModel, Error> {
    ModelLocation::resolve(path)?.open(None)
}

/// Reads a fixture's weights and compares them with the sums that PyTorch computed.
fn assert_weights_are_as_expected(name: &str, model: &mut StoredModel) {
    let layout = Unet::layout(&model.unet);
    let parameters = model.read_parameters(&layout).unwrap();
    let text = std::fs::read(fixture(&format!("{name}.expected.json"))).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let expected = expected["parameters"].as_array().unwrap();
    assert_eq!(expected.len(), layout.specs().len());
    for parameter in expected {
        let name = parameter["name"].as_str().unwrap();
        let spec = layout.find(name).unwrap_or_else(|| panic!("the network has no {name}"));
        assert_eq!(json!(spec.shape), parameter["shape"], "{name}");
        let values = parameters[spec.range()].iter().map(|&value| f64::from(value));
        let weighted =
            values.clone().enumerate().map(|(index, value)| value * (index % 97) as f64).sum::<f64>();
        let close = |sum: f64, key: &str| (sum - parameter[key].as_f64().unwrap()).abs() < 1e-9;
        assert!(close(values.sum(), "sum"), "{name}");
        assert!(close(weighted, "weighted_sum"), "{name}: its elements are in another order");
    }
}

#[test]
fn a_pipeline_of_today_is_read() {
    let mut model = open(&fixture("current")).unwrap();
    assert_eq!(model.unet, small_unet());
    assert_eq!(model.diffusion, Some(DiffusionConfig::default()));
    assert_eq!((model.weights, model.step), (None, None));
    assert_weights_are_as_expected("current", &mut model);
}

#[test]
fn a_pipeline_of_2022_is_read() {
    let mut model = open(&fixture("older")).unwrap();
    assert_eq!(model.unet, small_unet());
    assert_eq!(model.diffusion.as_ref().unwrap().variance, Variance::FixedSmall);
    assert_weights_are_as_expected("older", &mut model);
}

#[test]
fn a_networks_folder_alone_is_read() {
    let mut model = open(&fixture("network")).unwrap();
    assert_eq!(model.unet, small_unet());
    assert_eq!(model.diffusion, None, "nothing there says what the process is");
    assert_weights_are_as_expected("network", &mut model);
    // The folder of a pipeline's network is one too.
    assert_eq!(open(&fixture("current/unet")).unwrap().unet, small_unet());
}

#[test]
fn weights_saved_as_a_variant_are_found() {
    // As save_pretrained(…, variant="fp16") names them.
    let dir = tempfile::tempdir().unwrap();
    copy_tree(&fixture("current"), dir.path());
    let weights = |name: &str| dir.path().join("unet").join(format!("diffusion_pytorch_model.{name}"));
    std::fs::rename(weights("safetensors"), weights("fp16.safetensors")).unwrap();
    std::fs::write(weights("fp16.bin"), "the same in another form, which is not looked at").unwrap();
    assert_weights_are_as_expected("current", &mut open(dir.path()).unwrap());
    std::fs::write(weights("non_ema.bin"), "").unwrap();
    let text = open(dir.path()).unwrap_err().to_string();
    assert!(
        text.contains("fp16.safetensors and") && text.contains("non_ema.bin") && text.contains("rename"),
        "{text}"
    );
    // The plain name comes before all.
    std::fs::copy(weights("fp16.safetensors"), weights("safetensors")).unwrap();
    assert_weights_are_as_expected("current", &mut open(dir.path()).unwrap());
}

#[test]
fn unlabelled_weights_are_not_taken_for_a_kind() {
    let location = ModelLocation::resolve(&fixture("current")).unwrap();
    assert_eq!(location.kind, LocationKind::Diffusers);
    for wanted in [Weights::Ema, Weights::Raw] {
        let error = location.open(Some(wanted)).unwrap_err();
        assert!(matches!(error, Error::WeightsNotThere { .. }), "{error}");
    }
}

#[test]
fn a_foreign_model_is_inspected() {
    let summary = inspect(&fixture("older")).unwrap();
    assert_eq!(summary.weights.len(), 1);
    let weights = &summary.weights[0];
    assert_eq!(weights.parameters, Unet::layout(&small_unet()).len() as u64);
    assert_eq!(weights.dtypes.iter().collect::<Vec<_>>(), ["F16"]);
    assert_eq!(summary.training, None);
    let query =
        weights.tensors.iter().find(|tensor| tensor.name == "down_blocks.1.attentions.0.query.weight");
    assert_eq!(query.unwrap().shape, [8, 8, 1, 1]);
}

/// What is refused: file, key, value, and a part of the message beside the key.
fn refused() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    const UNET: &str = "unet/config.json";
    const SCHEDULER: &str = "scheduler/scheduler_config.json";
    let cross = json!(["DownBlock2D", "CrossAttnDownBlock2D"]);
    vec![
        (UNET, "act_fn", json!("gelu"), "silu"),
        (UNET, "add_attention", json!(false), "true"),
        (UNET, "attention_head_dim", json!(3), "divide the 8 channels"),
        (UNET, "attn_norm_num_groups", json!(2), "norm_num_groups (4)"),
        (UNET, "block_out_channels", json!([4, 6]), "multiples"),
        (UNET, "block_out_channels", json!([4, 8, 8]), "down_block_types"),
        (UNET, "block_out_channels", json!([]), "multiples"),
        (UNET, "center_input_sample", json!(true), "false"),
        (UNET, "class_embed_type", json!("timestep"), "null"),
        (UNET, "num_class_embeds", json!(10), "null"),
        (UNET, "down_block_types", cross, "CrossAttnDownBlock2D"),
        (UNET, "down_block_types", json!(["AttnDownBlock2D", "DownBlock2D"]), "same levels"),
        (UNET, "up_block_types", json!(["UpBlock2D", "SkipUpBlock2D"]), "SkipUpBlock2D"),
        (UNET, "downsample_padding", json!(2), "from 0"),
        (UNET, "downsample_type", json!("resnet"), "conv"),
        (UNET, "upsample_type", json!("resnet"), "conv"),
        (UNET, "dropout", json!(1.0), "[0, 1)"),
        (UNET, "flip_sin_to_cos", json!("yes"), "true or false"),
        (UNET, "freq_shift", json!(2), "from 0"),
        (UNET, "in_channels", json!(4), "1 or 3"),
        (UNET, "out_channels", json!(4), "6 for a learned variance"),
        (UNET, "layers_per_block", json!(0), "from 1"),
        (UNET, "mid_block_scale_factor", json!(2), "only 1"),
        (UNET, "mid_block_type", json!(null), "UNetMidBlock2D"),
        (UNET, "norm_eps", json!(0.0), "(0, 1)"),
        (UNET, "norm_num_groups", json!(3), "channels of level 0"),
        (UNET, "resnet_time_scale_shift", json!("ada_group"), "default and scale_shift"),
        // The middle's attention would have no normalisation.
        (UNET, "resnet_time_scale_shift", json!("scale_shift"), "attn_norm_num_groups"),
        (UNET, "attention_head_dim", json!([null, 3]), "same number of heads"),
        (UNET, "attention_head_dim", json!([null]), "same number of heads"),
        (UNET, "time_embedding_type", json!("positional*0"), "positional"),
        (UNET, "time_embedding_type", json!("positional*x"), "positional"),
        (UNET, "sample_size", json!(9), "halved"),
        (UNET, "sample_size", json!([8, 4]), "whole number"),
        (UNET, "sample_size", json!(null), "whole number"),
        (UNET, "time_embedding_dim", json!(64), "only 16"),
        (UNET, "time_embedding_type", json!("fourier"), "positional"),
        (UNET, "a_later_invention", json!("x"), "unknown"),
        (UNET, "_class_name", json!("UNet2DConditionModel"), "UNet2DModel"),
        (SCHEDULER, "_class_name", json!("DDIMScheduler"), "DDPMScheduler"),
        (SCHEDULER, "beta_schedule", json!("sigmoid"), "scaled_linear"),
        (SCHEDULER, "beta_start", json!(-1.0), "between 0 and 1"),
        (SCHEDULER, "trained_betas", json!([0.1, 0.2]), "1000 entries"),
        (SCHEDULER, "num_train_timesteps", json!(0), "from 1"),
        (SCHEDULER, "num_train_timesteps", json!(1e12), "from 1"),
        (SCHEDULER, "variance_type", json!("fixed_large_log"), "fixed_small"),
        (SCHEDULER, "variance_type", json!("learned"), "fixed_small"),
        (SCHEDULER, "prediction_type", json!("v_prediction"), "epsilon"),
        (SCHEDULER, "clip_sample", json!("yes"), "true or false"),
        (SCHEDULER, "clip_sample_range", json!(2.0), "1.0"),
        (SCHEDULER, "thresholding", json!(true), "false"),
        (SCHEDULER, "rescale_betas_zero_snr", json!(true), "false"),
        (SCHEDULER, "steps_offset", json!(1), "only 0"),
        ("model_index.json", "_class_name", json!("StableDiffusionPipeline"), "DDPMPipeline"),
        ("model_index.json", "unet", json!(["diffusers", "UNet2DConditionModel"]), "UNet2DModel"),
        ("model_index.json", "vae", json!(["diffusers", "AutoencoderKL"]), "unknown"),
    ]
}

#[test]
fn what_is_not_supported_is_refused_by_file_key_and_value() {
    for (file, key, value, reason) in refused() {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(&fixture("current"), directory.path());
        set_json(&directory.path().join(file), key, value.clone());
        let error = open(directory.path()).expect_err(&format!("{key} = {value} was accepted"));
        let message = error.to_string();
        assert!(message.contains(file), "{message}");
        // Groups that do not divide the channels are found by the network, in its words.
        let named = message.contains(key) || (key == "norm_num_groups" && message.contains("norm_groups"));
        assert!(named && message.contains(reason), "{key} = {value}: {message}");
        assert!(error.is_input());
    }
}

#[test]
fn keys_left_out_have_the_defaults_of_diffusers_not_ours() {
    let without = |keys: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(&fixture("current"), directory.path());
        let path = directory.path().join("unet/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for key in keys {
            config.as_object_mut().unwrap().remove(*key).unwrap();
        }
        std::fs::write(&path, config.to_string()).unwrap();
        open(directory.path()).map(|model| model.unet.conventions)
    };
    let message = without(&["block_out_channels"]).unwrap_err().to_string();
    assert!(message.contains("block_out_channels"), "{message}");
    let found = without(&["freq_shift", "norm_eps", "flip_sin_to_cos", "downsample_padding"]).unwrap();
    let expected = Conventions {
        norm_eps: 1e-5,
        freq_shift: 0,
        cosines_first: true,
        downsample_padding: 1,
        // 8, which is the width of every block that attends.
        head_channels: None,
        ..Conventions::default()
    };
    assert_eq!(found, expected);
}

#[test]
fn equivalent_settings_are_accepted() {
    let unet = "unet/config.json";
    let scheduler = "scheduler/scheduler_config.json";
    for (file, key, value) in [
        (unet, "sample_size", json!([8, 8])),
        (unet, "attention_head_dim", json!(8)),
        (unet, "attention_head_dim", json!([null, 8])),
        (unet, "time_embedding_dim", json!(16)),
        (unet, "attn_norm_num_groups", json!(4)),
        (unet, "a_later_invention", json!(null)),
        (scheduler, "variance_type", json!("fixed_large")),
        (scheduler, "timestep_spacing", json!("trailing")),
    ] {
        let directory = tempfile::tempdir().unwrap();
        copy_tree(&fixture("current"), directory.path());
        set_json(&directory.path().join(file), key, value);
        let model = open(directory.path()).unwrap();
        assert_eq!(
            (model.unet, model.diffusion.unwrap()),
            (small_unet(), DiffusionConfig::default()),
            "{key}"
        );
    }
}

#[test]
fn forms_not_read_yet_are_named_with_the_way_out() {
    let present = "diffusion_pytorch_model.safetensors.index.json";
    let directory = tempfile::tempdir().unwrap();
    copy_tree(&fixture("current"), directory.path());
    let unet = directory.path().join("unet");
    std::fs::rename(unet.join("diffusion_pytorch_model.safetensors"), unet.join(present)).unwrap();
    let message = open(directory.path()).unwrap_err().to_string();
    assert!(message.contains(present) && message.contains("max_shard_size"), "{message}");
}

#[test]
fn pickled_weights_are_the_same_as_those_in_safetensors() {
    let directory = tempfile::tempdir().unwrap();
    copy_tree(&fixture("current"), directory.path());
    let layout = models::Unet::layout(&small_unet());
    let parameters = || open(directory.path()).unwrap().read_parameters(&layout).unwrap();
    let expected = parameters();
    let unet = directory.path().join("unet");
    std::fs::remove_file(unet.join("diffusion_pytorch_model.safetensors")).unwrap();
    let pickled = fixture("imports").join("diffusion_pytorch_model.bin");
    std::fs::copy(pickled, unet.join("diffusion_pytorch_model.bin")).unwrap();
    assert!(parameters() == expected);
}

#[test]
fn another_networks_weights_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    copy_tree(&fixture("current"), directory.path());
    set_json(&directory.path().join("unet/config.json"), "layers_per_block", json!(2));
    let mut model = open(directory.path()).unwrap();
    let error = model.read_parameters(&Unet::layout(&model.unet)).unwrap_err();
    let Error::Parameters { mismatch, .. } = &error else { panic!("{error}") };
    assert!(mismatch.missing.iter().any(|name| name == "down_blocks.0.resnets.1.conv1.weight"), "{error}");
    assert!(error.to_string().contains("missing: down_blocks.0.resnets.1."), "{error}");

    let mut fewer = open(&fixture("current")).unwrap();
    let config = models::UnetConfig { attention_resolutions: vec![], ..small_unet() };
    let error = fewer.read_parameters(&Unet::layout(&config)).unwrap_err();
    let Error::Parameters { mismatch, .. } = &error else { panic!("{error}") };
    assert!(
        mismatch.unexpected.iter().any(|name| name == "down_blocks.1.attentions.0.to_q.weight"),
        "{error}"
    );

    let config = models::UnetConfig { channels: 8, ..small_unet() };
    let error = fewer.read_parameters(&Unet::layout(&config)).unwrap_err();
    assert!(error.to_string().contains("conv_in.weight (is [4, 3, 3, 3], expected [8, 3, 3, 3])"), "{error}");
}

#[test]
fn paths_without_a_model_say_what_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let message = |path: &Path| ModelLocation::resolve(path).unwrap_err().to_string();
    assert!(message(directory.path()).contains("no model here"));
    assert!(message(&directory.path().join("absent")).contains("cannot be read"));
    std::fs::write(directory.path().join("file"), "").unwrap();
    assert!(message(&directory.path().join("file")).contains("is a file"));
    std::fs::create_dir(directory.path().join("checkpoints")).unwrap();
    assert!(message(directory.path()).contains("no complete checkpoint"));
}
