//! Data that is Gaussian, x_0 ~ N(m, s² I): the best network is known, and so is all that follows from it.
//!
//! With it every step of a sampler is an affine function of x_t plus noise, so the samples' mean and variance
//! follow by recursion; and with the best variance too, p is the true reverse process: samples are
//! distributed like the data after however few steps, and the bound is their entropy.

#[path = "support/linear_signal.rs"]
mod linear_signal;

use diffusion::{
    AncestralSampler, BoundEvaluation, DdimSampler, DenoiseError, Denoiser, DiffusionConfig,
    GaussianDiffusion, Loss, NormalCdf, Prediction, Sampler, Spacing, Variance,
};
use engine::ImageShape;
use engine::random::{Purpose, Stream};
use linear_signal::linear_signal;

const MEAN: f64 = 0.1;
const STD: f64 = 0.2;
const IMAGE: ImageShape = ImageShape::new(16, 32, 2);
const SAMPLES: usize = 24;
const N: f64 = (IMAGE.len() * SAMPLES) as f64;

fn config(prediction: Prediction, variance: Variance) -> DiffusionConfig {
    DiffusionConfig {
        timesteps: 50,
        beta_start: 1e-3,
        beta_end: 0.3,
        prediction,
        variance,
        loss: Loss::Kl,
        clip_denoised: false,
        ..DiffusionConfig::default()
    }
}

/// a x + b.
#[derive(Clone, Copy)]
struct Affine {
    a: f64,
    b: f64,
}

/// One step of the reverse process between two signal levels.
#[derive(Clone, Copy)]
struct Step {
    /// ᾱ_t.
    signal: f64,
    /// ᾱ_{t-1}.
    previous: f64,
}

impl Step {
    /// Var(x_0 | x_t) in each dimension.
    fn xstart_variance(self) -> f64 {
        STD * STD * (1.0 - self.signal) / (self.signal * STD * STD + 1.0 - self.signal)
    }

    /// E[x_0 | x_t].
    fn xstart(self) -> Affine {
        let gain = self.signal.sqrt() * STD * STD / (self.signal * STD * STD + 1.0 - self.signal);
        Affine { a: gain, b: MEAN * (1.0 - gain * self.signal.sqrt()) }
    }

    /// E[ε | x_t].
    fn eps(self) -> Affine {
        let Affine { a, b } = self.xstart();
        let (root, sigma) = (self.signal.sqrt(), (1.0 - self.signal).sqrt());
        Affine { a: (1.0 - root * a) / sigma, b: -root * b / sigma }
    }

    /// E[x_{t-1} | x_t].
    fn xprev(self) -> Affine {
        let (c1, c2) = self.posterior_mean();
        let Affine { a, b } = self.xstart();
        Affine { a: c1 * a + c2, b: c1 * b }
    }

    /// The coefficients of x_0 and x_t in the posterior's mean.
    fn posterior_mean(self) -> (f64, f64) {
        let Self { signal, previous } = self;
        let c2 = (1.0 - previous) * (signal / previous).sqrt() / (1.0 - signal);
        (previous.sqrt() - c2 * signal.sqrt(), c2)
    }

    fn beta(self) -> f64 {
        1.0 - self.signal / self.previous
    }

    fn posterior_variance(self) -> f64 {
        self.beta() * (1.0 - self.previous) / (1.0 - self.signal)
    }

    /// Var(x_{t-1} | x_t), the best variance of p.
    fn best_variance(self) -> f64 {
        self.posterior_variance() + self.posterior_mean().0.powi(2) * self.xstart_variance()
    }
}

fn steps(signal: &[f64]) -> Vec<Step> {
    let previous = std::iter::once(1.0).chain(signal.iter().copied());
    signal.iter().zip(previous).map(|(&signal, previous)| Step { signal, previous }).collect()
}

struct BestDenoiser {
    steps: Vec<Step>,
    prediction: Prediction,
    learned: bool,
}

