//! Which terms of the bound are evaluated: all T, or an unbiased choice of a few.
//!
//! The steps t = 1, …, T-1 are divided into intervals, the strata. Of each stratum two different steps are
//! drawn afresh for each image, and their mean stands for the stratum's; a stratum of one step is evaluated
//! as it is, and so is the decoder's term t = 0. Two draws also say how much is left to chance by the choice
//! of t.

use diffusion::GaussianDiffusion;
use engine::random::{Purpose, Stream};

/// The part of the draws that is shared out evenly over t.
const EVENLY: f64 = 0.2;

/// A range of steps of which all, or two, are evaluated for an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stratum {
    /// The first step, counted 0, …, T-1.
    pub first: usize,
    /// How many steps.
    pub len: usize,
}

impl Stratum {
    /// The last step.
    pub fn last(&self) -> usize {
        self.first + self.len - 1
    }

    /// Terms evaluated for an image.
    pub fn draws(&self) -> usize {
        self.len.min(2)
    }
}

/// A number of terms that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{terms} terms are not possible; give 3 to {timesteps}, the number of diffusion steps, which evaluates all"
)]
pub struct TermsError {
    terms: usize,
    timesteps: usize,
}

/// The strata of a process, from t = 0 on without gap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Strata(Vec<Stratum>);

impl Strata {
    /// Every step by itself: the full bound.
    pub fn all(process: &GaussianDiffusion) -> Self {
        Self((0..process.timesteps()).map(|first| Stratum { first, len: 1 }).collect())
    }

    /// Strata of which `terms` terms are evaluated for an image.
    ///
    /// They share out, to within whole steps, -log(1-ᾱ_t), which is twice the information that x_t can carry
    /// about an x_0 of variance up to 1 (the capacity of a Gaussian channel, ½ log(1 + ᾱ/(1-ᾱ))). So they are
    /// narrow where t is small and the terms are large. A fifth of the draws is shared out evenly over t, for
    /// curves that have points everywhere.
    ///
    /// # Errors
    /// Unless 3 ≤ `terms` ≤ T, or `terms` = T.
    pub fn new(process: &GaussianDiffusion, terms: usize) -> Result<Self, TermsError> {
        let timesteps = process.timesteps();
        if terms == timesteps {
            return Ok(Self::all(process));
        }
        if !(3..timesteps).contains(&terms) {
            return Err(TermsError { terms, timesteps });
        }
        let weight = weights(process);
        let end = weight[timesteps - 1];
        let mut strata = vec![Stratum { first: 0, len: 1 }];
        let (mut first, mut budget) = (1, terms - 1);
        while first < timesteps {
            let left = timesteps - first;
            let share = (end - weight[first - 1]) / budget as f64;
            let width = |len: usize| weight[first + len - 1] - weight[first - 1];
            let len = if budget == 2 {
                left
            } else if budget % 2 == 1 || budget == left || width(1) >= share {
                // An odd budget cannot be spent in pairs.
                1
            } else {
                let most = left - (budget - 2);
                (2..most).find(|&len| width(len) >= 2.0 * share).unwrap_or(most)
            };
            let stratum = Stratum { first, len };
            budget -= stratum.draws();
            first += len;
            strata.push(stratum);
        }
        Ok(Self(strata))
    }

    /// The strata, from t = 0 on.
    pub fn as_slice(&self) -> &[Stratum] {
        &self.0
    }

    /// Terms evaluated for an image: calls of the network.
    pub fn terms(&self) -> usize {
        self.0.iter().map(Stratum::draws).sum()
    }

    /// T.
    pub fn timesteps(&self) -> usize {
        self.0.iter().map(|stratum| stratum.len).sum()
    }

    /// The steps evaluated for image number `image`, stratum by stratum.
    pub fn steps(&self, seed: u64, image: u64) -> Vec<usize> {
        let mut steps = Vec::with_capacity(self.terms());
        for &Stratum { first, len } in &self.0 {
            if len == 1 {
                steps.push(first);
                continue;
            }
            // Training's draws of t have step 0; a stratum of several steps begins later.
            let stream = Stream::new(seed, Purpose::Timestep, first as u32, image);
            let one = stream.below(0, len as u64) as usize;
            let other = stream.below(1, len as u64 - 1) as usize;
            let other = other + usize::from(other >= one);
            steps.extend([first + one.min(other), first + one.max(other)]);
        }
        steps
    }
}

