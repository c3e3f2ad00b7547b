//! Threads that stay awake for a run and share out the tasks of one operation after the other.
//!
//! A thread pool's threads sleep when they have found no work for some microseconds, and take 50 more to
//! wake, as long as an operation on a small map; and while they are awake, work reaches them through queues
//! in which they look at random. Here each knows where its tasks are, and looks for nothing else until the
//! run has ended.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// How often a thread looks in vain before it lets others have the processor.
const PATIENCE: usize = 1 << 12;
/// Bits of a task's number; above two of them are those of the round's.
const TASK_BITS: u32 = 22;
const TASK_MASK: u64 = (1 << TASK_BITS) - 1;
/// A round has fewer tasks.
pub(super) const MOST_TASKS: usize = 1 << TASK_BITS;

type Body<'a> = &'a (dyn Fn(usize) + Sync);

/// The threads of a pool during a run. One of them, the first, goes from round to round of tasks, the others
/// serve it.
pub(super) struct Team {
    /// The number of the round that began last.
    round: AtomicU64,
    /// Its tasks; whoever has taken one may read this, for the round does not end before that task has.
    body: UnsafeCell<Body<'static>>,
    /// What is left of each thread's share.
    shares: Vec<Share>,
    /// Tasks that have ended.
    ended: AtomicUsize,
    /// The first task's that panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    finished: AtomicBool,
}

// SAFETY: the body is `Sync`, and is written to between rounds, when nobody has a task and reads it.
unsafe impl Sync for Team {}

/// The round's number, the first task that nobody has taken and the end of them, in one number, which can be
/// taken from both ends; alone in its cache line and the one that the processor fetches with it.
#[repr(align(128))]
struct Share(AtomicU64);

/// Which end of a share.
#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl Share {
    fn set(&self, round: u64, tasks: Range<usize>) {
        let packed = round << (2 * TASK_BITS) | (tasks.start as u64) << TASK_BITS | tasks.end as u64;
        self.0.store(packed, Ordering::Release);
    }

    /// Takes a task, if one is left and the round is still that one.
    fn take(&self, round: u64, from: End) -> Option<usize> {
        let mut task = 0;
        let take = |packed: u64| {
            let (first, end) = (packed >> TASK_BITS & TASK_MASK, packed & TASK_MASK);
            if packed >> (2 * TASK_BITS) != round || first >= end {
                return None;
            }
            let (taken, left) = match from {
                End::Front => (first, packed + (1 << TASK_BITS)),
                End::Back => (end - 1, packed - 1),
            };
            task = taken as usize;
            Some(left)
        };
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, take).ok().map(|_| task)
    }
}

/// Where a thread is.
#[derive(Clone, Copy)]
enum Place {
    /// In no run.
    Outside,
    /// The first of a team, between rounds.
    First(*const Team),
    /// In a task.
    Task,
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
}

impl Team {
    pub fn new(threads: usize) -> Self {
        Self {
            round: AtomicU64::new(0),
            body: UnsafeCell::new(&|_| {}),
            shares: (0..threads).map(|_| Share(AtomicU64::new(0))).collect(),
            ended: AtomicUsize::new(0),
            panic: Mutex::new(None),
            finished: AtomicBool::new(false),
        }
    }

    /// Runs `body` with this thread as the first of the team, which others [`serve`](Self::serve) until then.
    pub fn lead<R>(&self, body: impl FnOnce() -> R) -> R {
        /// Ends the run even if the body panics.
        struct Finish<'a>(&'a Team);
        impl Drop for Finish<'_> {
            fn drop(&mut self) {
                PLACE.set(Place::Outside);
                self.0.finished.store(true, Ordering::Release);
            }
        }
        let _finish = Finish(self);
        PLACE.set(Place::First(self));
        body()
    }

    /// Takes part in every round until the run has ended, as thread number `thread`.
    pub fn serve(&self, thread: usize) {
        let (mut last, mut idle) = (0, 0);
        while !self.finished.load(Ordering::Acquire) {
            let round = self.round.load(Ordering::Acquire);
            if round == last {
                wait(&mut idle);
            } else {
                self.work(round, thread);
                (last, idle) = (round, 0);
            }
        }
    }

    /// Runs `body` for all of `0..tasks`, which are fewer than [`MOST_TASKS`], shared out; `thread` is this one.
    fn run_round(&self, tasks: usize, thread: usize, body: Body) {
        assert!(tasks < MOST_TASKS);
        // SAFETY: every task of the rounds before has ended. The body is there until those of this one have, below.
        unsafe { *self.body.get() = std::mem::transmute::<Body, Body<'static>>(body) };
        self.ended.store(0, Ordering::Relaxed);
        let round = (self.round.load(Ordering::Relaxed) + 1) & (u64::MAX >> (2 * TASK_BITS));
        let threads = self.shares.len();
        for (index, share) in self.shares.iter().enumerate() {
            let tasks = index * tasks / threads..(index + 1) * tasks / threads;
            // An old round's share is as good as an empty one, and stays in the caches of those that look at it.
            if !tasks.is_empty() {
                share.set(round, tasks);
            }
        }
        self.round.store(round, Ordering::Release);
        self.work(round, thread);
        let mut idle = 0;
        while self.ended.load(Ordering::Acquire) < tasks {
            wait(&mut idle);
        }
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    /// Runs tasks until none is left: this thread's own from the front, those of others from the back.
    fn work(&self, round: u64, thread: usize) {
        let place = PLACE.replace(Place::Task);
        let threads = self.shares.len();
        let mut ended = 0;
        for other in 0..threads {
            let share = &self.shares[(thread + other) % threads];
            let from = if other == 0 { End::Front } else { End::Back };
            while let Some(task) = share.take(round, from) {
                // SAFETY: this thread has a task of the round.
                let body = unsafe { *self.body.get() };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(task))) {
                    self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                }
                ended += 1;
            }
        }
        if ended > 0 {
            self.ended.fetch_add(ended, Ordering::Release);
        }
        PLACE.set(place);
    }
}

