//! What the terms of many images come to: bits/dim, rate, distortion, and the curves of Fig. 5.

use super::strata::{Strata, Stratum};
use super::term_file::{TermFile, TermFileError};
use crate::estimate::{Estimate, RunningMean};
use diffusion::BoundTerm;
use diffusion::pixels::PIXEL_VALUES_PER_UNIT;
use serde::{Deserialize, Serialize};

/// The bound of one image, in bits/dim.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ImageBound {
    /// L_T.
    pub prior: f64,
    /// L_1 + … + L_T: what the lossless code sends before the decoder's part. An unbiased estimate unless all terms
    /// are evaluated.
    pub rate: f64,
    /// L_0.
    pub distortion: f64,
    /// Unbiased estimate of the variance of `rate` due to the choice of t (and its noise); 0 if all terms are
    /// evaluated.
    pub variance_of_choice: f64,
}

impl ImageBound {
    /// The bound on the negative log likelihood.
    pub fn total(&self) -> f64 {
        self.rate + self.distortion
    }

    /// The bound from an image's entries: its prior, and the terms at `steps`.
    fn new(strata: &Strata, entries: &[BoundTerm]) -> Self {
        let prior = entries[0].bits_per_dim;
        let (mut rate, mut variance_of_choice) = (prior, 0.0);
        let mut terms = entries[1..].iter().map(|entry| entry.bits_per_dim);
        let distortion = terms.next().unwrap_or_default();
        for stratum in &strata.as_slice()[1..] {
            let drawn = Drawn::take(stratum, &mut terms);
            rate += drawn.sum;
            variance_of_choice += drawn.variance;
        }
        Self { prior, rate, distortion, variance_of_choice }
    }
}

/// What the terms drawn of a stratum say about all of it.
struct Drawn {
    /// Estimate of the sum of its terms.
    sum: f64,
    /// Estimate of that estimate's variance.
    variance: f64,
}

impl Drawn {
    fn take(stratum: &Stratum, terms: &mut impl Iterator<Item = f64>) -> Self {
        let mut next = || terms.next().unwrap_or_default();
        let len = stratum.len as f64;
        if stratum.draws() == 1 {
            return Self { sum: next(), variance: 0.0 };
        }
        let (one, other) = (next(), next());
        // Two draws of n without replacement: n² (1 - 2/n) s²/2, and s² = (a - b)²/2.
        let variance = len * (len - 2.0) * (one - other) * (one - other) / 4.0;
        Self { sum: len * (one + other) / 2.0, variance }
    }
}

/// What is known of the steps of a stratum, means over the images.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepRow {
    /// The first step, counted 0, …, T-1 (the paper's t is one more).
    pub first_t: usize,
    /// The last step: the same unless a choice of terms was evaluated.
    pub last_t: usize,
    /// L_t of one step, in bits/dim; of several, their mean.
    pub bits_per_dim: Estimate,
    /// Bits/dim received by a receiver who holds x_t (Fig. 5, Table 4): L_T and the terms after t. Of several
    /// steps, the mean.
    pub rate: Estimate,
    /// Root mean squared error of x̂0(x_t) over all images, on the 0–255 scale. Of several steps, over all of them.
    pub rmse: Estimate,
}

/// A model's bound on a set of images.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Images evaluated.
    pub images: u64,
    /// T.
    pub timesteps: usize,
    /// Terms evaluated of each image: calls of the network.
    pub terms: usize,
    /// The bound on the negative log likelihood, in bits/dim: `rate` + `distortion`.
    pub bits_per_dim: Estimate,
    /// L_1 + … + L_T, in bits/dim.
    pub rate: Estimate,
    /// L_0, in bits/dim.
    pub distortion: Estimate,
    /// L_T alone, in bits/dim.
    pub prior: Estimate,
    /// The part of `bits_per_dim`'s standard error that comes from evaluating a choice of terms only: what would
    /// remain were all images of the population evaluated. 0 for the full bound.
    pub standard_error_of_choice: f64,
    /// By step, or by stratum, from t = 0 on.
    pub steps: Vec<StepRow>,
}

impl Summary {
    /// Sums up the first `images` images of `file`. `visit` is given the bound of each in turn.
    ///
    /// # Errors
    /// If the file cannot be read or has fewer.
    pub fn of(
        file: &TermFile,
        strata: &Strata,
        seed: u64,
        images: u64,
        mut image_of: impl FnMut(u64) -> u64,
        mut visit: impl FnMut(u64, &ImageBound),
    ) -> Result<Self, TermFileError> {
        let mut sums = Sums::new(strata);
        let mut place = 0;
        file.visit_groups(1 + strata.terms(), images, |entries| {
            let image = image_of(place);
            let bound = ImageBound::new(strata, entries);
            sums.add(strata, &strata.steps(seed, image), entries, &bound);
            visit(image, &bound);
            place += 1;
        })?;
        Ok(sums.finish(strata))
    }
}

/// Sums over images.
#[derive(Default)]
struct Sums {
    total: RunningMean,
    rate: RunningMean,
    distortion: RunningMean,
    prior: RunningMean,
    variance_of_choice: RunningMean,
    steps: Vec<StepSums>,
}

#[derive(Clone, Default)]
struct StepSums {
    bits_per_dim: RunningMean,
    rate: RunningMean,
    mse: RunningMean,
}

impl Sums {
    fn new(strata: &Strata) -> Self {
        Self { steps: vec![StepSums::default(); strata.as_slice().len()], ..Self::default() }
    }

