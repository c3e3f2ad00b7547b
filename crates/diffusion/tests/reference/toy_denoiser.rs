//! A network simple enough to write twice.

use diffusion::{DenoiseError, Denoiser};
use engine::ImageShape;

/// 1.2 x / (1 + |x|) + 0.3 t/1000 - 0.1 c for channel c; with a range, then -0.4 + 0.5 x / (1 + |x|) for each
/// channel.
pub struct ToyDenoiser {
    image: ImageShape,
    has_range: bool,
}

impl ToyDenoiser {
    pub fn new(image: ImageShape) -> Self {
        Self { image, has_range: false }
    }

    /// With the output's second half for a learned range of the variance.
    pub fn with_range(image: ImageShape) -> Self {
        Self { image, has_range: true }
    }
}

impl Denoiser for ToyDenoiser {
    fn image_shape(&self) -> ImageShape {
        self.image
    }

    fn output_channels(&self) -> usize {
        self.image.channels * if self.has_range { 2 } else { 1 }
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        let (len, channels, outputs) = (self.image.len(), self.image.channels, self.output_channels());
        let samples = x_t.chunks(len).zip(output.chunks_mut(len / channels * outputs)).zip(timesteps);
        for ((x_t, output), t) in samples {
            for (x, y) in x_t.chunks(channels).zip(output.chunks_mut(outputs)) {
                for (c, x) in x.iter().enumerate() {
                    y[c] = 1.2 * x / (1.0 + x.abs()) + 0.3 * t / 1000.0 - 0.1 * c as f32;
                    if self.has_range {
                        y[channels + c] = -0.4 + 0.5 * x / (1.0 + x.abs());
                    }
                }
            }
        }
        Ok(())
    }
}
