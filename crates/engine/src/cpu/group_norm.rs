//! Group normalisation and SiLU, fused, forward and backward: see [`crate::ops::group_norm`].
//!
//! Statistics: each channel is summed over stretches of [`STRETCH`] pixels in `f32`, the stretches and then
//! the channels of a group in `f64`; the variance in a second pass, from the differences to the mean.
//!
//! Passes go over stretches of whole pixels, so memory is read in its order. The sums of stretches are added
//! in order, whichever thread computed them.

use super::math::sigmoid;
use super::parallel::{Shared, for_each_task};
use super::simd::Level;
use crate::ops::GroupNorm;
use crate::shape::Shape;

/// Pixels of a stretch.
const STRETCH: usize = 32;
/// Sums that a pass makes at most.
const SUMS: usize = 2;
/// Values of each channel that passes hand on: mean, inverse deviation, and two of the gradient's.
const COEFFICIENTS: usize = 4;

/// Elements of workspace, forward and backward.
pub(crate) fn workspace(shape: Shape) -> usize {
    shape.n * Plan::new(shape).sample_len()
}

/// How a tensor is passed over, and where each sample's sums and coefficients lie in the workspace.
#[derive(Clone, Copy)]
struct Plan {
    shape: Shape,
    stretches: usize,
}

/// One pass over a sample: over each stretch, then what follows from all of them.
struct Pass<'a> {
    stretch: &'a (dyn Fn(Place) + Sync),
    finish: &'a (dyn Fn(usize) + Sync),
}

/// A stretch of a sample.
#[derive(Clone, Copy)]
struct Place {
    n: usize,
    stretch: usize,
}

impl Plan {
    fn new(shape: Shape) -> Self {
        Self { shape, stretches: shape.pixels().div_ceil(STRETCH) }
    }

    fn sample_len(&self) -> usize {
        (self.stretches * SUMS + COEFFICIENTS) * self.shape.c
    }

    /// Where a stretch's sums begin.
    fn sums(&self, place: Place) -> usize {
        place.n * self.sample_len() + place.stretch * SUMS * self.shape.c
    }

    /// Where a sample's coefficients begin.
    fn coefficients(&self, n: usize) -> usize {
        n * self.sample_len() + self.stretches * SUMS * self.shape.c
    }

    /// Where a stretch begins in the tensor, and its elements.
    fn elements(&self, place: Place) -> (usize, usize) {
        let first = place.stretch * STRETCH;
        let pixels = STRETCH.min(self.shape.pixels() - first);
        (place.n * self.shape.sample_len() + first * self.shape.c, pixels * self.shape.c)
    }

    /// The totals of sum `which` of all channels over a sample's stretches.
    fn totals(&self, level: Level, sums: &[f32], which: usize) -> Vec<f64> {
        let c = self.shape.c;
        let mut totals = vec![0.0; c];
        level.vectorize(
            #[inline(always)]
            || {
                // All channels of a stretch, then the next: one channel's additions each wait for the one before.
                for sums in sums.chunks_exact(SUMS * c) {
                    for (total, &sum) in totals.iter_mut().zip(&sums[which * c..]) {
                        *total += f64::from(sum);
                    }
                }
            },
        );
        totals
    }

    /// Gives all channels of a group its statistics: sets the first two coefficients.
    fn spread(&self, groups: usize, statistics: &[f32], workspace: &mut [f32]) {
        let (c, group) = (self.shape.c, self.shape.c / groups);
        for (n, statistics) in statistics.chunks_exact(2 * groups).enumerate() {
            let (means, rest) = workspace[self.coefficients(n)..].split_at_mut(c);
            let channels = means.chunks_exact_mut(group).zip(rest.chunks_exact_mut(group));
            for (pair, (means, inverses)) in statistics.chunks_exact(2).zip(channels) {
                means.fill(pair[0]);
                inverses.fill(pair[1]);
            }
        }
    }

    /// Runs the passes over all samples.
    fn run(&self, passes: &[Pass]) {
        // Many samples: each is one task, which keeps what it reads again in its cache. Few: their stretches
        // are shared out.
        if self.shape.n >= 2 * rayon::current_num_threads() {
            for_each_task(self.shape.n, |n| {
                for pass in passes {
                    (0..self.stretches).for_each(|stretch| (pass.stretch)(Place { n, stretch }));
                    (pass.finish)(n);
                }
            });
        } else {
            for pass in passes {
                for_each_task(self.shape.n * self.stretches, |task| {
                    (pass.stretch)(Place { n: task / self.stretches, stretch: task % self.stretches });
                });
                (0..self.shape.n).for_each(pass.finish);
            }
        }
    }
}

