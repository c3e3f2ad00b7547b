//! The configuration of a training run: five sections, every key with a default and a valid range.
//!
//! Keys left out of a file have the paper's values for CIFAR-10. Where the text comes from and how its mistakes
//! are explained is [`crate::config_text`]'s matter, what values make sense is [`crate::validate`]'s.

use data::{DataError, ImageOptions, ImageSource, ResizeFilter, SourceSpec};
use diffusion::DiffusionConfig;
use engine::Recomputation;
use models::{Conventions, UnetConfig};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A training run, complete.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What it learns from.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// The diffusion process and the objective.
    pub diffusion: DiffusionConfig,
    /// The optimisation.
    pub train: TrainConfig,
    /// What is reported on the way.
    pub log: LogConfig,
}

/// `[data]`: the images.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Where the images come from: a [`data::SourceSpec`], such as `cifar10:DIR[:train|:test]`, `images:DIR`,
    /// `lmdb:DIR` or `shapes32`; [`data::SOURCE_KINDS`] are all the kinds.
    pub source: String,
    /// Height and width the images are brought to, in pixels.
    pub image_size: usize,
    /// Channels the images are brought to: 1 gray, 3 RGB.
    pub channels: usize,
    /// Whether half of the images, drawn anew each epoch, are mirrored left to right.
    pub flip: bool,
    /// How images of another size are scaled.
    pub resize: ResizeFilter,
}

/// `[model]`: the U-Net. Its image comes from `[data]`, its output channels from `[diffusion]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Channels at the highest resolution.
    pub channels: usize,
    /// Channel multiplier of each resolution level, highest resolution first.
    pub channel_mult: Vec<usize>,
    /// Residual blocks per level on the way down (one more on the way up).
    pub num_res_blocks: usize,
    /// Feature-map sizes, in network pixels, with attention after each residual block.
    pub attention_resolutions: Vec<usize>,
    /// Dropout rate in residual blocks, in [0, 1).
    pub dropout: f64,
    /// Side of the pixel squares gathered into channels before the network (1: none).
    pub block_size: usize,
    /// Groups of every group normalisation.
    pub norm_groups: usize,
    /// Whether the time embedding scales and shifts after the second normalisation of a block (as
    /// improved-diffusion's networks do) instead of being added before it.
    pub scale_shift_norm: bool,
}

/// `[train]`: the optimisation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimiser updates in the whole run.
    pub steps: u64,
    /// Images per update.
    pub batch_size: usize,
    /// Images per pass through the network, whose gradients are summed up to a batch; 0: the whole batch at
    /// once. Fewer take less memory. Changes at most the last bits of the gradient, by rounding.
    pub micro_batch: usize,
    /// What is computed again for the backward pass instead of being kept from the forward pass. More takes
    /// less memory and, from convolutions on, more time; no bit of any result changes.
    pub recompute: Recompute,
    /// Adam's step size once warmed up.
    pub learning_rate: f64,
    /// Updates over which the step size grows linearly from 0; 0: none.
    pub warmup_steps: u64,
    /// Updates over which the step size falls linearly to a hundredth of itself, where it stays; 0: it stays
    /// as it is. It does not follow `steps`, so a run can be made longer without becoming another run.
    pub decay_steps: u64,
    /// Adam's decay of the gradient's mean, in [0, 1).
    pub beta1: f64,
    /// Adam's decay of the gradient's mean square, in [0, 1).
    pub beta2: f64,
    /// Adam's ε, above 0.
    pub eps: f64,
    /// Largest norm of the whole gradient; longer ones are scaled down to it. 0: never.
    pub grad_clip: f64,
    /// Decay of the weights' moving average per update, in [0, 1). The first update copies.
    pub ema_decay: f64,
    /// Decides every random number of the run.
    pub seed: u64,
    /// Updates between two checkpoints (one more is written at the end).
    pub checkpoint_every: u64,
    /// Checkpoints kept; older ones are deleted.
    pub keep_checkpoints: usize,
}

/// What training computes again: see [`Recomputation`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing.
    Nothing,
    /// What takes little more than a pass over memory: normalised and activated values, concatenations, the
    /// convolution of the image.
    #[default]
    Cheap,
    /// Also dropout, and convolutions that cost little for the memory they take.
    Convolutions,
}

impl From<Recompute> for Recomputation {
    fn from(recompute: Recompute) -> Self {
        match recompute {
            Recompute::Nothing => Self::Nothing,
            Recompute::Cheap => Self::Cheap,
            Recompute::Convolutions => Self::Convolutions,
        }
    }
}

