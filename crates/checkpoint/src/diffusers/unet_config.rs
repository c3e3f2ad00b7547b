//! `unet/config.json`: a [`UnetConfig`] in the words of diffusers' `UNet2DModel`.

use super::DIFFUSERS_VERSION;
use crate::Error;
use crate::json_file::Fields;
use models::{Conventions, UnetConfig};
use serde_json::{Value, json};
use std::path::Path;

/// Largest image size, channel count, … read: far beyond any network, and small enough that no product overflows.
const MAX_DIMENSION: usize = 1 << 16;
/// Most residual blocks per level read.
const MAX_BLOCKS: usize = 64;

const DOWN_BLOCK: &str = "DownBlock2D";
const DOWN_BLOCK_WITH_ATTENTION: &str = "AttnDownBlock2D";
const UP_BLOCK: &str = "UpBlock2D";
const UP_BLOCK_WITH_ATTENTION: &str = "AttnUpBlock2D";
const POSITIONAL: &str = "positional";
const SCALE_SHIFT: &str = "scale_shift";

/// The content of `unet/config.json` for a network.
///
/// `sample_size`, `in_channels` and `out_channels` are those of the network itself, after pixels have been
/// gathered into channels by `block_size`.
///
/// What diffusers cannot do is written in words that it stops at, so that it does not compute something else:
/// a list of `attention_head_dim` where levels differ, and `positional*SCALE` where t is scaled before its
/// embedding.
///
/// # Errors
/// If diffusers has no words for the network: its first channel multiplier is not 1 (the width of the time
/// embedding and of the first convolution are one setting there), or the block size does not divide the image
/// size.
pub fn unet_to_json(config: &UnetConfig) -> Result<Value, Error> {
    let not_expressible = |key, value: String, reason| Err(Error::NotExpressible { key, value, reason });
    if config.channel_mult.first() != Some(&1) {
        let reason =
            "its first entry must be 1: the first level has as many channels as the first convolution";
        return not_expressible("channel_mult", format!("{:?}", config.channel_mult), reason);
    }
    if config.block_size == 0 || !config.image_size.is_multiple_of(config.block_size) {
        let reason = "it must divide the image size";
        return not_expressible("block_size", config.block_size.to_string(), reason);
    }
    let sample_size = config.image_size / config.block_size;
    let in_channels = config.image_channels * config.block_size * config.block_size;
    let out_channels = if config.learned_variance { 2 * in_channels } else { in_channels };
    let block_out_channels: Vec<usize> =
        config.channel_mult.iter().map(|factor| factor * config.channels).collect();
    let attention = attention_levels(config, sample_size);
    let block_types = |plain: &'static str, attending: &'static str| {
        attention.iter().map(move |&attends| if attends { attending } else { plain })
    };
    let down: Vec<&str> = block_types(DOWN_BLOCK, DOWN_BLOCK_WITH_ATTENTION).collect();
    let up: Vec<&str> = block_types(UP_BLOCK, UP_BLOCK_WITH_ATTENTION).rev().collect();
    let time_embedding_type = match config.conventions.time_scale {
        1.0 => POSITIONAL.to_owned(),
        scale => format!("{POSITIONAL}*{scale}"),
    };
    Ok(json!({
        "_class_name": "UNet2DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": "silu",
        "add_attention": true,
        "attention_head_dim": head_dim_to_json(config, &attention),
        // Without it, diffusers leaves out the normalisation before the middle's attention where time scales
        // and shifts.
        "attn_norm_num_groups": config.scale_shift_norm.then_some(config.norm_groups),
        "block_out_channels": block_out_channels,
        "center_input_sample": false,
        "class_embed_type": null,
        "down_block_types": down,
        "downsample_padding": config.conventions.downsample_padding,
        "downsample_type": "conv",
        "dropout": shortest(config.dropout),
        "flip_sin_to_cos": config.conventions.cosines_first,
        "freq_shift": config.conventions.freq_shift,
        "in_channels": in_channels,
        "layers_per_block": config.num_res_blocks,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2D",
        "norm_eps": shortest(config.conventions.norm_eps),
        "norm_num_groups": config.norm_groups,
        "num_class_embeds": null,
        "num_train_timesteps": null,
        "out_channels": out_channels,
        "resnet_time_scale_shift": if config.scale_shift_norm { SCALE_SHIFT } else { "default" },
        "sample_size": sample_size,
        "time_embedding_dim": null,
        "time_embedding_type": time_embedding_type,
        "up_block_types": up,
        "upsample_type": "conv",
    }))
}