/// y and the statistics from x.
pub(crate) fn forward(
    level: Level,
    norm: GroupNorm,
    shape: Shape,
    [x, gamma, beta]: [&[f32]; 3],
    workspace: &mut [f32],
    [y, statistics]: [&mut [f32]; 2],
) {
    let plan = Plan::new(shape);
    let c = shape.c;
    let group = c / norm.groups;
    let count = (shape.pixels() * group) as f64;
    let (workspace, y, statistics) = (Shared::new(workspace), Shared::new(y), Shared::new(statistics));
    // SAFETY of what follows: within a pass a stretch's sums and elements are one task's, and a sample's
    // coefficients are only read; between passes a sample's sums, coefficients and statistics are those of
    // the one that finishes it.
    let source = |place| {
        let (start, len) = plan.elements(place);
        &x[start..start + len]
    };
    // SAFETY: see above.
    let sums = |place| unsafe { workspace.slice(plan.sums(place), c) };
    // SAFETY: see above.
    let coefficients = |n| unsafe { workspace.read(plan.coefficients(n), 2 * c) }.split_at(c);
    // SAFETY: see above.
    let set_coefficients = |n| unsafe { workspace.slice(plan.coefficients(n), 2 * c) }.split_at_mut(c);
    // SAFETY: see above.
    let all_sums =
        |n| unsafe { workspace.read(plan.sums(Place { n, stretch: 0 }), plan.stretches * SUMS * c) };
    // SAFETY: see above.
    let pair = |n, index| unsafe { statistics.slice(2 * (n * norm.groups + index), 2) };

    let sum = |place: Place| {
        let (means, _) = coefficients(place.n);
        sum_pixels(level, source(place), means, sums(place), |x, _| x);
    };
    let finish_mean = |n| {
        let (totals, (means, _)) = (plan.totals(level, all_sums(n), 0), set_coefficients(n));
        for (totals, means) in totals.chunks_exact(group).zip(means.chunks_exact_mut(group)) {
            means.fill((totals.iter().sum::<f64>() / count) as f32);
        }
    };
    let sum_squares = |place: Place| {
        let (means, _) = coefficients(place.n);
        sum_pixels(level, source(place), means, sums(place), |x, mean| (x - mean) * (x - mean));
    };
    let finish_variance = |n| {
        let (totals, (means, inverses)) = (plan.totals(level, all_sums(n), 0), set_coefficients(n));
        let groups = totals.chunks_exact(group).zip(inverses.chunks_exact_mut(group));
        for (index, (totals, inverses)) in groups.enumerate() {
            let total: f64 = totals.iter().sum();
            let inverse = (1.0 / (total / count + f64::from(norm.epsilon)).sqrt()) as f32;
            inverses.fill(inverse);
            pair(n, index).copy_from_slice(&[means[index * group], inverse]);
        }
    };
    let apply = |place: Place| {
        let (start, len) = plan.elements(place);
        let (means, inverses) = coefficients(place.n);
        // SAFETY: see above.
        let y = unsafe { y.slice(start, len) };
        normalise(level, norm.silu, [source(place), means, inverses, gamma, beta], y);
    };
    plan.run(&[
        Pass { stretch: &sum, finish: &finish_mean },
        Pass { stretch: &sum_squares, finish: &finish_variance },
        Pass { stretch: &apply, finish: &|_| {} },
    ]);
}

/// Sums `term` of a channel's elements and its mean over whole pixels, for each channel.
fn sum_pixels(level: Level, pixels: &[f32], means: &[f32], sums: &mut [f32], term: impl Fn(f32, f32) -> f32) {
    /// Channels whose sums stay in registers.
    const STRIP: usize = 64;
    let c = sums.len();
    level.vectorize(
        #[inline(always)]
        || {
            let (strips, rest) = sums.as_chunks_mut::<STRIP>();
            let first_of_rest = c - rest.len();
            for (first, sums) in (0..c).step_by(STRIP).zip(strips) {
                let (means, mut own) = (&means[first..][..STRIP], [0.0; STRIP]);
                for pixel in pixels.chunks_exact(c) {
                    for ((sum, &x), &mean) in own.iter_mut().zip(&pixel[first..][..STRIP]).zip(means) {
                        *sum += term(x, mean);
                    }
                }
                *sums = own;
            }
            rest.fill(0.0);
            let means = &means[first_of_rest..c];
            for pixel in pixels.chunks_exact(c) {
                for ((sum, &x), &mean) in rest.iter_mut().zip(&pixel[first_of_rest..]).zip(means) {
                    *sum += term(x, mean);
                }
            }
        },
    );
}

