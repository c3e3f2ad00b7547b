//! The CPU backend's memory: one aligned buffer per slot, and the tensors in them.

use crate::backend::BackendError;
use crate::kernel::{Slot, View};
use memmap2::MmapMut;

/// A buffer of `f32`, zero at first.
///
/// It is mapped from the system directly: memory that is never touched is never taken, and it can be asked to come in
/// large pages, without which the kernels' dozens of streams miss the processor's table of pages.
pub(crate) struct Buffer {
    /// Starts on a page, hence on a cache line and the widest vector.
    memory: Option<MmapMut>,
    len: usize,
}

impl Buffer {
    pub const EMPTY: Self = Self { memory: None, len: 0 };

    pub fn zeroed(len: usize, what: &'static str) -> Result<Self, BackendError> {
        if len == 0 {
            return Ok(Self::EMPTY);
        }
        let out_of_memory = || BackendError::OutOfMemory { bytes: len.saturating_mul(4), what };
        let bytes = len.checked_mul(4).ok_or_else(out_of_memory)?;
        let memory = MmapMut::map_anon(bytes).map_err(|_| out_of_memory())?;
        // A system without large pages refuses; that costs only time.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Self { memory: Some(memory), len })
    }

    pub fn as_slice(&self) -> &[f32] {
        match &self.memory {
            // SAFETY: the mapping has `len` elements, zero or written as `f32`.
            Some(memory) => unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), self.len) },
            None => &[],
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        match &mut self.memory {
            // SAFETY: as above, and the reference is exclusive.
            Some(memory) => unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), self.len) },
            None => &mut [],
        }
    }
}

/// All slots' buffers while a program runs.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    bases: [(*mut f32, usize); SLOTS],
}

/// Number of buffers.
pub(crate) const SLOTS: usize = 5;

/// In which of the buffers a slot is.
pub(crate) fn slot_index(slot: Slot) -> usize {
    match slot {
        Slot::Arena | Slot::Grads => 0,
        Slot::Params => 1,
        Slot::FirstMoment => 2,
        Slot::SecondMoment => 3,
        Slot::Ema => 4,
    }
}

impl Memory {
    pub fn new(buffers: &mut [Buffer; SLOTS]) -> Self {
        let mut bases = [(std::ptr::null_mut(), 0); SLOTS];
        for (base, buffer) in bases.iter_mut().zip(buffers) {
            let slice = buffer.as_mut_slice();
            *base = (slice.as_mut_ptr(), slice.len());
        }
        Self { bases }
    }

    fn pointer(&self, view: View) -> *mut f32 {
        let (base, len) = self.bases[slot_index(view.slot)];
        assert!(view.offset + view.shape.len() <= len, "{view:?} reaches beyond its memory");
        // SAFETY: inside the buffer.
        unsafe { base.add(view.offset) }
    }

    /// A tensor that is read.
    ///
    /// # Safety
    /// Nobody writes to it while the slice lives.
    pub unsafe fn read<'a>(&self, view: View) -> &'a [f32] {
        // SAFETY: inside the buffer; aliasing is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer(view), view.shape.len()) }
    }

    /// A tensor that is written.
    ///
    /// # Safety
    /// Nobody else uses it while the slice lives.
    pub unsafe fn write<'a>(&self, view: View) -> &'a mut [f32] {
        // SAFETY: inside the buffer; aliasing is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(view), view.shape.len()) }
    }
}