    /// Adds an image with terms at `steps`.
    fn add(&mut self, strata: &Strata, steps: &[usize], entries: &[BoundTerm], bound: &ImageBound) {
        self.total.add(bound.total());
        self.rate.add(bound.rate);
        self.distortion.add(bound.distortion);
        self.prior.add(bound.prior);
        self.variance_of_choice.add(bound.variance_of_choice);
        // From the last step down, as bits are received.
        let mut received = bound.prior;
        let mut end = steps.len();
        for (stratum, sums) in strata.as_slice().iter().zip(&mut self.steps).rev() {
            let begin = end - stratum.draws();
            let draws = stratum.draws() as f64;
            let drawn = || steps[begin..end].iter().zip(&entries[1 + begin..1 + end]);
            let mean = |value: &dyn Fn(&usize, &BoundTerm) -> f64| {
                drawn().map(|(t, term)| value(t, term)).sum::<f64>() / draws
            };
            let bits = mean(&|_, term| term.bits_per_dim);
            // Averaged over the stratum's t: a term is received at each t before its own.
            let within = mean(&|t, term| term.bits_per_dim * (t - stratum.first) as f64);
            sums.bits_per_dim.add(bits);
            sums.rate.add(received + within);
            sums.mse.add(mean(&|_, term| term.xstart_mse));
            received += stratum.len as f64 * bits;
            end = begin;
        }
    }

    fn finish(self, strata: &Strata) -> Summary {
        let steps = strata.as_slice().iter().zip(&self.steps).map(|(stratum, sums)| StepRow {
            first_t: stratum.first,
            last_t: stratum.last(),
            bits_per_dim: sums.bits_per_dim.estimate(),
            rate: sums.rate.estimate(),
            rmse: sums.mse.estimate().root().times(PIXEL_VALUES_PER_UNIT),
        });
        let images = self.total.count();
        Summary {
            images,
            timesteps: strata.timesteps(),
            terms: strata.terms(),
            bits_per_dim: self.total.estimate(),
            rate: self.rate.estimate(),
            distortion: self.distortion.estimate(),
            prior: self.prior.estimate(),
            standard_error_of_choice: (self.variance_of_choice.mean() / images.max(1) as f64).sqrt(),
            steps: steps.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::{DiffusionConfig, GaussianDiffusion};

    /// Terms of an image that are known for every t.
    fn entries(strata: &Strata, seed: u64, image: u64, term: impl Fn(usize) -> BoundTerm) -> Vec<BoundTerm> {
        let prior = BoundTerm { bits_per_dim: 0.125, xstart_mse: 0.0 };
        std::iter::once(prior).chain(strata.steps(seed, image).into_iter().map(term)).collect()
    }

    fn sums(strata: &Strata, images: u64, term: impl Fn(usize) -> BoundTerm) -> Summary {
        let mut sums = Sums::new(strata);
        for image in 0..images {
            let entries = entries(strata, 9, image, &term);
            let bound = ImageBound::new(strata, &entries);
            sums.add(strata, &strata.steps(9, image), &entries, &bound);
        }
        sums.finish(strata)
    }

    fn term(t: usize) -> BoundTerm {
        BoundTerm { bits_per_dim: 2.0 / (1.0 + t as f64), xstart_mse: 0.001 * (1 + t) as f64 }
    }

    #[test]
    fn a_choice_of_terms_is_unbiased_and_knows_its_error() {
        let process =
            GaussianDiffusion::new(&DiffusionConfig { timesteps: 60, ..DiffusionConfig::default() }).unwrap();
        let full = sums(&Strata::all(&process), 2, term);
        let exact: f64 = (0..60).map(|t| term(t).bits_per_dim).sum();
        assert!((full.bits_per_dim.mean - exact - 0.125).abs() < 1e-12);
        assert_eq!(full.standard_error_of_choice, 0.0);
        // Every image has the same terms: all spread comes from the choice of t.
        let strata = Strata::new(&process, 8).unwrap();
        let few = sums(&strata, 4000, term);
        let error = few.bits_per_dim.standard_error.unwrap();
        assert!((few.bits_per_dim.mean - full.bits_per_dim.mean).abs() < 4.0 * error, "{few:?}");
        assert!(
            (few.standard_error_of_choice / error - 1.0).abs() < 0.1,
            "{} {error}",
            few.standard_error_of_choice
        );
        for row in &few.steps {
            let covered = &full.steps[row.first_t..=row.last_t];
            let mean =
                |f: &dyn Fn(&StepRow) -> f64| covered.iter().map(f).sum::<f64>() / covered.len() as f64;
            let near = |found: Estimate, expected: f64| {
                let error = 4.0 * found.standard_error.unwrap() + 1e-12;
                assert!((found.mean - expected).abs() < error, "{row:?}: {expected}");
            };
            near(row.bits_per_dim, mean(&|row| row.bits_per_dim.mean));
            near(row.rate, mean(&|row| row.rate.mean));
            near(row.rmse, mean(&|row| row.rmse.mean.powi(2)).sqrt());
        }
    }

    #[test]
    fn rate_is_what_was_received_and_distortion_what_is_missing() {
        let process =
            GaussianDiffusion::new(&DiffusionConfig { timesteps: 4, ..DiffusionConfig::default() }).unwrap();
        let full = sums(&Strata::all(&process), 1, |t| BoundTerm {
            bits_per_dim: [8.0, 4.0, 2.0, 1.0][t],
            xstart_mse: 0.25 * t as f64,
        });
        let rates: Vec<_> = full.steps.iter().map(|row| row.rate.mean).collect();
        assert_eq!(rates, [7.125, 3.125, 1.125, 0.125]);
        assert_eq!(full.steps[1].rmse.mean, 63.75);
        assert_eq!((full.rate.mean, full.distortion.mean, full.prior.mean), (7.125, 8.0, 0.125));
        assert_eq!((full.bits_per_dim.mean, full.bits_per_dim.standard_error), (15.125, None));
    }
}
