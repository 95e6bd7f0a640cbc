//! "My turn": numbered blocks pass one at a time, in order; and the sign that says it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Lets block 0 pass, then 1, then 2. Whoever holds a number must pass or [`Sequencer::cancel`] it:
/// numbers are handed out in order, so the one whose turn it is always exists and cannot be waiting
/// for another.
#[derive(Default)]
pub struct Sequencer {
    next: Mutex<u64>,
    moved: Condvar,
    shut: AtomicBool,
}

impl Sequencer {
    /// Waits for `number`'s turn, does `work`, and lets the next one pass. None: it is shut.
    pub fn run_in_turn<T>(&self, number: u64, work: impl FnOnce() -> T) -> Option<T> {
        let mut next = self.lock();
        while *next != number && !self.is_cancelled() {
            next = self.moved.wait(next).unwrap_or_else(PoisonError::into_inner);
        }
        drop(next); // its turn keeps the others out; a long write must not keep `shut` waiting
        if self.is_cancelled() {
            return None;
        }
        let result = work();
        *self.lock() += 1;
        self.moved.notify_all();
        Some(result)
    }

    /// Ends it for everybody: a worker failed, and nothing that follows is worth doing.
    pub fn cancel(&self) {
        self.shut.store(true, Ordering::Release);
        let _nobody_between_looking_and_waiting = self.lock();
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once [`Sequencer::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_pass_in_order_whoever_comes_first() {
        let sequencer = Sequencer::default();
        let seen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in (0..16u64).rev() {
                let (sequencer, seen) = (&sequencer, &seen);
                scope.spawn(move || sequencer.run_in_turn(number, || seen.lock().map(|mut s| s.push(number)).is_ok()));
            }
        });
        assert_eq!(*seen.lock().unwrap_or_else(PoisonError::into_inner), (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn shutting_frees_everybody_who_waits() {
        let sequencer = Sequencer::default();
        std::thread::scope(|scope| {
            let sequencer = &sequencer;
            let waiting: Vec<_> =
                (1..5).map(|number| scope.spawn(move || sequencer.run_in_turn(number, || ()))).collect();
            std::thread::sleep(std::time::Duration::from_millis(20));
            sequencer.cancel();
            for waiter in waiting {
                assert_eq!(waiter.join().ok(), Some(None));
            }
        });
    }
}
