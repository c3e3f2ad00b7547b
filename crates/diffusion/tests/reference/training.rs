//! q, p, losses and gradients.

use diffusion::{
    DiffusionConfig, GaussianDiffusion, Loss, ModelOutput, Objective, Prediction, TrainingInputs, Variance,
};
use engine::ImageShape;

use crate::assert_close;
use crate::fixture::{self, image_shape};

#[test]
fn forward_process_and_posterior() {
    let case = fixture::load().training;
    let config = case.process.config(Prediction::Eps, Variance::FixedSmall, Loss::Mse);
    let process = GaussianDiffusion::new(&config).unwrap();
    let x_t: Vec<f64> = case.x_t.iter().map(|&x| x.into()).collect();
    assert_close("x_t", &process.q_sample(&case.x_start, &case.t, &case.noise), &x_t, 3e-7);
    let posterior = process.q_posterior_mean_variance(&case.x_start, &case.x_t, &case.t);
    assert_close("posterior mean", &posterior.mean, &case.posterior_mean, 3e-7);
}

#[test]
fn reverse_process_of_every_parameterisation() {
    let case = fixture::load().training;
    assert_eq!(case.reverse.len(), 3 * 4 * 2);
    for expected in &case.reverse {
        let what = format!("{} {:?} clip {}", expected.prediction, expected.variance, expected.clip);
        let config = case.process.config(expected.prediction, expected.variance, Loss::Kl);
        let process = GaussianDiffusion::new(&config).unwrap();
        let learned = expected.variance.is_learned();
        let output =
            ModelOutput::split(case.output(expected.prediction, expected.variance), case.shape[3], learned);
        let p = process.p_mean_variance(&output, &case.x_t, &case.t, expected.clip);
        assert_close(&format!("{what}: mean"), &p.mean, &expected.mean, 1e-6);
        assert_close(&format!("{what}: pred_xstart"), &p.pred_xstart, &expected.pred_xstart, 3e-6);
        let per_sample = p.mean.len() / case.t.len();
        let log_variance: Vec<_> = (0..p.mean.len()).map(|i| p.log_variance.at(i / per_sample, i)).collect();
        // A range is computed in single precision.
        let tolerance = if expected.variance == Variance::LearnedRange { 1e-6 } else { 1e-8 };
        assert_close(&format!("{what}: log variance"), &log_variance, &expected.log_variance, tolerance);
    }
}

#[test]
fn losses_and_gradients_of_every_objective() {
    let case = fixture::load().training;
    // The bound with every variance, the squared error with the fixed ones, both with the learned ones.
    assert_eq!(case.losses.len(), 3 * (4 + 2 + 2));
    let inputs = TrainingInputs { t: case.t.clone(), noise: case.noise.clone(), x_t: case.x_t.clone() };
    for expected in &case.losses {
        let what = format!("{:?} {} {:?}", expected.loss, expected.prediction, expected.variance);
        let config = case.process.config(expected.prediction, expected.variance, expected.loss);
        let objective = Objective::new(&config, image_shape(case.shape)).unwrap();
        let output = case.output(expected.prediction, expected.variance);
        let found = objective.loss_and_gradient(&case.x_start, &inputs, output, case.total_batch);
        // Relative, as some losses are small.
        let relative = |found: &[f64], expected: &[f64]| -> Vec<f64> {
            found.iter().zip(expected).map(|(found, expected)| found / expected).collect()
        };
        let ones = vec![1.0; found.losses.len()];
        assert_close(&format!("{what}: loss"), &relative(&found.losses, &expected.losses), &ones, 2e-4);
        let rms =
            (expected.gradient.iter().map(|g| g * g).sum::<f64>() / expected.gradient.len() as f64).sqrt();
        let scaled: Vec<_> = found.gradient.iter().map(|&g| f64::from(g) / rms).collect();
        let expected: Vec<_> = expected.gradient.iter().map(|g| g / rms).collect();
        assert_close(&format!("{what}: gradient"), &scaled, &expected, 1e-5);
    }
}

#[test]
fn training_draws_are_the_documented_random_numbers() {
    let expected = fixture::load().drawn;
    let objective = Objective::new(&DiffusionConfig::default(), ImageShape::new(1, 1, 2)).unwrap();
    let x_start = vec![0.5; expected.noise.len()];
    let found = objective.draw(expected.seed, expected.first_sample, &x_start);
    assert_eq!(found.t, expected.t);
    assert_close("noise", &found.noise, &expected.noise, 1e-6);
    assert_eq!(found.x_t, objective.process().q_sample(&x_start, &found.t, &found.noise));
}
