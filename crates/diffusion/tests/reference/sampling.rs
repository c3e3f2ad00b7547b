//! Samplers, step by step against diffusers' schedulers.

use diffusion::{AncestralSampler, DdimSampler, DiffusionConfig, GaussianDiffusion, Sampler, Variance};

use crate::assert_close;
use crate::fixture::{self, ReferenceChain, Sampling, image_shape};
use crate::toy_denoiser::ToyDenoiser;

fn process(case: &ReferenceChain) -> GaussianDiffusion {
    let config = DiffusionConfig {
        prediction: case.prediction,
        variance: case.variance.unwrap_or(Variance::FixedLarge),
        clip_denoised: case.clip,
        ..DiffusionConfig::default()
    };
    GaussianDiffusion::new(&config).unwrap().respace(case.steps, case.spacing).unwrap()
}

fn follow(mut sampler: impl Sampler, sampling: &Sampling, case: &ReferenceChain) {
    let what = format!(
        "{} {:?} η {:?} {:?} {} steps, clip {}",
        case.prediction, case.variance, case.eta, case.spacing, case.steps, case.clip
    );
    let mut denoiser = ToyDenoiser::new(image_shape(sampling.shape));
    let mut expected = case.chain.iter();
    for i in 0..case.steps {
        let info = sampler.step(&mut denoiser).unwrap().unwrap();
        assert_eq!(info.steps_left, case.steps - 1 - i);
        if i % case.keep_every == 0 || info.steps_left == 0 {
            let expected = expected.next().unwrap();
            let what = format!("{what}, t = {}", expected.t);
            assert_eq!(info.timestep, expected.t, "{what}");
            assert_close(&format!("{what}: x"), sampler.chain().x_t(), &expected.x, 1e-5);
            assert_close(&format!("{what}: x̂0"), sampler.chain().pred_xstart(), &expected.pred_xstart, 1e-5);
        }
    }
    assert!(expected.next().is_none());
    assert_eq!(sampler.step(&mut denoiser).unwrap(), None);
}

#[test]
fn ancestral_sampling_is_that_of_diffusers() {
    let sampling = fixture::load().sampling;
    for case in &sampling.ancestral {
        let (image, seed, first) = (image_shape(sampling.shape), sampling.seed, sampling.first_sample);
        let sampler = AncestralSampler::new(process(case), image, seed, first, sampling.shape[0]).unwrap();
        follow(sampler, &sampling, case);
    }
}

#[test]
fn ddim_sampling_is_that_of_diffusers() {
    let sampling = fixture::load().sampling;
    for case in &sampling.ddim {
        let (image, seed, first) = (image_shape(sampling.shape), sampling.seed, sampling.first_sample);
        let eta = case.eta.unwrap();
        let sampler = DdimSampler::new(process(case), image, seed, first, sampling.shape[0], eta).unwrap();
        follow(sampler, &sampling, case);
    }
}
