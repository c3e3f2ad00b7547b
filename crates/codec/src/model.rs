//! The model that both sides have.

use crate::error::CodecError;
use crate::header::MAX_IMAGES;
use diffusion::{Denoiser, GaussianDiffusion, Prediction};
use engine::Level;

/// Steps of a process, at most.
const MAX_TIMESTEPS: usize = 4000;

/// A network and its process, ready to code.
pub struct Model<'a> {
    pub(crate) process: &'a GaussianDiffusion,
    pub(crate) denoiser: &'a mut dyn Denoiser,
    pub(crate) identity: u32,
    pub(crate) variant: u8,
    pub(crate) batch: usize,
    pub(crate) level: Level,
}

impl<'a> Model<'a> {
    /// The model of `process` and `denoiser`, whose weights have this `fingerprint`; `variant` (0 to 7) says which of
    /// several ways to compute it is used, where they do not give the same bits.
    ///
    /// # Errors
    /// [`CodecError::Model`] for a process that cannot be walked in steps other than its own.
    pub fn new(
        process: &'a GaussianDiffusion,
        denoiser: &'a mut dyn Denoiser,
        fingerprint: &str,
        variant: u8,
    ) -> Result<Self, CodecError> {
        let refuse = |problem: &str| Err(CodecError::Model(problem.into()));
        if process.prediction() == Prediction::Xprev {
            return refuse(
                "the model predicts x_{t-1}, the mean after exactly one step, but steps of a file are longer: a codec needs a \
                 model with `diffusion.prediction` \"eps\" or \"xstart\"",
            );
        }
        if !(2..=MAX_TIMESTEPS).contains(&process.timesteps()) {
            return refuse("a codec needs a process of 2 to 4000 steps");
        }
        if denoiser.image_shape().is_empty() || variant > 7 {
            return refuse("a codec needs images that are not empty, and a variant from 0 to 7");
        }
        let mut digest = crate::header::CRC.digest();
        digest.update(fingerprint.as_bytes());
        digest.update(name_in_identity(process.prediction()).as_bytes());
        for alpha in &process.tables().alphas_cumprod {
            digest.update(&alpha.to_le_bytes());
        }
        let identity = digest.finalize();
        Ok(Self { process, denoiser, identity, variant, batch: 16, level: Level::detect() })
    }

    /// Has the network asked about at most `batch` images at once. No result depends on it.
    #[must_use]
    pub fn with_batch(mut self, batch: usize) -> Self {
        self.batch = batch.max(1);
        self
    }

    /// Has candidates searched with the instructions of `level`. No result depends on it.
    #[must_use]
    pub fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// What files say of the model.
    pub fn identity(&self) -> u32 {
        self.identity
    }

    /// Numbers of an image.
    pub(crate) fn image_len(&self) -> usize {
        self.denoiser.image_shape().len()
    }

    /// How many images `numbers` elements are.
    ///
    /// # Errors
    /// [`CodecError::Images`] if not a whole number from 1 to [`MAX_IMAGES`].
    pub(crate) fn images_in(&self, numbers: usize) -> Result<usize, CodecError> {
        let images = numbers / self.image_len();
        if !numbers.is_multiple_of(self.image_len()) || !(1..=MAX_IMAGES).contains(&images) {
            let image = self.denoiser.image_shape();
            return Err(CodecError::Images { found: numbers, most: MAX_IMAGES, image });
        }
        Ok(images)
    }

    /// What the network says of each x_t, each at its own t.
    pub(crate) fn predict(&mut self, x_t: &[f32], t: &[usize]) -> Result<Predicted, CodecError> {
        let output = self.process.model_output(self.denoiser, x_t, t)?;
        let mut x_start = self.process.predict_xstart(&output.prediction, x_t, t);
        let eps = self.process.predict_eps(&output.prediction, &x_start, x_t, t);
        x_start.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
        Ok(Predicted { x_start, eps })
    }
}

/// What the identity has of a prediction. Part of the format: files that exist have these names in theirs,
/// whatever the program calls the predictions.
fn name_in_identity(prediction: Prediction) -> &'static str {
    match prediction {
        Prediction::Eps => "Eps",
        Prediction::Xstart => "Xstart",
        Prediction::Xprev => "Xprev",
    }
}

/// What the network says of a batch.
pub(crate) struct Predicted {
    /// x̂0, clipped to [-1, 1].
    pub x_start: Vec<f32>,
    /// ε, as the network means it.
    pub eps: Vec<f32>,
}
