//! `ddpm inspect`: what is in a model.

use crate::failure::Failure;
use crate::report::Report;
use checkpoint::{LocationKind, Summary, WeightsSummary};
use std::fmt::Write;
use std::path::PathBuf;

/// Show what is in a model: network, process, weights, parameters, training step
///
/// No weight is read. With --json the object also has every tensor's name, shape and type.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A run directory (its last checkpoint), a checkpoint, or a directory in diffusers' layout
    model: PathBuf,

    /// List every tensor with its shape as well
    #[arg(long)]
    tensors: bool,
}

pub fn run(args: &Args) -> Result<Report, Failure> {
    let summary = checkpoint::inspect(&args.model).map_err(Failure::input)?;
    let mut words = String::new();
    // Writing to a string cannot fail.
    let _ = describe(&mut words, &summary, args.tensors);
    let json = serde_json::to_value(&summary).map_err(Failure::work)?;
    Ok(Report::new(words, json))
}

fn describe(out: &mut String, summary: &Summary, tensors: bool) -> std::fmt::Result {
    let kind = match summary.kind {
        LocationKind::Run => "the last checkpoint of a run",
        LocationKind::Checkpoint => "a checkpoint",
        LocationKind::Diffusers => "a directory in diffusers' layout",
    };
    writeln!(out, "{} ({kind})", summary.directory.display())?;
    if let Some(training) = &summary.training {
        writeln!(
            out,
            "training    {} updates, {} images seen, seed {}",
            training.step, training.samples, training.seed
        )?;
    }
    let model = &summary.model;
    writeln!(
        out,
        "images      {}, network output {} channels",
        model.image_shape(),
        model.output_channels()
    )?;
    writeln!(
        out,
        "network     {} channels times {:?}, {} residual block(s) a level, attention at {:?}",
        model.channels, model.channel_mult, model.num_res_blocks, model.attention_resolutions
    )?;
    writeln!(
        out,
        "            dropout {}, pixels in blocks of {}, {} groups a normalisation",
        model.dropout, model.block_size, model.norm_groups
    )?;
    match &summary.diffusion {
        None => writeln!(out, "process     not said by these files")?,
        Some(process) => writeln!(
            out,
            "process     T = {}, β {} from {} to {}, predicts {}, variance {}, trained by {}, x̂0 {}",
            process.timesteps,
            word(process.schedule),
            process.beta_start,
            process.beta_end,
            word(process.prediction),
            word(process.variance),
            word(process.loss),
            if process.clip_denoised { "clipped" } else { "not clipped" },
        )?,
    }
    for weights in &summary.weights {
        describe_weights(out, weights, tensors)?;
    }
    if let Some(bytes) = summary.checkpoint_bytes {
        writeln!(out, "checkpoint  {} in all files", megabytes(bytes))?;
    }
    Ok(())
}

fn describe_weights(out: &mut String, weights: &WeightsSummary, tensors: bool) -> std::fmt::Result {
    let which =
        weights.weights.map_or_else(|| "not said whether ema or raw".to_owned(), |kind| kind.to_string());
    let step = weights.step.map_or_else(String::new, |step| format!(" after {step} updates"));
    let dtypes: Vec<&str> = weights.dtypes.iter().map(String::as_str).collect();
    writeln!(
        out,
        "weights     {which}{step}: {} parameters in {} tensors, {}, {}: {}",
        thousands(weights.parameters),
        weights.tensors.len(),
        dtypes.join(" and "),
        megabytes(weights.bytes),
        weights.path.display(),
    )?;
    if tensors {
        for tensor in &weights.tensors {
            writeln!(out, "            {} {:?} {}", tensor.name, tensor.shape, tensor.dtype)?;
        }
    }
    Ok(())
}

/// The word that stands for a setting in configuration files.
pub fn word(setting: impl serde::Serialize) -> String {
    match serde_json::to_value(setting) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (35_746_307, "35,746,307")] {
            assert_eq!(thousands(number), text);
        }
    }
}
