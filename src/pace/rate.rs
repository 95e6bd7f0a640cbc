//! `--rate-limit`: so many bytes per second, evenly.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whoever comes late may make up for so much; the rest is lost, so that no burst follows a stall.
const SLACK: Duration = Duration::from_millis(1);
/// So much slower than the limit that, with the slack, no tenth of a second sees more than its share
/// and one block.
const MARGIN: f64 = 0.99;
/// About so many blocks a second, if they are not to be smaller than this: a disk is never busy with one
/// for long, and there is no burst.
const BLOCKS: u64 = 4000;
const SMALLEST: u64 = 64 << 10;
/// A whole number of the usual sectors and pages, and of chunks of a BLAKE3 tree.
const STEP: u64 = 16 << 10;
/// Bytes per second that one worker can move in such blocks on a flash disk. One is kinder than two: who
/// shares the disk never waits for more than one block.
const WORKER: u64 = 350_000_000;

/// Reading and writing, each at most at the rate: a block begins when the time of the one before it
/// has passed, whichever worker has it.
pub struct RateLimiter {
    limit: Option<f64>,
    sides: [Mutex<Instant>; 2],
    over: (Mutex<bool>, Condvar),
}

/// Which limit a block falls under.
#[derive(Clone, Copy)]
pub enum Direction {
    /// Bytes from the source.
    Read,
    /// Bytes to the destination.
    Write,
}

/// The block size in bytes, and the number of blocks in flight, that suit a limit; at most the usual ones.
pub fn blocks(limit: u64, usual: (u64, u64)) -> (u64, u64) {
    let even = limit / BLOCKS;
    (usual.0.min((even - even % STEP).max(SMALLEST)), usual.1.min(limit.div_ceil(WORKER)))
}

impl RateLimiter {
    /// `limit`: bytes per second; None: no limit.
    pub fn new(limit: Option<u64>) -> Self {
        let now = Instant::now();
        let limit = limit.map(|limit| limit as f64 * MARGIN);
        Self { limit, sides: [Mutex::new(now), Mutex::new(now)], over: Default::default() }
    }

    /// True if there is a limit.
    pub fn limits(&self) -> bool {
        self.limit.is_some()
    }

    /// Waits until `bytes` may move.
    pub fn wait(&self, side: Direction, bytes: usize) {
        let Some(begin) = self.book(side, bytes, Instant::now()) else { return };
        let (over, ended) = &self.over;
        let mut over = over.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(left) = begin.checked_duration_since(Instant::now()).filter(|left| !left.is_zero() && !*over) {
            over = ended.wait_timeout(over, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the next place in time for `bytes`. None: there is no limit, or nothing to move (a hole).
    fn book(&self, side: Direction, bytes: usize, now: Instant) -> Option<Instant> {
        let cost = self.cost(bytes).filter(|cost| !cost.is_zero())?;
        // Writes fall halfway between two reads: a disk that has both rests in between.
        let halfway = match side {
            Direction::Read => None,
            Direction::Write => self.next(Direction::Read).checked_sub(cost / 2),
        };
        let mut next = self.next(side);
        let begin = (*next).max(now.checked_sub(SLACK).unwrap_or(now));
        let begin = halfway.map_or(begin, |halfway| begin.max(halfway));
        *next = begin + cost;
        Some(begin)
    }

    /// The last of `bytes` have just come: what follows does not come at once with them.
    pub fn ended(&self, side: Direction, bytes: usize) {
        let Some(cost) = self.cost(bytes) else { return };
        let mut next = self.next(side);
        let now = Instant::now();
        *next = (*next).max(now.checked_sub(SLACK).unwrap_or(now) + cost);
    }

    /// The copy is over before its time: nobody waits on.
    pub fn cancel(&self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
    }

    fn next(&self, side: Direction) -> MutexGuard<'_, Instant> {
        self.sides[side as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cost(&self, bytes: usize) -> Option<Duration> {
        // Never so long that clocks cannot add it up.
        self.limit.map(|limit| Duration::from_secs_f64((bytes as f64 / limit).min(1e9)))
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
            assert_eq!(blocks(limit, (4 << 20, 4)), (size, depth), "{limit}");
        }
    }

    /// By a clock of its own: whoever comes, whenever, and however late he was.
    #[test]
    fn no_tenth_of_a_second_sees_more_than_its_share_and_one_block() {
        const LIMIT: u64 = 200_000_000;
        const BLOCK: usize = 64 << 10;
        let rate = RateLimiter::new(Some(LIMIT));
        let mut now = Instant::now();
        let (began, mut random, mut moved) = (now, 1u64, [Vec::new(), Vec::new()]);
        for i in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            now += match i % 500 {
                0 => Duration::from_millis(random >> 57), // a stall
                _ => Duration::from_nanos((random >> 33) % 700_000),
            };
            for side in [Direction::Read, Direction::Write] {
                let begin = rate.book(side, BLOCK, now).map_or(now, |begin| begin.max(now));
                moved[side as usize].push((begin - began).as_secs_f64());
            }
        }
        let most = LIMIT as f64 * 0.1 / BLOCK as f64 + 1.0;
        for moved in moved {
            assert!(moved.is_sorted());
            let mut fullest = 0;
            for (i, begin) in moved.iter().enumerate() {
                let window = moved[i..].iter().take_while(|at| **at - begin <= 0.1).count();
                assert!(window as f64 <= most, "{window} blocks after {begin} s, {most} allowed");
                fullest = fullest.max(window);
            }
            assert!(fullest as f64 > most * 0.95, "{fullest} blocks in the fullest, {most} allowed");
        }
    }

    #[test]
    fn what_came_late_is_followed_after_its_time() {
        let rate = RateLimiter::new(Some(1_000_000));
        let now = Instant::now();
        assert!(rate.book(Direction::Read, 100_000, now).is_some_and(|begin| begin <= now));
        assert_eq!(rate.book(Direction::Write, 0, now), None, "a hole waits for nothing");
        rate.ended(Direction::Read, 100_000);
        let late = now + Duration::from_millis(95);
        assert!(rate.book(Direction::Read, 1, late).is_some_and(|begin| begin > late));
    }

    #[test]
    fn nobody_waits_when_it_is_over() {
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
