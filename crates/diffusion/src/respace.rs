//! Fewer steps: a process over some steps of another, with β such that ᾱ stays what it was at each kept step
//! (Nichol & Dhariwal 2021, §4). Samplers and the bound use it like any process.

use serde::{Deserialize, Serialize};

use crate::config::Prediction;
use crate::error::DiffusionError;
use crate::process::GaussianDiffusion;
use crate::tables::Tables;

/// Which K of T steps are kept. Names and rounding (halves to even) are diffusers'.
///
/// A sampler goes from each kept step to the next. diffusers' `DDIMScheduler` goes from t to t - ⌊T/K⌋
/// instead, which with `linspace`, or `trailing` where K does not divide T, is not the step that it asks the
/// network about next: with [`Self::Linspace`] and few steps its images are others, and further from those of
/// many steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Multiples of ⌊T/K⌋ from 0: always keeps the first step, often leaves out the last.
    #[default]
    Leading,
    /// Every T/K-th step counted down from the last, which it always keeps.
    Trailing,
    /// Evenly spaced from the first step to the last; the first alone when K = 1.
    Linspace,
}

impl Spacing {
    /// Its name in files and keys of caches, the one that serde gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
        }
    }

    /// The kept steps of 0, …, `timesteps`-1, ascending and all different.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] unless 1 ≤ `steps` ≤ `timesteps`.
    pub fn kept_steps(self, timesteps: usize, steps: usize) -> Result<Vec<usize>, DiffusionError> {
        if !(1..=timesteps).contains(&steps) {
            return Err(DiffusionError::OutOfRange {
                key: "steps",
                value: steps.to_string(),
                valid: format!("a whole number from 1 to the process's {timesteps}"),
            });
        }
        Ok((0..steps)
            .map(|i| match self {
                Self::Leading => i * (timesteps / steps),
                Self::Trailing => divide_rounding_half_to_even((i + 1) * timesteps, steps) - 1,
                Self::Linspace => divide_rounding_half_to_even(i * (timesteps - 1), (steps - 1).max(1)),
            })
            .collect())
    }
}

fn divide_rounding_half_to_even(numerator: usize, denominator: usize) -> usize {
    let (quotient, twice_rest) = (numerator / denominator, numerator % denominator * 2);
    let up = twice_rest > denominator || twice_rest == denominator && quotient % 2 == 1;
    quotient + usize::from(up)
}

impl Spacing {
    /// The kept steps of a [`crate::DpmSolverSampler`], ascending and all different. As in diffusers'
    /// multistep solvers, `leading` and `linspace` space `steps` + 1 steps, without the first: from there the
    /// last step would change next to nothing. All steps are kept when `steps` = `timesteps`.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] unless 1 ≤ `steps` ≤ `timesteps`.
    pub fn solver_steps(self, timesteps: usize, steps: usize) -> Result<Vec<usize>, DiffusionError> {
        if self == Self::Trailing || !(1..timesteps).contains(&steps) {
            return self.kept_steps(timesteps, steps);
        }
        let mut kept = self.kept_steps(timesteps, steps + 1)?;
        kept.remove(0);
        Ok(kept)
    }
}

impl GaussianDiffusion {
    /// The process over `steps` of this one's steps. Its network is still asked by the original t.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] unless 1 ≤ `steps` ≤ T, and [`DiffusionError::Conflict`] when steps
    /// would be left out of a process whose network predicts `xprev`, the mean after exactly one original
    /// step.
    pub fn respace(&self, steps: usize, spacing: Spacing) -> Result<Self, DiffusionError> {
        self.keep(&spacing.kept_steps(self.timesteps(), steps)?)
    }

