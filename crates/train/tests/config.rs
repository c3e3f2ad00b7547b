//! Configurations: what is read, what is refused, and what is said about it.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use train::config::Config;
use train::config_text::{ConfigError, load, parse, render};
use train::presets;

const MINIMAL: &str = "[data]\nsource = \"shapes32\"\n";

fn overrides(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

/// The message about `text`, which must be refused.
fn refusal(text: &str, sets: &[&str]) -> String {
    parse(text, "run.toml", &overrides(sets)).unwrap_err().to_string()
}

#[track_caller]
fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

#[test]
fn every_preset_is_valid_and_has_a_summary() {
    for preset in presets::ALL {
        let config = load(preset.name, &[]).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        assert!(preset.text.starts_with("# ") && preset.summary().len() > 20, "{}", preset.name);
        let rendered = render(&config).unwrap();
        assert_eq!(parse(&rendered, "rendered", &[]).unwrap(), config, "{}", preset.name);
    }
}

#[test]
fn the_papers_presets_have_the_papers_hyperparameters() {
    let rows = [
        // name, steps, batch, rate, dropout, flip, image size, channels
        ("cifar10", 800_000, 128, 2e-4, 0.1, true, 32, 128),
        ("celebahq256", 500_000, 64, 2e-5, 0.0, true, 256, 128),
        ("lsun_bedroom", 2_400_000, 64, 2e-5, 0.0, false, 256, 128),
        ("lsun_bedroom_large", 1_150_000, 64, 2e-5, 0.0, false, 256, 192),
        ("lsun_cat", 1_800_000, 64, 2e-5, 0.0, true, 256, 128),
        ("lsun_church", 1_200_000, 64, 2e-5, 0.0, true, 256, 128),
    ];
    for (name, steps, batch, rate, dropout, flip, size, channels) in rows {
        let config = load(name, &[]).unwrap();
        let train = &config.train;
        assert_eq!((train.steps, train.batch_size, train.learning_rate), (steps, batch, rate), "{name}");
        assert_eq!((config.model.dropout, config.data.flip), (dropout, flip), "{name}");
        assert_eq!((config.data.image_size, config.model.channels), (size, channels), "{name}");
        assert_eq!((train.beta1, train.beta2, train.eps), (0.9, 0.999, 1e-8), "{name}");
        assert_eq!((train.warmup_steps, train.grad_clip, train.ema_decay), (5000, 1.0, 0.9999), "{name}");
        let diffusion = &config.diffusion;
        assert_eq!(
            (diffusion.timesteps, diffusion.beta_start, diffusion.beta_end),
            (1000, 1e-4, 0.02),
            "{name}"
        );
        let small = diffusion.variance == diffusion::Variance::FixedSmall;
        assert_eq!(small, size == 256, "{name}");
    }
}

#[test]
fn keys_left_out_have_the_papers_values_for_cifar10() {
    let mut expected = load("cifar10", &[]).unwrap();
    expected.data.source = "shapes32".into();
    assert_eq!(parse(MINIMAL, "run.toml", &[]).unwrap(), expected);
}

#[test]
fn unknown_keys_are_named_with_their_place_and_the_nearest_key() {
    let cases = [
        ("[data]\nsorce = \"shapes32\"", "data.sorce", "data.source"),
        ("[model]\nchanels = 4", "model.chanels", "model.channels"),
        ("[diffusion]\ntimestep = 4", "diffusion.timestep", "diffusion.timesteps"),
        ("[train]\nbatch = 4", "train.batch", "train.batch_size"),
        ("[train]\nlearning-rate = 4", "train.learning-rate", "train.learning_rate"),
        ("[log]\nsample_cuont = 4", "log.sample_cuont", "log.sample_count"),
        // in the wrong section, or in none
        ("[train]\ndropout = 0.1", "train.dropout", "model.dropout"),
        ("\nsteps = 3", "steps", "train.steps"),
        ("\ntrain.stesp = 3", "train.stesp", "train.steps"),
    ];
    for (text, key, suggestion) in cases {
        assert_says(
            &refusal(text, &[]),
            &[
                "run.toml, line 2, column ",
                &format!("unknown key {key} "),
                &format!("did you mean {suggestion}?"),
            ],
        );
    }
    assert_says(
        &refusal("\n [trian]\nsteps = 3", &[]),
        &["line 2, column 3", "[trian]", "did you mean [train]?"],
    );
    let far = refusal("[train]\nzzz = 1", &[]);
    assert!(!far.contains("did you mean"), "{far}");
    assert_says(&far, &["train.zzz", "checkpoint_every"]);
}

#[test]
fn the_same_goes_for_overrides() {
    for (set, suggestion) in [
        ("train.step=3", "train.steps"),
        ("trian.steps=3", "train.steps"),
        ("model.mult=[1]", "model.channel_mult"),
        ("batch_size=3", "train.batch_size"),
        ("log.evry=3", "log.every"),
        ("data.src=shapes32", "data.source"),
        ("diffusion.T=3", ""),
        ("train.steps.x=3", "train.steps"),
    ] {
        let message = refusal(MINIMAL, &[set]);
        assert_says(&message, &[&format!("--set {set}: unknown key"), suggestion]);
    }
    assert_says(&refusal(MINIMAL, &["train.steps"]), &["--set train.steps", "SECTION.KEY=VALUE"]);
    assert_says(&refusal(MINIMAL, &["train.steps=many"]), &["--set train.steps=many", "\"many\""]);
    assert_says(&refusal(MINIMAL, &["train.steps=-1"]), &["--set train.steps=-1", "-1"]);
    assert_says(&refusal(MINIMAL, &["train.steps=0"]), &["--set train.steps=0", "from 1"]);
}

#[test]
fn overrides_are_toml_values_or_bare_strings_and_the_last_wins() {
    let sets = [
        "train.steps=100",
        " train.learning_rate = 3e-4 ",
        "model.channel_mult=[1, 2]",
        "data.source=images:some dir=x",
        "data.flip=false",
        "diffusion.loss=\"kl\"",
        "diffusion.variance=learned",
        "train.steps=1_000",
    ];
    let config = parse("[train]\nsteps = 7\nseed = 9", "run.toml", &overrides(&sets)).unwrap();
    assert_eq!((config.train.steps, config.train.seed, config.train.learning_rate), (1000, 9, 3e-4));
    assert_eq!(config.model.channel_mult, [1, 2]);
    assert_eq!(config.data.source, "images:some dir=x");
    assert!(!config.data.flip);
    assert_eq!(config.diffusion.loss, diffusion::Loss::Kl);
    assert_eq!(config.diffusion.variance, diffusion::Variance::Learned);
}

#[test]
fn wrong_types_and_broken_text_are_shown_with_line_and_column() {
    for (text, words) in [
        ("[train]\nsteps = \"many\"", ["line 2", "column 9", "many"]),
        ("[train]\nsteps = -4", ["line 2", "column 9", "-4"]),
        ("[data]\nflip = 1", ["line 2", "column 8", "1"]),
        ("[diffusion]\nschedule = \"linaer\"", ["line 2", "column 12", "linear"]),
        ("train = 3", ["line 1", "column 9", "3"]),
        ("[train]\nsteps = ", ["line 2", "column 9", "run.toml"]),
        ("[train]\nsteps = 1\nsteps = 2", ["line 3", "steps", "duplicate"]),
    ] {
        assert_says(&refusal(text, &[]), &words);
    }
}

#[test]
fn values_out_of_range_are_named_with_their_range() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["data.source="], &["data.source", "shapes32"]),
        (&["data.source=cifar:x"], &["--set data.source=cifar:x: data.source: ", "cifar10:DIR"]),
        (&["data.image_size=0"], &["data.image_size = 0", "1..="]),
        (&["data.image_size=33"], &["data.image_size = 33", "multiple of 8", "3 times"]),
        (&["data.image_size=36", "model.block_size=2"], &["data.image_size = 36", "multiple of 16"]),
        (&["data.channels=2"], &["data.channels = 2", "1 (gray) or 3 (RGB)"]),
        (&["model.channels=0"], &["model.channels = 0", "4..="]),
        (&["model.channels=33"], &["model.channels = 33", "even"]),
        (&["model.channels=18446744073709551615"], &["model.channels"]),
        (&["model.channel_mult=[]"], &["model.channel_mult = []", "1 to 16"]),
        (&["model.channel_mult=[2,2]"], &["model.channel_mult = [2, 2]", "begin with 1"]),
        (&["model.channel_mult=[1,0]"], &["model.channel_mult = [1, 0]", "1..=64"]),
        (&["model.channel_mult=[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"], &["1 to 16"]),
        (&["model.num_res_blocks=0"], &["model.num_res_blocks = 0"]),
        (
            &["model.attention_resolutions=[16, 5]"],
            &["model.attention_resolutions", "size 5", "[32, 16, 8, 4]"],
        ),
        (&["model.dropout=1.0"], &["model.dropout = 1", "[0, 1)"]),
        (&["model.dropout=-0.1"], &["model.dropout = -0.1"]),
        (&["model.dropout=nan"], &["model.dropout = NaN"]),
        (&["model.block_size=5"], &["model.block_size = 5", "image size 32"]),
        (&["model.block_size=0"], &["model.block_size = 0"]),
        (&["model.norm_groups=0"], &["model.norm_groups = 0"]),
        (&["model.norm_groups=48"], &["model.norm_groups = 48", "128"]),
        (&["diffusion.timesteps=0"], &["--set diffusion.timesteps=0", "diffusion.timesteps", "from 1"]),
        (&["diffusion.beta_start=0.0"], &["diffusion.beta_start", "greater than 0"]),
        (&["diffusion.beta_end=1.0"], &["diffusion.beta_end", "less than 1"]),
        (&["diffusion.beta_end=nan"], &["diffusion.beta_end", "NaN"]),
        (&["diffusion.schedule=jsd"], &["diffusion.prediction", "schedule"]),
        (&["diffusion.variance=learned"], &["diffusion.loss", "kl"]),
        (&["train.steps=0"], &["train.steps = 0"]),
        (&["train.batch_size=0"], &["train.batch_size = 0"]),
        (&["train.micro_batch=48"], &["train.micro_batch = 48", "train.batch_size = 128"]),
        (&["train.learning_rate=-1e-4"], &["train.learning_rate = -0.0001", "above 0"]),
        (&["train.learning_rate=nan"], &["train.learning_rate = NaN"]),
        (&["train.learning_rate=inf"], &["train.learning_rate = inf"]),
        (&["train.learning_rate=1e-60"], &["train.learning_rate"]),
        (&["train.beta1=1.0"], &["train.beta1 = 1"]),
        (&["train.beta2=-0.5"], &["train.beta2 = -0.5"]),
        (&["train.eps=0.0"], &["train.eps = 0"]),
        (&["train.grad_clip=-1.0"], &["train.grad_clip = -1", "0 for no clipping"]),
        (&["train.ema_decay=1.0"], &["train.ema_decay = 1"]),
        (&["train.checkpoint_every=0"], &["train.checkpoint_every = 0", "at least 1"]),
        (&["train.keep_checkpoints=0"], &["train.keep_checkpoints = 0"]),
        (&["log.every=0"], &["log.every = 0"]),
        (&["log.sample_count=0"], &["log.sample_count = 0"]),
        (&["diffusion.prediction=xprev"], &["log.sample_steps", "xprev", "log.sample_every"]),
        (&["log.sample_steps=1001"], &["--set log.sample_steps=1001: log.sample_steps", "1001", "1000"]),
    ];
    for (sets, words) in cases {
        assert_says(&refusal(MINIMAL, sets), words);
    }
    // In a file the file is named.
    assert_says(&refusal("[train]\nsteps = 0", &[]), &["run.toml: ", "data.source"]);
    assert_says(
        &refusal("[data]\nsource = \"shapes32\"\n[train]\nsteps = 0", &[]),
        &["run.toml: train.steps = 0"],
    );
}