/// y from x and the statistics that [`forward`] gave.
pub(crate) fn apply(
    level: Level,
    norm: GroupNorm,
    shape: Shape,
    [x, gamma, beta, statistics]: [&[f32]; 4],
    workspace: &mut [f32],
    y: &mut [f32],
) {
    let plan = Plan::new(shape);
    plan.spread(norm.groups, statistics, workspace);
    let (workspace, y) = (&*workspace, Shared::new(y));
    let apply = |place: Place| {
        let (start, len) = plan.elements(place);
        let (means, inverses) = workspace[plan.coefficients(place.n)..][..2 * shape.c].split_at(shape.c);
        // SAFETY: this stretch is this task's.
        let y = unsafe { y.slice(start, len) };
        normalise(level, norm.silu, [&x[start..start + len], means, inverses, gamma, beta], y);
    };
    plan.run(&[Pass { stretch: &apply, finish: &|_| {} }]);
}

/// Normalises whole pixels by means and inverse deviations of their channels.
fn normalise(level: Level, silu: bool, factors: [&[f32]; 5], y: &mut [f32]) {
    // Known to the loop over elements.
    match silu {
        true => normalise_and::<true>(level, factors, y),
        false => normalise_and::<false>(level, factors, y),
    }
}

fn normalise_and<const SILU: bool>(
    level: Level,
    [x, means, inverses, gamma, beta]: [&[f32]; 5],
    y: &mut [f32],
) {
    let c = gamma.len();
    level.vectorize(
        #[inline(always)]
        || {
            // Slices of one length: the compiler then drops the bounds checks and uses vectors.
            let (means, inverses, gamma, beta) = (&means[..c], &inverses[..c], &gamma[..c], &beta[..c]);
            for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
                for i in 0..c {
                    let z = ((x[i] - means[i]) * inverses[i]).mul_add(gamma[i], beta[i]);
                    y[i] = if SILU { z * sigmoid(z) } else { z };
                }
            }
        },
    );
}

