//! Work shared among threads. What a task computes never depends on which thread runs it, or on how many there are.

use rayon::prelude::*;
use rayon::{ThreadPool, Yield};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Elements that one task of an elementwise kernel handles.
pub(crate) const CHUNK: usize = 1 << 14;

/// How often a thread looks for work in vain before it lets others have the processor.
const PATIENCE: usize = 1 << 12;
/// How long a run waits for its threads to wake.
const WAKING: Duration = Duration::from_micros(100);

/// Runs `body` in the pool, whose threads stay awake as long: each looks for work until the end. By itself a thread that has found none for some
/// microseconds sleeps, and takes 50 more to wake, as long as an operation on a small map.
///
/// Threads begin to look before `body` begins, or not at all: a thread that already waits inside one of its tasks for the rest of
/// it must not begin to wait for the end above that.
pub(crate) fn run_awake<R: Send>(pool: &ThreadPool, body: impl FnOnce() -> R + Send) -> R {
    /// Says so even if the body panics.
    struct Finish<'a>(&'a AtomicBool);
    impl Drop for Finish<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (begun, finished, awake) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(1));
    pool.install(|| {
        let this = thread_index();
        rayon::scope(|scope| {
            scope.spawn_broadcast(|_, thread| {
                if thread.index() == this || begun.load(Ordering::SeqCst) {
                    return;
                }
                awake.fetch_add(1, Ordering::SeqCst);
                let mut idle = 0;
                while !finished.load(Ordering::SeqCst) {
                    idle = if rayon::yield_now() == Some(Yield::Executed) { 0 } else { idle + 1 };
                    if idle < PATIENCE {
                        std::hint::spin_loop();
                    } else {
                        std::thread::yield_now();
                    }
                }
            });
            let _finish = Finish(&finished);
            let start = Instant::now();
            while awake.load(Ordering::SeqCst) < rayon::current_num_threads() && start.elapsed() < WAKING {
                std::hint::spin_loop();
            }
            begun.store(true, Ordering::SeqCst);
            body()
        })
    })
}

/// Runs `body` for all of `0..tasks`.
pub(crate) fn for_each_task(tasks: usize, body: impl Fn(usize) + Sync + Send) {
    (0..tasks).into_par_iter().with_max_len(1).for_each(body);
}

/// Which of the pool's threads this is: for scratch memory of its own.
pub(crate) fn thread_index() -> usize {
    rayon::current_thread_index().unwrap_or(0)
}

/// What each thread of the pool has made last in memory of its own, by number, for tasks that all need one such thing first.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs follow each other so closely that threads are still looking for work when the next one begins.
    #[test]
    fn runs_end_whenever_threads_wake() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for run in 0..5000 {
                let sum = AtomicUsize::new(0);
                run_awake(&pool, || {
                    for_each_task(run % 17, |task| {
                        sum.fetch_add(task, Ordering::SeqCst);
                    });
                });
                assert_eq!(sum.into_inner(), (0..run % 17).sum::<usize>());
            }
        }
    }

    #[test]
    fn a_panic_ends_a_run() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let run = std::panic::AssertUnwindSafe(|| run_awake(&pool, || panic!("on purpose")));
        assert!(std::panic::catch_unwind(run).is_err());
        assert_eq!(run_awake(&pool, || 5), 5);
    }
}