#[test]
fn names_are_presets_or_files() {
    let error = load("cifar", &[]).unwrap_err();
    assert!(matches!(error, ConfigError::NoSuchConfig { .. }));
    assert_says(&error.to_string(), &["\"cifar\"", "did you mean cifar10?", "lsun_church"]);
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    assert_says(
        &load(missing.to_str().unwrap(), &[]).unwrap_err().to_string(),
        &["none.toml", "cannot read"],
    );
    // A data set given by mistake, of a terabyte, none of it on the disk.
    let images = dir.path().join("images.npz");
    std::fs::File::create(&images).unwrap().set_len(1 << 40).unwrap();
    let error = load(images.to_str().unwrap(), &[]).unwrap_err();
    assert_says(&error.to_string(), &["images.npz", "larger than 1048576 bytes", "data.source=KIND:PATH"]);
    let small = dir.path().join("small.npz");
    std::fs::write(&small, b"PK\xff").unwrap();
    assert_says(&load(small.to_str().unwrap(), &[]).unwrap_err().to_string(), &["small.npz", "UTF-8"]);
    let folder = load(dir.path().to_str().unwrap(), &[]).unwrap_err().to_string();
    assert_says(&folder, &["cannot read"]);
    let file = dir.path().join("run.toml");
    std::fs::write(&file, MINIMAL).unwrap();
    assert_eq!(load(file.to_str().unwrap(), &[]).unwrap().data.source, "shapes32");
    std::fs::write(&file, b"\xff\xfe").unwrap();
    assert_says(&load(file.to_str().unwrap(), &[]).unwrap_err().to_string(), &["run.toml", "UTF-8"]);
}

