//! Threads that wait for work without falling asleep.
//!
//! A step of a small network is hundreds of operations of less than a millisecond. Between two of them a thread of rayon falls
//! asleep, and to wake it takes as long as its share of the next one.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

/// Threads that wait awake at most: more would mostly be in each other's way.
const MOST: usize = 15;

/// How long one waits awake before it gives way to other programs between two looks.
const AWAKE: Duration = Duration::from_micros(200);

/// Whether threads are kept awake. Those of one piece of work at a time, so that no two can wait for each other.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Does the work on a thread of rayon, while the others look for parts of it all the time.
pub(crate) fn with_all_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|scope| {
        let Some(done) = Done::take() else { return work() };
        for _ in 1..rayon::current_num_threads().min(MOST + 1) {
            scope.spawn(|_| wait_awake());
        }
        let result = work();
        drop(done);
        result
    })
}

/// Ends the waiting when it is dropped, after a panic as well.
struct Done;

impl Done {
    fn take() -> Option<Self> {
        (!TAKEN.swap(true, Ordering::AcqRel)).then_some(Self)
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Release);
    }
}

/// Takes parts of the work until it is done. Threads steal what was pushed first, so that this is running on all of them
/// before any part of the work is stolen: it is never what a thread does while it waits for a part.
fn wait_awake() {
    let mut since = Instant::now();
    while TAKEN.load(Ordering::Acquire) {
        match rayon::yield_now() {
            Some(Yield::Executed) => since = Instant::now(),
            _ if since.elapsed() < AWAKE => (0..32).for_each(|_| spin_loop()),
            _ => std::thread::yield_now(),
        }
    }
}
