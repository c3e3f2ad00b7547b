//! Work shared among threads. What a task computes never depends on which thread runs it, or on how many there are.

use rayon::prelude::*;

/// Elements that one task of an elementwise kernel handles.
pub(crate) const CHUNK: usize = 1 << 14;

/// Runs `body` for all of `0..tasks`.
pub(crate) fn for_each_task(tasks: usize, body: impl Fn(usize) + Sync + Send) {
    (0..tasks).into_par_iter().with_max_len(1).for_each(body);
}

/// Which of the pool's threads this is: for scratch memory of its own.
pub(crate) fn thread_index() -> usize {
    rayon::current_thread_index().unwrap_or(0)
}

/// A slice that several tasks write to, each to elements of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    data: *mut f32,
    len: usize,
}

// SAFETY: access goes through `slice` and `pointer`, whose callers promise disjointness.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn new(slice: &mut [f32]) -> Self {
        Self { data: slice.as_mut_ptr(), len: slice.len() }
    }

    /// Elements `start .. start + len`.
    ///
    /// # Safety
    /// The slice this was made from outlives the result, and no other task uses these elements meanwhile.
    pub unsafe fn slice<'a>(&self, start: usize, len: usize) -> &'a mut [f32] {
        debug_assert!(start + len <= self.len);
        // SAFETY: in range; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// A pointer to element `start`.
    pub fn pointer(&self, start: usize) -> *mut f32 {
        debug_assert!(start <= self.len);
        self.data.wrapping_add(start)
    }
}