prop_compose! {
    /// Configurations in the neighbourhood of sense: some valid, some not.
    fn any_config()(
        size in (0usize..18).prop_map(|n| 4 * n), channels in (0usize..20).prop_map(|n| 2 * n), mult in prop::collection::vec(0usize..4, 0..4),
        block in 0usize..3, groups in 0usize..10, dropout in -0.1f64..1.1, attention in prop::collection::vec((1usize..6).prop_map(|n| 1 << n), 0..2),
        batch in 0usize..40, micro in 0usize..4, rate in -1e-4f64..1e-2, timesteps in 0usize..20, seed in any::<u32>(),
    ) -> Config {
        let mut config = parse(MINIMAL, "minimal", &[]).unwrap();
        config.data.image_size = size;
        config.model.channels = channels;
        config.model.channel_mult = mult;
        if let Some(first) = config.model.channel_mult.first_mut() {
            *first = (*first).min(1);
        }
        config.model.block_size = block;
        config.model.norm_groups = groups;
        config.model.dropout = dropout;
        config.model.attention_resolutions = attention;
        config.train.batch_size = batch;
        config.train.micro_batch = micro;
        config.train.learning_rate = rate;
        config.train.seed = seed.into();
        config.diffusion.timesteps = timesteps;
        config.log.sample_every = 0;
        config
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// What is written is read back as it was, and what passes validation holds what the network relies on.
    #[test]
    fn rendering_is_the_inverse_of_reading(config in any_config()) {
        match parse(&render(&config).unwrap(), "rendered", &[]) {
            Ok(read) => {
                prop_assert_eq!(&read, &config);
                let network_size = config.data.image_size / config.model.block_size;
                prop_assert_eq!(network_size * config.model.block_size, config.data.image_size);
                prop_assert_eq!(network_size % (1 << (config.model.channel_mult.len() - 1)), 0);
                for mult in &config.model.channel_mult {
                    prop_assert_eq!(config.model.channels * mult % config.model.norm_groups, 0);
                }
                prop_assert_eq!(config.train.batch_size % config.train.pass_size(), 0);
                prop_assert!(config.train.learning_rate > 0.0 && config.diffusion.timesteps > 0);
            }
            Err(ConfigError::Diffusion { .. }) => prop_assert_eq!(config.diffusion.timesteps, 0),
            Err(ConfigError::Invalid { key, reason, .. }) => prop_assert!(key.contains('.') && !reason.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// Mutated text is read or refused, never more.
    #[test]
    fn mutated_text_never_panics(
        preset in prop::sample::select(presets::ALL),
        at in 0usize..1000, removed in 0usize..20, inserted in "[ -~\n]{0,6}",
    ) {
        let text = preset.text.as_bytes();
        let at = at.min(text.len());
        let end = (at + removed).min(text.len());
        let mutated = [&text[..at], inserted.as_bytes(), &text[end..]].concat();
        let _ = parse(&String::from_utf8_lossy(&mutated), "mutated", &[]);
    }

    /// So are arbitrary overrides.
    #[test]
    fn any_override_never_panics(text in "(train|model|data)?\\.?[a-z_]{0,14}=?[ -~]{0,12}") {
        let _ = parse(MINIMAL, "minimal", &[text]);
    }
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let document = include_str!("../../../docs/settings.md");
    let defaults = render(&parse(MINIMAL, "run.toml", &[]).unwrap()).unwrap();
    let mut section = "";
    let mut settings = Vec::new();
    for line in defaults.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once(" = ") {
            let value = if key == "source" { String::new() } else { format!("`{value}`") };
            settings.push(format!("| `{section}.{key}` | {value}"));
        }
    }
    assert!(settings.len() > 40);
    for setting in &settings {
        assert!(document.contains(setting.trim_end()), "docs/settings.md lacks: {setting}");
    }
    let rows = document.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, settings.len(), "docs/settings.md has settings that there are not");
}

#[test]
fn the_documented_example_is_valid() {
    let document = include_str!("../../../docs/settings.md");
    let example = document.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let config = parse(example, "faces.toml", &[]).unwrap();
    assert_eq!((config.data.source.as_str(), config.data.image_size), ("images:faces", 64));
}
