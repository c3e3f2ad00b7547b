//! The seam between programs and the hardware that runs them.

use crate::cuda::CudaError;
use crate::kernel::{Kernel, Run, Scratch, Slot, Step, Storage, Then, View};
use crate::ops::Conv;
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
    /// More memory would be needed than the machine has.
    #[error(
        "this network needs {} MiB of memory ({} of them for its parameters and what goes with them), but there are {} in all; use a smaller network, a smaller batch or train.micro_batch",
        needed.div_ceil(1 << 20), parameters.div_ceil(1 << 20), total >> 20
    )]
    TooLarge {
        /// Bytes needed.
        needed: usize,
        /// Bytes of them that no smaller batch would save.
        parameters: usize,
        /// Bytes there are.
        total: u64,
    },
    /// The CUDA device.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The CPU was asked for another precision than its own.
    #[error("the CPU computes in f32: leave --precision f32, or use --device cuda")]
    CpuPrecision,
    /// Convolutions were to be computed by a matrix unit.
    #[error(
        "--conv bf16x3 needs a processor with AMX (Intel's Xeons from the fourth generation on) and Linux 5.16 or later, which this is not: leave --conv fast"
    )]
    NoMatrixUnit,
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
    /// Checks that these steps can be run, before there is memory for them.
    ///
    /// # Errors
    /// What cannot be run, and why.
    fn check(&self, _steps: &[Step]) -> Result<(), BackendError> {
        Ok(())
    }

    /// The first failure of the device. After it nothing is computed any more: what is read is NaN.
    fn failure(&self) -> Option<BackendError> {
        None
    }

    /// What activations and their gradients are stored as; statistics, times and losses are `f32` in any
    /// case, and so are parameters.
    fn storage(&self) -> Storage {
        Storage::F32
    }

    /// Whether a dropout that follows a normalisation is joined with it to [`Kernel::GroupNormDropout`],
    /// where nothing else reads what is between them; and their gradients likewise.
    fn fuses_dropout(&self) -> bool {
        false
    }

    /// Whether [`Kernel::ConvWeightGradSet`] computes a parameter's gradient where that convolution is all
    /// that adds to it.
    fn sets_weight_gradients(&self) -> bool {
        false
    }

    /// Whether this convolution from `source` to `result` is joined with what follows it to
    /// [`Kernel::ConvThen`], where nothing else reads what is between them.
    fn fuses(&self, _conv: Conv, _then: Then, _source: Shape, _result: Shape) -> bool {
        false
    }

    /// Memory taken and the like, in a line for people, once a program has been checked and has its memory.
    fn report(&self) -> Option<String> {
        None
    }

    /// Checks that there can be memory for `values` numbers, before any of it is taken; `parameters` of them are
    /// for buffers of the parameters' layout. A device whose [`Self::allocate`] notices in time need not.
    ///
    /// # Errors
    /// [`BackendError::TooLarge`].
    fn check_memory(&self, _values: usize, _parameters: usize) -> Result<(), BackendError> {
        Ok(())
    }

    /// Makes `slot` hold `len` zeros; its old content is gone. There is none for [`Slot::Grads`], which is
    /// part of [`Slot::Arena`].
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn allocate(&mut self, slot: Slot, len: usize) -> Result<(), BackendError>;

    /// Sets a tensor to `data`, which has its length.
    fn upload(&mut self, to: View, data: &[f32]);

    /// Copies a tensor into `out`, which has its length.
    fn download(&self, from: View, out: &mut [f32]);

    /// Sets the gradients of all parameters to 0.
    fn clear_gradients(&mut self);

    /// Scratch memory that `kernel` wants for these shapes. If `keeps`, what is prepared serves many runs,
    /// else the one that it is prepared for.
    fn scratch(&self, kernel: &Kernel, inputs: &[Shape], outputs: &[Shape], keeps: bool) -> Scratch;

    /// Fills the prepared scratch of those steps that have one from the current parameters.
    fn prepare(&mut self, steps: &[Step]);

    /// Runs `steps` in order, each prepared right before it when `prepare` is set.
    fn run(&mut self, steps: &[Step], run: &Run, prepare: bool);

    /// The global norm of the gradients (Euclidean, over all parameters).
    fn gradient_norm(&mut self) -> f64;

    /// One Adam step on all parameters with the gradients multiplied by `gradient_scale`, and the moving
    /// average after it. With `clears` the gradients are then 0: cleared while they pass by, not in a pass of
    /// their own.
    fn update(&mut self, step: &AdamStep, gradient_scale: f32, clears: bool);

    /// Begins to measure where time goes; costs a little itself.
    fn start_profile(&mut self);

    /// What has been measured since [`Self::start_profile`]; `None` without.
    fn profile(&self) -> Option<&Profile>;
}
