//! How far x̂0 is from the images at hand: measured by the sender, before it plans.

use crate::error::CodecError;
use crate::error_curve::{ErrorCurve, KNOTS};
use crate::jump::snr;
use crate::model::Model;
use diffusion::{GaussianDiffusion, noise};

/// Images whose errors a file's steps are planned from, at most.
pub(crate) const MEASURED_IMAGES: usize = 32;

/// The curve of images `x_start`, as the network sees them when they are noised afresh.
pub(crate) fn measure(
    model: &mut Model,
    x_start: &[f32],
    seed: u64,
    proceed: &mut dyn FnMut() -> Result<(), CodecError>,
) -> Result<ErrorCurve, CodecError> {
    let len = model.image_len();
    let mut errors = [0.0; KNOTS.len()];
    for (error, knot) in errors.iter_mut().zip(KNOTS) {
        let t = nearest_step(model.process, knot);
        for (batch, x_start) in x_start.chunks(model.batch * len).enumerate() {
            proceed()?;
            let steps = vec![t; x_start.len() / len];
            let noise = noise::forward_noise(seed, (batch * model.batch) as u64, &steps, len);
            let x_t = model.process.q_sample(x_start, &steps, &noise);
            *error += squared_error(x_start, &model.predict(&x_t, &steps)?.x_start);
        }
        *error /= x_start.len() as f64;
    }
    Ok(ErrorCurve::nearest(errors))
}

fn nearest_step(process: &GaussianDiffusion, log2_snr: f64) -> usize {
    let miss = |t: &usize| (libm::log2(snr(process, *t)) - log2_snr).abs();
    (0..process.timesteps()).min_by(|a, b| miss(a).total_cmp(&miss(b))).unwrap_or(0)
}

/// Σ (x - y)².
pub(crate) fn squared_error(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum()
}
