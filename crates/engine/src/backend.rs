//! The seam between programs and the hardware that runs them.

use crate::kernel::{Kernel, Run, Scratch, Slot, Step};
use crate::optimizer::AdamStep;
use crate::profile::Profile;
use crate::shape::Shape;

/// What can go wrong in a backend.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Memory could not be had.
    #[error("not enough memory for {bytes} bytes ({what}); use a smaller batch or train.micro_batch")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// What they were for.
        what: &'static str,
    },
    /// The worker threads could not be started.
    #[error("could not start {threads} worker threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

/// Memory and kernels on one device. Buffers are opaque: data crosses only by `upload` and `download`.
pub trait Backend: Send {
    /// Makes `slot` hold `len` zeros; its old content is gone.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn allocate(&mut self, slot: Slot, len: usize) -> Result<(), BackendError>;

    /// Copies `data` into `slot` at `offset`.
    fn upload(&mut self, slot: Slot, offset: usize, data: &[f32]);

    /// Copies from `slot` at `offset` into `out`.
    fn download(&self, slot: Slot, offset: usize, out: &mut [f32]);

    /// Sets a whole slot to 0.
    fn clear(&mut self, slot: Slot);

    /// Scratch memory that `kernel` wants for these shapes.
    fn scratch(&self, kernel: &Kernel, inputs: &[Shape], outputs: &[Shape]) -> Scratch;

    /// Fills the prepared scratch of those steps that have one from the current parameters.
    fn prepare(&mut self, steps: &[Step]);

    /// Runs `steps` in order, each prepared right before it when `prepare` is set.
    fn run(&mut self, steps: &[Step], run: &Run, prepare: bool);

    /// The global norm of the gradients (Euclidean, over all parameters).
    fn gradient_norm(&mut self) -> f64;

    /// One Adam step on all parameters with the gradients multiplied by `gradient_scale`, and the moving average after it.
    fn update(&mut self, step: &AdamStep, gradient_scale: f32);

    /// Begins to measure where time goes; costs a little itself.
    fn start_profile(&mut self);

    /// What has been measured since [`Self::start_profile`]; `None` without.
    fn profile(&self) -> Option<&Profile>;
}
