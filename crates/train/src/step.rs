//! One update of the weights (Algorithm 1): draw t and ε, predict, measure, go down the gradient.

use crate::config::Config;
use diffusion::{DiffusionError, Objective, TrainingGraph};
use engine::{
    AdamStep, Backend, BackendError, Graph, ParamLayout, Profile, Program, Run, Session, Slot,
    TrainingOptions, Var,
};
use models::{Mode, Unet};

/// A network in training, with the state of its optimiser.
pub struct TrainingStep {
    config: Config,
    objective: Objective,
    session: Session,
    pass: Pass,
}

/// How images of one pass become losses, and their gradient.
enum Pass {
    /// All on the network's graph: what the device computes waits for nothing in between.
    Recorded { inputs: TrainingGraph, loss: Var },
    /// With a loss that only the objective knows.
    Apart { x_t: Var, timesteps: Var, output: Var },
}

/// How an update went.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepOutcome {
    /// Mean loss of the batch, before the update.
    pub loss: f64,
    /// Norm of the whole gradient, before clipping.
    pub grad_norm: f64,
    /// Adam's step size.
    pub learning_rate: f64,
}

/// An update that was not made, since it would have spoilt the weights.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum NotFinite {
    /// The loss is NaN or infinite.
    #[error("the loss of update {update} is {loss}")]
    Loss {
        /// The update, from 1.
        update: u64,
        /// The loss.
        loss: f64,
    },
    /// The gradient has NaN or infinite elements.
    #[error("the gradient of update {update} is not finite (its norm is {norm})")]
    Gradient {
        /// The update, from 1.
        update: u64,
        /// Its norm.
        norm: f64,
    },
}

