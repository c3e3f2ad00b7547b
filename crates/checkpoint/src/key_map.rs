//! How other programs name the parameters of this network: data, one file a program, in `key_maps/`.
//!
//! A line is a parameter's name here and there, without its last part, which settings at the file's head
//! translate (`norm.weight` is the weight of a normalisation). `{level}`, `{block}` and the like stand for
//! any one part of the name; `{-level}` counts levels from the other end; `{down}` and `{up}` count blocks
//! through all levels of the way, and what changes the size after a level's blocks along with them; `{input}`
//! is `{down}` counted from 1, `{output}` counts blocks on the way up alone, `{last}` is the last of a level,
//! and `{behind}` the place behind all other parts of it.
//!
//! `order` says how convolutions lie; `time_embedding` whether sines and cosines alternate (`interleaved`) or
//! cosines come first; `time_table` what a table of them is called; `qkv` that one layer gives queries, keys
//! and values, in turn for each head (`by_head`); `heads` how many heads there are where nothing is said;
//! `attention` the sizes of feature maps that attend, the largest first; `learned_variance` what a second
//! half of output channels is (`range`, or the log variance); `rescale_timesteps` the number of steps that t
//! is scaled to; `refuse` ends of names that make it another network, and in what. The settings of
//! [`Conventions`] say what else is not as here, and `#` begins a comment.

use diffusion::Variance;
use models::{Conventions, UnetConfig};
use std::collections::HashMap;

const TENSORFLOW: &str = include_str!("key_maps/tensorflow.map");
const PYTORCH_DIFFUSION: &str = include_str!("key_maps/pytorch_diffusion.map");
const PYTORCH_DDPM: &str = include_str!("key_maps/pytorch_ddpm.map");
const OPENAI: &str = include_str!("key_maps/openai.map");
/// The feature maps that the paper's networks attend at.
const PAPERS_ATTENTION: &[usize] = &[16];

/// What diffusers is called in messages.
pub(crate) const DIFFUSERS: &str = "diffusers";

/// How the weights of a convolution lie in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Height, width, in, out; linear layers in, out: as in memory here.
    Hwio,
    /// Out, in, height, width; linear layers out, in: PyTorch's.
    Oihw,
}

/// How many parts a network has, as far as names depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth {
    /// Resolution levels; 0 will do for names on the way down.
    pub levels: usize,
    /// Residual blocks a level on the way down.
    pub blocks: usize,
    /// Which levels attend, a bit each, the highest resolution's the lowest; 0 will do for names on the way down.
    pub attention: u32,
}

impl Depth {
    /// That of a network.
    pub(crate) fn of(unet: &UnetConfig) -> Self {
        let levels = unet.channel_mult.len();
        let attention = (0..levels).map(|level| u32::from(unet.attends(level)) << level).sum();
        Self { levels, blocks: unet.num_res_blocks, attention }
    }

    /// What will do for names on the way down.
    pub(crate) fn down(blocks: usize) -> Self {
        Self { levels: 0, blocks, attention: 0 }
    }
}

/// The names of one program.
#[derive(Debug)]
pub(crate) struct KeyMap {
    /// What it is called in messages.
    pub program: &'static str,
    /// How its convolutions lie.
    pub order: Order,
    settings: HashMap<&'static str, &'static str>,
    /// Ends of names that are of another network, and in what it differs.
    pub refusals: Vec<(&'static str, &'static str)>,
    /// Patterns of names here, and templates of names there.
    rules: Vec<(&'static str, &'static str)>,
}

impl KeyMap {
    /// The names in original TensorFlow checkpoints.
    pub(crate) fn tensorflow() -> Self {
        Self::parse("the original TensorFlow code", TENSORFLOW)
    }

    /// The names in PyTorch conversions of them.
    pub(crate) fn pytorch_diffusion() -> Self {
        Self::parse("pytorch_diffusion", PYTORCH_DIFFUSION)
    }

    /// The names of w86763777/pytorch-ddpm.
    pub(crate) fn pytorch_ddpm() -> Self {
        Self::parse("w86763777/pytorch-ddpm", PYTORCH_DDPM)
    }

