//! The CPU backend's memory: one aligned buffer per slot, and the tensors in them.

use crate::backend::BackendError;
use crate::kernel::{Slot, View};
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Buffers start on cache lines, which are also the widest vectors.
const ALIGNMENT: usize = 64;

/// A buffer of `f32`, zero at first.
pub(crate) struct Buffer {
    data: *mut f32,
    len: usize,
}

// SAFETY: the buffer owns its memory.
unsafe impl Send for Buffer {}
// SAFETY: shared references only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub const EMPTY: Self = Self { data: std::ptr::dangling_mut(), len: 0 };

    pub fn zeroed(len: usize, what: &'static str) -> Result<Self, BackendError> {
        if len == 0 {
            return Ok(Self::EMPTY);
        }
        let out_of_memory = || BackendError::OutOfMemory { bytes: len.saturating_mul(4), what };
        let layout = Self::layout(len).ok_or_else(out_of_memory)?;
        // SAFETY: the layout's size is not 0.
        let data = unsafe { alloc_zeroed(layout) }.cast::<f32>();
        if data.is_null() { Err(out_of_memory()) } else { Ok(Self { data, len }) }
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_mul(4)?, ALIGNMENT).ok()
    }

    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `data` points to `len` initialised elements, or is dangling and `len` is 0.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the reference is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (true, Some(layout)) = (self.len > 0, Self::layout(self.len)) {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.data.cast(), layout) }
        }
    }
}

/// All slots' buffers while a program runs.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    bases: [(*mut f32, usize); SLOTS],
}

/// Number of slots.
pub(crate) const SLOTS: usize = 6;

/// A slot's place among the buffers.
pub(crate) fn slot_index(slot: Slot) -> usize {
    match slot {
        Slot::Arena => 0,
        Slot::Params => 1,
        Slot::Grads => 2,
        Slot::FirstMoment => 3,
        Slot::SecondMoment => 4,
        Slot::Ema => 5,
    }
}

impl Memory {
    pub fn new(buffers: &mut [Buffer; SLOTS]) -> Self {
        let mut bases = [(std::ptr::null_mut(), 0); SLOTS];
        for (base, buffer) in bases.iter_mut().zip(buffers) {
            *base = (buffer.data, buffer.len);
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