impl BestDenoiser {
    fn new(config: &DiffusionConfig) -> Self {
        let learned = config.variance == Variance::Learned;
        Self { steps: steps(&linear_signal(config)), prediction: config.prediction, learned }
    }
}

impl Denoiser for BestDenoiser {
    fn image_shape(&self) -> ImageShape {
        IMAGE
    }

    fn output_channels(&self) -> usize {
        IMAGE.channels * if self.learned { 2 } else { 1 }
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        let (channels, out_channels) = (IMAGE.channels, self.output_channels());
        let pixels = IMAGE.height * IMAGE.width;
        for (i, (x_t, out)) in x_t.chunks(channels).zip(output.chunks_mut(out_channels)).enumerate() {
            let step = self.steps[timesteps[i / pixels] as usize];
            let Affine { a, b } = match self.prediction {
                Prediction::Eps => step.eps(),
                Prediction::Xstart => step.xstart(),
                Prediction::Xprev => step.xprev(),
            };
            for (out, &x) in out.iter_mut().zip(x_t) {
                *out = (a * f64::from(x) + b) as f32;
            }
            out[channels..].fill(step.best_variance().ln() as f32);
        }
        Ok(())
    }
}

/// Mean and variance of all elements.
fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (mean, values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n)
}

/// Compares samples with the distribution they should have, at five standard errors.
#[track_caller]
fn assert_moments(what: &str, samples: &[f32], mean: f64, variance: f64) {
    let (found_mean, found_variance) = moments(samples);
    assert!((found_mean - mean).abs() < 5.0 * (variance / N).sqrt(), "{what}: mean {found_mean}, not {mean}");
    let error = 5.0 * (2.0 / N).sqrt() * variance;
    assert!((found_variance - variance).abs() < error, "{what}: variance {found_variance}, not {variance}");
}

/// Mean and variance of x_0 when x_T ~ N(0, I) and each step, from the last, maps x to a x + b plus noise of
/// a variance.
fn chain_moments(steps: impl Iterator<Item = (Affine, f64)>) -> (f64, f64) {
    steps.fold((0.0, 1.0), |(mean, variance), (Affine { a, b }, noise)| {
        (a * mean + b, a * a * variance + noise)
    })
}

fn ancestral_samples(process: GaussianDiffusion, denoiser: &mut BestDenoiser) -> Vec<f32> {
    AncestralSampler::new(process, IMAGE, 11, 0, SAMPLES).unwrap().run(denoiser).unwrap().to_vec()
}

#[test]
fn with_the_best_variance_few_steps_reproduce_the_data() {
    for prediction in [Prediction::Eps, Prediction::Xstart, Prediction::Xprev] {
        let config = config(prediction, Variance::Learned);
        let process = GaussianDiffusion::new(&config).unwrap();
        let samples = ancestral_samples(process, &mut BestDenoiser::new(&config));
        assert_moments(&format!("{prediction}"), &samples, MEAN, STD * STD);
    }
}

