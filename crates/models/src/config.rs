//! What a U-Net is made of.

use serde::{Deserialize, Serialize};

/// A U-Net of the paper's family, complete: with the image it is for.
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
}
