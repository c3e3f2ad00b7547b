//! What a U-Net is made of.

use engine::{GroupNorm, ImageShape};
use serde::{Deserialize, Serialize};

/// A U-Net of the paper's family, complete: with the image it is for.
///
/// Presets of the paper: CIFAR-10 is `channels` 128, `channel_mult` (1, 2, 2, 2), 2 blocks, attention at 16
/// (35,746,307 parameters); 256×256 is `channel_mult` (1, 1, 2, 2, 4, 4) (113,673,219). The large LSUN
/// Bedroom model's width is not published: parameters grow with the square of the width, and 192 channels
/// give 255,677,955, the paper's 256M.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Height and width of the images, in pixels.
    pub image_size: usize,
    /// Channels of the images: 1 gray, 3 RGB.
    pub image_channels: usize,
    /// Whether the output has a second half of channels for the log variance.
    pub learned_variance: bool,
    /// Channels at the highest resolution (the paper's `ch`).
    pub channels: usize,
    /// Channel multiplier of each resolution level, highest resolution first.
    pub channel_mult: Vec<usize>,
    /// Residual blocks per level on the way down (one more on the way up).
    pub num_res_blocks: usize,
    /// Feature-map sizes (in network pixels) at which attention follows each residual block.
    pub attention_resolutions: Vec<usize>,
    /// Dropout rate in residual blocks, in [0, 1).
    pub dropout: f32,
    /// Pixels are gathered `block_size × block_size` into channels before the network (1: not at all).
    pub block_size: usize,
    /// Groups of every group normalisation; divides all channel counts.
    pub norm_groups: usize,
    /// Whether the time embedding scales and shifts what a residual block's second normalisation gives,
    /// rather than being added before it (Nichol & Dhariwal 2021).
    #[serde(default)]
    pub scale_shift_norm: bool,
    /// What other programs do otherwise.
    #[serde(default)]
    pub conventions: Conventions,
}

/// What implementations of this network differ in, though their parameters be the same. The default is the
/// paper's code's.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conventions {
    /// Added to the variance by every normalisation, in (0, 1).
    pub norm_eps: f32,
    /// The time embedding's frequencies fall to 1/10000 at the last (1), or would one later (0).
    pub freq_shift: usize,
    /// Whether the time embedding has its cosines before its sines.
    pub cosines_first: bool,
    /// Rows and columns of zeros that a halving convolution has above and left of the image, 0 or 1; below
    /// and right it has one.
    pub downsample_padding: usize,
    /// Channels of each of attention's heads; `None`: one head has all.
    pub head_channels: Option<usize>,
    /// Heads of every attention, where their channels differ from level to level; instead of `head_channels`.
    pub heads: Option<usize>,
    /// What t is multiplied by before its embedding, above 0.
    pub time_scale: f32,
}

impl Default for Conventions {
    fn default() -> Self {
        Self {
            norm_eps: 1e-6,
            freq_shift: 1,
            cosines_first: false,
            downsample_padding: 0,
            head_channels: None,
            heads: None,
            time_scale: 1.0,
        }
    }
}

impl Conventions {
    /// Heads of an attention over `channels` channels.
    pub fn heads_of(&self, channels: usize) -> usize {
        self.heads.unwrap_or_else(|| self.head_channels.map_or(1, |head| channels / head))
    }
}

/// An impossible configuration; names the key of the `[model]` section.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{key} = {value}: {reason}")]
pub struct UnetConfigError {
    /// The key.
    pub key: &'static str,
    /// What it was set to.
    pub value: String,
    /// Why that cannot be, and what can.
    pub reason: String,
}

impl UnetConfig {
    /// The shape of an image.
    pub fn image_shape(&self) -> ImageShape {
        ImageShape::new(self.image_size, self.image_size, self.image_channels)
    }

    /// Channels of the prediction: the image's, or twice as many with a learned variance.
    pub fn output_channels(&self) -> usize {
        self.image_channels * if self.learned_variance { 2 } else { 1 }
    }

    /// Height and width of the feature maps at `level`, in network pixels.
    pub fn level_size(&self, level: usize) -> usize {
        (self.image_size / self.block_size) >> level
    }

    /// Channels of the feature maps at `level`.
    pub fn level_channels(&self, level: usize) -> usize {
        self.channels * self.channel_mult[level]
    }

    /// Whether attention follows the residual blocks of `level`.
    pub fn attends(&self, level: usize) -> bool {
        self.attention_resolutions.contains(&self.level_size(level))
    }

    /// The same network with `heads` heads in every attention.
    #[must_use]
    pub fn with_heads(mut self, heads: usize) -> Self {
        let widths: Vec<usize> = self.attending().map(|level| self.level_channels(level)).collect();
        let is_one = widths.iter().all(|width| *width == widths[0] && width.is_multiple_of(heads));
        self.conventions.head_channels = (is_one && heads > 1).then(|| widths[0] / heads);
        self.conventions.heads = (!is_one && heads > 1).then_some(heads);
        self
    }