/// `[log]`: what is reported on the way.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Updates per line of `metrics.jsonl`; the line's loss is their mean.
    pub every: u64,
    /// Updates between two grids of images sampled with the averaged weights; 0: none.
    pub sample_every: u64,
    /// Images in such a grid.
    pub sample_count: usize,
    /// Steps of the sampler for such a grid, at most `diffusion.timesteps`.
    pub sample_steps: usize,
    /// Updates between two evaluations of the averaged weights (FID of samples, likelihood); 0: none. The
    /// best weights are kept apart, in `best/`.
    pub evaluate_every: u64,
    /// Samples drawn for the FID of an evaluation; 0: no FID, the likelihood decides.
    pub evaluate_samples: u64,
    /// Steps of the sampler for them, at most `diffusion.timesteps`.
    pub evaluate_steps: usize,
    /// Inception features of that FID: 64, 192, 768 or 2048.
    pub evaluate_dims: usize,
    /// Images whose likelihood is measured, of the test split where the data set has one; 0: none.
    pub evaluate_images: u64,
    /// Whether TensorBoard event files are written.
    pub tensorboard: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { source: String::new(), image_size: 32, channels: 3, flip: true, resize: ResizeFilter::Area }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            channels: 128,
            channel_mult: vec![1, 2, 2, 2],
            num_res_blocks: 2,
            attention_resolutions: vec![16],
            dropout: 0.1,
            block_size: 1,
            norm_groups: 32,
            scale_shift_norm: false,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 800_000,
            batch_size: 128,
            micro_batch: 0,
            recompute: Recompute::default(),
            learning_rate: 2e-4,
            warmup_steps: 5000,
            decay_steps: 0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            grad_clip: 1.0,
            ema_decay: 0.9999,
            seed: 0,
            checkpoint_every: 5000,
            keep_checkpoints: 3,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            every: 100,
            sample_every: 5000,
            sample_count: 64,
            sample_steps: 100,
            evaluate_every: 0,
            evaluate_samples: 5000,
            evaluate_steps: 100,
            evaluate_dims: 2048,
            evaluate_images: 0,
            tensorboard: true,
        }
    }
}

impl Config {
    /// The network this run trains.
    pub fn unet(&self) -> UnetConfig {
        UnetConfig {
            image_size: self.data.image_size,
            image_channels: self.data.channels,
            learned_variance: self.diffusion.variance.is_learned(),
            channels: self.model.channels,
            channel_mult: self.model.channel_mult.clone(),
            num_res_blocks: self.model.num_res_blocks,
            attention_resolutions: self.model.attention_resolutions.clone(),
            dropout: self.model.dropout as f32,
            block_size: self.model.block_size,
            norm_groups: self.model.norm_groups,
            scale_shift_norm: self.model.scale_shift_norm,
            conventions: Conventions::default(),
        }
    }
}

impl DataConfig {
    /// The images of `spec`, brought to what the configuration says.
    ///
    /// # Errors
    /// What [`data::open`] reports.
    pub fn open(&self, spec: &SourceSpec) -> Result<Arc<dyn ImageSource>, DataError> {
        data::open(spec, &self.image_options())
    }

    /// The shape that images are brought to.
    pub fn image_options(&self) -> ImageOptions {
        ImageOptions { size: Some(self.image_size), channels: Some(self.channels), filter: self.resize }
    }
}

impl TrainConfig {
    /// Images per pass through the network.
    pub fn pass_size(&self) -> usize {
        if self.micro_batch == 0 { self.batch_size } else { self.micro_batch }
    }

    /// Adam's step size for the update that follows `completed` others: `learning_rate`, times
    /// `completed / warmup_steps` until that is 1, times `1 - completed / decay_steps` until that is 0.01.
    /// The first update of a warm-up so leaves the weights as they are, as the paper's code has it.
    pub fn learning_rate_at(&self, completed: u64) -> f64 {
        let of = |steps: u64| completed as f64 / steps as f64;
        let warmth = if completed >= self.warmup_steps { 1.0 } else { of(self.warmup_steps) };
        let decay = if self.decay_steps == 0 { 1.0 } else { (1.0 - of(self.decay_steps)).max(LEAST_DECAY) };
        self.learning_rate * warmth * decay
    }
}

/// What is left of the step size at the end of its decay.
const LEAST_DECAY: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::Variance;

    #[test]
    fn the_first_update_of_a_warm_up_has_rate_0() {
        let train = TrainConfig { learning_rate: 2e-4, warmup_steps: 5000, ..TrainConfig::default() };
        assert_eq!(train.learning_rate_at(0), 0.0);
        assert_eq!(train.learning_rate_at(2500), 1e-4);
        assert_eq!(train.learning_rate_at(5000), 2e-4);
        assert_eq!(train.learning_rate_at(800_000), 2e-4);
        let at_once = TrainConfig { warmup_steps: 0, ..train };
        assert_eq!(at_once.learning_rate_at(0), 2e-4);
    }

    #[test]
    fn the_rate_falls_to_a_hundredth_and_stays() {
        let train =
            TrainConfig { learning_rate: 1.0, warmup_steps: 10, decay_steps: 1000, ..TrainConfig::default() };
        for (completed, rate) in
            [(0, 0.0), (5, 0.5 * 0.995), (10, 0.99), (500, 0.5), (990, 0.01), (1000, 0.01), (9000, 0.01)]
        {
            let found = train.learning_rate_at(completed);
            assert!((found - rate).abs() < 1e-12, "{completed}: {found} instead of {rate}");
        }
    }

    #[test]
    fn the_network_of_the_defaults_is_the_papers_for_cifar10() {
        let unet = Config::default().unet();
        assert_eq!((unet.image_size, unet.image_channels, unet.channels), (32, 3, 128));
        assert_eq!(unet.channel_mult, [1, 2, 2, 2]);
        assert!(!unet.learned_variance);
        let mut learned = Config::default();
        learned.diffusion.variance = Variance::Learned;
        assert!(learned.unet().learned_variance);
    }
}
