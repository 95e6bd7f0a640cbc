//! Runs numbered work one at a time and in order, and tells the workers if the copy was cancelled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Runs the work of block 0, then of block 1, then of block 2, whichever worker has it.
///
/// A worker that holds a number must either run it or call [`Sequencer::cancel`], and must also call it if its work has
/// failed. Numbers are handed out in order, so some worker always holds the next one and never waits for another: this
/// cannot deadlock.
#[derive(Default)]
pub struct Sequencer {
    next: Mutex<u64>,
    advanced: Condvar,
    cancelled: AtomicBool,
}

impl Sequencer {
    /// Waits for `number`'s turn, runs `work`, and lets the next number run, unless `work` fails: what follows must not come
    /// after a gap. None if cancelled.
    pub fn run_in_turn<T, E>(&self, number: u64, work: impl FnOnce() -> Result<T, E>) -> Option<Result<T, E>> {
        let mut next = self.lock();
        while *next != number && !self.is_cancelled() {
            next = self.advanced.wait(next).unwrap_or_else(PoisonError::into_inner);
        }
        // The number itself keeps the others out. Holding the lock would make `cancel` wait for a long write.
        drop(next);
        if self.is_cancelled() {
            return None;
        }
        let result = work();
        if result.is_ok() {
            *self.lock() += 1;
            self.advanced.notify_all();
        }
        Some(result)
    }

    /// Wakes every waiting worker: one has failed, and nothing that follows is needed.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        // With the lock held, no worker is between its check of the flag and its wait.
        let _guard = self.lock();
        self.advanced.notify_all();
    }

    /// True once [`Sequencer::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_in_order_whichever_worker_comes_first() {
        let sequencer = Sequencer::default();
        let ran = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in (0..16u64).rev() {
                let (sequencer, ran) = (&sequencer, &ran);
                scope.spawn(move || {
                    sequencer.run_in_turn(number, || ran.lock().map(|mut ran| ran.push(number)).map_err(drop))
                });
            }
        });
        assert_eq!(*ran.lock().unwrap_or_else(PoisonError::into_inner), (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_runs_after_work_that_has_failed() {
        let sequencer = Sequencer::default();
        std::thread::scope(|scope| {
            let sequencer = &sequencer;
            let next = scope.spawn(move || sequencer.run_in_turn(1, || Ok::<_, ()>(())));
            assert_eq!(sequencer.run_in_turn(0, || Err::<(), _>(())), Some(Err(())));
            std::thread::sleep(std::time::Duration::from_millis(20));
            sequencer.cancel();
            assert_eq!(next.join().ok(), Some(None));
        });
    }

    #[test]
    fn cancelling_wakes_every_waiting_worker() {
        let sequencer = Sequencer::default();
        std::thread::scope(|scope| {
            let sequencer = &sequencer;
            let waiting: Vec<_> =
                (1..5).map(|number| scope.spawn(move || sequencer.run_in_turn(number, || Ok::<_, ()>(())))).collect();
            std::thread::sleep(std::time::Duration::from_millis(20));
            sequencer.cancel();
            for waiter in waiting {
                assert_eq!(waiter.join().ok(), Some(None));
            }
        });
    }
}
