//! Images of independent Gaussian pixels, x_0 ~ N(m, s²) rounded to bytes: the best denoiser is known, and
//! with it the bound in closed form.

use super::{Case, Pixels};
use diffusion::{DenoiseError, Denoiser, DiffusionConfig, Loss, NormalCdf, Variance};
use engine::ImageShape;
use engine::random::{Purpose, Stream};
use std::f64::consts::{LOG2_E, PI};

const MEAN: f64 = 0.1;
const STD: f64 = 0.2;
const IMAGE: ImageShape = ImageShape::new(32, 32, 2);
const IMAGES: u64 = 24;
const TIMESTEPS: usize = 25;
const BETAS: [f64; 2] = [1e-3, 0.5];

fn source() -> Pixels {
    let image = |number| {
        let mut values = vec![0.0; IMAGE.len()];
        Stream::new(3, Purpose::Test, 0, number).normals(0, &mut values);
        let byte = |z: f32| ((MEAN + STD * f64::from(z) + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        values.into_iter().map(byte).collect()
    };
    Pixels { shape: IMAGE, images: (0..IMAGES).map(image).collect() }
}

/// ᾱ before the first step, and after each.
fn signal() -> Vec<f64> {
    let slope = (BETAS[1] - BETAS[0]) / (TIMESTEPS - 1) as f64;
    let mut signal = vec![1.0];
    for t in 0..TIMESTEPS {
        signal.push(signal[t] * (1.0 - BETAS[0] - slope * t as f64));
    }
    signal
}

/// One step between two levels of signal, written down from Bayes' rule for Gaussians.
#[derive(Clone, Copy)]
struct Step {
    before: f64,
    after: f64,
}

impl Step {
    /// E[x_0 | x_t] = gain x_t + rest.
    fn gain(self) -> f64 {
        self.after.sqrt() * STD * STD / (self.after * STD * STD + 1.0 - self.after)
    }

    /// The coefficients of x_0 and x_t in the mean of q(x_{t-1} | x_t, x_0), and its variance.
    fn posterior(self) -> (f64, f64, f64) {
        let (alpha, beta) = (self.after / self.before, 1.0 - self.after / self.before);
        let of_x_t = (1.0 - self.before) * alpha.sqrt() / (1.0 - self.after);
        (
            self.before.sqrt() - of_x_t * self.after.sqrt(),
            of_x_t,
            beta * (1.0 - self.before) / (1.0 - self.after),
        )
    }

    /// Var(x_0 | x_t).
    fn xstart_variance(self) -> f64 {
        STD * STD * (1.0 - self.after) / (self.after * STD * STD + 1.0 - self.after)
    }

    /// Var(x_{t-1} | x_t), the best variance of p.
    fn best_variance(self) -> f64 {
        let (of_x_start, _, variance) = self.posterior();
        variance + of_x_start * of_x_start * self.xstart_variance()
    }
}

fn steps() -> Vec<Step> {
    signal().windows(2).map(|pair| Step { before: pair[0], after: pair[1] }).collect()
}

/// Predicts ε as well as can be, and the best variance times a factor.
struct BestDenoiser {
    steps: Vec<Step>,
    factor: f64,
}

impl Denoiser for BestDenoiser {
    fn image_shape(&self) -> ImageShape {
        IMAGE
    }

    fn output_channels(&self) -> usize {
        2 * IMAGE.channels
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        let pixels = IMAGE.height * IMAGE.width;
        let rows = x_t.chunks(IMAGE.channels).zip(output.chunks_mut(2 * IMAGE.channels));
        for (i, (x_t, out)) in rows.enumerate() {
            let step = self.steps[timesteps[i / pixels] as usize];
            let (gain, root) = (step.gain(), step.after.sqrt());
            for (out, &x) in out.iter_mut().zip(x_t) {
                let xstart = gain * f64::from(x) + MEAN * (1.0 - gain * root);
                *out = ((f64::from(x) - root * xstart) / (1.0 - step.after).sqrt()) as f32;
            }
            out[IMAGE.channels..].fill((self.factor * step.best_variance()).ln() as f32);
        }
        Ok(())
    }
}

/// The mean of f(u) for u ~ N(0, variance), by the midpoint rule over ±9 standard deviations.
fn expectation(variance: f64, f: impl Fn(f64) -> f64) -> f64 {
    let (cells, width) = (20_000, 18.0 / 20_000.0);
    let density = |z: f64| (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
    let cell = |i: i32| -9.0 + (f64::from(i) + 0.5) * width;
    (0..cells).map(|i| density(cell(i)) * f(cell(i) * variance.sqrt()) * width).sum()
}

/// The bound's terms and prior in bits/dim for a p with `factor` times the best variance.
fn closed_form(factor: f64) -> (Vec<f64>, f64) {
    let steps = steps();
    let term = |(t, step): (usize, &Step)| {
        let p = factor * step.best_variance();
        if t == 0 {
            let sigma = p.sqrt();
            let below = |z: f64| 0.5 * (1.0 + libm::erf(z / 2f64.sqrt()));
            // x_0 - x̂0 is N(0, Var(x_0 | x_1)) whatever x_1 is.
            let bin = |u: f64| below((u + 1.0 / 255.0) / sigma) - below((u - 1.0 / 255.0) / sigma);
            let nats = |u: f64| -bin(u).max(1e-12).ln();
            return LOG2_E * expectation(step.xstart_variance(), nats);
        }
        let (of_x_start, _, q) = step.posterior();
        let square = of_x_start * of_x_start * step.xstart_variance();
        LOG2_E * 0.5 * ((q + square) / p - 1.0 - (q / p).ln())
    };
    let last = steps[TIMESTEPS - 1].after;
    let prior = LOG2_E * 0.5 * (last * (STD * STD + MEAN * MEAN) - last - (1.0 - last).ln());
    (steps.iter().enumerate().map(term).collect(), prior)
}

#[test]
fn the_bound_is_its_closed_form() {
    let source = source();
    let config = DiffusionConfig {
        timesteps: TIMESTEPS,
        beta_start: BETAS[0],
        beta_end: BETAS[1],
        variance: Variance::Learned,
        loss: Loss::Kl,
        ..DiffusionConfig::default()
    };
    // A wide p makes the terms depend little on what noise was drawn: 1e-3 is then many standard errors.
    for (factor, tolerance) in [(30.0, 1e-3), (1.0, 0.02)] {
        let (terms, prior) = closed_form(factor);
        let expected = prior + terms.iter().sum::<f64>();
        for count in [TIMESTEPS, 11] {
            let case = Case { config: &config, terms: count, cdf: NormalCdf::Erf, seed: 8, source: &source };
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("terms");
            let mut denoiser = BestDenoiser { steps: steps(), factor };
            assert!(case.measure(&path, &mut denoiser, IMAGES, 10, u64::MAX));
            let (.., summary) = case.summary(&path, IMAGES);
            let what = format!("variance × {factor}, {count} terms");
            let found = summary.bits_per_dim;
            let sampling = 4.5 * found.standard_error.unwrap();
            assert!((found.mean - expected).abs() < sampling, "{what}: {found:?}, not {expected}");
            if count == TIMESTEPS {
                assert!((found.mean - expected).abs() < tolerance, "{what}: {found:?}, not {expected}");
                assert!((summary.distortion.mean - terms[0]).abs() < tolerance, "{what}: {summary:?}");
            }
            assert!(
                (summary.prior.mean - prior).abs() < 1e-4,
                "{what}: prior {:?}, not {prior}",
                summary.prior
            );
            for row in &summary.steps {
                let all = row.first_t..=row.last_t;
                let len = (row.last_t - row.first_t + 1) as f64;
                let mean = terms[all.clone()].iter().sum::<f64>() / len;
                let error = 5.0 * row.bits_per_dim.standard_error.unwrap() + 1e-6;
                assert!((row.bits_per_dim.mean - mean).abs() < error, "{what}: {row:?}, not {mean}");
                let rate = |t: usize| prior + terms[t + 1..].iter().sum::<f64>();
                let mean = all.clone().map(rate).sum::<f64>() / len;
                let error = 5.0 * row.rate.standard_error.unwrap() + 1e-6;
                assert!((row.rate.mean - mean).abs() < error, "{what}: {row:?}, not {mean}");
                let mse = all.map(|t| steps()[t].xstart_variance()).sum::<f64>() / len;
                let error = 5.0 * row.rmse.standard_error.unwrap();
                assert!((row.rmse.mean - 127.5 * mse.sqrt()).abs() < error, "{what}: {row:?}");
            }
        }
        if factor == 1.0 {
            // The entropy of N(m, s²) in bins of 2/255; x_1's own blur of a bin costs a little.
            let entropy = 0.5 * (2.0 * PI * std::f64::consts::E * STD * STD).log2() - (2.0f64 / 255.0).log2();
            assert!((0.0..0.1).contains(&(expected - entropy)), "{expected} bits/dim for {entropy}");
        }
    }
}
