//! A program on a backend, with its memory: set inputs, run, read outputs.

use crate::backend::{Backend, BackendError};
use crate::graph::Var;
use crate::kernel::{Run, Slot, View};
use crate::optimizer::AdamStep;
use crate::params::ParamSpec;
use crate::profile::Profile;
use crate::program::Program;
#[cfg(doc)]
use crate::program::TrainingOptions;

/// A program with memory on a backend. Nothing is allocated after it is made.
pub struct Session {
    backend: Box<dyn Backend>,
    program: Program,
    /// Whether nothing has been added to the gradients since they were cleared.
    gradients_clear: bool,
}

impl Session {
    /// Takes memory for parameters and activations; with a training program also for gradients and the
    /// optimiser's state.
    ///
    /// # Errors
    /// [`BackendError`]: memory is short, or the device cannot run the program.
    pub fn new(program: Program, mut backend: Box<dyn Backend>) -> Result<Self, BackendError> {
        let len = program.layout().len();
        backend.check(&program.forward)?;
        backend.check(&program.backward)?;
        let buffers = if program.training.is_some() { 4 } else { 1 };
        let parameters = len.saturating_mul(buffers);
        backend.check_memory(program.arena_len().saturating_add(parameters), parameters)?;
        backend.allocate(Slot::Arena, program.arena_len())?;
        backend.allocate(Slot::Params, len)?;
        if program.training.is_some() {
            for slot in [Slot::FirstMoment, Slot::SecondMoment, Slot::Ema] {
                backend.allocate(slot, len)?;
            }
        }
        Ok(Self { backend, program, gradients_clear: true })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Sets all parameters: `weights` in the layout's order.
    ///
    /// # Panics
    /// If the length is not the layout's.
    pub fn set_parameters(&mut self, weights: &[f32]) {
        assert_eq!(weights.len(), self.program.layout().len());
        self.backend.upload(View::start(Slot::Params, weights.len()), weights);
        self.prepare();
    }

    /// Sets the parameters one by one, so that no second copy of them all is needed: `read` calls what it is
    /// given with each of the layout's parameters and its values.
    ///
    /// # Errors
    /// What `read` met; some parameters are then set.
    ///
    /// # Panics
    /// If a parameter is not of this layout, or has not as many values.
    pub fn read_parameters<E>(
        &mut self,
        read: impl FnOnce(&mut dyn FnMut(&ParamSpec, &[f32])) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { backend, program, .. } = self;
        let len = program.layout().len();
        read(&mut |spec, values| {
            assert!(spec.len() == values.len() && spec.range().end <= len, "{}", spec.name);
            backend.upload(View { offset: spec.offset, ..View::start(Slot::Params, values.len()) }, values);
        })?;
        self.prepare();
        Ok(())
    }

    /// Fills what is computed from parameters only.
    fn prepare(&mut self) {
        if self.program.training.is_none() {
            self.backend.prepare(&self.program.forward);
        }
    }

    /// Sets a buffer that shares the parameters' layout, to continue a training run.
    ///
    /// # Panics
    /// If the length is not the layout's.
    pub fn set_buffer(&mut self, slot: Slot, values: &[f32]) {
        assert_eq!(values.len(), self.program.layout().len());
        self.backend.upload(View::start(slot, values.len()), values);
        self.gradients_clear &= slot != Slot::Grads;
    }

    /// A copy of a buffer that shares the parameters' layout.
    ///
    /// # Errors
    /// The first failure of the device, if there was one.
    pub fn buffer(&self, slot: Slot) -> Result<Vec<f32>, BackendError> {
        let mut values = vec![0.0; self.program.layout().len()];
        self.download(View::start(slot, values.len()), &mut values)?;
        Ok(values)
    }

    /// Sets an input.
    ///
    /// # Panics
    /// If the length is not its shape's.
    pub fn set(&mut self, input: Var, values: &[f32]) {
        let view = self.program.view(input);
        assert_eq!(values.len(), view.shape.len());
        self.backend.upload(view, values);
    }

    /// Reads an output after a run.
    ///
    /// # Errors
    /// The first failure of the device, if there was one.
    ///
    /// # Panics
    /// If the length is not its shape's.
    pub fn read(&self, output: Var, out: &mut [f32]) -> Result<(), BackendError> {
        let view = self.program.view(output);
        assert_eq!(out.len(), view.shape.len());
        self.download(view, out)
    }

    fn download(&self, view: View, out: &mut [f32]) -> Result<(), BackendError> {
        self.backend.download(view, out);
        self.backend.failure().map_or(Ok(()), Err)
    }

    /// Computes the outputs.
    pub fn forward(&mut self, run: &Run) {
        self.backend.run(&self.program.forward, run, self.program.training.is_some());
    }

    /// Sets the gradient of the objective with respect to an output, after [`Self::forward`].
    ///
    /// # Panics
    /// If `output` is not one of the training program's outputs, or the length is not its shape's.
    pub fn set_gradient(&mut self, output: Var, values: &[f32]) {
        let view = self.program.gradient_view(output).expect("not an output of a training program");
        assert_eq!(values.len(), view.shape.len());
        self.backend.upload(view, values);
    }

    /// Adds to the gradients of all parameters; [`Self::clear_gradients`] before the first batch of a step. Without
    /// [`TrainingOptions::accumulates`] it sets them.
    ///
    /// Several batches in turn give the gradient of all their samples in one: bit for bit where convolutions
    /// are summed directly ([`crate::ConvMethod::Direct`]), else up to rounding.
    pub fn backward(&mut self, run: &Run) {
        self.backend.run(&self.program.backward, run, true);
        self.gradients_clear = false;
    }

    /// Reads the gradient of an input made by `input_with_gradient`, after [`Self::backward`].
    ///
    /// # Errors
    /// The first failure of the device, if there was one.
    ///
    /// # Panics
    /// If it has none, or the length is not its shape's.
    pub fn read_gradient(&self, input: Var, out: &mut [f32]) -> Result<(), BackendError> {
        let view = self.program.gradient_view(input).expect("the input has no gradient");
        assert_eq!(out.len(), view.shape.len());
        self.download(view, out)
    }

    /// Whether gradients are summed over several batches.
    fn accumulates(&self) -> bool {
        self.program.training.is_some_and(|options| options.accumulates)
    }

    /// Sets the gradients of all parameters to 0. After [`Self::update`] they are already, and without
    /// [`TrainingOptions::accumulates`] there is nothing to do.
    pub fn clear_gradients(&mut self) {
        if self.accumulates() && !self.gradients_clear {
            self.backend.clear_gradients();
            self.gradients_clear = true;
        }
    }

    /// Clips, updates the parameters and their moving average, and clears the gradients that are summed.
    /// Returns the gradients' global norm before clipping; when it is not finite nothing has been changed.
    ///
    /// # Errors
    /// The first failure of the device, if there was one before this update; its own shows in what is read next.
    pub fn update(&mut self, step: &AdamStep) -> Result<f64, BackendError> {
        let norm = self.backend.gradient_norm();
        if let Some(failure) = self.backend.failure() {
            return Err(failure);
        }
        if norm.is_finite() {
            self.backend.update(step, step.clip_factor(norm), self.accumulates());
            self.gradients_clear = true;
        }
        Ok(norm)
    }

    /// What the device tells of itself, and of the memory that was taken, in a line.
    pub fn device_report(&self) -> Option<String> {
        self.backend.report()
    }

    /// Begins to measure where time goes.
    pub fn start_profile(&mut self) {
        self.backend.start_profile();
    }

    /// Where time went since [`Self::start_profile`]; `None` without.
    pub fn profile(&self) -> Option<&Profile> {
        self.backend.profile()
    }
}

#[cfg(test)]
mod tests {
    use super::Session;
    use crate::backend::BackendError;
    use crate::params::Init;
    use crate::program::{Program, TrainingOptions};
    use crate::{Cpu, Graph, Shape};

    /// The system would promise the memory, buffer by buffer, and end the process once it is written to.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_network_larger_than_the_machine_is_refused_before_memory_is_taken() {
        let total = usize::try_from(crate::cpu::machine_memory::total().unwrap()).unwrap();
        // Each buffer alone would fit.
        let width = (total / 4 / 2).isqrt();
        let mut graph = Graph::new();
        let x = graph.input(Shape::vectors(1, width));
        let weight = graph.parameter("weight", vec![width, width], Init::Ones);
        let bias = graph.parameter("bias", vec![width], Init::Zeros);
        let y = graph.linear(x, weight, bias);
        let backend = Box::new(Cpu::new(1).unwrap());
        let program = Program::training_with(&graph, &[y], backend.as_ref(), TrainingOptions::default());
        match Session::new(program, backend).err() {
            Some(BackendError::TooLarge { needed, parameters, total: there }) => {
                assert_eq!(parameters, 4 * 4 * graph.layout().len());
                assert!(there as usize == total && needed > parameters && parameters > total);
            }
            other => panic!("{other:?}"),
        }
    }
}
