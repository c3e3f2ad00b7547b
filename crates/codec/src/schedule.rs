//! Which steps are coded, with how many bits: a function of the error curve and of how difficult the image is
//! just now, so that both sides know it.

use crate::candidates::{MAX_BITS, divergence};
use crate::error_curve::ErrorCurve;
use crate::jump::snr;
use diffusion::GaussianDiffusion;
use std::collections::BTreeMap;
use std::f64::consts::LN_2;

/// Bits of each of several chunks of one step.
const LONG_CHUNK_BITS: u32 = 22;
/// Numbers that a chunk stands for, at least.
const LEAST_CHUNK_LEN: usize = 8;
/// Least relative entropy that a step is planned for, in bits.
const LEAST_WORK: f64 = 0.25;
/// What a step costs besides its chunks, in bits.
const STEP_COST: f64 = 0.5;
/// Signal in x_t that may be taken for none: nats for an image whose numbers have mean square 1.
const FREE_NATS: f64 = 0.35;
/// Gears to an octave of squared error.
const GEARS_PER_OCTAVE: f64 = 3.0;
/// Gears are from minus this to this.
pub(crate) const LAST_GEAR: i32 = 30;

/// One coded step of an image: from x_t at `from` to x_s at `to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CodedStep {
    /// t, in the process's count.
    pub from: usize,
    /// s < t.
    pub to: usize,
    /// Chunks into which the rotated image is divided.
    pub chunks: usize,
    /// Bits of each chunk's number.
    pub bits: u32,
}

impl CodedStep {
    /// Bits of all chunks.
    pub fn total_bits(&self) -> usize {
        self.chunks * self.bits as usize
    }
}

/// The gear in which squared errors are `ratio` times the curve's, not rounded.
pub(crate) fn gear(ratio: f64) -> f64 {
    GEARS_PER_OCTAVE * libm::log2(ratio.max(1e-6))
}

/// The steps for images of one size.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    len: usize,
    snr: Vec<f64>,
    /// Squared error of x̂0(x_t) of an image of usual difficulty.
    errors: Vec<f64>,
    /// For each gear that was asked for, the best step to take from each t.
    routes: BTreeMap<i32, Vec<usize>>,
}

impl Schedule {
    /// The schedule for images of `len` numbers.
    pub fn new(process: &GaussianDiffusion, curve: &ErrorCurve, len: usize) -> Self {
        let snr: Vec<f64> = (0..process.timesteps()).map(|t| snr(process, t)).collect();
        let errors = snr.iter().map(|&snr| curve.at(snr) * len as f64).collect();
        Self { len, snr, errors, routes: BTreeMap::new() }
    }

    /// Where the chain begins: the least noisy step at which so little of an image is left that pure noise
    /// may be taken for x_t.
    pub fn first_t(&self) -> usize {
        let largest = 2.0 * FREE_NATS / self.len as f64;
        let last = self.snr.len() - 1;
        (1..last).find(|&t| self.snr[t] <= largest).unwrap_or(last)
    }

    /// Squared error of x̂0(x_t), summed over an image, of usual difficulty.
    pub fn usual_error(&self, t: usize) -> f64 {
        self.errors[t]
    }

    /// The steps of a whole chain for an image of usual difficulty, from the first to t = 0, when every step costs
    /// `step_cost` bits besides its relative entropy.
    pub fn chain(&self, step_cost: f64) -> Vec<usize> {
        let route = self.route_by(0, &|work| step_cost + work);
        let next = |&t: &usize| (t > 0).then(|| route[t]);
        std::iter::successors(Some(self.first_t()), next).collect()
    }

    /// The coded step from `from` > 0 in `gear`, with relative entropy `owed` by earlier steps, in bits; and
    /// what is owed after it, because bits are whole.
    pub fn step(&mut self, from: usize, gear: i32, owed: f64) -> (CodedStep, f64) {
        let to = self.route(gear)[from];
        let work = (self.work(from, to, gear) + owed).max(LEAST_WORK);
        let most = (self.len.next_power_of_two() / LEAST_CHUNK_LEN).max(1);
        let chunks = match work <= 0.5 * (divergence(MAX_BITS) + divergence(MAX_BITS - 1)) {
            true => 1,
            false => ((work / divergence(LONG_CHUNK_BITS)).round() as usize).clamp(2, most.max(2)).min(most),
        };
        let miss = |bits: &u32| (chunks as f64 * divergence(*bits) - work).abs();
        let bits = (1..=MAX_BITS).min_by(|a, b| miss(a).total_cmp(&miss(b))).unwrap_or(1);
        (CodedStep { from, to, chunks, bits }, work - chunks as f64 * divergence(bits))
    }

    /// Relative entropy of a step, in bits, if the curve and the gear are right.
    fn work(&self, from: usize, to: usize, gear: i32) -> f64 {
        let error = self.errors[from] * libm::exp2(f64::from(gear) / GEARS_PER_OCTAVE);
        0.5 * (self.snr[to] - self.snr[from]) * error / LN_2
    }

    /// For each t the next step of the way to t = 0 that takes the fewest bits: short steps use what the network has
    /// learnt from the last one, long ones make better use of their bits.
    fn route(&mut self, gear: i32) -> &[usize] {
        if !self.routes.contains_key(&gear) {
            let costs = Costs::new();
            let route = self.route_by(gear, &|work| costs.of(work));
            self.routes.insert(gear, route);
        }
        &self.routes[&gear]
    }

    /// For each t the next step of the way to t = 0 of least cost, where a longer step costs more.
    fn route_by(&self, gear: i32, cost: &dyn Fn(f64) -> f64) -> Vec<usize> {
        let mut best = vec![(0.0, 0)];
        for from in 1..self.snr.len() {
            let factor = self.work(from, 0, gear) / (self.snr[0] - self.snr[from]);
            let mut least = (f64::INFINITY, from - 1);
            for to in (0..from).rev() {
                let own = cost(factor * (self.snr[to] - self.snr[from]));
                if own >= least.0 {
                    // Longer steps only cost more.
                    break;
                }
                let all: (f64, usize) = best[to];
                if own + all.0 < least.0 {
                    least = (own + all.0, to);
                }
            }
            best.push(least);
        }
        best.into_iter().map(|(_, to)| to).collect()
    }
}

/// Bits by relative entropy.
struct Costs {
    /// [`divergence`] of 0, 1, … bits.
    divergences: Vec<f64>,
}

impl Costs {
    fn new() -> Self {
        Self { divergences: (0..=MAX_BITS).map(divergence).collect() }
    }

    fn of(&self, work: f64) -> f64 {
        let long = self.divergences[MAX_BITS as usize];
        if work >= long {
            return STEP_COST
                + work * f64::from(LONG_CHUNK_BITS) / self.divergences[LONG_CHUNK_BITS as usize];
        }
        let above = self.divergences.partition_point(|&d| d <= work).max(1);
        let (low, high) = (self.divergences[above - 1], self.divergences[above]);
        STEP_COST + (above - 1) as f64 + (work - low) / (high - low)
    }
}
