//! ᾱ of a linear schedule, found on its own.

use diffusion::DiffusionConfig;

/// ᾱ of every step.
pub fn linear_signal(config: &DiffusionConfig) -> Vec<f64> {
    let step = (config.beta_end - config.beta_start) / (config.timesteps - 1) as f64;
    (0..config.timesteps)
        .scan(1.0, |product, t| {
            *product *= 1.0 - config.beta_start - step * t as f64;
            Some(*product)
        })
        .collect()
}
