//! What holds for every process, prediction and batch.

use diffusion::{
    AncestralSampler, BetaSchedule, BoundEvaluation, DdimSampler, DenoiseError, Denoiser, DiffusionConfig,
    GaussianDiffusion, Loss, NormalCdf, Objective, Prediction, Sampler, Spacing, TrainingInputs, Variance,
};
use engine::ImageShape;
use engine::random::{Purpose, Stream};
use proptest::prelude::*;

const IMAGE: ImageShape = ImageShape::new(3, 2, 2);
const LEN: usize = IMAGE.len();

fn random(sample: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Stream::new(99, Purpose::Test, 0, sample).normals(0, &mut values);
    values.iter_mut().for_each(|x| *x *= scale);
    values
}

/// Images in [-1, 1], with some black and some white.
fn images(sample: u64, count: usize) -> Vec<f32> {
    random(sample, count * LEN, 0.8).into_iter().map(|x| x.clamp(-1.0, 1.0)).collect()
}

/// A network with something to say about every element, channel and t.
struct Wavy {
    learned: bool,
}

impl Denoiser for Wavy {
    fn image_shape(&self) -> ImageShape {
        IMAGE
    }

    fn output_channels(&self) -> usize {
        IMAGE.channels * if self.learned { 2 } else { 1 }
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        let (channels, out_channels) = (IMAGE.channels, self.output_channels());
        for (pixel, (x_t, out)) in x_t.chunks(channels).zip(output.chunks_mut(out_channels)).enumerate() {
            let t = timesteps[pixel * channels / LEN];
            for (c, out) in out.iter_mut().enumerate() {
                *out =
                    libm::sinf(x_t[c % channels] + 0.1 * t + c as f32) - if c < channels { 0.0 } else { 3.0 };
            }
        }
        Ok(())
    }
}

fn any_prediction() -> impl Strategy<Value = Prediction> {
    prop_oneof![Just(Prediction::Eps), Just(Prediction::Xstart), Just(Prediction::Xprev)]
}

fn any_variance() -> impl Strategy<Value = Variance> {
    prop::sample::select(vec![
        Variance::FixedSmall,
        Variance::FixedLarge,
        Variance::Learned,
        Variance::LearnedRange,
    ])
}

fn any_spacing() -> impl Strategy<Value = Spacing> {
    prop_oneof![Just(Spacing::Leading), Just(Spacing::Trailing), Just(Spacing::Linspace)]
}

prop_compose! {
    /// Any process whose x_T still holds some of x_0.
    fn any_config()(
        timesteps in 1usize..40,
        schedule in prop_oneof![
            Just(BetaSchedule::Linear), Just(BetaSchedule::Quad), Just(BetaSchedule::Const),
            Just(BetaSchedule::Warmup10), Just(BetaSchedule::Warmup50), Just(BetaSchedule::Cosine),
        ],
        beta_start in 1e-4..1e-2,
        beta_end in 2e-2..0.3,
        prediction in any_prediction(),
        variance in any_variance(),
    ) -> DiffusionConfig {
        DiffusionConfig {
            timesteps, schedule, beta_start, beta_end, prediction, variance, loss: Loss::Kl, clip_denoised: true,
        }
    }
}

