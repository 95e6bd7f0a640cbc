//! `--rate-limit`: a steady rate in bytes per second.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A late block may catch up by this much. Any longer delay is not made up, so that no burst follows a stall.
const SLACK: Duration = Duration::from_millis(1);
/// The rate used, as a share of the limit: with the slack, no tenth of a second has more than its share and one block.
const MARGIN: f64 = 0.99;
/// Blocks per second to aim at, unless they would be smaller than [`MIN_BLOCK`]: small blocks do not keep the disk busy
/// for long, and make no bursts.
const BLOCKS_PER_SECOND: u64 = 4000;
/// In bytes.
const MIN_BLOCK: u64 = 64 << 10;
/// Block sizes are a multiple of this, in bytes: whole sectors and pages, and whole chunks of a BLAKE3 tree.
const BLOCK_STEP: u64 = 16 << 10;
/// Bytes per second that one worker can copy in such blocks on a flash disk. With one worker, other users of
/// the disk never wait for more than one block.
const WORKER_RATE: u64 = 350_000_000;

/// The size and number of the blocks of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlan {
    /// Bytes per block.
    pub size: u64,
    /// Blocks in flight.
    pub in_flight: u64,
}

impl BlockPlan {
    /// Smaller and fewer blocks, as suits a limit of `rate_limit` bytes per second.
    pub fn for_rate(self, rate_limit: u64) -> Self {
        let even = rate_limit / BLOCKS_PER_SECOND;
        let size = (even - even % BLOCK_STEP).max(MIN_BLOCK);
        Self { size: self.size.min(size), in_flight: self.in_flight.min(rate_limit.div_ceil(WORKER_RATE)) }
    }
}

/// Limits reading and writing, each to the same rate. A block may start when the time of the previous one is over, no
/// matter which worker has it.
pub struct RateLimiter {
    /// In bytes per second.
    rate: Option<f64>,
    /// When the next block may start, for each [`Direction`].
    next_start: [Mutex<Instant>; 2],
    cancelled: Mutex<bool>,
    cancel: Condvar,
}

/// Which limit a block falls under.
#[derive(Clone, Copy)]
pub enum Direction {
    /// Bytes from the source.
    Read,
    /// Bytes to the destination.
    Write,
}

