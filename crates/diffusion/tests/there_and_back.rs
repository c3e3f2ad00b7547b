//! DDIM to x_T and back, where x̂0 leaves [-1, 1].

#[path = "support/linear_signal.rs"]
mod linear_signal;
#[path = "support/of_gaussians.rs"]
mod of_gaussians;

use diffusion::{
    DdimInversion, DdimSampler, DiffusionConfig, GaussianDiffusion, Prediction, Sampler, Variance,
};
use engine::ImageShape;
use linear_signal::linear_signal;
use of_gaussians::OfGaussians;

#[test]
fn only_a_process_without_clipping_leads_back() {
    const IMAGE: ImageShape = ImageShape::new(4, 4, 1);
    let config = DiffusionConfig {
        timesteps: 50,
        beta_start: 1e-3,
        beta_end: 0.1,
        prediction: Prediction::Xstart,
        variance: Variance::FixedSmall,
        clip_denoised: true,
        ..DiffusionConfig::default()
    };
    let mut network = OfGaussians { signal: linear_signal(&config), mean: 0.0, variance: 4.0, image: IMAGE };
    let x_start: Vec<f32> = (0..IMAGE.len()).map(|i| i as f32 / 2.0 - 4.0).collect();
    let clipped = GaussianDiffusion::new(&config).unwrap();
    let unclipped = clipped.clone().unclipped();
    let mut off = |process: &GaussianDiffusion| {
        let there = DdimInversion::new(unclipped.clone(), IMAGE, x_start.clone(), 12).unwrap();
        let x_t = there.run(&mut network).unwrap();
        let mut back = DdimSampler::new(process.clone(), IMAGE, 0, 0, 1, 0.0).unwrap();
        back.chain_mut().set_latents(x_t);
        let back = back.run(&mut network).unwrap();
        back.iter().zip(&x_start).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(off(&unclipped) < 1e-3, "{}", off(&unclipped));
    assert!(off(&clipped) > 1.0, "{}", off(&clipped));
}