    /// The names of openai/improved-diffusion.
    pub(crate) fn openai() -> Self {
        Self::parse("openai/improved-diffusion", OPENAI)
    }

    /// diffusers' own names, which are those here, in a file of their own.
    pub(crate) fn diffusers() -> Self {
        Self::parse(DIFFUSERS, "order oihw")
    }

    fn parse(program: &'static str, text: &'static str) -> Self {
        const SETTINGS: [&str; 17] = [
            "prefix",
            "separator",
            "order",
            "weight",
            "bias",
            "norm.weight",
            "norm.bias",
            "norm_eps",
            "freq_shift",
            "downsample_padding",
            "time_embedding",
            "time_table",
            "qkv",
            "heads",
            "attention",
            "learned_variance",
            "rescale_timesteps",
        ];
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once(' ')).map(|(left, right)| (left, right.trim()));
        let (refusals, pairs): (Vec<_>, Vec<_>) = pairs.partition(|(left, _)| *left == "refuse");
        let refusals = refusals.into_iter().filter_map(|(_, rest)| rest.split_once(' '));
        let refusals = refusals.map(|(end, why)| (end, why.trim())).collect();
        let (settings, rules): (Vec<_>, Vec<_>) =
            pairs.into_iter().partition(|(left, _)| SETTINGS.contains(left));
        let settings: HashMap<_, _> = settings.into_iter().collect();
        let order = if settings.get("order") == Some(&"hwio") { Order::Hwio } else { Order::Oihw };
        Self { program, order, settings, refusals, rules }
    }

    /// What its networks do otherwise.
    pub(crate) fn conventions(&self) -> Conventions {
        let paper = Conventions::default();
        Conventions {
            norm_eps: self.number("norm_eps").unwrap_or(paper.norm_eps),
            freq_shift: self.number("freq_shift").unwrap_or(paper.freq_shift),
            cosines_first: self.settings.get("time_embedding") == Some(&"cosines_first"),
            downsample_padding: self.number("downsample_padding").unwrap_or(paper.downsample_padding),
            ..paper
        }
    }

    fn number<T: std::str::FromStr>(&self, setting: &str) -> Option<T> {
        self.settings.get(setting)?.parse().ok()
    }

    /// Heads of attention, where the program's users do not say.
    pub(crate) fn heads(&self) -> usize {
        self.number("heads").unwrap_or(1)
    }

    /// The sizes of the feature maps that usually attend, the largest first.
    pub(crate) fn attention(&self) -> Vec<usize> {
        let sizes = self.settings.get("attention");
        sizes.map_or(PAPERS_ATTENTION.to_vec(), |sizes| sizes.split(',').flat_map(str::parse).collect())
    }

    /// The variance of a network whose output has a second half of channels.
    pub(crate) fn learned_variance(&self) -> Variance {
        match self.settings.get("learned_variance") {
            Some(&"range") => Variance::LearnedRange,
            _ => Variance::Learned,
        }
    }

    /// The number of steps that t is scaled to, whatever their number.
    pub(crate) fn rescaled_timesteps(&self) -> Option<usize> {
        self.number("rescale_timesteps")
    }

    /// Of parameters that lie in one tensor of three: which third it is.
    pub(crate) fn third(&self, name: &str) -> Option<usize> {
        self.settings.get("qkv")?;
        let layer = name.rsplit('.').nth(1)?;
        ["to_q", "to_k", "to_v"].iter().position(|part| *part == layer)
    }

    /// Whether sines and cosines alternate in the time embedding.
    pub(crate) fn is_interleaved(&self) -> bool {
        self.settings.get("time_embedding") == Some(&"interleaved")
    }

    /// What a table of the time embedding is called, where one is saved with the weights.
    pub(crate) fn time_table(&self) -> Option<&'static str> {
        self.settings.get("time_table").copied()
    }

    /// What the parameter `name` is called there; `None` if that has none like it.
    pub(crate) fn key(&self, name: &str, depth: Depth) -> Option<String> {
        if self.rules.is_empty() {
            return Some(name.to_owned());
        }
        let (stem, kind) = name.rsplit_once('.')?;
        let found =
            self.rules.iter().find_map(|(pattern, template)| Some((captures(pattern, stem)?, template)));
        let (captures, template) = found?;
        let mut key = (*template).to_owned();
        let number = |name| captures.iter().find(|(found, _)| *found == name)?.1.parse::<usize>().ok();
        if let Some(level) = number("level") {
            let Depth { levels, blocks, attention } = depth;
            let counted = |of_level: usize| {
                // Without a number of its own: what comes after the level's blocks.
                let block = number("block").unwrap_or(of_level);
                level.saturating_mul(of_level + 1).saturating_add(block).to_string()
            };
            key = key.replace("{down}", &counted(blocks)).replace("{up}", &counted(blocks + 1));
            let on_way_up = level.saturating_mul(blocks + 1);
            let block = number("block").unwrap_or(blocks);
            key = key.replace("{input}", &on_way_up.saturating_add(block + 1).to_string());
            key = key.replace("{output}", &on_way_up.saturating_add(block).to_string());
            key = key.replace("{last}", &on_way_up.saturating_add(blocks).to_string());
            if let Some(mirrored) = levels.checked_sub(level + 1) {
                key = key.replace("{-level}", &mirrored.to_string());
                key = key.replace("{behind}", &(1 + (attention >> mirrored & 1)).to_string());
            }
        }
        for (placeholder, part) in &captures {
            key = key.replace(&format!("{{{placeholder}}}"), part);
        }
        let is_norm = stem.rsplit('.').next().is_some_and(|layer| layer.contains("norm"));
        let kind = if is_norm { format!("norm.{kind}") } else { kind.to_owned() };
        let setting = |name: &str| self.settings.get(name).copied();
        Some(format!(
            "{}{key}{}{}",
            setting("prefix").unwrap_or_default(),
            setting("separator").unwrap_or("."),
            setting(&kind)?
        ))
    }
}

