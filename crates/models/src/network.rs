//! A trained U-Net as the method's [`Denoiser`].

use crate::config::UnetConfig;
use crate::unet::{Mode, Unet};
use diffusion::{DenoiseError, Denoiser};
use engine::{Backend, BackendError, ImageShape, ParamSpec, Profile, Program, Run, Session, Var};

/// A U-Net with its weights in memory, ready to predict.
pub struct UnetDenoiser {
    session: Session,
    config: UnetConfig,
    batch: usize,
    x_t: Var,
    timesteps: Var,
    output: Var,
    /// A batch of the session's size, for calls that do not fill it.
    staging: Staging,
}

struct Staging {
    x_t: Vec<f32>,
    timesteps: Vec<f32>,
    output: Vec<f32>,
}

impl UnetDenoiser {
    /// The network of a valid `config` with `weights` in its layout's order, computing `batch` images at a time.
    /// What it predicts for an image does not depend on `batch`.
    ///
    /// # Errors
    /// [`BackendError`] when memory is short.
    pub fn new(
        config: &UnetConfig,
        weights: &[f32],
        batch: usize,
        backend: Box<dyn Backend>,
    ) -> Result<Self, BackendError> {
        let mut denoiser = Self::without_weights(config, batch, backend)?;
        denoiser.set_weights(weights);
        Ok(denoiser)
    }

    /// The same network before it has weights: [`Self::read_weights`] sets them with no second copy of them
    /// in memory.
    ///
    /// # Errors
    /// [`BackendError`] when memory is short.
    pub fn without_weights(
        config: &UnetConfig,
        batch: usize,
        backend: Box<dyn Backend>,
    ) -> Result<Self, BackendError> {
        let Unet { graph, x_t, timesteps, output } = Unet::new(config, batch, Mode::Inference);
        let program = Program::inference(&graph, &[output], backend.as_ref());
        let session = Session::new(program, backend)?;
        let staging = Staging {
            x_t: vec![0.0; graph.shape(x_t).len()],
            timesteps: vec![0.0; batch],
            output: vec![0.0; graph.shape(output).len()],
        };
        Ok(Self { session, config: config.clone(), batch, x_t, timesteps, output, staging })
    }

    /// Replaces the weights.
    pub fn set_weights(&mut self, weights: &[f32]) {
        self.session.set_parameters(weights);
    }

    /// What the device tells of itself, and of the memory that was taken, in a line.
    pub fn device_report(&self) -> Option<String> {
        self.session.device_report()
    }

    /// Sets the weights one by one: `read` calls what it is given with each parameter and its values, as
    /// `StoredModel::for_each_parameter` does.
    ///
    /// # Errors
    /// What `read` met; some weights are then set.
    pub fn read_weights<E>(
        &mut self,
        read: impl FnOnce(&mut dyn FnMut(&ParamSpec, &[f32])) -> Result<(), E>,
    ) -> Result<(), E> {
        self.session.read_parameters(read)
    }

    /// Begins to measure where time goes.
    pub fn start_profile(&mut self) {
        self.session.start_profile();
    }

    /// Where time went, if it is measured.
    pub fn profile(&self) -> Option<&Profile> {
        self.session.profile()
    }

    /// Images computed at a time.
    pub fn batch(&self) -> usize {
        self.batch
    }
}

impl Denoiser for UnetDenoiser {
    fn image_shape(&self) -> ImageShape {
        self.config.image_shape()
    }

    fn output_channels(&self) -> usize {
        self.config.output_channels()
    }

    fn denoise(&mut self, x_t: &[f32], timesteps: &[f32], output: &mut [f32]) -> Result<(), DenoiseError> {
        let Staging { x_t: all_x, timesteps: all_t, output: all_out } = &mut self.staging;
        let (image, result) = (all_x.len() / self.batch, all_out.len() / self.batch);
        assert_eq!(x_t.len(), timesteps.len() * image);
        assert_eq!(output.len(), timesteps.len() * result);
        let images = x_t.chunks(self.batch * image).zip(timesteps.chunks(self.batch));
        for ((x_t, t), output) in images.zip(output.chunks_mut(self.batch * result)) {
            all_x[..x_t.len()].copy_from_slice(x_t);
            all_t[..t.len()].copy_from_slice(t);
            self.session.set(self.x_t, all_x);
            self.session.set(self.timesteps, all_t);
            self.session.forward(&Run::default());
            self.session.read(self.output, all_out)?;
            output.copy_from_slice(&all_out[..output.len()]);
        }
        Ok(())
    }
}
