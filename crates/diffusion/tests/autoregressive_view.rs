//! Eq. 16: the bound is what p gets wrong about each step, plus what there is to know.

#[path = "support/linear_signal.rs"]
mod linear_signal;
#[path = "support/of_gaussians.rs"]
mod of_gaussians;

use diffusion::{
    BoundEvaluation, DenoiseError, Denoiser, DiffusionConfig, GaussianDiffusion, NormalCdf, Prediction,
    RewrittenBoundEvaluation, Variance,
};
use engine::ImageShape;
use engine::random::{Purpose, Stream};
use linear_signal::linear_signal;
use of_gaussians::OfGaussians;
use std::f64::consts::{E, TAU};

fn normals(sample: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Stream::new(4, Purpose::Test, 0, sample).normals(0, &mut values);
    values
}

fn config(timesteps: usize, variance: Variance) -> DiffusionConfig {
    DiffusionConfig {
        timesteps,
        beta_start: 0.1 / timesteps as f64,
        beta_end: 16.0 / timesteps as f64,
        prediction: Prediction::Xstart,
        variance,
        clip_denoised: false,
        ..DiffusionConfig::default()
    }
}

/// The best network for finitely many images: it predicts their mean under q(x_0 | x_t).
struct Rememberer {
    process: GaussianDiffusion,
    images: Vec<f32>,
    image: ImageShape,
}

impl Denoiser for Rememberer {
    fn image_shape(&self) -> ImageShape {
        self.image
    }

    fn output_channels(&self) -> usize {
        self.image.channels
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        let len = self.image.len();
        for ((x_t, output), &t) in x_t.chunks(len).zip(output.chunks_mut(len)).zip(timesteps) {
            let signal = self.process.tables().alphas_cumprod[t as usize];
            let nearness = |image: &[f32]| {
                let square = |(x, y): (&f32, &f32)| (f64::from(*x) - signal.sqrt() * f64::from(*y)).powi(2);
                -0.5 * x_t.iter().zip(image).map(square).sum::<f64>() / (1.0 - signal)
            };
            let logs: Vec<f64> = self.images.chunks(len).map(nearness).collect();
            let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
            let all: f64 = weights.iter().sum();
            for (k, output) in output.iter_mut().enumerate() {
                let mean = self
                    .images
                    .chunks(len)
                    .zip(&weights)
                    .map(|(image, w)| f64::from(image[k]) * w)
                    .sum::<f64>();
                *output = (mean / all) as f32;
            }
        }
        Ok(())
    }
}

fn rememberer(timesteps: usize, count: usize) -> Rememberer {
    let image = ImageShape::new(3, 2, 1);
    // Of 8 bits, two of them nearly alike, so that some information comes late.
    let byte = |x: f32| ((x * 0.4 + 1.0).clamp(0.0, 2.0) * 127.5).round() / 127.5 - 1.0;
    let mut images: Vec<f32> = normals(1, count * image.len()).into_iter().map(byte).collect();
    let first = images[..image.len()].to_vec();
    images[image.len()..2 * image.len()].copy_from_slice(&first);
    images[image.len()] += 3.0 / 127.5;
    let process = GaussianDiffusion::new(&config(timesteps, Variance::FixedSmall)).unwrap();
    Rememberer { process, images, image }
}

#[test]
fn what_the_steps_say_about_an_image_is_its_entropy() {
    for (timesteps, kept) in [(50, None), (400, Some(30)), (17, None)] {
        let count = 7;
        let mut network = rememberer(timesteps, count);
        let mut process = network.process.clone();
        if let Some(kept) = kept {
            process = process.respace(kept, diffusion::Spacing::Trailing).unwrap();
        }
        let (images, len) = (network.images.clone(), network.image.len());
        let evaluation =
            RewrittenBoundEvaluation::new(process.clone(), images.clone(), count, 3, NormalCdf::Erf);
        let bound = evaluation.finish(&mut network).unwrap();
        assert_eq!(bound.terms.len(), process.timesteps());
        let entropy = 7f64.log2();
        // Of densities of mixtures, step by step, and yet to rounding.
        assert!((bound.information() - entropy).abs() < 1e-5, "{} of {entropy}", bound.information());
        assert!((bound.rewritten() - bound.usual()).abs() < 1e-5);
        assert!(bound.usual() > entropy);
        // The usual form is the bound that is measured everywhere, but for its noise.
        let usual =
            BoundEvaluation::new(process, images, count, 9, 0, NormalCdf::Erf).finish(&mut network).unwrap();
        let usual: Vec<f64> = usual.iter().map(|bound| bound.total() * len as f64).collect();
        let mean = usual.iter().sum::<f64>() / count as f64;
        let spread = (usual.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count as f64).sqrt();
        assert!(
            (bound.usual() - mean).abs() < 3.0 * spread + 0.1 * mean,
            "{} {mean} ± {spread}",
            bound.usual()
        );
    }
}