#[test]
fn with_a_fixed_variance_samples_have_the_moments_of_the_recursion() {
    let variance_of = |variance: Variance, kept: &[Step]| {
        chain_moments(kept.iter().enumerate().rev().map(|(t, &step)| {
            let noise = match (t, variance) {
                (0, _) => 0.0,
                (_, Variance::FixedSmall) => step.posterior_variance(),
                _ => step.beta(),
            };
            (step.xprev(), noise)
        }))
    };
    let all = steps(&linear_signal(&config(Prediction::Eps, Variance::FixedSmall)));
    let small = variance_of(Variance::FixedSmall, &all).1;
    let large = variance_of(Variance::FixedLarge, &all).1;
    assert!(small < 0.9 * STD * STD && large > 1.1 * STD * STD, "the test tells them apart: {small} {large}");

    for prediction in [Prediction::Eps, Prediction::Xstart, Prediction::Xprev] {
        for variance in [Variance::FixedSmall, Variance::FixedLarge] {
            let config = config(prediction, variance);
            let process = GaussianDiffusion::new(&config).unwrap();
            let (mean, expected) = variance_of(variance, &all);
            let samples = ancestral_samples(process.clone(), &mut BestDenoiser::new(&config));
            assert_moments(&format!("{prediction} {variance:?}"), &samples, mean, expected);

            if prediction != Prediction::Xprev {
                let kept = Spacing::Trailing.kept_steps(config.timesteps, 7).unwrap();
                let signal = linear_signal(&config);
                let signal: Vec<_> = kept.iter().map(|&t| signal[t]).collect();
                let (mean, expected) = variance_of(variance, &steps(&signal));
                let process = process.respace(7, Spacing::Trailing).unwrap();
                let samples = ancestral_samples(process, &mut BestDenoiser::new(&config));
                assert_moments(&format!("{prediction} {variance:?}, 7 steps"), &samples, mean, expected);
            }
        }
    }
}

#[test]
fn ddim_samples_have_the_moments_of_the_recursion() {
    let config = config(Prediction::Eps, Variance::FixedLarge);
    let process = GaussianDiffusion::new(&config).unwrap();
    let all = steps(&linear_signal(&config));
    for eta in [0.0, 0.5, 1.0] {
        let (mean, variance) = chain_moments(all.iter().rev().map(|&step| {
            let noise = eta * eta * step.posterior_variance();
            let (x, e) = (step.xstart(), step.eps());
            let (signal, direction) = (step.previous.sqrt(), (1.0 - step.previous - noise).sqrt());
            (Affine { a: signal * x.a + direction * e.a, b: signal * x.b + direction * e.b }, noise)
        }));
        let mut sampler = DdimSampler::new(process.clone(), IMAGE, 12, 0, SAMPLES, eta).unwrap();
        let samples = sampler.run(&mut BestDenoiser::new(&config)).unwrap();
        assert_moments(&format!("η = {eta}"), samples, mean, variance);
    }
}

/// The expectation of f(u) for u ~ N(0, variance), by the midpoint rule over ±9 standard deviations.
fn expectation(variance: f64, f: impl Fn(f64) -> f64) -> f64 {
    let (cells, width) = (20_000, 18.0 / 20_000.0);
    (0..cells)
        .map(|i| {
            let z = -9.0 + (f64::from(i) + 0.5) * width;
            (-0.5 * z * z).exp() * f(z * variance.sqrt())
        })
        .sum::<f64>()
        * width
        / std::f64::consts::TAU.sqrt()
}

fn normal_cdf(z: f64, cdf: NormalCdf) -> f64 {
    match cdf {
        NormalCdf::Erf => 0.5 * (1.0 + libm::erf(z / 2f64.sqrt())),
        NormalCdf::Tanh => {
            0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z.powi(3))).tanh())
        }
    }
}