    /// The process over the steps `kept` of this one's, ascending. Its network is still asked by the original t.
    ///
    /// # Errors
    /// [`DiffusionError::Conflict`] when steps would be left out of a process whose network predicts `xprev`.
    ///
    /// # Panics
    /// If `kept` is not ascending, or a step not one of this process.
    pub fn keep(&self, kept: &[usize]) -> Result<Self, DiffusionError> {
        assert!(kept.is_sorted_by(|one, next| one < next), "kept steps ascend");
        if kept.len() == self.timesteps() {
            return Ok(self.clone());
        }
        if self.prediction == Prediction::Xprev {
            return Err(DiffusionError::Conflict(format!(
                "a network with `diffusion.prediction = \"xprev\"` predicts the mean after one step, so none of its {} \
                 steps can be left out: leave `steps` at {}",
                self.timesteps(),
                self.timesteps()
            )));
        }
        let betas = kept
            .iter()
            .scan(1.0, |previous, &t| {
                let signal = self.tables.alphas_cumprod[t];
                Some(1.0 - signal / std::mem::replace(previous, signal))
            })
            .collect();
        Ok(Self {
            tables: Tables::from_betas(betas)?,
            timestep_map: kept.iter().map(|&t| self.timestep_map[t]).collect(),
            respaced: true,
            ..self.clone()
        })
    }

    /// The first `steps` steps of this process alone, with its coefficients to the bit: what leads back to
    /// x_0 from x_t, t = `steps` in the paper's count.
    ///
    /// # Errors
    /// [`DiffusionError::OutOfRange`] unless 1 ≤ `steps` ≤ T.
    pub fn until(&self, steps: usize) -> Result<Self, DiffusionError> {
        if !(1..=self.timesteps()).contains(&steps) {
            return Err(DiffusionError::OutOfRange {
                key: "t",
                value: steps.to_string(),
                valid: format!("a whole number from 1 to the process's {}", self.timesteps()),
            });
        }
        Ok(Self {
            tables: Tables::from_betas(self.tables.betas[..steps].to_vec())?,
            timestep_map: self.timestep_map[..steps].to_vec(),
            ..self.clone()
        })
    }

    /// Whether steps of the network's process are left out.
    pub fn is_respaced(&self) -> bool {
        self.respaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiffusionConfig;

    #[test]
    fn names_are_those_in_files() {
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            assert_eq!(serde_json::to_value(spacing).unwrap(), spacing.name());
        }
    }

    #[test]
    fn spacings_are_those_of_diffusers() {
        // Printed by diffusers' DDIMScheduler(num_train_timesteps=1000).set_timesteps(4), reversed.
        let kept = |spacing: Spacing| spacing.kept_steps(1000, 4).unwrap();
        assert_eq!(kept(Spacing::Leading), [0, 250, 500, 750]);
        assert_eq!(kept(Spacing::Trailing), [249, 499, 749, 999]);
        assert_eq!(kept(Spacing::Linspace), [0, 333, 666, 999]);
    }

    #[test]
    fn any_number_of_steps_is_kept_in_order() {
        for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
            for timesteps in [1, 2, 37, 1000] {
                for steps in 1..=timesteps {
                    let kept = spacing.kept_steps(timesteps, steps).unwrap();
                    assert_eq!(kept.len(), steps);
                    assert!(kept.windows(2).all(|pair| pair[0] < pair[1]), "{spacing:?} {timesteps} {steps}");
                    assert!(kept[steps - 1] < timesteps);
                }
                let all: Vec<_> = (0..timesteps).collect();
                assert_eq!(spacing.kept_steps(timesteps, timesteps).unwrap(), all);
            }
        }
    }

    #[test]
    fn no_steps_and_too_many_are_refused() {
        for steps in [0, 1001] {
            let text = Spacing::Leading.kept_steps(1000, steps).unwrap_err().to_string();
            assert!(text.contains("from 1 to the process's 1000"), "{text}");
        }
    }

    #[test]
    fn a_network_that_predicts_one_step_cannot_skip() {
        let config = DiffusionConfig { prediction: Prediction::Xprev, ..DiffusionConfig::default() };
        let process = GaussianDiffusion::new(&config).unwrap();
        assert!(matches!(process.respace(50, Spacing::Leading), Err(DiffusionError::Conflict(_))));
        assert_eq!(process.respace(1000, Spacing::Leading).unwrap(), process);
    }

    #[test]
    fn respacing_twice_keeps_the_original_timesteps() {
        let process = GaussianDiffusion::new(&DiffusionConfig::default()).unwrap();
        let twice = process.respace(500, Spacing::Trailing).unwrap().respace(2, Spacing::Trailing).unwrap();
        assert_eq!((twice.network_timestep(0), twice.network_timestep(1)), (499, 999));
    }
}
