//! How other programs name the parameters of this network: data, one file a program, in `key_maps/`.
//!
//! A line is a parameter's name here and there, without its last part, which settings at the file's head translate
//! (`norm.weight` is the weight of a normalisation). `{level}`, `{block}` and the like stand for any one part of the name;
//! `{-level}` counts levels from the other end, `order` says how convolutions lie, and `#` begins a comment.

use std::collections::HashMap;

const TENSORFLOW: &str = include_str!("key_maps/tensorflow.map");
const PYTORCH_DIFFUSION: &str = include_str!("key_maps/pytorch_diffusion.map");

/// How the weights of a convolution lie in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Height, width, in, out; linear layers in, out: as in memory here.
    Hwio,
    /// Out, in, height, width; linear layers out, in: PyTorch's.
    Oihw,
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

    /// diffusers' own names, which are those here, in a file of their own.
    pub(crate) fn diffusers() -> Self {
        Self::parse("diffusers", "order oihw")
    }

    fn parse(program: &'static str, text: &'static str) -> Self {
        const SETTINGS: [&str; 7] =
            ["prefix", "separator", "order", "weight", "bias", "norm.weight", "norm.bias"];
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once(' ')).map(|(left, right)| (left, right.trim()));
        let (settings, rules): (Vec<_>, Vec<_>) = pairs.partition(|(left, _)| SETTINGS.contains(left));
        let settings: HashMap<_, _> = settings.into_iter().collect();
        let order = if settings.get("order") == Some(&"hwio") { Order::Hwio } else { Order::Oihw };
        Self { program, order, settings, rules }
    }

    /// What the parameter `name` is called there, in a network of so many levels; `None` if that has none like it.
    pub(crate) fn key(&self, name: &str, levels: usize) -> Option<String> {
        if self.rules.is_empty() {
            return Some(name.to_owned());
        }
        let (stem, kind) = name.rsplit_once('.')?;
        let found =
            self.rules.iter().find_map(|(pattern, template)| Some((captures(pattern, stem)?, template)));
        let (captures, template) = found?;
        let mut key = (*template).to_owned();
        for (placeholder, part) in captures {
            key = key.replace(&format!("{{{placeholder}}}"), part);
            if let Some(mirrored) = part.parse().ok().and_then(|level: usize| levels.checked_sub(level + 1)) {
                key = key.replace(&format!("{{-{placeholder}}}"), &mirrored.to_string());
            }
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
            assert_eq!(KeyMap::tensorflow().key(ours, 4).as_deref(), Some(tensorflow));
            assert_eq!(KeyMap::pytorch_diffusion().key(ours, 4).as_deref(), Some(pytorch));
            assert_eq!(KeyMap::diffusers().key(ours, 4).as_deref(), Some(ours));
        }
        assert_eq!(KeyMap::tensorflow().key("class_embedding.weight", 4), None);
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
        };
        let layout = models::Unet::layout(&config);
        for map in [KeyMap::tensorflow(), KeyMap::pytorch_diffusion()] {
            let keys: std::collections::HashSet<_> =
                layout.specs().iter().map(|spec| map.key(&spec.name, 6).expect(&spec.name)).collect();
            assert_eq!(keys.len(), layout.specs().len());
        }
    }
}
