//! The coefficients of every step, from β, in f64.

use crate::error::DiffusionError;

/// Per-step coefficients of a diffusion process, each indexed by t = 0, …, T-1 (the paper's t+1).
///
/// Names are the original code's: ᾱ is `alphas_cumprod`, β̃ `posterior_variance`.
#[derive(Clone, PartialEq, Debug)]
pub struct Tables {
    /// β_t.
    pub betas: Vec<f64>,
    /// ᾱ_t = ∏ (1-β_s), s ≤ t.
    pub alphas_cumprod: Vec<f64>,
    /// ᾱ_{t-1}, which is 1 at t = 0.
    pub alphas_cumprod_prev: Vec<f64>,

    /// √ᾱ_t, the coefficient of x_0 in x_t (eq. 4).
    pub sqrt_alphas_cumprod: Vec<f64>,
    /// √(1-ᾱ_t), the standard deviation of x_t given x_0 (eq. 4).
    pub sqrt_one_minus_alphas_cumprod: Vec<f64>,
    /// log(1-ᾱ_t), its log variance.
    pub log_one_minus_alphas_cumprod: Vec<f64>,
    /// √(1/ᾱ_t), the coefficient of x_t in x̂0 (eq. 15). Infinite where ᾱ_t = 0.
    pub sqrt_recip_alphas_cumprod: Vec<f64>,
    /// √(1/ᾱ_t - 1), that of -ε in x̂0 (eq. 15). Infinite where ᾱ_t = 0.
    pub sqrt_recipm1_alphas_cumprod: Vec<f64>,

    /// β̃_t = β_t (1-ᾱ_{t-1}) / (1-ᾱ_t) (eq. 7); 0 at t = 0.
    pub posterior_variance: Vec<f64>,
    /// log β̃_t, with entry 0 (log 0) replaced by entry 1; log β_0 in a process of one step, which has no entry 1.
    pub posterior_log_variance_clipped: Vec<f64>,
    /// β_t √ᾱ_{t-1} / (1-ᾱ_t), the coefficient of x_0 in μ̃_t (eq. 7).
    pub posterior_mean_coef1: Vec<f64>,
    /// (1-ᾱ_{t-1}) √α_t / (1-ᾱ_t), that of x_t (eq. 7).
    pub posterior_mean_coef2: Vec<f64>,

    /// The log variance of `fixed_large`: log β_t, with entry 0 replaced by that of log β̃, the better
    /// width for the decoder.
    pub fixed_large_log_variance: Vec<f64>,
}

impl Tables {
    /// The tables of a process with these β.
    ///
    /// # Errors
    /// [`DiffusionError::DegenerateSchedule`] when there is no β, one is outside (0, 1] or so small that 1-β rounds
    /// to 1, or the signal ᾱ is gone before the last step.
    pub fn from_betas(betas: Vec<f64>) -> Result<Self, DiffusionError> {
        let alphas_cumprod: Vec<f64> = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        let alphas_cumprod_prev: Vec<f64> =
            std::iter::once(1.0).chain(alphas_cumprod.iter().copied()).take(betas.len()).collect();
        check(&betas, &alphas_cumprod, &alphas_cumprod_prev)?;

        let of_signal =
            |f: fn(f64) -> f64| alphas_cumprod.iter().map(|&signal| f(signal)).collect::<Vec<_>>();
        let of_step = |f: fn(Step) -> f64| {
            (0..betas.len())
                .map(|t| {
                    f(Step { beta: betas[t], signal: alphas_cumprod[t], previous: alphas_cumprod_prev[t] })
                })
                .collect::<Vec<_>>()
        };

        let posterior_variance = of_step(|s| s.beta * (1.0 - s.previous) / (1.0 - s.signal));
        let first_log_variance = libm::log(*posterior_variance.get(1).unwrap_or(&betas[0]));
        let with_first = |variance: &[f64]| {
            let rest = variance.iter().skip(1).map(|&v| libm::log(v));
            std::iter::once(first_log_variance).chain(rest).collect::<Vec<_>>()
        };

        Ok(Self {
            sqrt_alphas_cumprod: of_signal(f64::sqrt),
            sqrt_one_minus_alphas_cumprod: of_signal(|signal| (1.0 - signal).sqrt()),
            log_one_minus_alphas_cumprod: of_signal(|signal| libm::log(1.0 - signal)),
            sqrt_recip_alphas_cumprod: of_signal(|signal| (1.0 / signal).sqrt()),
            sqrt_recipm1_alphas_cumprod: of_signal(|signal| (1.0 / signal - 1.0).sqrt()),
            posterior_log_variance_clipped: with_first(&posterior_variance),
            posterior_mean_coef1: of_step(|s| s.beta * s.previous.sqrt() / (1.0 - s.signal)),
            posterior_mean_coef2: of_step(|s| (1.0 - s.previous) * (1.0 - s.beta).sqrt() / (1.0 - s.signal)),
            fixed_large_log_variance: with_first(&betas),
            posterior_variance,
            betas,
            alphas_cumprod,
            alphas_cumprod_prev,
        })
    }

