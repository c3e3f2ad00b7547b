//! What can be wrong with a diffusion process, or go wrong in it.

use engine::ImageShape;

use crate::config::Prediction;
use crate::denoiser::DenoiseError;

/// An error of the method. Messages name the configuration key and say what is valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffusionError {
    /// A setting outside its range.
    #[error("`{key}` is {value}, but must be {valid}")]
    OutOfRange {
        /// The configuration key or command-line option.
        key: &'static str,
        /// The value given.
        value: String,
        /// The valid range, in words.
        valid: String,
    },

    /// Settings that are valid by themselves, but not together.
    #[error("{0}")]
    Conflict(String),

    /// A noise schedule from which the process cannot be computed.
    #[error(
        "this noise schedule breaks down at t = {t} of {timesteps}: {what}; \
         change `diffusion.schedule`, `diffusion.timesteps`, `diffusion.beta_start` or `diffusion.beta_end`"
    )]
    DegenerateSchedule {
        /// The first step at which it fails, counted from 0.
        t: usize,
        /// Number of steps of the process.
        timesteps: usize,
        /// What fails there.
        what: &'static str,
    },

    /// A schedule under which the network's prediction does not determine x̂0.
    #[error(
        "`diffusion.prediction = \"{prediction}\"` cannot be used with this noise schedule: at t = {t} the cumulative \
         signal ᾱ is {alpha_cumprod:e}, too small to recover x_0; \
         use `xstart`, or a schedule that ends with more signal (smaller β or fewer timesteps)"
    )]
    UndeterminedXstart {
        /// The prediction asked for.
        prediction: Prediction,
        /// The first such step, counted from 0.
        t: usize,
        /// ᾱ there.
        alpha_cumprod: f64,
    },

    /// A network that is not for this process.
    #[error(
        "the network has {found} output channels; `diffusion.variance` and images of {image} ask for {expected}"
    )]
    OutputChannels {
        /// Channels the network gives.
        found: usize,
        /// Channels the process needs.
        expected: usize,
        /// The image's shape.
        image: ImageShape,
    },

    /// A network for images of another shape.
    #[error("the network is for images of {network}, but the samples are {samples}")]
    ImageShape {
        /// What the network takes.
        network: ImageShape,
        /// What it was to be given.
        samples: ImageShape,
    },

    /// A network output that holds NaN or an infinity.
    #[error(
        "the network's output at t = {timestep} is not finite ({count} of {len} values); \
         its weights are probably damaged, or its training diverged"
    )]
    NonFiniteOutput {
        /// The time step of the first bad sample.
        timestep: usize,
        /// How many values are not finite.
        count: usize,
        /// How many values there are.
        len: usize,
    },

    /// The network failed.
    #[error("the network failed: {0}")]
    Denoiser(#[source] DenoiseError),
}