/// What diffusers has no words for in a network that can be written all the same, so that it refuses to open it.
pub fn beyond_diffusers(config: &UnetConfig) -> Option<&'static str> {
    match config.conventions {
        Conventions { heads: Some(_), .. } => {
            Some("attention whose heads differ in size from level to level")
        }
        Conventions { time_scale, .. } if time_scale != 1.0 => Some("t scaled before its embedding"),
        _ => None,
    }
}

/// Channels of a head: one number, or one for each level that attends (the last always does) where they differ.
fn head_dim_to_json(config: &UnetConfig, attention: &[bool]) -> Value {
    let Some(heads) = config.conventions.heads else { return json!(config.conventions.head_channels) };
    let last = attention.len() - 1;
    let dims = attention
        .iter()
        .enumerate()
        .map(|(level, &attends)| (attends || level == last).then(|| config.level_channels(level) / heads));
    json!(dims.collect::<Vec<_>>())
}

/// Whether attention follows the residual blocks of each level, highest resolution first.
fn attention_levels(config: &UnetConfig, sample_size: usize) -> Vec<bool> {
    let resolution = |level: usize| sample_size.checked_shr(level as u32).unwrap_or(0);
    let levels = 0..config.channel_mult.len();
    levels.map(|level| config.attention_resolutions.contains(&resolution(level))).collect()
}