#[test]
fn the_bound_is_its_closed_form() {
    let mut x_start = vec![0.0; IMAGE.len() * SAMPLES];
    Stream::new(3, Purpose::Test, 0, 0).normals(0, &mut x_start);
    // Exactly the data's mean and variance, so that the prior term has no sampling error.
    let (mean, variance) = moments(&x_start);
    let standardise = |x: f32| (f64::from(x) - mean) / variance.sqrt();
    x_start.iter_mut().for_each(|x| *x = (MEAN + STD * standardise(*x)) as f32);

    for (prediction, variance, cdf) in [
        (Prediction::Eps, Variance::FixedSmall, NormalCdf::Tanh),
        (Prediction::Eps, Variance::FixedLarge, NormalCdf::Erf),
        (Prediction::Eps, Variance::Learned, NormalCdf::Erf),
        (Prediction::Xstart, Variance::FixedLarge, NormalCdf::Tanh),
        (Prediction::Xprev, Variance::Learned, NormalCdf::Tanh),
        (Prediction::Xprev, Variance::FixedSmall, NormalCdf::Erf),
    ] {
        let config = config(prediction, variance);
        let process = GaussianDiffusion::new(&config).unwrap();
        let evaluation = BoundEvaluation::new(process, x_start.clone(), SAMPLES, 4, 0, cdf);
        let bounds = evaluation.finish(&mut BestDenoiser::new(&config)).unwrap();
        let average =
            |f: &dyn Fn(&diffusion::BitsPerDim) -> f64| bounds.iter().map(f).sum::<f64>() / SAMPLES as f64;

        let steps = steps(&linear_signal(&config));
        let (mut total, mut total_error) = (0.0, 0.0);
        for (t, &step) in steps.iter().enumerate() {
            let what = format!("{prediction} {variance:?} {cdf:?}, t = {t}");
            let p_variance = match (variance, t) {
                (Variance::Learned | Variance::LearnedRange, _) => step.best_variance(),
                (_, 0) => steps[1].posterior_variance(),
                (Variance::FixedSmall, _) => step.posterior_variance(),
                (Variance::FixedLarge, _) => step.beta(),
            };
            // x_0 - x̂0 is N(0, xstart_variance), whatever x_t is.
            let (nats, spread) = if t == 0 {
                let nll = |u: f64| {
                    let sigma = p_variance.sqrt();
                    let (upper, lower) = ((u + 1.0 / 255.0) / sigma, (u - 1.0 / 255.0) / sigma);
                    -(normal_cdf(upper, cdf) - normal_cdf(lower, cdf)).max(1e-12).ln()
                };
                let mean = expectation(step.xstart_variance(), nll);
                (mean, expectation(step.xstart_variance(), |u| (nll(u) - mean).powi(2)).sqrt())
            } else {
                let q_variance = step.posterior_variance();
                let square = step.posterior_mean().0.powi(2) * step.xstart_variance() / p_variance;
                let rest = q_variance / p_variance - 1.0 - (q_variance / p_variance).ln();
                (0.5 * (rest + square), 0.5 * square * 2f64.sqrt())
            };
            let bits = std::f64::consts::LOG2_E * nats;
            let found = average(&|bound| bound.terms[t].bits_per_dim);
            let error = 5.0 * spread / N.sqrt() * std::f64::consts::LOG2_E + 1e-7;
            assert!((found - bits).abs() < error, "{what}: {found} bits/dim, not {bits}");
            let found = average(&|bound| bound.terms[t].xstart_mse);
            let expected = step.xstart_variance();
            assert!(
                (found / expected - 1.0).abs() < 5.0 * (2.0 / N).sqrt(),
                "{what}: MSE {found}, not {expected}"
            );
            total += bits;
            total_error += error;
        }

        let last = steps[config.timesteps - 1].signal;
        let prior =
            0.5 * (last * (STD * STD + MEAN * MEAN) - last - (1.0 - last).ln()) * std::f64::consts::LOG2_E;
        let found = average(&|bound| bound.prior);
        assert!((found - prior).abs() < 1e-6, "prior {found}, not {prior}");

        // The entropy of N(m, s²) in bins of 2/255; x_1's own blur of a bin costs no more than 0.01 bits.
        let entropy =
            0.5 * (std::f64::consts::TAU * std::f64::consts::E * STD * STD).log2() - (2.0f64 / 255.0).log2();
        let gap = total + prior - entropy;
        if variance == Variance::Learned {
            assert!(gap.abs() < 0.01, "the bound of the true reverse process is {gap} from the entropy");
        } else {
            assert!(gap > 0.02, "no bound is below the entropy: {gap}");
        }
        let found = average(&|bound| bound.total());
        assert!((found - total - prior).abs() < total_error, "total {found}, not {}", total + prior);
    }
}
