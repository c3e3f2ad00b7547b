//! Images whose numbers are -A or A with equal chances, of which the best denoiser is known in closed form.

use codec::Model;
use diffusion::{DenoiseError, Denoiser, DiffusionConfig, GaussianDiffusion, Prediction};
use engine::ImageShape;
use engine::random::{Purpose, Stream};

const A: f32 = 0.8;

/// E[x_0 | x_t] = A tanh(A √ᾱ x_t / (1-ᾱ)).
pub struct Coins {
    process: GaussianDiffusion,
    image: ImageShape,
}

impl Coins {
    pub fn new(process: &GaussianDiffusion, image: ImageShape) -> Self {
        Self { process: process.clone(), image }
    }
}

impl Denoiser for Coins {
    fn image_shape(&self) -> ImageShape {
        self.image
    }

    fn output_channels(&self) -> usize {
        self.image.channels
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], eps: &mut [f32]) -> Result<(), DenoiseError> {
        let len = self.image.len();
        for ((x_t, eps), &t) in x_t.chunks(len).zip(eps.chunks_mut(len)).zip(timesteps) {
            let signal = self.process.tables().alphas_cumprod[t as usize];
            for (&x, eps) in x_t.iter().zip(eps) {
                let x = f64::from(x);
                let x_start = f64::from(A) * libm::tanh(f64::from(A) * signal.sqrt() * x / (1.0 - signal));
                *eps = ((x - signal.sqrt() * x_start) / (1.0 - signal).sqrt()) as f32;
            }
        }
        Ok(())
    }
}

pub fn process() -> GaussianDiffusion {
    process_of(Prediction::Eps)
}

pub fn process_of(prediction: Prediction) -> GaussianDiffusion {
    let config = DiffusionConfig { timesteps: 200, beta_end: 0.1, prediction, ..DiffusionConfig::default() };
    GaussianDiffusion::new(&config).unwrap()
}

pub fn images(count: usize, len: usize) -> Vec<f32> {
    let stream = Stream::new(5, Purpose::Test, 0, 0);
    (0..(count * len) as u32).map(|k| if stream.word(k) & 1 == 1 { A } else { -A }).collect()
}

/// Calls `with` with a model of coins.
pub fn with_model<R>(image: ImageShape, with: impl FnOnce(&mut Model) -> R) -> R {
    let process = process();
    let mut denoiser = Coins::new(&process, image);
    let mut model = Model::new(&process, &mut denoiser, "coins", 0).unwrap();
    with(&mut model)
}
