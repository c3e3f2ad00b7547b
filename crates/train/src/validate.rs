//! The range of every configuration value, and how values must fit each other.

use crate::config::Config;
use diffusion::{Loss, Variance};
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

/// Checks every value.
///
/// # Errors
/// The first value that is out of range or does not fit the others.
pub fn validate(config: &Config) -> Result<(), Problem> {
    data(config)?;
    model(config)?;
    diffusion(config)?;
    train(config)?;
    log(config)
}

fn data(config: &Config) -> Result<(), Problem> {
    let data = &config.data;
    if data.source.trim().is_empty() {
        let reason = "must name the images: cifar10:DIR[:train|:test], mnist:DIR, images:DIR or shapes32";
        return Err(problem("data.source", format!("{:?}", data.source), reason));
    }
    integer("data.image_size", data.image_size, 1, 4096)?;
    if ![1, 3].contains(&data.channels) {
        return Err(problem("data.channels", data.channels, "must be 1 (gray) or 3 (RGB)"));
    }
    Ok(())
}

fn model(config: &Config) -> Result<(), Problem> {
    let model = &config.model;
    integer("model.channels", model.channels, 4, 8192)?;
    if !model.channels.is_multiple_of(2) {
        let reason = "must be even: half of the time embedding are sines, half cosines";
        return Err(problem("model.channels", model.channels, reason));
    }
    let levels = model.channel_mult.len();
    if levels == 0 || levels > 12 || model.channel_mult.iter().any(|mult| !(1..=64).contains(mult)) {
        let reason = "must list 1 to 12 multipliers, one a resolution level, each from 1 to 64";
        return Err(problem("model.channel_mult", format!("{:?}", model.channel_mult), reason));
    }
    integer("model.num_res_blocks", model.num_res_blocks, 1, 64)?;
    fraction("model.dropout", model.dropout)?;
    integer("model.block_size", model.block_size, 1, 64)?;
    let image_size = config.data.image_size;
    if !image_size.is_multiple_of(model.block_size) {
        let reason = format!("must divide data.image_size = {image_size}");
        return Err(problem("model.block_size", model.block_size, reason));
    }
    let network_size = image_size / model.block_size;
    let halvings = levels - 1;
    if !network_size.is_multiple_of(1 << halvings) {
        let reason = format!(
            "must be a multiple of {}: {} levels in model.channel_mult halve it {halvings} times (after model.block_size = {})",
            model.block_size << halvings,
            levels,
            model.block_size,
        );
        return Err(problem("data.image_size", image_size, reason));
    }
    let sizes: Vec<usize> = (0..levels).map(|level| network_size >> level).collect();
    if let Some(size) = model.attention_resolutions.iter().find(|size| !sizes.contains(size)) {
        let reason = format!("no level has feature maps of size {size}; the levels have {sizes:?}");
        return Err(problem("model.attention_resolutions", format!("{:?}", model.attention_resolutions), reason));
    }
    integer("model.norm_groups", model.norm_groups, 1, 8192)?;
    for mult in &model.channel_mult {
        let channels = model.channels * mult;
        if !channels.is_multiple_of(model.norm_groups) {
            let reason = format!(
                "must divide the channels of every level, but {} times {mult} in model.channel_mult gives {channels}",
                model.channels
            );
            return Err(problem("model.norm_groups", model.norm_groups, reason));
        }
    }
    Ok(())
}

fn diffusion(config: &Config) -> Result<(), Problem> {
    let diffusion = &config.diffusion;
    integer("diffusion.timesteps", diffusion.timesteps, 1, 1_000_000)?;
    for (key, beta) in
        [("diffusion.beta_start", diffusion.beta_start), ("diffusion.beta_end", diffusion.beta_end)]
    {
        if !(beta > 0.0 && beta < 1.0) {
            return Err(problem(key, beta, "must be above 0 and below 1"));
        }
    }
    if diffusion.beta_start > diffusion.beta_end {
        let reason = format!("must be at most diffusion.beta_end = {}", diffusion.beta_end);
        return Err(problem("diffusion.beta_start", diffusion.beta_start, reason));
    }
    if diffusion.loss == Loss::Mse && diffusion.variance == Variance::Learned {
        let reason = "has no term for a variance: use diffusion.loss = \"kl\", or a fixed diffusion.variance";
        return Err(problem("diffusion.loss", "\"mse\" with diffusion.variance = \"learned\"", reason));
    }
    Ok(())
}

fn train(config: &Config) -> Result<(), Problem> {
    let train = &config.train;
    // Counters that key the random numbers have 32 bits.
    integer("train.steps", train.steps, 1, u32::MAX.into())?;
    integer("train.batch_size", train.batch_size, 1, 1 << 20)?;
    if train.micro_batch > 0 && !train.batch_size.is_multiple_of(train.micro_batch) {
        let reason = format!("must divide train.batch_size = {} (0: the whole batch at once)", train.batch_size);
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
    if log.sample_every > 0 && log.sample_steps > config.diffusion.timesteps {
        let reason = format!("must be at most diffusion.timesteps = {}", config.diffusion.timesteps);
        return Err(problem("log.sample_steps", log.sample_steps, reason));
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
