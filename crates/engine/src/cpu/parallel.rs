//! Work shared among threads. What a task computes never depends on which thread runs it, or on how many there are.

use super::team::{MOST_TASKS, Team, run_in_team};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements that one task of an elementwise kernel handles.
pub(crate) const CHUNK: usize = 1 << 14;

/// Runs `body` in the pool, whose threads stay awake as long and share the tasks of [`for_each_task`].
pub(crate) fn run_awake<R: Send>(pool: &ThreadPool, body: impl FnOnce() -> R + Send) -> R {
    let team = Team::new(pool.current_num_threads());
    pool.install(|| {
        let first = thread_index();
        rayon::scope(|scope| {
            scope.spawn_broadcast(|_, thread| {
                if thread.index() != first {
                    team.serve(thread.index());
                }
            });
            team.lead(body)
        })
    })
}

/// Runs `body` for all of `0..tasks`.
pub(crate) fn for_each_task(tasks: usize, body: impl Fn(usize) + Sync + Send) {
    // More than a round may have go several to a task.
    let several = tasks.div_ceil(MOST_TASKS - 1).max(1);
    let bodies = |task: usize| (task * several..tasks.min((task + 1) * several)).for_each(&body);
    let rounded = tasks.div_ceil(several);
    if !run_in_team(rounded, thread_index(), &bodies) {
        (0..rounded).into_par_iter().with_max_len(1).for_each(bodies);
    }
}

/// Runs `body` for each chunk of `len` elements of `data`, the last of which may be shorter, with its number.
pub(crate) fn for_each_chunk<T: Send>(
    data: &mut [T],
    len: usize,
    body: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    /// A pointer that tasks share.
    struct Start<T>(*mut T);
    // SAFETY: each task has a chunk of its own.
    unsafe impl<T: Send> Sync for Start<T> {}
    // SAFETY: as above.
    unsafe impl<T: Send> Send for Start<T> {}
    let (start, all) = (Start(data.as_mut_ptr()), data.len());
    for_each_task(all.div_ceil(len), |index| {
        let start = &start;
        let first = index * len;
        // SAFETY: these elements are this task's, and there until all are done.
        body(index, unsafe { std::slice::from_raw_parts_mut(start.0.add(first), len.min(all - first)) });
    });
}

/// Chunk `index` of [`for_each_chunk`], of what is only read.
pub(crate) fn chunk<T>(data: &[T], len: usize, index: usize) -> &[T] {
    &data[index * len..data.len().min((index + 1) * len)]
}

/// Which of the pool's threads this is: for scratch memory of its own.
pub(crate) fn thread_index() -> usize {
    rayon::current_thread_index().unwrap_or(0)
}

/// What each thread of the pool has made last in memory of its own, by number, for tasks that all need one
/// such thing first.
pub(crate) struct Made(Vec<AtomicUsize>);

impl Made {
    /// No thread has made anything.
    pub fn nothing() -> Self {
        Self((0..rayon::current_num_threads()).map(|_| AtomicUsize::new(usize::MAX)).collect())
    }

    /// Whether this thread has to make `number`, which from then on it has.
    pub fn lacks(&self, number: usize) -> bool {
        let made = &self.0[thread_index()];
        let lacks = made.load(Ordering::Relaxed) != number;
        if lacks {
            made.store(number, Ordering::Relaxed);
        }
        lacks
    }
}

/// A slice that several tasks write to, each to elements of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    data: *mut f32,
    len: usize,
}

// SAFETY: access goes through `slice`, `read` and `pointer`, whose callers promise disjointness.
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

    /// Elements `start .. start + len`, to be read.
    ///
    /// # Safety
    /// The slice this was made from outlives the result, and no task writes to these elements meanwhile.
    pub unsafe fn read<'a>(&self, start: usize, len: usize) -> &'a [f32] {
        debug_assert!(start + len <= self.len);
        // SAFETY: in range; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.data.add(start), len) }
    }

    /// A pointer to element `start`.
    pub fn pointer(&self, start: usize) -> *mut f32 {
        debug_assert!(start <= self.len);
        self.data.wrapping_add(start)
    }
}