/// Waits a moment, the `idle`th.
fn wait(idle: &mut usize) {
    *idle += 1;
    if *idle < PATIENCE {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// Runs `body` for all of `0..tasks` if this thread leads a team, or is in a task, whose own tasks are its
/// alone. Whether it has.
pub(super) fn run_in_team(tasks: usize, thread: usize, body: Body) -> bool {
    match PLACE.get() {
        Place::Outside => return false,
        Place::Task => (0..tasks).for_each(body),
        Place::First(_) if tasks < 2 => (0..tasks).for_each(body),
        // SAFETY: set while the team is led.
        Place::First(team) => unsafe { &*team }.run_round(tasks, thread, body),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::MOST_TASKS;
    use crate::cpu::parallel::{for_each_task, run_awake, thread_index};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// Runs follow each other so closely that some threads are not there yet when one ends.
    #[test]
    fn every_task_runs_once_whenever_threads_come() {
        for threads in [1, 2, 5] {
            let pool = pool(threads);
            for run in 0..3000 {
                let counts: Vec<_> = (0..run % 17).map(|_| AtomicUsize::new(0)).collect();
                run_awake(&pool, || {
                    for _ in 0..3 {
                        for_each_task(counts.len(), |task| {
                            counts[task].fetch_add(1, Ordering::SeqCst);
                        });
                    }
                });
                assert!(counts.into_iter().all(|count| count.into_inner() == 3));
            }
        }
    }

    #[test]
    fn a_thread_takes_over_what_another_does_not_come_to() {
        let by = [const { AtomicUsize::new(0) }; 2];
        run_awake(&pool(2), || {
            let (begun, ended) = ([const { AtomicUsize::new(0) }; 2], AtomicUsize::new(0));
            let wait_until = |is_so: &dyn Fn() -> bool| {
                while !is_so() {
                    std::thread::yield_now();
                }
            };
            for_each_task(20, |task| {
                begun[thread_index()].store(1, Ordering::SeqCst);
                wait_until(&|| begun.iter().all(|begun| begun.load(Ordering::SeqCst) == 1));
                // The first task of the first share does not end before all others have.
                wait_until(&|| task != 0 || ended.load(Ordering::SeqCst) == 19);
                ended.fetch_add(1, Ordering::SeqCst);
                by[thread_index()].fetch_add(1, Ordering::SeqCst);
            });
        });
        let mut by = by.map(AtomicUsize::into_inner);
        by.sort_unstable();
        assert_eq!(by, [1, 19]);
    }

    #[test]
    fn a_round_ends_after_the_last_of_its_tasks() {
        run_awake(&pool(2), || {
            let first = thread_index();
            for _ in 0..20 {
                let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
                for_each_task(2, |_| {
                    begun.fetch_add(1, Ordering::SeqCst);
                    // Each thread has one.
                    while begun.load(Ordering::SeqCst) < 2 {
                        std::thread::yield_now();
                    }
                    if thread_index() != first {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                });
                assert_eq!(ended.into_inner(), 2);
            }
        });
    }

    #[test]
    fn tasks_of_tasks_and_more_than_a_round_may_have() {
        const MANY: [usize; 4] = [MOST_TASKS, 2 * MOST_TASKS - 1, 2 * MOST_TASKS, 2 * MOST_TASKS + 5];
        let sum = AtomicUsize::new(0);
        let add = |number| {
            sum.fetch_add(number, Ordering::Relaxed);
        };
        run_awake(&pool(3), || {
            for_each_task(5, |_| for_each_task(7, add));
            for tasks in MANY {
                for_each_task(tasks, |_| add(1));
            }
        });
        assert_eq!(sum.into_inner(), 5 * 21 + MANY.iter().sum::<usize>());
    }

    #[test]
    fn a_panic_of_a_task_or_between_rounds_ends_the_run() {
        let pool = pool(3);
        for in_task in [false, true] {
            let run = || {
                run_awake(&pool, || {
                    for_each_task(9, |task| assert!(!in_task || task != 7, "on purpose"));
                    assert!(in_task, "on purpose");
                });
            };
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        }
        assert_eq!(run_awake(&pool, || 5), 5);
    }
}
