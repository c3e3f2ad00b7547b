//! The variational bound, term by term.

use diffusion::{BoundEvaluation, GaussianDiffusion, Loss, Prediction, Variance};

use crate::assert_close;
use crate::fixture::{self, image_shape};
use crate::toy_denoiser::ToyDenoiser;

#[test]
fn every_term_of_the_bound() {
    let case = fixture::load().bound;
    let config = case.process.config(Prediction::Eps, Variance::FixedLarge, Loss::Kl);
    let process = GaussianDiffusion::new(&config).unwrap();
    let samples = case.shape[0];
    for expected in &case.cases {
        let evaluation = BoundEvaluation::new(
            process.clone(),
            case.x_start.clone(),
            samples,
            case.seed,
            case.first_sample,
            expected.cdf,
        );
        let bounds = evaluation.finish(&mut ToyDenoiser::new(image_shape(case.shape))).unwrap();
        assert_eq!(bounds.len(), samples);
        for (sample, bound) in bounds.iter().enumerate() {
            let what = format!("{:?}, sample {sample}", expected.cdf);
            let column = |rows: &[Vec<f64>]| rows.iter().map(|row| row[sample]).collect::<Vec<_>>();
            let (bits, mse) = (column(&expected.bits_per_dim), column(&expected.xstart_mse));
            let found: Vec<_> = bound.terms.iter().map(|term| term.bits_per_dim).collect();
            assert_close(&format!("{what}: bits/dim"), &found, &bits, 1e-5);
            let found: Vec<_> = bound.terms.iter().map(|term| term.xstart_mse).collect();
            assert_close(&format!("{what}: MSE"), &found, &mse, 1e-6);
            assert_close(&format!("{what}: prior"), &[bound.prior], &case.prior[sample..=sample], 1e-8);

            let rate = case.prior[sample] + bits[1..].iter().sum::<f64>();
            assert_close(&format!("{what}: rate"), &[bound.rate()], &[rate], 1e-5);
            assert_close(&format!("{what}: distortion"), &[bound.distortion()], &[bits[0]], 1e-5);
            assert_close(&format!("{what}: total"), &[bound.total()], &[rate + bits[0]], 1e-5);
            let late = case.prior[sample] + bits[13..].iter().sum::<f64>();
            assert_close(&format!("{what}: rate at 12"), &[bound.progressive_rate(12)], &[late], 1e-5);
            let rmse = 127.5 * mse[12].sqrt();
            assert_close(&format!("{what}: RMSE at 12"), &[bound.progressive_distortion(12)], &[rmse], 1e-5);
        }
    }
}