    /// The levels with attention; the middle, of the last level's channels, always has it.
    fn attending(&self) -> impl Iterator<Item = usize> {
        let last = self.channel_mult.len() - 1;
        (0..=last).filter(move |&level| level == last || self.attends(level))
    }

    /// Checks that such a network can be built.
    ///
    /// # Errors
    /// The first key that cannot be.
    pub fn validate(&self) -> Result<(), UnetConfigError> {
        let error = |key, value: String, reason: String| Err(UnetConfigError { key, value, reason });
        let levels = self.channel_mult.len();
        if !matches!(self.image_channels, 1 | 3) {
            let reason = "images have 1 (gray) or 3 (RGB) channels".into();
            return error("image_channels", self.image_channels.to_string(), reason);
        }
        if self.channels < 4 || !self.channels.is_multiple_of(2) || self.channels > 1 << 14 {
            let reason = "must be even and in 4..=16384".into();
            return error("channels", self.channels.to_string(), reason);
        }
        if levels == 0 || levels > 16 || self.channel_mult.iter().any(|mult| !(1..=64).contains(mult)) {
            let reason = "must be a list of 1 to 16 multipliers, each in 1..=64".into();
            return error("channel_mult", format!("{:?}", self.channel_mult), reason);
        }
        if !(1..=64).contains(&self.num_res_blocks) {
            return error("num_res_blocks", self.num_res_blocks.to_string(), "must be in 1..=64".into());
        }
        if self.block_size == 0 || !self.image_size.is_multiple_of(self.block_size) {
            let reason = format!("must divide the image size {}", self.image_size);
            return error("block_size", self.block_size.to_string(), reason);
        }
        let halvings = 1usize << (levels - 1);
        if self.image_size == 0
            || self.image_size > 1 << 14
            || !(self.image_size / self.block_size).is_multiple_of(halvings)
        {
            let reason = format!(
                "must be in 1..=16384 and, divided by block_size {}, halve evenly {} times (once per level of channel_mult after the first): a multiple of {}",
                self.block_size,
                levels - 1,
                halvings * self.block_size
            );
            return error("image_size", self.image_size.to_string(), reason);
        }
        for (level, mult) in self.channel_mult.iter().enumerate() {
            let channels = self.level_channels(level);
            if self.norm_groups == 0 || !channels.is_multiple_of(self.norm_groups) {
                let reason =
                    format!("must divide the {channels} channels of level {level} (multiplier {mult})");
                return error("norm_groups", self.norm_groups.to_string(), reason);
            }
            if 2 * channels / self.norm_groups > GroupNorm::MAX_GROUP_CHANNELS {
                let reason = format!("too few for the {channels} channels of level {level}");
                return error("norm_groups", self.norm_groups.to_string(), reason);
            }
        }
        for &size in &self.attention_resolutions {
            if !(0..levels).any(|level| self.level_size(level) == size) {
                let sizes: Vec<_> = (0..levels).map(|level| self.level_size(level)).collect();
                let reason = format!("no feature map has size {size}; there are {sizes:?}");
                return error("attention_resolutions", format!("{:?}", self.attention_resolutions), reason);
            }
        }
        self.validate_conventions()?;
        if !(0.0..1.0).contains(&self.dropout) {
            return error("dropout", self.dropout.to_string(), "must be in [0, 1)".into());
        }
        Ok(())
    }

    fn validate_conventions(&self) -> Result<(), UnetConfigError> {
        let error =
            |value: String, reason: String| Err(UnetConfigError { key: "conventions", value, reason });
        let Conventions {
            norm_eps, freq_shift, downsample_padding, head_channels, heads, time_scale, ..
        } = self.conventions;
        if !(norm_eps > 0.0 && norm_eps < 1.0) {
            return error(format!("norm_eps {norm_eps}"), "must be in (0, 1)".into());
        }
        for (key, value) in [("freq_shift", freq_shift), ("downsample_padding", downsample_padding)] {
            if value > 1 {
                return error(format!("{key} {value}"), "must be 0 or 1".into());
            }
        }
        if !(time_scale > 0.0 && time_scale.is_finite()) {
            return error(format!("time_scale {time_scale}"), "must be above 0".into());
        }
        let widths: Vec<usize> = self.attending().map(|level| self.level_channels(level)).collect();
        if let Some(heads) = heads {
            let reason = match widths.iter().find(|&&width| heads == 0 || !width.is_multiple_of(heads)) {
                Some(width) => format!("must divide the {width} channels of a level that attends"),
                None if head_channels.is_some() || widths.iter().all(|width| *width == widths[0]) => {
                    "one number of head_channels says it".into()
                }
                None => String::new(),
            };
            if !reason.is_empty() {
                return error(format!("heads {heads}"), reason);
            }
        }
        for channels in widths {
            if head_channels.is_some_and(|head| head == 0 || channels % head != 0) {
                let reason = format!("must divide the {channels} channels of a level that attends");
                return error(format!("head_channels {}", head_channels.unwrap_or(0)), reason);
            }
        }
        Ok(())
    }
}