/// What is shared out: for each t the sum up to it, growing from 0 to 1.
fn weights(process: &GaussianDiffusion) -> Vec<f64> {
    let log_noise = &process.tables().log_one_minus_alphas_cumprod;
    let last = log_noise.len() - 1;
    let (first_log, last_log) = (log_noise[0], log_noise[last]);
    let share = |(t, log): (usize, &f64)| {
        // At the end of a schedule that leaves no signal, rounding may make this 0/0.
        let information = if last_log > first_log { (log - first_log) / (last_log - first_log) } else { 0.0 };
        (1.0 - EVENLY) * information + EVENLY * t as f64 / last as f64
    };
    log_noise.iter().enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::{BetaSchedule, DiffusionConfig};

    fn process(schedule: BetaSchedule, timesteps: usize) -> GaussianDiffusion {
        let prediction = diffusion::Prediction::Xstart;
        GaussianDiffusion::new(&DiffusionConfig {
            schedule,
            timesteps,
            prediction,
            ..DiffusionConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn any_number_of_terms_covers_all_steps_and_is_kept() {
        use BetaSchedule::{Const, Cosine, Jsd, Linear, Quad, Warmup10, Warmup50};
        for schedule in [Linear, Quad, Const, Warmup10, Warmup50, Jsd, Cosine] {
            for timesteps in [3, 4, 5, 37, 100] {
                let process = process(schedule, timesteps);
                for terms in 3..=timesteps {
                    let strata = Strata::new(&process, terms).unwrap();
                    let what = format!("{schedule:?} {terms} of {timesteps}: {strata:?}");
                    assert_eq!((strata.terms(), strata.timesteps()), (terms, timesteps), "{what}");
                    let mut next = 0;
                    for stratum in strata.as_slice() {
                        assert!(stratum.first == next && stratum.len > 0, "{what}");
                        next += stratum.len;
                    }
                    assert_eq!(strata.as_slice()[0].len, 1, "{what}");
                }
                assert_eq!(Strata::new(&process, timesteps).unwrap(), Strata::all(&process));
            }
        }
    }

    #[test]
    fn strata_are_narrow_where_terms_are_large() {
        let strata = Strata::new(&process(BetaSchedule::Linear, 1000), 50).unwrap();
        let lens: Vec<_> = strata.as_slice().iter().map(|stratum| stratum.len).collect();
        assert!(lens[..8].iter().all(|&len| len == 1), "{lens:?}");
        assert!((120..200).contains(lens.last().unwrap()), "{lens:?}");
        // The first hundred steps have most of the terms.
        let early: usize = strata.as_slice().iter().filter(|s| s.first < 100).map(Stratum::draws).sum();
        assert!((26..40).contains(&early), "{early} {lens:?}");
    }

    #[test]
    fn impossible_numbers_of_terms_are_refused() {
        let process = process(BetaSchedule::Linear, 20);
        for terms in [0, 1, 2, 21, usize::MAX] {
            let message = Strata::new(&process, terms).unwrap_err().to_string();
            assert!(message.contains("3 to 20"), "{message}");
        }
        let short = super::tests::process(BetaSchedule::Const, 2);
        assert_eq!(Strata::new(&short, 2).unwrap().terms(), 2);
    }

    #[test]
    fn every_pair_of_a_stratum_is_equally_likely() {
        let strata = Strata(vec![Stratum { first: 0, len: 1 }, Stratum { first: 1, len: 4 }]);
        let mut counts = std::collections::BTreeMap::new();
        for image in 0..12_000 {
            let steps = strata.steps(3, image);
            assert_eq!((steps.len(), steps[0]), (3, 0));
            *counts.entry((steps[1], steps[2])).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6, "{counts:?}");
        // 2000 ± 41 each.
        assert!(counts.iter().all(|(&(a, b), count)| a < b && (1830..2170).contains(count)), "{counts:?}");
        assert_ne!(strata.steps(3, 0), strata.steps(4, 0));
    }
}
