//! A small model, and places to put it.
#![allow(dead_code, reason = "each test file uses its part")]

use checkpoint::{LabelledWeights, ModelDescription, TrainingBuffers, TrainingProgress, Weights};
use diffusion::DiffusionConfig;
use engine::ParamLayout;
use models::{Unet, UnetConfig};
use std::path::{Path, PathBuf};

/// The network of the fixtures.
pub fn small_unet() -> UnetConfig {
    UnetConfig {
        image_size: 8,
        image_channels: 3,
        learned_variance: false,
        channels: 4,
        channel_mult: vec![1, 2],
        num_res_blocks: 1,
        attention_resolutions: vec![4],
        dropout: 0.0,
        block_size: 1,
        norm_groups: 4,
        scale_shift_norm: false,
        conventions: models::Conventions::default(),
    }
}

pub fn small_model() -> ModelDescription {
    ModelDescription { model: small_unet(), diffusion: DiffusionConfig::default() }
}

pub fn layout_of(description: &ModelDescription) -> ParamLayout {
    Unet::layout(&description.model)
}

/// Numbers of all magnitudes and both signs, other ones for each `seed`, every bit in use.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let number = |bits: u64| {
        let mantissa = (bits >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0;
        mantissa * 10f32.powi((bits % 7) as i32 - 5)
    };
    (0..len).map(|_| number(next())).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub fn labelled(parameters: &[f32]) -> LabelledWeights<'_> {
    LabelledWeights { parameters, weights: Weights::Ema, step: 42 }
}

/// The buffers of a run, and where it stands.
pub struct SmallRun {
    pub description: ModelDescription,
    pub layout: ParamLayout,
    pub raw: Vec<f32>,
    pub ema: Vec<f32>,
    pub first_moment: Vec<f32>,
    pub second_moment: Vec<f32>,
    pub progress: TrainingProgress,
}

impl SmallRun {
    /// The state after `step` steps: other numbers for each step.
    pub fn at(step: u64) -> Self {
        let description = small_model();
        let layout = layout_of(&description);
        let buffer = |index| noise(layout.len(), 4 * step + index);
        Self {
            raw: buffer(0),
            ema: buffer(1),
            first_moment: buffer(2),
            second_moment: buffer(3).iter().map(|value| value.abs()).collect(),
            progress: TrainingProgress {
                step,
                samples: 128 * step,
                seed: u64::MAX - 7,
                config: "# as typed\n[train]\nsteps = 5 # \"ü\"\n".to_owned(),
            },
            description,
            layout,
        }
    }

    pub fn buffers(&self) -> TrainingBuffers<'_> {
        TrainingBuffers {
            raw: &self.raw,
            ema: &self.ema,
            first_moment: &self.first_moment,
            second_moment: &self.second_moment,
        }
    }

    pub fn save(&self, run: &checkpoint::RunDirectory) -> Result<PathBuf, checkpoint::Error> {
        checkpoint::save_checkpoint(run, &self.description, &self.layout, self.buffers(), &self.progress)
    }
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Copies a directory with all that is in it.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Sets `key` of the JSON object in the file at `path`.
pub fn set_json(path: &Path, key: &str, value: serde_json::Value) {
    let mut object: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    object[key] = value;
    std::fs::write(path, object.to_string()).unwrap();
}

/// All files below `directory`, relative and sorted.
pub fn files(directory: &Path) -> Vec<String> {
    fn visit(directory: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            match entry.path() {
                path if path.is_dir() => visit(&path, &format!("{name}/"), found),
                _ => found.push(name),
            }
        }
    }
    let mut found = Vec::new();
    visit(directory, "", &mut found);
    found.sort();
    found
}
