//! The range of every configuration value, and how values must fit each other.
//!
//! What `[diffusion]` may hold is the method's matter ([`diffusion::DiffusionConfig::validate`]), what makes
//! a network is [`models::UnetConfig::validate`]'s.

use crate::config::Config;
use std::fmt::Display;

/// A value outside its range.
#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    /// The dotted key.
    pub key: &'static str,
    /// The value.
    pub value: String,
    /// What it must be instead.
    pub reason: String,
}

fn problem(key: &'static str, value: impl Display, reason: impl Into<String>) -> Problem {
    Problem { key, value: value.to_string(), reason: reason.into() }
}

/// Checks every value outside `[diffusion]`.
///
/// # Errors
/// The first value that is out of range or does not fit the others.
pub fn validate(config: &Config) -> Result<(), Problem> {
    data(config)?;
    model(config)?;
    train(config)?;
    log(config)
}

fn data(config: &Config) -> Result<(), Problem> {
    if config.data.source.trim().is_empty() {
        let reason = "must name the images: cifar10:DIR, images:DIR, lmdb:DIR, shapes32 or another kind of source that \
                      `ddpm data list` shows";
        return Err(problem("data.source", format!("{:?}", config.data.source), reason));
    }
    Ok(())
}

fn model(config: &Config) -> Result<(), Problem> {
    // The width of the time embedding and of the first convolution is that of the first level, in the paper's network
    // and in diffusers' layout.
    if config.model.channel_mult.first().is_some_and(|&first| first != 1) {
        let reason = "must begin with 1: model.channels is the width of the first level";
        return Err(problem("model.channel_mult", format!("{:?}", config.model.channel_mult), reason));
    }
    config.unet().validate().map_err(|error| Problem {
        // The network's configuration is put together from three sections of ours.
        key: match error.key {
            "image_size" => "data.image_size",
            "image_channels" => "data.channels",
            "learned_variance" => "diffusion.variance",
            "channels" => "model.channels",
            "channel_mult" => "model.channel_mult",
            "num_res_blocks" => "model.num_res_blocks",
            "attention_resolutions" => "model.attention_resolutions",
            "dropout" => "model.dropout",
            "block_size" => "model.block_size",
            "norm_groups" => "model.norm_groups",
            _ => "model",
        },
        value: error.value,
        reason: error.reason,
    })
}

fn train(config: &Config) -> Result<(), Problem> {
    let train = &config.train;
    // Counters that key the random numbers have 32 bits.
    integer("train.steps", train.steps, 1, u32::MAX.into())?;
    integer("train.batch_size", train.batch_size, 1, 1 << 20)?;
    if train.micro_batch > 0 && !train.batch_size.is_multiple_of(train.micro_batch) {
        let reason =
            format!("must divide train.batch_size = {} (0: the whole batch at once)", train.batch_size);
        return Err(problem("train.micro_batch", train.micro_batch, reason));
    }
    rate("train.learning_rate", train.learning_rate)?;
    fraction("train.beta1", train.beta1)?;
    fraction("train.beta2", train.beta2)?;
    rate("train.eps", train.eps)?;
    if !(train.grad_clip >= 0.0 && train.grad_clip.is_finite()) {
        return Err(problem("train.grad_clip", train.grad_clip, "must be above 0, or 0 for no clipping"));
    }
    fraction("train.ema_decay", train.ema_decay)?;
    integer("train.seed", train.seed, 0, i64::MAX as u64)?;
    integer("train.checkpoint_every", train.checkpoint_every, 1, u64::MAX)?;
    integer("train.keep_checkpoints", train.keep_checkpoints, 1, u64::MAX)
}

fn log(config: &Config) -> Result<(), Problem> {
    let log = &config.log;
    integer("log.every", log.every, 1, u64::MAX)?;
    integer("log.sample_count", log.sample_count, 1, 4096)?;
    integer("log.sample_steps", log.sample_steps, 1, u64::MAX)?;
    integer("log.evaluate_steps", log.evaluate_steps, 1, u64::MAX)?;
    if ![64, 192, 768, 2048].contains(&log.evaluate_dims) {
        return Err(problem("log.evaluate_dims", log.evaluate_dims, "must be 64, 192, 768 or 2048"));
    }
    if log.evaluate_every > 0 && log.evaluate_samples == 0 && log.evaluate_images == 0 {
        let reason = "needs something to evaluate: log.evaluate_samples, log.evaluate_images, or both";
        return Err(problem("log.evaluate_every", log.evaluate_every, reason));
    }
    // A covariance needs two.
    if log.evaluate_samples == 1 {
        return Err(problem("log.evaluate_samples", 1, "must be at least 2, or 0 for no FID"));
    }
    Ok(())
}

fn integer<N>(key: &'static str, value: N, least: u64, most: u64) -> Result<(), Problem>
where
    N: TryInto<u64> + Display + Copy,
{
    if value.try_into().is_ok_and(|value| (least..=most).contains(&value)) {
        return Ok(());
    }
    // A bound that only the type sets tells nobody anything.
    let reason = if most == u64::MAX {
        format!("must be a whole number of at least {least}")
    } else {
        format!("must be a whole number from {least} to {most}")
    };
    Err(problem(key, value, reason))
}

fn fraction(key: &'static str, value: f64) -> Result<(), Problem> {
    // f64 just below 1 may round to 1 in f32, with which the network computes.
    if value >= 0.0 && (value as f32) < 1.0 {
        return Ok(());
    }
    Err(problem(key, value, "must be at least 0 and below 1"))
}

fn rate(key: &'static str, value: f64) -> Result<(), Problem> {
    // Below the least f32 it would be 0 in the computation.
    if value.is_finite() && value as f32 > 0.0 && value <= 1.0 {
        return Ok(());
    }
    Err(problem(key, value, "must be above 0 and at most 1"))
}