/// The parts of `name` that stand for placeholders of `pattern`, if it fits.
fn captures<'a>(pattern: &'static str, name: &'a str) -> Option<Vec<(&'static str, &'a str)>> {
    let (mut parts, mut captures) = (name.split('.'), Vec::new());
    for expected in pattern.split('.') {
        let part = parts.next()?;
        match expected.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(placeholder) => captures.push((placeholder, part)),
            None if part == expected => {}
            None => return None,
        }
    }
    parts.next().is_none().then_some(captures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPTH: Depth = Depth { levels: 4, blocks: 2, attention: 0b0010 };

    #[test]
    fn names_are_translated() {
        for (ours, tensorflow, pytorch) in [
            ("conv_in.weight", "model/conv_in/W", "conv_in.weight"),
            ("time_embedding.linear_2.bias", "model/temb/dense1/b", "temb.dense.1.bias"),
            (
                "down_blocks.1.resnets.0.norm2.weight",
                "model/down_1/block_0/norm2/gamma",
                "down.1.block.0.norm2.weight",
            ),
            (
                "down_blocks.3.resnets.1.conv_shortcut.bias",
                "model/down_3/block_1/nin_shortcut/b",
                "down.3.block.1.nin_shortcut.bias",
            ),
            (
                "up_blocks.0.resnets.2.time_emb_proj.weight",
                "model/up_3/block_2/temb_proj/W",
                "up.3.block.2.temb_proj.weight",
            ),
            (
                "up_blocks.2.attentions.1.to_out.0.bias",
                "model/up_1/attn_1/proj_out/b",
                "up.1.attn.1.proj_out.bias",
            ),
            (
                "up_blocks.2.upsamplers.0.conv.weight",
                "model/up_1/upsample/conv/W",
                "up.1.upsample.conv.weight",
            ),
            ("mid_block.attentions.0.group_norm.bias", "model/mid/attn_1/norm/beta", "mid.attn_1.norm.bias"),
            ("mid_block.resnets.1.conv2.weight", "model/mid/block_2/conv2/W", "mid.block_2.conv2.weight"),
            ("conv_norm_out.weight", "model/norm_out/gamma", "norm_out.weight"),
        ] {
            assert_eq!(KeyMap::tensorflow().key(ours, DEPTH).as_deref(), Some(tensorflow));
            assert_eq!(KeyMap::pytorch_diffusion().key(ours, DEPTH).as_deref(), Some(pytorch));
            assert_eq!(KeyMap::diffusers().key(ours, DEPTH).as_deref(), Some(ours));
        }
        assert_eq!(KeyMap::tensorflow().key("class_embedding.weight", DEPTH), None);
    }

    #[test]
    fn blocks_of_all_levels_are_counted_through() {
        let key = |name| KeyMap::pytorch_ddpm().key(name, DEPTH).unwrap();
        for (ours, theirs) in [
            ("down_blocks.0.resnets.1.conv1.weight", "downblocks.1.block1.2.weight"),
            ("down_blocks.0.downsamplers.0.conv.bias", "downblocks.2.main.bias"),
            ("down_blocks.3.resnets.0.norm2.weight", "downblocks.9.block2.0.weight"),
            ("mid_block.resnets.1.time_emb_proj.bias", "middleblocks.1.temb_proj.1.bias"),
            ("up_blocks.0.resnets.2.conv_shortcut.weight", "upblocks.2.shortcut.weight"),
            ("up_blocks.0.upsamplers.0.conv.weight", "upblocks.3.main.weight"),
            ("up_blocks.2.attentions.1.to_out.0.weight", "upblocks.9.attn.proj.weight"),
        ] {
            assert_eq!(key(ours), theirs);
        }
    }

    #[test]
    fn what_changes_the_size_comes_behind_the_other_parts_of_a_block() {
        let key = |name| KeyMap::openai().key(name, DEPTH).unwrap();
        for (ours, theirs) in [
            ("conv_in.weight", "input_blocks.0.0.weight"),
            ("down_blocks.0.resnets.1.conv1.weight", "input_blocks.2.0.in_layers.2.weight"),
            ("down_blocks.0.downsamplers.0.conv.bias", "input_blocks.3.0.op.bias"),
            ("down_blocks.3.resnets.0.norm2.weight", "input_blocks.10.0.out_layers.0.weight"),
            ("mid_block.resnets.1.time_emb_proj.bias", "middle_block.2.emb_layers.1.bias"),
            ("up_blocks.0.resnets.2.conv_shortcut.weight", "output_blocks.2.0.skip_connection.weight"),
            ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
            ("up_blocks.2.attentions.1.to_k.weight", "output_blocks.7.1.qkv.weight"),
            ("up_blocks.2.upsamplers.0.conv.weight", "output_blocks.8.2.conv.weight"),
            ("conv_norm_out.bias", "out.0.bias"),
        ] {
            assert_eq!(key(ours), theirs);
        }
        assert_eq!(KeyMap::openai().third("up_blocks.2.attentions.1.to_k.weight"), Some(1));
        assert_eq!(KeyMap::openai().third("up_blocks.2.attentions.1.to_out.0.weight"), None);
        assert_eq!(KeyMap::pytorch_ddpm().third("mid_block.attentions.0.to_k.weight"), None);
    }

    #[test]
    fn every_parameter_of_the_papers_networks_has_one_name_of_its_own() {
        let config = models::UnetConfig {
            image_size: 256,
            image_channels: 3,
            learned_variance: false,
            channels: 32,
            channel_mult: vec![1, 1, 2, 2, 4, 4],
            num_res_blocks: 2,
            attention_resolutions: vec![16],
            dropout: 0.0,
            block_size: 1,
            norm_groups: 32,
            scale_shift_norm: false,
            conventions: models::Conventions::default(),
        };
        let layout = models::Unet::layout(&config);
        let depth = Depth::of(&config);
        for map in
            [KeyMap::tensorflow(), KeyMap::pytorch_diffusion(), KeyMap::pytorch_ddpm(), KeyMap::openai()]
        {
            let key = |name: &String| (map.key(name, depth).expect(name), map.third(name));
            let keys: std::collections::HashSet<_> =
                layout.specs().iter().map(|spec| key(&spec.name)).collect();
            assert_eq!(keys.len(), layout.specs().len());
        }
    }
}
