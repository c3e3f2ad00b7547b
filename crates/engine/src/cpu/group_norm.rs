//! Group normalisation and SiLU, fused, forward and backward: see [`crate::ops::group_norm`].
//!
//! Statistics: each channel is summed over runs of [`RUN`] pixels in `f32`, the runs and then the channels of a group in `f64`;
//! the variance in a second pass, from the differences to the mean.

use super::math::sigmoid;
use super::parallel::{Shared, for_each_task};
use super::simd::Level;
use crate::ops::GroupNorm;
use crate::shape::Shape;

/// Pixels summed in `f32` before the sum goes on in `f64`.
const RUN: usize = 16;
/// Channels that one task handles at most, in whole groups.
const STRIP: usize = 64;

/// The strips of whole groups that a tensor's channels fall into.
#[derive(Clone, Copy)]
struct Strips {
    group: usize,
    groups_per_strip: usize,
    strips: usize,
}

impl Strips {
    fn new(channels: usize, groups: usize) -> Self {
        let group = channels / groups;
        let groups_per_strip = (STRIP / group).clamp(1, groups);
        Self { group, groups_per_strip, strips: groups.div_ceil(groups_per_strip) }
    }

    fn channels(&self, strip: usize, channels: usize) -> std::ops::Range<usize> {
        let width = self.group * self.groups_per_strip;
        strip * width..((strip + 1) * width).min(channels)
    }
}

/// Channels of a strip at most: a group may be wider than [`STRIP`].
const MAX_CHANNELS: usize = GroupNorm::MAX_GROUP_CHANNELS;

/// y and the statistics from x.
pub(crate) fn forward(
    level: Level,
    norm: GroupNorm,
    shape: Shape,
    [x, gamma, beta]: [&[f32]; 3],
    y: &mut [f32],
    statistics: &mut [f32],
) {
    let strips = Strips::new(shape.c, norm.groups);
    let (y, statistics) = (Shared::new(y), Shared::new(statistics));
    for_each_task(shape.n * strips.strips, |task| {
        let (n, strip) = (task / strips.strips, task % strips.strips);
        let channels = strips.channels(strip, shape.c);
        let start = n * shape.sample_len();
        let x = &x[start..][..shape.sample_len()];
        let mut inverses = [0.0f32; MAX_CHANNELS];
        let inverses = &mut inverses[..channels.len()];
        let (gamma, beta) = (&gamma[channels.clone()], &beta[channels.clone()]);
        let count = (shape.pixels() * strips.group) as f64;
        level.vectorize(
            #[inline(always)]
            || {
                let mut means = [0.0f32; MAX_CHANNELS];
                let means = &mut means[..channels.len()];
                let mut sums = [0.0f64; MAX_CHANNELS];
                let sums = &mut sums[..channels.len()];
                sum_channels(x, shape.c, &channels, sums, |value, _| value);
                for (sums, means) in sums.chunks_exact(strips.group).zip(means.chunks_exact_mut(strips.group))
                {
                    means.fill((sums.iter().sum::<f64>() / count) as f32);
                }
                let means = &means[..channels.len()];
                sum_channels(x, shape.c, &channels, sums, |value, channel| {
                    let difference = value - means[channel];
                    difference * difference
                });
                for (index, sums) in sums.chunks_exact(strips.group).enumerate() {
                    let variance = sums.iter().sum::<f64>() / count;
                    let inverse = (1.0 / (variance + f64::from(norm.epsilon)).sqrt()) as f32;
                    let mean = means[index * strips.group];
                    let group = channels.start / strips.group + index;
                    // SAFETY: this sample's group is this task's.
                    let pair = unsafe { statistics.slice(2 * (n * norm.groups + group), 2) };
                    pair.copy_from_slice(&[mean, inverse]);
                    inverses[index * strips.group..(index + 1) * strips.group].fill(inverse);
                }
                // Slices of one length: the compiler then drops the bounds checks and uses vectors.
                let width = channels.len();
                let (means, inverses) = (&means[..width], &inverses[..width]);
                let (gamma, beta) = (&gamma[..width], &beta[..width]);
                for (pixel, x) in x.chunks_exact(shape.c).enumerate() {
                    let x = &x[channels.start..][..width];
                    // SAFETY: these channels of this sample are this task's.
                    let y = unsafe { y.slice(start + pixel * shape.c + channels.start, width) };
                    if norm.silu {
                        for c in 0..width {
                            let z = ((x[c] - means[c]) * inverses[c]).mul_add(gamma[c], beta[c]);
                            y[c] = z * sigmoid(z);
                        }
                    } else {
                        for c in 0..width {
                            y[c] = ((x[c] - means[c]) * inverses[c]).mul_add(gamma[c], beta[c]);
                        }
                    }
                }
            },
        );
    });
}

/// Sets each channel's sum over all pixels of `f(value, channel in the strip)`.
#[inline(always)]
fn sum_channels(
    x: &[f32],
    stride: usize,
    channels: &std::ops::Range<usize>,
    sums: &mut [f64],
    f: impl Fn(f32, usize) -> f32,
) {
    let width = channels.len();
    let sums = &mut sums[..width];
    sums.fill(0.0);
    let mut run = [0.0f32; MAX_CHANNELS];
    let run = &mut run[..width];
    for pixels in x.chunks(stride * RUN) {
        run.fill(0.0);
        for pixel in pixels.chunks_exact(stride) {
            let pixel = &pixel[channels.start..][..width];
            for c in 0..width {
                run[c] += f(pixel[c], c);
            }
        }
        for c in 0..width {
            sums[c] += f64::from(run[c]);
        }
    }
}