#[test]
fn with_the_best_network_the_bound_is_near_the_entropy_and_nearer_with_more_steps() {
    let gap = |timesteps| {
        let mut network = rememberer(timesteps, 6);
        let mut gaps = 0.0;
        for seed in 0..40 {
            let evaluation = RewrittenBoundEvaluation::new(
                network.process.clone(),
                network.images.clone(),
                6,
                seed,
                NormalCdf::Erf,
            );
            let bound = evaluation.finish(&mut network).unwrap();
            gaps += bound.usual() - bound.entropy;
        }
        gaps / 40.0
    };
    let (coarse, fine) = (gap(20), gap(200));
    assert!(fine > -0.05 && fine < 0.6 * coarse, "{coarse} {fine}");
}

const MEAN: f64 = 0.1;
const STD: f64 = 0.2;

#[test]
fn on_gaussian_data_both_forms_agree() {
    const IMAGE: ImageShape = ImageShape::new(16, 32, 2);
    const SAMPLES: usize = 24;
    let n = (IMAGE.len() * SAMPLES) as f64;
    // Data with exactly the mean and variance of their distribution.
    let mut x_start = normals(0, IMAGE.len() * SAMPLES);
    let mean = x_start.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = x_start.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    x_start.iter_mut().for_each(|x| *x = (MEAN + STD * (f64::from(*x) - mean) / variance.sqrt()) as f32);

    for variance in [Variance::FixedSmall, Variance::FixedLarge] {
        let config = DiffusionConfig { beta_start: 0.01, beta_end: 0.2, ..config(50, variance) };
        let signal = linear_signal(&config);
        let mut network =
            OfGaussians { signal: signal.clone(), mean: MEAN, variance: STD * STD, image: IMAGE };

        // Eq. 16 in closed form, of one dimension in nats. q(x_T) and q(x_{t-1} | x_t) are Gaussians with p's means.
        let last = signal[49];
        let (mu, var) = (last.sqrt() * MEAN, last * STD * STD + 1.0 - last);
        let mut nats = 0.5 * (var + mu * mu - 1.0 - var.ln());
        for t in 0..50 {
            let (now, before) = (signal[t], if t == 0 { 1.0 } else { signal[t - 1] });
            let beta = 1.0 - now / before;
            let posterior = beta * (1.0 - before) / (1.0 - now);
            let c1 = beta * before.sqrt() / (1.0 - now);
            let of_xstart = STD * STD * (1.0 - now) / (now * STD * STD + 1.0 - now);
            let q = posterior + c1 * c1 * of_xstart;
            let p = match (t, variance) {
                (0, _) => (1.0 - signal[1] / signal[0]) * (1.0 - signal[0]) / (1.0 - signal[1]),
                (_, Variance::FixedSmall) => posterior,
                _ => beta,
            };
            nats += 0.5 * ((p / q).ln() + q / p - 1.0);
        }
        // H(x_0), in bins of 2/255.
        nats += 0.5 * (TAU * E * STD * STD).ln() - (2.0f64 / 255.0).ln();

        let process = GaussianDiffusion::new(&config).unwrap();
        let usual = BoundEvaluation::new(process, x_start.clone(), SAMPLES, 4, 0, NormalCdf::Erf);
        let bounds = usual.finish(&mut network).unwrap();
        let found = bounds.iter().map(diffusion::BitsPerDim::total).sum::<f64>() / SAMPLES as f64;
        let expected = nats / 2f64.ln();
        // The decoder integrates p over a bin, of which eq. 16 in this form takes the density: 0.01 bits at most.
        assert!((found - expected).abs() < 0.02, "{variance:?}: {found} bits/dim, by eq. 16 {expected}");
    }
}
