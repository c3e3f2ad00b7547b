//! How a run draws images while it trains.

use diffusion::{SamplerKind, Sampling};

/// The paper's sampler for all `timesteps` steps, DDIM for fewer.
pub fn sampling_in(steps: usize, timesteps: usize) -> Sampling {
    let kind = if steps < timesteps { SamplerKind::Ddim { eta: 0.0 } } else { SamplerKind::Ancestral };
    Sampling { kind, steps: Some(steps), spacing: None }
}