impl RateLimiter {
    /// `limit` is in bytes per second; None is no limit.
    pub fn new(limit: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            rate: limit.map(|limit| limit as f64 * MARGIN),
            next_start: [Mutex::new(now), Mutex::new(now)],
            cancelled: Mutex::new(false),
            cancel: Condvar::new(),
        }
    }

    /// True if there is a limit.
    pub fn limits(&self) -> bool {
        self.rate.is_some()
    }

    /// Waits until `bytes` may be moved, or until the limiter is cancelled.
    pub fn wait(&self, direction: Direction, bytes: usize) {
        let Some(start) = self.reserve(direction, bytes, Instant::now()) else { return };
        let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        while !*cancelled {
            let left = start.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            cancelled = self.cancel.wait_timeout(cancelled, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Reserves the next time slot for `bytes`. None: there is no limit, or nothing to move (a hole).
    fn reserve(&self, direction: Direction, bytes: usize, now: Instant) -> Option<Instant> {
        let duration = self.duration(bytes).filter(|duration| !duration.is_zero())?;
        // Writes start halfway between two reads, so that a disk that serves both rests in between.
        let halfway = match direction {
            Direction::Read => None,
            Direction::Write => self.next_start(Direction::Read).checked_sub(duration / 2),
        };
        let mut next_start = self.next_start(direction);
        let start = (*next_start).max(now.checked_sub(SLACK).unwrap_or(now));
        let start = halfway.map_or(start, |halfway| start.max(halfway));
        *next_start = start + duration;
        Some(start)
    }

    /// Delays the next block by the time of `bytes` that have just arrived, so that together they keep to the rate.
    pub fn arrived(&self, direction: Direction, bytes: usize) {
        let Some(duration) = self.duration(bytes) else { return };
        let mut next_start = self.next_start(direction);
        let now = Instant::now();
        *next_start = (*next_start).max(now.checked_sub(SLACK).unwrap_or(now) + duration);
    }

    /// Ends all waiting: the copy has failed.
    pub fn cancel(&self) {
        *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.cancel.notify_all();
    }

    fn next_start(&self, direction: Direction) -> MutexGuard<'_, Instant> {
        self.next_start[direction as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn duration(&self, bytes: usize) -> Option<Duration> {
        // Capped, so that adding it to a time cannot overflow.
        self.rate.map(|rate| Duration::from_secs_f64((bytes as f64 / rate).min(1e9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_shrink_with_the_rate() {
        for (limit, size, depth) in [
            (1, 64 << 10, 1),
            (100 << 20, 64 << 10, 1),
            (350_000_000, 80 << 10, 1),
            (550_000_000, 128 << 10, 2),
            (3_000_000_000, 720 << 10, 4),
            (20 << 30, 4 << 20, 4),
            (u64::MAX, 4 << 20, 4),
        ] {
            let default = BlockPlan { size: 4 << 20, in_flight: 4 };
            assert_eq!(default.for_rate(limit), BlockPlan { size, in_flight: depth }, "{limit}");
        }
    }

    /// With a simulated clock, so that a busy machine does not matter.
    #[test]
    fn no_tenth_of_a_second_sees_more_than_its_share_and_one_block() {
        const LIMIT: u64 = 200_000_000;
        const BLOCK: usize = 64 << 10;
        let rate = RateLimiter::new(Some(LIMIT));
        let mut now = Instant::now();
        let (start_of_test, mut random, mut moved) = (now, 1u64, [Vec::new(), Vec::new()]);
        for i in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            now += match i % 500 {
                0 => Duration::from_millis(random >> 57), // a stall
                _ => Duration::from_nanos((random >> 33) % 700_000),
            };
            for direction in [Direction::Read, Direction::Write] {
                let start = rate.reserve(direction, BLOCK, now).map_or(now, |start| start.max(now));
                moved[direction as usize].push((start - start_of_test).as_secs_f64());
            }
        }
        let limit = LIMIT as f64 * 0.1 / BLOCK as f64 + 1.0;
        for moved in moved {
            assert!(moved.is_sorted());
            let mut fullest = 0;
            for (i, begin) in moved.iter().enumerate() {
                let window = moved[i..].iter().take_while(|at| **at - begin <= 0.1).count();
                assert!(window as f64 <= limit, "{window} blocks after {begin} s, {limit} allowed");
                fullest = fullest.max(window);
            }
            assert!(fullest as f64 > limit * 0.95, "{fullest} blocks in the fullest window, {limit} allowed");
        }
    }

    #[test]
    fn a_late_arrival_delays_the_next_block() {
        let rate = RateLimiter::new(Some(1_000_000));
        let now = Instant::now();
        assert!(rate.reserve(Direction::Read, 100_000, now).is_some_and(|begin| begin <= now));
        assert_eq!(rate.reserve(Direction::Write, 0, now), None, "a hole does not wait");
        rate.arrived(Direction::Read, 100_000);
        let late = now + Duration::from_millis(95);
        assert!(rate.reserve(Direction::Read, 1, late).is_some_and(|begin| begin > late));
    }

    #[test]
    fn cancelling_ends_all_waiting() {
        let rate = RateLimiter::new(Some(1));
        rate.wait(Direction::Write, 1000);
        std::thread::scope(|scope| {
            scope.spawn(|| rate.wait(Direction::Write, 1)); // 1000 s
            rate.cancel();
        });
        let none = RateLimiter::new(None);
        (0..1000).for_each(|_| none.wait(Direction::Read, usize::MAX));
    }
}