fn close(found: &[f32], expected: &[f32], tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for (&found, &expected) in found.iter().zip(expected) {
        let error = (f64::from(found) - f64::from(expected)).abs();
        prop_assert!(error <= tolerance, "{} instead of {}, tolerance {}", found, expected, tolerance);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn predictions_turn_into_each_other_and_back(config in any_config(), sample: u64) {
        let process = GaussianDiffusion::new(&config).unwrap();
        for step in 0..config.timesteps {
            let t = [step];
            let (x_start, noise) = (images(sample, 1), random(!sample, LEN, 1.0));
            let x_t = process.q_sample(&x_start, &t, &noise);
            // f32 rounding, times what each inversion amplifies it by.
            let tables = process.tables();
            let blur = 1e-6 * tables.sqrt_recip_alphas_cumprod[step];
            let xstart = process.predict_xstart_from_eps(&x_t, &t, &noise);
            close(&xstart, &x_start, blur)?;
            let sharpen = 1.0 / tables.sqrt_one_minus_alphas_cumprod[step];
            close(&process.predict_eps_from_xstart(&x_t, &t, &x_start), &noise, 1e-6 * sharpen)?;
            let there_and_back = process.predict_eps_from_xstart(&x_t, &t, &xstart);
            close(&there_and_back, &noise, 2e-6 * sharpen)?;
            let xprev = process.q_posterior_mean(&x_start, &x_t, &t);
            let blur = 1e-6 / tables.posterior_mean_coef1[step];
            close(&process.predict_xstart_from_xprev(&x_t, &t, &xprev), &x_start, blur)?;
        }
    }

    #[test]
    fn the_posterior_leads_from_one_marginal_to_the_one_before(config in any_config()) {
        let process = GaussianDiffusion::new(&config).unwrap();
        let tables = process.tables();
        for t in 0..config.timesteps {
            let (c1, c2) = (tables.posterior_mean_coef1[t], tables.posterior_mean_coef2[t]);
            let mean = c1 + c2 * tables.sqrt_alphas_cumprod[t];
            prop_assert!((mean - tables.alphas_cumprod_prev[t].sqrt()).abs() < 1e-10);
            let variance = tables.posterior_variance[t] + c2 * c2 * (1.0 - tables.alphas_cumprod[t]);
            prop_assert!((variance - (1.0 - tables.alphas_cumprod_prev[t])).abs() < 1e-10);
        }
    }

    #[test]
    fn a_perfect_prediction_gives_the_posterior_and_costs_nothing(config in any_config(), sample: u64) {
        let fixed_small = DiffusionConfig { variance: Variance::FixedSmall, ..config };
        let samples = fixed_small.timesteps;
        let x_start = images(sample, samples);
        for loss in [Loss::Mse, Loss::Kl] {
            let objective = Objective::new(&DiffusionConfig { loss, ..fixed_small.clone() }, IMAGE).unwrap();
            let process = objective.process();
            let t: Vec<_> = (0..samples).collect();
            let noise = random(!sample, samples * LEN, 1.0);
            let x_t = process.q_sample(&x_start, &t, &noise);
            let posterior_mean = process.q_posterior_mean(&x_start, &x_t, &t);
            let output = match config.prediction {
                Prediction::Eps => &noise,
                Prediction::Xstart => &x_start,
                Prediction::Xprev => &posterior_mean,
            };
            let inputs = TrainingInputs { t, noise: noise.clone(), x_t };
            let result = objective.loss_and_gradient(&x_start, &inputs, output, samples);
            // The decoder's term, t = 0, is no divergence.
            for (t, loss) in result.losses.iter().enumerate().skip(usize::from(loss == Loss::Kl)) {
                prop_assert!((0.0..1e-8).contains(loss), "t = {}: {}", t, loss);
            }
        }
    }

    #[test]
    fn respacing_keeps_the_signal_at_the_kept_steps(
        config in any_config(), spacing in any_spacing(), fraction in 0.0..1.0,
    ) {
        let config = DiffusionConfig { prediction: Prediction::Eps, ..config };
        let process = GaussianDiffusion::new(&config).unwrap();
        let steps = 1 + (fraction * config.timesteps as f64) as usize;
        let respaced = process.respace(steps, spacing).unwrap();
        let kept = spacing.kept_steps(config.timesteps, steps).unwrap();
        prop_assert_eq!(respaced.timesteps(), steps);
        for (i, &t) in kept.iter().enumerate() {
            prop_assert_eq!(respaced.network_timestep(i), t);
            let (found, expected) = (respaced.tables().alphas_cumprod[i], process.tables().alphas_cumprod[t]);
            prop_assert!((found / expected - 1.0).abs() < 1e-10, "{} instead of {}", found, expected);
        }
    }

    #[test]
    fn ddim_with_all_the_noise_is_ancestral_sampling(config in any_config(), spacing in any_spacing(), seed: u64) {
        let config = DiffusionConfig {
            prediction: Prediction::Eps, variance: Variance::FixedSmall, clip_denoised: false, ..config
        };
        let steps = config.timesteps.div_ceil(2);
        let process = GaussianDiffusion::new(&config).unwrap().respace(steps, spacing).unwrap();
        let mut ancestral = AncestralSampler::new(process.clone(), IMAGE, seed, 7, 2).unwrap();
        let mut ddim = DdimSampler::new(process, IMAGE, seed, 7, 2, 1.0).unwrap();
        let mut denoiser = Wavy { learned: false };
        while ancestral.step(&mut denoiser).unwrap().is_some() {
            ddim.step(&mut denoiser).unwrap();
            let scale = ancestral.chain().x_t().iter().fold(1.0f32, |max, x| max.max(x.abs()));
            close(ddim.chain().x_t(), ancestral.chain().x_t(), 1e-4 * f64::from(scale))?;
        }
    }

    #[test]
    fn training_does_not_depend_on_the_batch(config in any_config(), seed: u64, first in 0u64..1 << 40) {
        let learned = config.variance.is_learned();
        for loss in [Loss::Kl, if learned { Loss::Hybrid } else { Loss::Mse }] {
            let objective = Objective::new(&DiffusionConfig { loss, ..config.clone() }, IMAGE).unwrap();
            let x_start = images(seed, 5);
            let inputs = objective.draw(seed, first, &x_start);
            let mut denoiser = Wavy { learned };
            let mut output = vec![0.0; 5 * LEN * if learned { 2 } else { 1 }];
            denoiser.denoise(&inputs.x_t, &inputs.timesteps(), &mut output).unwrap();
            let whole = objective.loss_and_gradient(&x_start, &inputs, &output, 5);
            let out_len = output.len() / 5;
            for k in 0..5 {
                let at = k * LEN..(k + 1) * LEN;
                let out_at = k * out_len..(k + 1) * out_len;
                let alone = objective.draw(seed, first + k as u64, &x_start[at.clone()]);
                prop_assert_eq!(&alone.t[..], &inputs.t[k..=k]);
                prop_assert_eq!(&alone.noise[..], &inputs.noise[at.clone()]);
                prop_assert_eq!(&alone.x_t[..], &inputs.x_t[at.clone()]);
                let part = objective.loss_and_gradient(&x_start[at], &alone, &output[out_at.clone()], 5);
                prop_assert_eq!(&part.losses[..], &whole.losses[k..=k]);
                prop_assert_eq!(&part.gradient[..], &whole.gradient[out_at]);
            }
        }
    }

    #[test]
    fn samples_do_not_depend_on_the_batch(config in any_config(), seed: u64, eta in 0.0..=1.0) {
        let process = GaussianDiffusion::new(&config).unwrap();
        let mut denoiser = Wavy { learned: config.variance.is_learned() };
        let ancestral = |first, n| AncestralSampler::new(process.clone(), IMAGE, seed, first, n).unwrap();
        let whole = ancestral(3, 4).run(&mut denoiser).unwrap().to_vec();
        let noisy = DiffusionConfig { prediction: Prediction::Eps, ..config };
        let noisy = GaussianDiffusion::new(&noisy).unwrap();
        let ddim = |first, n| DdimSampler::new(noisy.clone(), IMAGE, seed, first, n, eta).unwrap();
        let whole_ddim = ddim(3, 4).run(&mut denoiser).unwrap().to_vec();
        for k in 0..4 {
            let at = k * LEN..(k + 1) * LEN;
            let mut alone = ancestral(3 + k as u64, 1);
            prop_assert_eq!(alone.run(&mut denoiser).unwrap(), &whole[at.clone()]);
            let mut alone = ddim(3 + k as u64, 1);
            prop_assert_eq!(alone.run(&mut denoiser).unwrap(), &whole_ddim[at]);
        }
    }

    #[test]
    fn bounds_do_not_depend_on_the_batch(config in any_config(), seed: u64) {
        let process = GaussianDiffusion::new(&config).unwrap();
        let mut denoiser = Wavy { learned: config.variance.is_learned() };
        let x_start = images(seed, 3);
        let bound = |x_start: &[f32], n, first| {
            BoundEvaluation::new(process.clone(), x_start.to_vec(), n, seed, first, NormalCdf::Tanh)
        };
        let whole = bound(&x_start, 3, 20).finish(&mut denoiser).unwrap();
        for k in 0..3 {
            let alone = bound(&x_start[k * LEN..(k + 1) * LEN], 1, 20 + k as u64).finish(&mut denoiser).unwrap();
            prop_assert_eq!(&alone[0], &whole[k]);
        }
    }

    #[test]
    fn gradients_are_those_of_the_losses(config in any_config(), seed: u64) {
        let learned = config.variance.is_learned();
        for loss in [Loss::Kl, if learned { Loss::Hybrid } else { Loss::Mse }] {
            let objective = Objective::new(&DiffusionConfig { loss, ..config.clone() }, IMAGE).unwrap();
            let process = objective.process();
            let samples = config.timesteps.min(4);
            // The decoder's step among them.
            let t: Vec<_> = (0..samples).map(|i| i * (config.timesteps - 1) / samples.max(2)).collect();
            let x_start = images(seed, samples);
            let noise = random(!seed, samples * LEN, 1.0);
            let x_t = process.q_sample(&x_start, &t, &noise);
            let truth = match config.prediction {
                Prediction::Eps => noise.clone(),
                Prediction::Xstart => x_start.clone(),
                Prediction::Xprev => process.q_posterior_mean(&x_start, &x_t, &t),
            };
            // Near enough to the truth for the decoder not to reach its floor.
            let near = truth.iter().zip(random(seed ^ 1, samples * LEN, 0.01)).map(|(a, b)| a + b);
            // A logarithm, or a place in a range.
            let middle = if config.variance == Variance::Learned { -4.0 } else { 0.0 };
            let log_variance = random(seed ^ 2, samples * LEN, 0.3).into_iter().map(|x| x + middle);
            let output = diffusion::ModelOutput {
                prediction: near.collect(),
                log_variance: learned.then(|| log_variance.collect()),
            }
            .join(IMAGE.channels);

            let inputs = TrainingInputs { t, noise, x_t };
            let total_batch = samples + 3;
            let analytic = objective.loss_and_gradient(&x_start, &inputs, &output, total_batch).gradient;
            let mean_loss = |output: &[f32]| {
                let losses = objective.loss_and_gradient(&x_start, &inputs, output, total_batch).losses;
                losses.iter().sum::<f64>() / total_batch as f64
            };
            // L_hybrid's bound has no gradient by the prediction: there, it is the squared error's.
            let is_prediction = |i: usize| i % (2 * IMAGE.channels) < IMAGE.channels;
            let plain = DiffusionConfig { loss: Loss::Mse, variance: Variance::FixedSmall, ..config.clone() };
            let plain = Objective::new(&plain, IMAGE).unwrap();
            let mean_squared_error = |output: &[f32]| {
                let output = diffusion::ModelOutput::split(output, IMAGE.channels, true).prediction;
                let losses = plain.loss_and_gradient(&x_start, &inputs, &output, total_batch).losses;
                losses.iter().sum::<f64>() / total_batch as f64
            };
            for i in 0..output.len() {
                let alike = |j: &usize| loss != Loss::Hybrid || is_prediction(*j) == is_prediction(i);
                let alike: Vec<_> = (0..output.len()).filter(alike).map(|j| f64::from(analytic[j])).collect();
                let rms = (alike.iter().map(|g| g * g).sum::<f64>() / alike.len() as f64).sqrt();
                let (mut up, mut down) = (output.clone(), output.clone());
                // A place in a narrow range moves the variance by little more than its rounding.
                let is_place = config.variance == Variance::LearnedRange && !is_prediction(i);
                let width = if is_place { 5e-2 } else { 1e-3 };
                up[i] += width;
                down[i] -= width;
                let step = f64::from(up[i]) - f64::from(down[i]);
                let difference = match loss == Loss::Hybrid && is_prediction(i) {
                    true => mean_squared_error(&up) - mean_squared_error(&down),
                    false => mean_loss(&up) - mean_loss(&down),
                };
                let numeric = difference / step;
                let error = (numeric - f64::from(analytic[i])).abs();
                prop_assert!(
                    error <= 1e-2 * rms.max(numeric.abs()),
                    "{:?} [{}]: {} instead of {}, rms {}", loss, i, analytic[i], numeric, rms
                );
            }
        }
    }
}