/// The number whose shortest decimal form is that of `value`: 0.1, not 0.10000000149.
fn shortest(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// Reads `unet/config.json`.
///
/// `block_size` is what the file cannot say: how many pixels were gathered into channels (1: none). Every key
/// is looked at. One that is left out has the value that diffusers takes then, which is not always one
/// supported here.
///
/// # Errors
/// Names the key whose value is not supported.
pub fn unet_from_json(path: &Path, block_size: usize) -> Result<UnetConfig, Error> {
    let mut fields = Fields::read(path)?;
    require_supported(&mut fields)?;

    let sample_size = fields.required("sample_size")?;
    let sample_size = match sample_size.as_array().map(Vec::as_slice) {
        Some([height, width]) if height == width => height.clone(),
        _ => sample_size,
    };
    let sample_size = fields.integer("sample_size", &sample_size, 1..=MAX_DIMENSION)?;
    let block_out_channels = block_out_channels(&mut fields)?;
    let channels = block_out_channels[0];
    let levels = block_out_channels.len();
    let attention = attention(&mut fields, levels)?;
    let (conventions, heads) = conventions(&mut fields, &block_out_channels, &attention)?;
    let value = fields.take("resnet_time_scale_shift", "default");
    let scale_shift_norm = match value.as_str() {
        Some("default") => false,
        Some(SCALE_SHIFT) => true,
        _ => {
            let supported = "only default and scale_shift are supported";
            return Err(fields.unsupported("resnet_time_scale_shift", &value, supported));
        }
    };

    let value = fields.take("time_embedding_dim", Value::Null);
    if !value.is_null() && value != json!(4 * channels) {
        let supported = format!("only {} (4 × the first block_out_channels) is supported", 4 * channels);
        return Err(fields.unsupported("time_embedding_dim", &value, supported));
    }
    let value = fields.take("norm_num_groups", 32);
    let norm_groups = fields.integer("norm_num_groups", &value, 1..=MAX_DIMENSION)?;
    let value = fields.take("attn_norm_num_groups", Value::Null);
    if value != json!(norm_groups) && (scale_shift_norm || !value.is_null()) {
        let supported = match scale_shift_norm {
            false => format!("only norm_num_groups ({norm_groups}) is supported"),
            true => format!(
                "only norm_num_groups ({norm_groups}) is supported with resnet_time_scale_shift = scale_shift"
            ),
        };
        return Err(fields.unsupported("attn_norm_num_groups", &value, supported));
    }
    let value = fields.take("layers_per_block", 2);
    let num_res_blocks = fields.integer("layers_per_block", &value, 1..=MAX_BLOCKS)?;
    let value = fields.take("dropout", 0.0);
    let dropout = fields.number("dropout", &value)? as f32;
    if !(0.0..1.0).contains(&dropout) {
        return Err(fields.unsupported("dropout", &value, "must be in [0, 1)"));
    }
    let (image_channels, learned_variance) = image_channels(&mut fields, block_size)?;
    if sample_size.checked_shr(levels as u32 - 1).is_none_or(|last| last << (levels - 1) != sample_size) {
        let supported = format!("it must be halved {} times for {levels} levels", levels - 1);
        return Err(fields.unsupported("sample_size", &json!(sample_size), supported));
    }
    let image_size = sample_size.saturating_mul(block_size);
    fields.finish()?;
    let config = UnetConfig {
        image_size,
        image_channels,
        learned_variance,
        channels,
        channel_mult: block_out_channels.iter().map(|width| width / channels).collect(),
        num_res_blocks,
        attention_resolutions: (0..levels)
            .filter(|&level| attention[level])
            .map(|level| sample_size >> level)
            .collect(),
        dropout,
        block_size,
        norm_groups,
        scale_shift_norm,
        conventions,
    };
    Ok(match heads {
        Some(heads) => config.with_heads(heads),
        None => config,
    })
}

/// The settings with one supported value each, beside the value that a left-out key has in diffusers.
fn require_supported(fields: &mut Fields) -> Result<(), Error> {
    let class = fields.required("_class_name")?;
    if class != "UNet2DModel" {
        return Err(fields.unsupported("_class_name", &class, "only UNet2DModel is supported"));
    }
    fields.only("act_fn", "silu", "silu")?;
    fields.only("add_attention", true, true)?;
    fields.only("center_input_sample", false, false)?;
    fields.only("class_embed_type", Value::Null, Value::Null)?;
    fields.only("downsample_type", "conv", "conv")?;
    fields.only("mid_block_scale_factor", 1, 1)?;
    fields.only("mid_block_type", "UNetMidBlock2D", "UNetMidBlock2D")?;
    fields.only("num_class_embeds", Value::Null, Value::Null)?;
    fields.only("upsample_type", "conv", "conv")?;
    // It sizes the table of learned time embeddings; sinusoidal ones have no table.
    fields.take("num_train_timesteps", Value::Null);
    Ok(())
}

fn block_out_channels(fields: &mut Fields) -> Result<Vec<usize>, Error> {
    const KEY: &str = "block_out_channels";
    let value = fields.take(KEY, json!([224, 448, 672, 896]));
    let list = fields.list(KEY, &value)?;
    let widths: Vec<usize> =
        list.iter().map(|width| fields.integer(KEY, width, 1..=MAX_DIMENSION)).collect::<Result<_, _>>()?;
    let multiples =
        widths.first().is_some_and(|first| widths.iter().all(|width| width.is_multiple_of(*first)));
    if !multiples || widths.len() > usize::BITS as usize {
        return Err(fields.unsupported(KEY, &value, "must be a list of multiples of its first entry"));
    }
    Ok(widths)
}

/// Whether each level attends, by the types of its blocks on the way down; those on the way up must agree.
fn attention(fields: &mut Fields, levels: usize) -> Result<Vec<bool>, Error> {
    let down_default = json!(["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]);
    let up_default = json!(["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]);
    let mut block_types = |key, default, plain: &str, attending: &str| {
        let value = fields.take(key, default);
        let types = fields.list(key, &value)?;
        if types.len() != levels {
            return Err(fields.unsupported(key, &value, format!("block_out_channels has {levels} entries")));
        }
        let attends = types.iter().map(|block| match block.as_str() {
            Some(name) if name == attending => Ok(true),
            Some(name) if name == plain => Ok(false),
            _ => Err(fields.unsupported(key, block, format!("only {plain} and {attending} are supported"))),
        });
        Ok((attends.collect::<Result<Vec<bool>, Error>>()?, value))
    };
    let (down, _) = block_types("down_block_types", down_default, DOWN_BLOCK, DOWN_BLOCK_WITH_ATTENTION)?;
    let (up, up_value) = block_types("up_block_types", up_default, UP_BLOCK, UP_BLOCK_WITH_ATTENTION)?;
    if !down.iter().eq(up.iter().rev()) {
        let supported = "attention must be at the same levels as in down_block_types";
        return Err(fields.unsupported("up_block_types", &up_value, supported));
    }
    Ok(down)
}

/// What diffusers leaves open, beside the value that a left-out key has there; and the number of heads, where their
/// channels differ.
fn conventions(
    fields: &mut Fields,
    widths: &[usize],
    attention: &[bool],
) -> Result<(Conventions, Option<usize>), Error> {
    let value = fields.take("norm_eps", 1e-5);
    let norm_eps = fields.number("norm_eps", &value)? as f32;
    if !(norm_eps > 0.0 && norm_eps < 1.0) {
        return Err(fields.unsupported("norm_eps", &value, "must be in (0, 1)"));
    }
    let value = fields.take("freq_shift", 0);
    let freq_shift = fields.integer("freq_shift", &value, 0..=1)?;
    let value = fields.take("flip_sin_to_cos", true);
    let cosines_first = value
        .as_bool()
        .ok_or_else(|| fields.unsupported("flip_sin_to_cos", &value, "must be true or false"))?;
    let value = fields.take("downsample_padding", 1);
    let downsample_padding = fields.integer("downsample_padding", &value, 0..=1)?;
    let value = fields.take("time_embedding_type", POSITIONAL);
    let scale = match value.as_str().and_then(|text| text.strip_prefix(POSITIONAL)) {
        Some("") => Some(1.0),
        Some(scale) => scale.strip_prefix('*').and_then(|scale| scale.parse::<f32>().ok()),
        None => None,
    };
    let time_scale = scale
        .filter(|scale| *scale > 0.0 && scale.is_finite())
        .ok_or_else(|| fields.unsupported("time_embedding_type", &value, "only positional is supported"))?;
    let (head_channels, heads) = heads(fields, widths, attention)?;
    let conventions = Conventions {
        norm_eps,
        freq_shift,
        cosines_first,
        downsample_padding,
        head_channels,
        heads: None,
        time_scale,
    };
    Ok((conventions, heads))
}

/// Channels of a head; none where that is as many as every block that attends has (the middle always does).
/// Or the number of heads, from a list of their channels for each level.
fn heads(
    fields: &mut Fields,
    widths: &[usize],
    attention: &[bool],
) -> Result<(Option<usize>, Option<usize>), Error> {
    const KEY: &str = "attention_head_dim";
    let value = fields.take(KEY, 8);
    let last = widths.len() - 1;
    let attending: Vec<usize> = (0..=last).filter(|&level| level == last || attention[level]).collect();
    if let Some(list) = value.as_array() {
        let heads = |level: usize| {
            let dim = usize::try_from(list.get(level)?.as_u64()?).ok().filter(|&dim| dim > 0)?;
            widths[level].is_multiple_of(dim).then(|| widths[level] / dim)
        };
        let heads: Option<Vec<usize>> = attending.iter().map(|&level| heads(level)).collect();
        return match heads.as_deref() {
            Some([first, others @ ..]) if others.iter().all(|other| other == first) => {
                Ok((None, Some(*first)))
            }
            _ => {
                Err(fields.unsupported(KEY, &value, "a list must give every level the same number of heads"))
            }
        };
    }
    let attending: Vec<usize> = attending.into_iter().map(|level| widths[level]).collect();
    if value.is_null() {
        return Ok((None, None));
    }
    let head = fields.integer(KEY, &value, 1..=MAX_DIMENSION)?;
    if attending.iter().all(|width| *width == head) {
        return Ok((None, None));
    }
    if let Some(width) = attending.iter().find(|width| !width.is_multiple_of(head)) {
        let supported = format!("it must divide the {width} channels of a block that attends");
        return Err(fields.unsupported(KEY, &value, supported));
    }
    Ok((Some(head), None))
}

/// Channels of the image, and whether the output has twice as many.
fn image_channels(fields: &mut Fields, block_size: usize) -> Result<(usize, bool), Error> {
    let value = fields.take("in_channels", 3);
    let in_channels = fields.integer("in_channels", &value, 1..=MAX_DIMENSION)?;
    let gathered = block_size.saturating_mul(block_size);
    let image_channels = [1, 3].into_iter().find(|channels| channels * gathered == in_channels);
    let Some(image_channels) = image_channels else {
        let supported = format!(
            "images have 1 or 3 channels, which makes {gathered} or {} with a block size of {block_size}",
            gathered.saturating_mul(3)
        );
        return Err(fields.unsupported("in_channels", &value, supported));
    };
    let value = fields.take("out_channels", 3);
    let out_channels = fields.integer("out_channels", &value, 1..=2 * MAX_DIMENSION)?;
    if out_channels != in_channels && out_channels != 2 * in_channels {
        let supported =
            format!("only {in_channels}, or {} for a learned variance, is supported", 2 * in_channels);
        return Err(fields.unsupported("out_channels", &value, supported));
    }
    Ok((image_channels, out_channels == 2 * in_channels))
}
