//! Which connection fetches which range of the copy.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use super::POLL_INTERVAL;
use super::response::Body;
use crate::block::Layout;
use crate::sequencer::Sequencer;

/// The most that one request asks for where several are under way: a second's worth of a fast line, so
/// that a distant server's round trip is not felt.
const MAX_RANGE: u64 = 64 << 20;

/// A connection and the range that it fetches.
pub struct Connection {
    pub body: Option<Body>,
    /// The next byte of the copy that it brings, and one past the last one; u64::MAX: wherever it ends.
    pub at: u64,
    pub end: u64,
    /// Where in the copy the body began to bring, and what it brings before that, to be passed over.
    pub from: u64,
    pub ahead: u64,
    /// Failures in a row, and the bytes since the last one.
    pub failures: u32,
    pub brought: u64,
}

impl Connection {
    /// One without a range, at `at`.
    pub fn new(at: u64, failures: u32) -> Self {
        Self { body: None, at, end: at, from: at, ahead: 0, failures, brought: 0 }
    }
}

/// All lanes of a copy. A worker takes one, reads a block from it, and gives it back.
#[derive(Default)]
pub struct ConnectionPool {
    /// The one that the first answer opened, until the copy begins.
    pub first: Option<Connection>,
    state: Mutex<State>,
    /// A lane was given back.
    free: Condvar,
}

#[derive(Default)]
struct State {
    idle: VecDeque<Connection>,
    /// How many are being read from.
    busy: usize,
    /// The first byte of the copy that no lane has, and one past the last one.
    unclaimed: u64,
    len: u64,
    /// A range is one block, for somebody takes the blocks one after another.
    in_order: bool,
}

impl ConnectionPool {
    /// `first` has its range; all of `len` bytes behind that is shared out among all.
    pub fn new(first: Connection, more: Vec<Connection>, len: u64, in_order: bool) -> Self {
        let unclaimed = first.end;
        let idle: VecDeque<Connection> = std::iter::once(first).chain(more).collect();
        let state = State { idle, busy: 0, unclaimed, len, in_order };
        Self { first: None, state: Mutex::new(state), free: Condvar::new() }
    }

    /// Waits for a lane that has something left to bring. None: nothing is left, or the copy is over.
    pub fn take(&self, layout: &Layout, sequencer: &Sequencer) -> Option<Connection> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if sequencer.is_cancelled() {
                return None;
            }
            // The one that has waited longest: its connection has most to give.
            if let Some(mut connection) = state.idle.pop_front() {
                if connection.at >= connection.end && !state.claim(&mut connection, layout) {
                    continue;
                }
                state.busy += 1;
                return Some(connection);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.free.wait_timeout(state, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets others have it.
    pub fn give_back(&self, connection: Connection) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.busy -= 1;
        state.idle.push_back(connection);
        drop(state);
        self.free.notify_one();
    }
}

impl State {
    /// Gives a lane the next range: long ones first, shorter ones towards the end, so that all lanes
    /// end together. False: there is none.
    fn claim(&mut self, connection: &mut Connection, layout: &Layout) -> bool {
        let left = self.len.saturating_sub(self.unclaimed);
        if left == 0 {
            return false;
        }
        let lanes = (self.idle.len() + self.busy + 1) as u64;
        let block = layout.placement(self.unclaimed).max_len as u64;
        let share = (left / (2 * lanes)).min(MAX_RANGE) / layout.block_size as u64;
        let more = if self.in_order { 0 } else { share.saturating_sub(1) * layout.block_size as u64 };
        (connection.at, connection.end) = (self.unclaimed, self.unclaimed + (block + more).min(left));
        self.unclaimed = connection.end;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All ranges that `lanes` lanes are given, if each one brings its own at once.
    fn ranges(lanes: usize, len: u64, layout: &Layout, in_order: bool) -> Vec<(u64, u64)> {
        let more = (1..lanes).map(|_| Connection::new(0, 0)).collect();
        let all = ConnectionPool::new(Connection::new(0, 0), more, len, in_order);
        let sequencer = Sequencer::default();
        let mut found = Vec::new();
        while let Some(mut connection) = all.take(layout, &sequencer) {
            found.push((connection.at, connection.end));
            connection.at = connection.end;
            all.give_back(connection);
        }
        found
    }

    #[test]
    fn ranges_cover_everything_once_and_shrink_towards_the_end() {
        for lead in [0, 1000] {
            let layout = Layout { block_size: 1 << 20, boundary: 4096, lead };
            for len in [0, 1, 1 << 20, (1 << 30) + 77] {
                for lanes in [2, 7] {
                    let found = ranges(lanes, len, &layout, false);
                    assert_eq!(found.iter().fold(0, |at, range| if range.0 == at { range.1 } else { 0 }), len);
                    let sizes: Vec<u64> = found.iter().map(|(from, end)| end - from).collect();
                    assert!(sizes.iter().all(|size| *size <= MAX_RANGE));
                    assert!(sizes.last().is_none_or(|last| *last <= 1 << 20), "{sizes:?}");
                    // Only the first one begins anywhere but at a block's place.
                    assert!(found.iter().skip(1).all(|(from, _)| (from + lead as u64).is_multiple_of(1 << 20)));
                }
            }
        }
    }

    #[test]
    fn in_order_a_range_is_a_block() {
        let layout = Layout { block_size: 1 << 20, boundary: 4096, lead: 0 };
        assert!(ranges(4, 10 << 20, &layout, true).iter().all(|(from, end)| end - from == 1 << 20));
    }
}
