//! The reverse process from any step to any earlier one: q(x_s | x_t, x_0) for s < t (eqs. 6 and 7 of the paper, for
//! the process respaced to t and s).

use diffusion::GaussianDiffusion;

/// Signal-to-noise ratio ᾱ_t / (1 - ᾱ_t) of x_t.
pub(crate) fn snr(process: &GaussianDiffusion, t: usize) -> f64 {
    let signal = process.tables().alphas_cumprod[t];
    signal / (1.0 - signal)
}

/// x_s given x_t: N(a x_0 + b x_t, σ² I), where the receiver has x̂0(x_t) for x_0.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Jump {
    /// a.
    pub x_start: f32,
    /// b.
    pub x_t: f32,
    /// σ.
    pub sigma: f32,
    /// a/σ: how many σ apart the means are for each unit between x_0 and x̂0. Its square is the gain of
    /// signal-to-noise ratio.
    pub gain: f32,
}

impl Jump {
    /// From step `from` of `process` to `to`, which is earlier.
    pub fn new(process: &GaussianDiffusion, from: usize, to: usize) -> Self {
        let alphas = &process.tables().alphas_cumprod;
        let (signal_t, signal_s) = (alphas[from], alphas[to]);
        let alpha = signal_t / signal_s;
        let x_start = (1.0 - alpha) * signal_s.sqrt() / (1.0 - signal_t);
        let x_t = (1.0 - signal_s) * alpha.sqrt() / (1.0 - signal_t);
        let sigma = ((1.0 - alpha) * (1.0 - signal_s) / (1.0 - signal_t)).sqrt();
        Self { x_start: x_start as f32, x_t: x_t as f32, sigma: sigma as f32, gain: (x_start / sigma) as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::DiffusionConfig;

    #[test]
    fn a_jump_is_a_step_of_the_respaced_process() {
        let process = GaussianDiffusion::new(&DiffusionConfig::default()).unwrap();
        for (from, to) in [(999, 998), (999, 400), (400, 30), (30, 0), (1, 0)] {
            let respaced = process.keep(&[to, from]).unwrap();
            let (tables, jump) = (respaced.tables(), Jump::new(&process, from, to));
            let close =
                |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-6 * b.abs(), "{from} {to}: {a} {b}");
            close(jump.x_start, tables.posterior_mean_coef1[1]);
            close(jump.x_t, tables.posterior_mean_coef2[1]);
            close(jump.sigma, tables.posterior_variance[1].sqrt());
            close(jump.gain * jump.gain, snr(&process, to) - snr(&process, from));
        }
    }
}