    /// T, the number of steps.
    pub fn timesteps(&self) -> usize {
        self.betas.len()
    }

    /// (log β̃_t, log β_t), between which a variance learned as a range lies (Nichol & Dhariwal 2021, eq. 15).
    pub fn log_variance_range(&self, t: usize) -> (f64, f64) {
        (self.posterior_log_variance_clipped[t], libm::log(self.betas[t]))
    }
}

struct Step {
    beta: f64,
    signal: f64,
    previous: f64,
}

fn check(betas: &[f64], signal: &[f64], previous: &[f64]) -> Result<(), DiffusionError> {
    let timesteps = betas.len();
    let degenerate = |t, what| Err(DiffusionError::DegenerateSchedule { t, timesteps, what });
    if betas.is_empty() {
        return degenerate(0, "it has no steps");
    }
    for t in 0..timesteps {
        if !(betas[t] > 0.0 && betas[t] <= 1.0) {
            return degenerate(t, "β is not in (0, 1]");
        }
        if signal[t] == previous[t] {
            return degenerate(t, "β is so small that the step changes nothing in 64-bit arithmetic");
        }
        // The normal range: further down, ᾱ loses digits.
        if previous[t] < f64::MIN_POSITIVE {
            return degenerate(t, "the signal ᾱ has already vanished before this step");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_one_step_has_finite_tables() {
        let tables = Tables::from_betas(vec![0.02]).unwrap();
        assert_eq!(tables.posterior_variance, [0.0]);
        assert_eq!(tables.posterior_log_variance_clipped, [0.02f64.ln()]);
        assert_eq!(tables.fixed_large_log_variance, [0.02f64.ln()]);
        assert!((tables.posterior_mean_coef1[0] - 1.0).abs() < 1e-14);
        assert_eq!(tables.posterior_mean_coef2[0], 0.0);
    }

    #[test]
    fn a_last_step_may_destroy_everything_but_an_earlier_one_may_not() {
        let tables = Tables::from_betas(vec![0.5, 1.0]).unwrap();
        assert_eq!((tables.alphas_cumprod[1], tables.sqrt_one_minus_alphas_cumprod[1]), (0.0, 1.0));
        assert!(Tables::from_betas(vec![0.5, 1.0, 0.5]).unwrap_err().to_string().contains("t = 2 of 3"));
        assert!(Tables::from_betas(vec![0.9; 1000]).unwrap_err().to_string().contains("vanished"));
    }

    #[test]
    fn betas_that_are_none_are_refused() {
        for bad in [vec![], vec![0.0], vec![1e-300, 0.02], vec![0.1, 1.1], vec![f64::NAN]] {
            assert!(matches!(Tables::from_betas(bad), Err(DiffusionError::DegenerateSchedule { .. })));
        }
    }
}
