//! The noise schedule β_1, …, β_T of the forward process (§4 of the paper; the original code's alternatives).

use std::f64::consts::FRAC_PI_2;

use crate::config::{BetaSchedule, DiffusionConfig};

/// The offset s that keeps β from vanishing near t = 0 (Nichol & Dhariwal 2021, eq. 17).
const COSINE_OFFSET: f64 = 0.008;
/// The largest β of the cosine schedule (same, §3.2).
const COSINE_MAX_BETA: f64 = 0.999;

/// β for t = 0, …, T-1 (the paper's β_{t+1}), in (0, 1], computed in f64.
///
/// `config` should have passed [`DiffusionConfig::validate`].
pub fn betas(config: &DiffusionConfig) -> Vec<f64> {
    let (timesteps, start, end) = (config.timesteps, config.beta_start, config.beta_end);
    match config.schedule {
        BetaSchedule::Linear => linspace(start, end, timesteps),
        BetaSchedule::Quad => {
            linspace(start.sqrt(), end.sqrt(), timesteps).into_iter().map(|root| root * root).collect()
        }
        BetaSchedule::Const => vec![end; timesteps],
        BetaSchedule::Warmup10 => warmup(start, end, timesteps, timesteps / 10),
        BetaSchedule::Warmup50 => warmup(start, end, timesteps, timesteps / 2),
        BetaSchedule::Jsd => (1..=timesteps).rev().map(|steps_left| 1.0 / steps_left as f64).collect(),
        BetaSchedule::Cosine => cosine(timesteps),
    }
}

/// `count` evenly spaced numbers, both ends included; `start` alone when `count` is 1.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let last = count.saturating_sub(1);
    let step = (end - start) / last.max(1) as f64;
    (0..count).map(|i| if i == last && last > 0 { end } else { start + step * i as f64 }).collect()
}

/// Linear over the first `warmup_steps`, then `end`.
fn warmup(start: f64, end: f64, timesteps: usize, warmup_steps: usize) -> Vec<f64> {
    let mut betas = linspace(start, end, warmup_steps);
    betas.resize(timesteps, end);
    betas
}

/// β_t = 1 - ᾱ(t)/ᾱ(t-1) with ᾱ(t) = cos²((t/T + s)/(1 + s) · π/2).
fn cosine(timesteps: usize) -> Vec<f64> {
    let alpha_cumprod = |t: usize| {
        let cos =
            libm::cos((t as f64 / timesteps as f64 + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * FRAC_PI_2);
        cos * cos
    };
    (0..timesteps).map(|t| (1.0 - alpha_cumprod(t + 1) / alpha_cumprod(t)).min(COSINE_MAX_BETA)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(schedule: BetaSchedule, timesteps: usize) -> Vec<f64> {
        betas(&DiffusionConfig { schedule, timesteps, ..DiffusionConfig::default() })
    }

    #[test]
    fn the_papers_schedule_includes_both_ends() {
        let betas = schedule(BetaSchedule::Linear, 1000);
        assert_eq!(betas.len(), 1000);
        assert_eq!((betas[0], betas[999]), (1e-4, 0.02));
        let step = betas[1] - betas[0];
        assert!(betas.windows(2).all(|pair| (pair[1] - pair[0] - step).abs() < 1e-15));
    }

    #[test]
    fn warmups_reach_the_end_and_stay() {
        let betas = schedule(BetaSchedule::Warmup10, 1000);
        assert!(betas[98] < 0.02);
        assert!(betas[99..].iter().all(|&beta| beta == 0.02));
        // Too short a process to warm up.
        assert_eq!(schedule(BetaSchedule::Warmup10, 5), [0.02; 5]);
    }

    #[test]
    fn every_schedule_of_any_length_stays_within_zero_and_one() {
        use BetaSchedule::*;
        for kind in [Linear, Quad, Const, Warmup10, Warmup50, Jsd, Cosine] {
            for timesteps in [1, 2, 3, 10, 1000] {
                let betas = schedule(kind, timesteps);
                assert_eq!(betas.len(), timesteps);
                assert!(betas.iter().all(|&beta| beta > 0.0 && beta <= 1.0), "{kind:?} {betas:?}");
            }
        }
    }
}
