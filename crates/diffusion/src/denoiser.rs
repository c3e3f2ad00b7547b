//! The one thing the method asks of a network.

use engine::ImageShape;

/// A network call that failed; carries the backend's error.
pub type DenoiseError = Box<dyn std::error::Error + Send + Sync>;

/// A network that, given noisy images and their time steps, predicts what [`crate::Prediction`] says.
pub trait Denoiser {
    /// Height, width and channels of an image.
    fn image_shape(&self) -> ImageShape;

    /// Channels of the output: the image's, or twice as many when the variance is learned.
    fn output_channels(&self) -> usize;

    /// Fills `output` with the prediction for a batch.
    ///
    /// `x_t` is `[n, height, width, channels]`; `timesteps` holds n values of t, counted 0..T-1 of the process
    /// the network was trained with; `output` is `[n, height, width, output_channels]`.
    ///
    /// # Errors
    /// What the network's backend reports.
    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError>;
}