/// Why an update was not made.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// It would have spoilt the weights.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// What cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The process.
    #[error(transparent)]
    Diffusion(#[from] DiffusionError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl TrainingStep {
    /// The network of a valid `config` with its initial weights.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(config: &Config, backend: Box<dyn Backend>) -> Result<Self, SetupError> {
        let objective = Objective::new(&config.diffusion, config.unet().image_shape())?;
        let (unet, size) = (config.unet(), config.train.pass_size());
        let mut graph = Graph::new();
        let (graph, pass, result) = match objective.record(&mut graph, size) {
            Some(inputs) => {
                let TrainingGraph { x_t, timesteps, .. } = inputs;
                let output = Unet::record(&unet, &mut graph, [x_t, timesteps], Mode::Training);
                let loss = inputs.loss(&mut graph, output);
                (graph, Pass::Recorded { inputs, loss }, loss)
            }
            None => {
                let Unet { graph, x_t, timesteps, output } = Unet::new(&unet, size, Mode::Training);
                (graph, Pass::Apart { x_t, timesteps, output }, output)
            }
        };
        let options = TrainingOptions {
            recomputation: config.train.recompute.into(),
            accumulates: size < config.train.batch_size,
        };
        let program = Program::training_with(&graph, &[result], backend.as_ref(), options);
        let mut session = Session::new(program, backend)?;
        let weights = session.program().layout().initialise(config.train.seed);
        session.set_parameters(&weights);
        session.set_buffer(Slot::Ema, &weights);
        Ok(Self { config: config.clone(), objective, session, pass })
    }

    /// The parameters.
    pub fn layout(&self) -> &ParamLayout {
        self.session.program().layout()
    }

    /// What the device tells of itself, and of the memory that was taken, in a line.
    pub fn device_report(&self) -> Option<String> {
        self.session.device_report()
    }

    /// Begins to measure where time goes.
    pub fn start_profile(&mut self) {
        self.session.start_profile();
    }

    /// Where time went, if it is measured.
    pub fn profile(&self) -> Option<&Profile> {
        self.session.profile()
    }

    /// A copy of the weights, their average, or the optimiser's state.
    ///
    /// # Errors
    /// The device's first failure, if there was one.
    pub fn buffer(&self, slot: Slot) -> Result<Vec<f32>, BackendError> {
        self.session.buffer(slot)
    }

    /// Sets the weights, their average, or the optimiser's state.
    ///
    /// # Panics
    /// If the length is not the layout's.
    pub fn set_buffer(&mut self, slot: Slot, values: &[f32]) {
        if slot == Slot::Params {
            self.session.set_parameters(values);
        } else {
            self.session.set_buffer(slot, values);
        }
    }

    /// Makes the update that follows `completed` others, with a batch of images
    /// `[batch_size, size, size, channels]` in [-1, 1] whose first is number `first_sample` of the whole
    /// training.
    ///
    /// The batch goes through the network in passes of `train.micro_batch` images. Their size changes no bit of a
    /// prediction or a loss; of the gradient none with [`engine::ConvMethod::Direct`], else the last ones.
    ///
    /// # Errors
    /// [`StepError::NotFinite`]; the weights are then as they were. [`StepError::Backend`]; they are lost.
    ///
    /// # Panics
    /// If there are not `batch_size` images.
    pub fn run(
        &mut self,
        completed: u64,
        first_sample: u64,
        images: &[f32],
    ) -> Result<StepOutcome, StepError> {
        let train = &self.config.train;
        let (seed, batch, pass) = (train.seed, train.batch_size, train.pass_size());
        let image_len = self.config.unet().image_shape().len();
        assert_eq!(images.len(), batch * image_len, "not a batch of images");
        self.session.clear_gradients();
        let mut loss = 0.0;
        for (index, x_start) in images.chunks_exact(pass * image_len).enumerate() {
            let run = Run { seed, first_sample: first_sample + (index * pass) as u64 };
            for sample in self.add_gradient(&run, x_start)? {
                loss += sample;
            }
            if !loss.is_finite() {
                return Err(NotFinite::Loss { update: completed + 1, loss }.into());
            }
        }
        let train = &self.config.train;
        let learning_rate = train.learning_rate_at(completed);
        let grad_norm = self.session.update(&AdamStep {
            number: completed + 1,
            learning_rate: learning_rate as f32,
            beta1: train.beta1 as f32,
            beta2: train.beta2 as f32,
            epsilon: train.eps as f32,
            max_gradient_norm: if train.grad_clip > 0.0 { train.grad_clip as f32 } else { f32::INFINITY },
            // The first update copies the weights, as the original code does.
            ema_decay: if completed == 0 { 0.0 } else { train.ema_decay as f32 },
        })?;
        if !grad_norm.is_finite() {
            return Err(NotFinite::Gradient { update: completed + 1, norm: grad_norm }.into());
        }
        Ok(StepOutcome { loss: loss / batch as f64, grad_norm, learning_rate })
    }

    /// One pass: adds to the gradient that of the batch's mean loss, of which these images are a part. Returns each one's
    /// loss.
    fn add_gradient(&mut self, run: &Run, x_start: &[f32]) -> Result<Vec<f64>, BackendError> {
        let Self { config, objective, session, pass } = self;
        let batch = config.train.batch_size;
        match *pass {
            Pass::Recorded { inputs, loss } => {
                let mut losses = vec![0.0; config.train.pass_size()];
                let steps = objective.draw_steps(run.seed, run.first_sample, losses.len());
                inputs.set(session, x_start, &steps);
                session.forward(run);
                session.set_gradient(loss, &vec![1.0 / batch as f32; losses.len()]);
                session.backward(run);
                session.read(loss, &mut losses)?;
                Ok(losses.into_iter().map(f64::from).collect())
            }
            Pass::Apart { x_t, timesteps, output } => {
                let inputs = objective.draw(run.seed, run.first_sample, x_start);
                session.set(x_t, &inputs.x_t);
                session.set(timesteps, &inputs.timesteps());
                session.forward(run);
                let mut predictions = vec![0.0; session.program().shape(output).len()];
                session.read(output, &mut predictions)?;
                let result = objective.loss_and_gradient(x_start, &inputs, &predictions, batch);
                session.set_gradient(output, &result.gradient);
                session.backward(run);
                Ok(result.losses)
            }
        }
    }
}