/// dx from x and dy; adds to dgamma and dbeta, sample after sample.
///
/// With dz the gradient after SiLU's, `g = γ dz` and means over a group:
/// `dx = (g - mean(g) - x̂ · mean(g x̂)) / deviation`; `dγ = Σ dz x̂`, `dβ = Σ dz`.
pub(crate) fn gradient(
    level: Level,
    norm: GroupNorm,
    shape: Shape,
    [x, gamma, beta, statistics, dy]: [&[f32]; 5],
    workspace: &mut [f32],
    [dx, dgamma, dbeta]: [&mut [f32]; 3],
) {
    let strips = Strips::new(shape.c, norm.groups);
    let (dx, sums_of_samples) = (Shared::new(dx), Shared::new(workspace));
    for_each_task(shape.n * strips.strips, |task| {
        let (n, strip) = (task / strips.strips, task % strips.strips);
        let channels = strips.channels(strip, shape.c);
        let start = n * shape.sample_len();
        let x = &x[start..][..shape.sample_len()];
        let dy = &dy[start..][..shape.sample_len()];
        let mut coefficients = [[0.0f32; MAX_CHANNELS]; 6];
        let [means, inverses, gammas, betas, a, b] =
            coefficients.each_mut().map(|array| &mut array[..channels.len()]);
        gammas.copy_from_slice(&gamma[channels.clone()]);
        betas.copy_from_slice(&beta[channels.clone()]);
        for c in 0..channels.len() {
            let group = (channels.start + c) / strips.group;
            means[c] = statistics[2 * (n * norm.groups + group)];
            inverses[c] = statistics[2 * (n * norm.groups + group) + 1];
        }
        level.vectorize(
            #[inline(always)]
            || {
                // Slices of one length: the compiler then drops the bounds checks and uses vectors.
                let width = channels.len();
                let (means, inverses) = (&means[..width], &inverses[..width]);
                let (gammas, betas) = (&gammas[..width], &betas[..width]);
                let (a, b) = (&mut a[..width], &mut b[..width]);
                let mut sums = [[0.0f64; MAX_CHANNELS]; 2];
                let [sum_dz, sum_dz_hat] = sums.each_mut().map(|array| &mut array[..width]);
                let mut runs = [[0.0f32; MAX_CHANNELS]; 2];
                let [run_dz, run_dz_hat] = runs.each_mut().map(|array| &mut array[..width]);
                for (x, dy) in x.chunks(shape.c * RUN).zip(dy.chunks(shape.c * RUN)) {
                    run_dz.fill(0.0);
                    run_dz_hat.fill(0.0);
                    for (x, dy) in x.chunks_exact(shape.c).zip(dy.chunks_exact(shape.c)) {
                        let (x, dy) = (&x[channels.start..][..width], &dy[channels.start..][..width]);
                        for c in 0..width {
                            let hat = (x[c] - means[c]) * inverses[c];
                            let dz = before_silu(norm.silu, hat.mul_add(gammas[c], betas[c]), dy[c]);
                            run_dz[c] += dz;
                            run_dz_hat[c] = dz.mul_add(hat, run_dz_hat[c]);
                        }
                    }
                    for c in 0..width {
                        sum_dz[c] += f64::from(run_dz[c]);
                        sum_dz_hat[c] += f64::from(run_dz_hat[c]);
                    }
                }
                // SAFETY: these channels of this sample are this task's.
                let (out_dz_hat, out_dz) = unsafe {
                    let start = 2 * n * shape.c + channels.start;
                    (sums_of_samples.slice(start, width), sums_of_samples.slice(start + shape.c, width))
                };
                let count = (shape.pixels() * strips.group) as f64;
                for first in (0..width).step_by(strips.group) {
                    let (mut mean_g, mut mean_g_hat) = (0.0f64, 0.0f64);
                    for c in first..first + strips.group {
                        mean_g += f64::from(gammas[c]) * sum_dz[c];
                        mean_g_hat += f64::from(gammas[c]) * sum_dz_hat[c];
                        out_dz[c] = sum_dz[c] as f32;
                        out_dz_hat[c] = sum_dz_hat[c] as f32;
                    }
                    a[first..first + strips.group].fill((mean_g / count) as f32);
                    b[first..first + strips.group].fill((mean_g_hat / count) as f32);
                }
                for (pixel, (x, dy)) in x.chunks_exact(shape.c).zip(dy.chunks_exact(shape.c)).enumerate() {
                    let (x, dy) = (&x[channels.start..][..width], &dy[channels.start..][..width]);
                    // SAFETY: these channels of this sample are this task's.
                    let dx = unsafe { dx.slice(start + pixel * shape.c + channels.start, width) };
                    for c in 0..width {
                        let hat = (x[c] - means[c]) * inverses[c];
                        let g = before_silu(norm.silu, hat.mul_add(gammas[c], betas[c]), dy[c]) * gammas[c];
                        dx[c] = ((-hat).mul_add(b[c], g) - a[c]) * inverses[c];
                    }
                }
            },
        );
    });
    for sample in workspace.chunks_exact(2 * shape.c).take(shape.n) {
        let (dz_hat, dz) = sample.split_at(shape.c);
        for c in 0..shape.c {
            dgamma[c] += dz_hat[c];
            dbeta[c] += dz[c];
        }
    }
}

/// The gradient before SiLU, if there is one, of z from the gradient after it.
#[inline(always)]
fn before_silu(silu: bool, z: f32, dy: f32) -> f32 {
    if silu {
        let s = sigmoid(z);
        dy * (s * (z * (1.0 - s) + 1.0))
    } else {
        dy
    }
}

/// Elements of [`gradient`]'s workspace.
pub(crate) fn gradient_workspace(shape: Shape) -> usize {
    2 * shape.n * shape.c
}
