//! The best network for x_0 ~ N(m, s² I): it predicts x_0 as an affine function of x_t.

use diffusion::{DenoiseError, Denoiser};
use engine::ImageShape;

pub struct OfGaussians {
    /// ᾱ of every step.
    pub signal: Vec<f64>,
    pub mean: f64,
    pub variance: f64,
    pub image: ImageShape,
}

impl OfGaussians {
    /// E[x_0 | x_t] = gain x_t + offset.
    pub fn affine(&self, t: usize) -> (f64, f64) {
        let signal = self.signal[t];
        let gain = signal.sqrt() * self.variance / (signal * self.variance + 1.0 - signal);
        (gain, self.mean * (1.0 - gain * signal.sqrt()))
    }
}

impl Denoiser for OfGaussians {
    fn image_shape(&self) -> ImageShape {
        self.image
    }

    fn output_channels(&self) -> usize {
        self.image.channels
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        let samples = x_t.chunks(self.image.len()).zip(output.chunks_mut(self.image.len()));
        for ((x_t, output), &t) in samples.zip(timesteps) {
            let (gain, offset) = self.affine(t as usize);
            output.iter_mut().zip(x_t).for_each(|(out, &x)| *out = (gain * f64::from(x) + offset) as f32);
        }
        Ok(())
    }
}