/// dx from x and dy, which without `dy` is in dx; adds to dgamma and dbeta, sample after sample.
///
/// With dz the gradient after SiLU's, `g = γ dz` and means over a group:
/// `dx = (g - mean(g) - x̂ · mean(g x̂)) / deviation`; `dγ = Σ dz x̂`, `dβ = Σ dz`.
pub(crate) fn gradient(
    level: Level,
    norm: GroupNorm,
    shape: Shape,
    [x, gamma, beta, statistics]: [&[f32]; 4],
    dy: Option<&[f32]>,
    workspace: &mut [f32],
    [dx, dgamma, dbeta]: [&mut [f32]; 3],
) {
    let plan = Plan::new(shape);
    let c = shape.c;
    let group = c / norm.groups;
    let count = (shape.pixels() * group) as f64;
    plan.spread(norm.groups, statistics, workspace);
    let (shared, dx) = (Shared::new(workspace), Shared::new(dx));
    // SAFETY of what follows: as forward.
    let coefficients = |n| {
        // SAFETY: see above.
        let all = unsafe { shared.read(plan.coefficients(n), COEFFICIENTS * c) };
        [0, 1, 2, 3].map(|index| &all[index * c..][..c])
    };
    // dz is kept in dx until the means are known.
    let backward = |place: Place| {
        let (start, len) = plan.elements(place);
        let x = &x[start..start + len];
        let [means, inverses, ..] = coefficients(place.n);
        // SAFETY: see above.
        let (dz, sums) = unsafe { (dx.slice(start, len), shared.slice(plan.sums(place), SUMS * c)) };
        if let Some(dy) = dy {
            dz.copy_from_slice(&dy[start..start + len]);
        }
        let factors = [x, means, inverses, gamma, beta];
        match norm.silu {
            true => gradient_before::<true>(level, factors, dz, sums),
            false => gradient_before::<false>(level, factors, dz, sums),
        }
    };
    let finish = |n| {
        // SAFETY: see above.
        let sums = unsafe { shared.slice(plan.sums(Place { n, stretch: 0 }), plan.stretches * SUMS * c) };
        let totals = [0, 1].map(|which| plan.totals(level, sums, which));
        // SAFETY: see above. Means and deviations come first.
        let means = unsafe { shared.slice(plan.coefficients(n) + 2 * c, 2 * c) };
        let (mean_g, mean_g_hat) = means.split_at_mut(c);
        for first in (0..c).step_by(group) {
            let channels = first..first + group;
            let mean = |which: usize| {
                let terms = channels.clone().map(|c| f64::from(gamma[c]) * totals[which][c]);
                (terms.sum::<f64>() / count) as f32
            };
            mean_g[channels.clone()].fill(mean(0));
            mean_g_hat[channels.clone()].fill(mean(1));
        }
        // The first stretch's place now holds the sample's totals.
        for (sum, total) in sums.iter_mut().zip(totals.iter().flatten()) {
            *sum = *total as f32;
        }
    };
    let apply = |place: Place| {
        let (start, len) = plan.elements(place);
        let [means, inverses, mean_g, mean_g_hat] = coefficients(place.n);
        // SAFETY: see above.
        let dx = unsafe { dx.slice(start, len) };
        level.vectorize(
            #[inline(always)]
            || {
                let (means, inverses, gamma) = (&means[..c], &inverses[..c], &gamma[..c]);
                let (mean_g, mean_g_hat) = (&mean_g[..c], &mean_g_hat[..c]);
                for (x, dx) in x[start..start + len].chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
                    for i in 0..c {
                        let hat = (x[i] - means[i]) * inverses[i];
                        let g = dx[i] * gamma[i];
                        dx[i] = ((-hat).mul_add(mean_g_hat[i], g) - mean_g[i]) * inverses[i];
                    }
                }
            },
        );
    };
    plan.run(&[Pass { stretch: &backward, finish: &finish }, Pass { stretch: &apply, finish: &|_| {} }]);
    for n in 0..shape.n {
        let sums = &workspace[plan.sums(Place { n, stretch: 0 })..][..SUMS * c];
        for channel in 0..c {
            dbeta[channel] += sums[channel];
            dgamma[channel] += sums[c + channel];
        }
    }
}

/// The gradient `dz` before SiLU from the one after it, and its sums: of dz, then of dz x̂.
fn gradient_before<const SILU: bool>(
    level: Level,
    [x, means, inverses, gamma, beta]: [&[f32]; 5],
    dz: &mut [f32],
    sums: &mut [f32],
) {
    let c = gamma.len();
    level.vectorize(
        #[inline(always)]
        || {
            sums.fill(0.0);
            let (sum_dz, sum_dz_hat) = sums.split_at_mut(c);
            let (sum_dz, sum_dz_hat) = (&mut sum_dz[..c], &mut sum_dz_hat[..c]);
            let (means, inverses, gamma, beta) = (&means[..c], &inverses[..c], &gamma[..c], &beta[..c]);
            for (x, dz) in x.chunks_exact(c).zip(dz.chunks_exact_mut(c)) {
                for i in 0..c {
                    let hat = (x[i] - means[i]) * inverses[i];
                    if SILU {
                        let z = hat.mul_add(gamma[i], beta[i]);
                        let s = sigmoid(z);
                        dz[i] *= s * (z * (1.0 - s) + 1.0);
                    }
                    sum_dz[i] += dz[i];
                    sum_dz_hat[i] = dz[i].mul_add(hat, sum_dz_hat[i]);
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_chains_over_pixels_in_order() {
        // Strips and what is left of them, strips alone, fewer channels than one has.
        for c in [150, 128, 7] {
            let value = |i: usize| ((i * 37 + c) % 101) as f32 / 13.0 - 3.0;
            let pixels: Vec<f32> = (0..33 * c).map(value).collect();
            let means: Vec<f32> = (0..c).map(|i| value(5 * i)).collect();
            let square = |x: f32, mean: f32| (x - mean) * (x - mean);
            let mut expected = vec![0.0; c];
            for pixel in pixels.chunks_exact(c) {
                for (channel, sum) in expected.iter_mut().enumerate() {
                    *sum += square(pixel[channel], means[channel]);
                }
            }
            for level in Level::available() {
                let mut sums = vec![f32::NAN; c];
                sum_pixels(level, &pixels, &means, &mut sums, square);
                assert!(sums == expected, "{c} channels, {level:?}");
            }
        }
    }
}
