//! What network a file's tensors make, told from their names and shapes.

use crate::Error;
use crate::key_map::{Depth, KeyMap, Order};
use crate::weights_file::WeightsFile;
use models::UnetConfig;
use std::path::Path;

const MAX_LEVELS: usize = 16;
const MAX_BLOCKS: usize = 64;

/// What the parameter `name` is called in a file, where `affixes` stand before and behind the program's own names.
pub(super) fn key(map: &KeyMap, affixes: [&str; 2], name: &str, depth: Depth) -> Option<String> {
    let [prefix, suffix] = affixes;
    Some(format!("{prefix}{}{suffix}", map.key(name, depth)?))
}

/// One set of weights in a file, whose network is not known yet.
pub(super) struct Stored<'a> {
    pub path: &'a Path,
    pub file: &'a WeightsFile,
    pub map: &'a KeyMap,
    /// What stands before and behind the program's own names.
    pub affixes: [&'a str; 2],
}

impl Stored<'_> {
    fn shape(&self, name: &str, blocks: usize) -> Option<&[usize]> {
        // Names on the way down do not depend on the number of levels.
        self.file.shape(&key(self.map, self.affixes, name, Depth::down(blocks))?)
    }

    /// (in, out) channels of a convolution on the way down, where there are so many `blocks` a level.
    fn channels(&self, name: &str, blocks: usize) -> Option<(usize, usize)> {
        match (self.map.order, self.shape(name, blocks)?) {
            (Order::Hwio, [_, _, inputs, outputs]) | (Order::Oihw, [outputs, inputs, _, _]) => {
                Some((*inputs, *outputs))
            }
            _ => None,
        }
    }

    /// The network, but for its dropout, which leaves no trace, and its heads; `image_size` is that of the images, in
    /// pixels, where it is known.
    ///
    /// # Errors
    /// If the tensors make no network, the size of the images does not follow from them and is not given, or the one
    /// given cannot be parted into the network's blocks.
    pub(super) fn network(&self, image_size: Option<usize>) -> Result<UnetConfig, Error> {
        let path = self.path;
        let incomplete = |what: &str| Error::damaged(path, format!("its tensors make no network: {what}"));
        let (inputs, channels) =
            self.channels("conv_in.weight", 0).ok_or_else(|| incomplete("no first convolution"))?;
        let (_, outputs) =
            self.channels("conv_out.weight", 0).ok_or_else(|| incomplete("no last convolution"))?;
        // Of the first level, names do not depend on the number of blocks.
        let blocks = (0..MAX_BLOCKS).take_while(|block| {
            self.channels(&format!("down_blocks.0.resnets.{block}.conv1.weight"), 0).is_some()
        });
        let blocks = blocks.count();
        let width =
            |level| Some(self.channels(&format!("down_blocks.{level}.resnets.0.conv1.weight"), blocks)?.1);
        let widths: Vec<usize> = (0..MAX_LEVELS).map_while(width).collect();
        if channels == 0 || widths.is_empty() || widths.iter().any(|width| width % channels != 0) {
            return Err(incomplete("the levels' widths are not multiples of the first convolution's"));
        }
        let attends = |level: &usize| {
            self.shape(&format!("down_blocks.{level}.attentions.0.group_norm.weight"), blocks).is_some()
        };
        let attention: Vec<usize> = (0..widths.len()).filter(attends).collect();
        let (image_channels, block_size) = match inputs {
            1 | 3 => (inputs, 1),
            12 => (3, 2),
            48 => (3, 4),
            _ => return Err(incomplete(&format!("{inputs} input channels are no image"))),
        };
        let usual = self.map.attention();
        let adjoin = attention.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let sample_size = match (image_size, attention.first()) {
            (Some(size), _) if size % block_size == 0 => size / block_size,
            (Some(size), _) => {
                return Err(Error::damaged(
                    path,
                    format!(
                        "its network takes images in blocks of {block_size}×{block_size} pixels, and {size} is no \
                         multiple of {block_size}; give the size of its images by --image-size"
                    ),
                ));
            }
            (None, Some(level)) if adjoin && attention.len() <= usual.len() => usual[0] << level,
            (None, _) => {
                return Err(Error::damaged(
                    path,
                    "the size of the images does not follow from the network; give it by --image-size",
                ));
            }
        };
        let projection = self.shape("down_blocks.0.resnets.0.time_emb_proj.weight", blocks);
        let projected = projection.and_then(|shape| match self.map.order {
            Order::Hwio => shape.last(),
            Order::Oihw => shape.first(),
        });
        Ok(UnetConfig {
            image_size: sample_size * block_size,
            image_channels,
            learned_variance: outputs == 2 * inputs,
            channels,
            channel_mult: widths.iter().map(|width| width / channels).collect(),
            num_res_blocks: blocks,
            attention_resolutions: attention.iter().map(|level| sample_size >> level).collect(),
            dropout: 0.0,
            block_size,
            norm_groups: 32,
            scale_shift_norm: projected.is_some_and(|&outputs| widths[0].checked_mul(2) == Some(outputs)),
            conventions: self.map.conventions(),
        })
    }
}
