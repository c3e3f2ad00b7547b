//! How other programs name the parameters of this network: data, one file a program, in `key_maps/`.
//!
//! A line is a parameter's name here and there, without its last part, which settings at the file's head translate
//! (`norm.weight` is the weight of a normalisation). `{level}`, `{block}` and the like stand for any one part of the name;
//! `{-level}` counts levels from the other end; `{down}` and `{up}` count blocks through all levels of the way, and what
//! changes the size after a level's blocks along with them. `order` says how convolutions lie, `time_embedding`
//! whether sines and cosines alternate (`interleaved`), `time_table` what a table of them is called, the settings of
//! [`Conventions`] what else is not as here, and `#` begins a comment.

use models::Conventions;
use std::collections::HashMap;

const TENSORFLOW: &str = include_str!("key_maps/tensorflow.map");
const PYTORCH_DIFFUSION: &str = include_str!("key_maps/pytorch_diffusion.map");
const PYTORCH_DDPM: &str = include_str!("key_maps/pytorch_ddpm.map");

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
}

/// The names of one program.
#[derive(Debug)]
pub(crate) struct KeyMap {
    /// What it is called in messages.
    pub program: &'static str,
    /// How its convolutions lie.
    pub order: Order,
    settings: HashMap<&'static str, &'static str>,
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

    /// diffusers' own names, which are those here, in a file of their own.
    pub(crate) fn diffusers() -> Self {
        Self::parse("diffusers", "order oihw")
    }

    fn parse(program: &'static str, text: &'static str) -> Self {
        const SETTINGS: [&str; 12] = [
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
        ];
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once(' ')).map(|(left, right)| (left, right.trim()));
        let (settings, rules): (Vec<_>, Vec<_>) = pairs.partition(|(left, _)| SETTINGS.contains(left));
        let settings: HashMap<_, _> = settings.into_iter().collect();
        let order = if settings.get("order") == Some(&"hwio") { Order::Hwio } else { Order::Oihw };
        Self { program, order, settings, rules }
    }

    /// What its networks do otherwise.
    pub(crate) fn conventions(&self) -> Conventions {
        let paper = Conventions::default();
        Conventions {
            norm_eps: self.number("norm_eps").unwrap_or(paper.norm_eps),
            freq_shift: self.number("freq_shift").unwrap_or(paper.freq_shift),
            downsample_padding: self.number("downsample_padding").unwrap_or(paper.downsample_padding),
            ..paper
        }
    }

    fn number<T: std::str::FromStr>(&self, setting: &str) -> Option<T> {
        self.settings.get(setting)?.parse().ok()
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
            let Depth { levels, blocks } = depth;
            let counted = |of_level: usize| {
                // Without a number of its own: what comes after the level's blocks.
                let block = number("block").unwrap_or(of_level);
                level.saturating_mul(of_level + 1).saturating_add(block).to_string()
            };
            key = key.replace("{down}", &counted(blocks)).replace("{up}", &counted(blocks + 1));
            if let Some(mirrored) = levels.checked_sub(level + 1) {
                key = key.replace("{-level}", &mirrored.to_string());
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

    const DEPTH: Depth = Depth { levels: 4, blocks: 2 };

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
            conventions: models::Conventions::default(),
        };
        let layout = models::Unet::layout(&config);
        let depth = Depth { levels: 6, blocks: 2 };
        for map in [KeyMap::tensorflow(), KeyMap::pytorch_diffusion(), KeyMap::pytorch_ddpm()] {
            let keys: std::collections::HashSet<_> =
                layout.specs().iter().map(|spec| map.key(&spec.name, depth).expect(&spec.name)).collect();
            assert_eq!(keys.len(), layout.specs().len());
        }
    }
}
