//! DPM-Solver++, the inversion of DDIM and the learned range of the variance, step by step against diffusers
//! (`tools/sampler_fixtures.py`).

use diffusion::{
    AncestralSampler, DdimInversion, DdimSampler, DiffusionConfig, GaussianDiffusion, Loss, Prediction,
    Sampler, SamplerKind, Sampling, Spacing, Variance,
};
use serde::Deserialize;

use crate::assert_close;
use crate::fixture::image_shape;
use crate::toy_denoiser::ToyDenoiser;

#[derive(Deserialize)]
struct Fixture {
    shape: [usize; 4],
    seed: u64,
    first_sample: u64,
    dpm_solver: Vec<SolverChain>,
    inversion: Vec<PlainChain>,
    learned_range: Vec<PlainChain>,
}

#[derive(Deserialize)]
struct SolverChain {
    prediction: Prediction,
    clip: bool,
    #[serde(flatten)]
    plain: PlainChain,
}

#[derive(Deserialize)]
struct PlainChain {
    spacing: Spacing,
    steps: usize,
    chain: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    t: usize,
    x: Vec<f64>,
}

fn load() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/samplers.json")).unwrap()
}

fn process(config: DiffusionConfig) -> GaussianDiffusion {
    GaussianDiffusion::new(&config).unwrap()
}

#[test]
fn dpm_solver_is_that_of_diffusers() {
    let fixture = load();
    let image = image_shape(fixture.shape);
    assert_eq!(fixture.dpm_solver.len(), 48);
    for SolverChain { prediction, clip, plain: PlainChain { spacing, steps, chain } } in &fixture.dpm_solver {
        let what = format!("{prediction}, clip {clip}, {spacing:?}, {steps} steps");
        let config =
            DiffusionConfig { prediction: *prediction, clip_denoised: *clip, ..DiffusionConfig::default() };
        let sampling =
            Sampling { kind: SamplerKind::DpmSolver, steps: Some(*steps), spacing: Some(*spacing) };
        let (seed, first, count) = (fixture.seed, fixture.first_sample, fixture.shape[0]);
        let mut sampler = sampling.sampler(&process(config), image, seed, first, count).unwrap();
        let mut denoiser = ToyDenoiser::new(image);
        for expected in chain {
            let what = format!("{what}, t = {}", expected.t);
            assert_eq!(sampler.step(&mut denoiser).unwrap().unwrap().timestep, expected.t, "{what}");
            assert_close(&what, sampler.chain().x_t(), &expected.x, 1e-5);
        }
        assert_eq!(sampler.step(&mut denoiser).unwrap(), None);
    }
}

#[test]
fn ddim_inversion_is_that_of_diffusers() {
    let fixture = load();
    let image = image_shape(fixture.shape);
    for PlainChain { spacing, steps, chain } in &fixture.inversion {
        let process = process(DiffusionConfig::default()).respace(*steps, *spacing).unwrap();
        let x_start =
            diffusion::noise::latents(fixture.seed, fixture.first_sample, fixture.shape[0], image.len());
        let x_start = x_start.iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        let mut inversion = DdimInversion::new(process, image, x_start, 1).unwrap();
        let mut denoiser = ToyDenoiser::new(image);
        for expected in chain {
            let what = format!("{spacing:?}, {steps} steps, t = {}", expected.t);
            assert_eq!(inversion.step(&mut denoiser).unwrap(), Some(expected.t), "{what}");
            assert_close(&what, inversion.x_t(), &expected.x, 1e-5);
        }
        assert_eq!(inversion.step(&mut denoiser).unwrap(), None);
    }
}

#[test]
fn ddim_draws_the_image_again_from_its_inversion() {
    let image = image_shape([2, 4, 4, 3]);
    let x_start: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * 0.9).collect();
    let config = DiffusionConfig { clip_denoised: false, ..DiffusionConfig::default() };
    let process = process(config).respace(100, Spacing::Trailing).unwrap();
    let error = |iterations| {
        let mut denoiser = ToyDenoiser::new(image);
        let inversion = DdimInversion::new(process.clone(), image, x_start.clone(), iterations).unwrap();
        let latents = inversion.run(&mut denoiser).unwrap();
        let sampler = DdimSampler::new(process.clone(), image, 0, 0, 2, 0.0).unwrap();
        let mut sampler = sampler.from_latents(latents);
        let again = sampler.run(&mut denoiser).unwrap();
        again.iter().zip(&x_start).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    // The published method is off by the size of its steps.
    let (published, exact) = (error(1), error(20));
    assert!((1e-3..0.3).contains(&published) && exact < 1e-4, "{published} {exact}");
}

#[test]
fn a_learned_range_is_that_of_diffusers() {
    let fixture = load();
    let image = image_shape(fixture.shape);
    let config =
        DiffusionConfig { variance: Variance::LearnedRange, loss: Loss::Kl, ..DiffusionConfig::default() };
    for PlainChain { spacing, steps, chain } in &fixture.learned_range {
        let process = process(config.clone()).respace(*steps, *spacing).unwrap();
        let (seed, first, count) = (fixture.seed, fixture.first_sample, fixture.shape[0]);
        let mut sampler = AncestralSampler::new(process, image, seed, first, count).unwrap();
        let mut denoiser = ToyDenoiser::with_range(image);
        for expected in chain {
            let what = format!("{spacing:?}, t = {}", expected.t);
            assert_eq!(sampler.step(&mut denoiser).unwrap().unwrap().timestep, expected.t, "{what}");
            assert_close(&what, sampler.chain().x_t(), &expected.x, 1e-5);
        }
    }
}
