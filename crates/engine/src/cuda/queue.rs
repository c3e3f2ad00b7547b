//! Launching kernels: grids, and the addresses of views.

use super::device::{Address, Argument, Device, THREADS};
use super::error::CudaError;
use super::kernels::count;
use crate::kernel::{Slot, Storage, View};

/// Buffers of a backend.
pub(super) const SLOTS: usize = 5;

/// Bytes of a word.
pub(super) const WORD: usize = size_of::<f32>();

/// In which of the buffers a slot is.
pub(super) const fn slot_index(slot: Slot) -> usize {
    match slot {
        Slot::Arena | Slot::Grads => 0,
        Slot::Params => 1,
        Slot::FirstMoment => 2,
        Slot::SecondMoment => 3,
        Slot::Ema => 4,
    }
}

/// A device and where a backend's slots lie on it.
#[derive(Clone, Copy)]
pub(super) struct Queue<'a> {
    pub device: &'a dyn Device,
    /// What activations are stored as.
    pub storage: Storage,
    pub slots: [Address; SLOTS],
    /// Where the seed and the number of the first sample lie.
    pub run: Address,
}

impl Queue<'_> {
    /// Where a view's first element lies.
    pub fn address(&self, view: View) -> Address {
        self.slots[slot_index(view.slot)] + (view.offset * WORD) as Address
    }

    /// A view's address as an argument.
    pub fn argument(&self, view: View) -> Argument {
        Argument::Address(self.address(view))
    }

    /// Launches a kernel whose threads share `work` items among them.
    pub fn spread(&self, kernel: &'static str, work: usize, arguments: &[Argument]) -> Result<(), CudaError> {
        self.grid(kernel, [blocks(work), 1, 1], arguments)
    }

    /// The same for each sample, of which all have `work` items.
    pub fn spread_samples(
        &self,
        kernel: &'static str,
        work: usize,
        samples: usize,
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        self.grid(kernel, [blocks(work), count(samples), 1], arguments)
    }

    /// Launches a kernel on a grid of blocks.
    pub fn grid(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        if grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: the callers in this folder give each kernel its arguments; the planner's views lie within
        // the slots, and `tests/cuda_against_cpu.rs` runs every kernel with them.
        unsafe { self.device.launch(kernel, grid, arguments) }
    }

    /// Launches the tiles of an `m × n` result, `batch` times.
    pub fn tiles(
        &self,
        kernel: &'static str,
        [m, n, batch]: [usize; 3],
        arguments: &[Argument],
    ) -> Result<(), CudaError> {
        /// `TILE` in `kernels/product.cu`.
        const TILE: usize = 64;
        self.grid(kernel, [count(m.div_ceil(TILE)), count(n.div_ceil(TILE)), count(batch)], arguments)
    }
}

/// Blocks for `work` items: one a thread, up to a number that fills any device.
fn blocks(work: usize) -> u32 {
    const MOST: usize = 1 << 16;
    count(work.div_ceil(THREADS).clamp(1, MOST))
}
