//! Which connection fetches which range of the copy.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use super::POLL_INTERVAL;
use super::body::Body;
use crate::block::Layout;
use crate::sequencer::Sequencer;

/// The longest range of one request if there are several connections: about a second at 500 Mbit/s, so that the round
/// trip to a distant server does not matter.
const MAX_RANGE: u64 = 64 << 20;

/// A connection and the range it fetches. Offsets are in bytes from the first byte of the copy.
pub struct Connection {
    /// The open response, if any.
    pub body: Option<Body>,
    /// The next byte to deliver.
    pub offset: u64,
    /// The end of the range; u64::MAX if only the end of the source ends it.
    pub end: u64,
    /// The offset at which the open response started to deliver.
    pub body_start: u64,
    /// Bytes to discard from the open response before it reaches `offset`.
    pub discard: u64,
    /// Consecutive failures.
    pub failures: u32,
    /// Bytes received since the last failure.
    pub received: u64,
}

impl Connection {
    /// A connection without a response, with an empty range at `offset`.
    pub fn new(offset: u64, failures: u32) -> Self {
        Self { body: None, offset, end: offset, body_start: offset, discard: 0, failures, received: 0 }
    }
}

/// All connections of a copy. A worker takes one, reads a block from it, and gives it back.
#[derive(Default)]
pub struct ConnectionPool {
    state: Mutex<State>,
    /// A connection was given back.
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: VecDeque<Connection>,
    /// Connections that workers read from.
    busy: usize,
    /// The first byte of the copy that belongs to no connection.
    unclaimed: u64,
    /// Bytes of the copy.
    len: u64,
    /// The blocks are consumed one after another, so each range is one block.
    in_order: bool,
}

impl ConnectionPool {
    /// `first` has its range. The rest of the `len` bytes is divided among all connections.
    pub fn new(first: Connection, more: Vec<Connection>, len: u64, in_order: bool) -> Self {
        let unclaimed = first.end;
        let idle: VecDeque<Connection> = std::iter::once(first).chain(more).collect();
        let state = State { idle, busy: 0, unclaimed, len, in_order };
        Self { state: Mutex::new(state), returned: Condvar::new() }
    }

    /// Waits for a connection with bytes left to read. None: nothing is left, or the copy was cancelled.
    pub fn take(&self, layout: &Layout, sequencer: &Sequencer) -> Option<Connection> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if sequencer.is_cancelled() {
                return None;
            }
            // Take the one that has been idle longest: the most bytes have arrived on it.
            if let Some(mut connection) = state.idle.pop_front() {
                if connection.offset >= connection.end && !state.claim(&mut connection, layout) {
                    continue;
                }
                state.busy += 1;
                return Some(connection);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.returned.wait_timeout(state, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes the connection available to other workers.
    pub fn give_back(&self, connection: Connection) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.busy -= 1;
        state.idle.push_back(connection);
        drop(state);
        self.returned.notify_one();
    }
}

impl State {
    /// Gives a connection the next range. Ranges get shorter towards the end, so that all connections finish at about
    /// the same time. False: nothing is left.
    fn claim(&mut self, connection: &mut Connection, layout: &Layout) -> bool {
        let remaining = self.len.saturating_sub(self.unclaimed);
        if remaining == 0 {
            return false;
        }
        let connections = (self.idle.len() + self.busy + 1) as u64;
        let first_block = layout.placement(self.unclaimed).max_len as u64;
        let blocks = (remaining / (2 * connections)).min(MAX_RANGE) / layout.block_size as u64;
        let more = if self.in_order { 0 } else { blocks.saturating_sub(1) * layout.block_size as u64 };
        connection.offset = self.unclaimed;
        connection.end = self.unclaimed + (first_block + more).min(remaining);
        self.unclaimed = connection.end;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// The ranges that `connections` connections get if each one is complete at once.
    fn ranges(connections: usize, len: u64, layout: &Layout, in_order: bool) -> Vec<Range<u64>> {
        let more = (1..connections).map(|_| Connection::new(0, 0)).collect();
        let pool = ConnectionPool::new(Connection::new(0, 0), more, len, in_order);
        let sequencer = Sequencer::default();
        let mut ranges = Vec::new();
        while let Some(mut connection) = pool.take(layout, &sequencer) {
            ranges.push(connection.offset..connection.end);
            connection.offset = connection.end;
            pool.give_back(connection);
        }
        ranges
    }

    #[test]
    fn ranges_cover_everything_once_and_shrink_towards_the_end() {
        for lead in [0, 1000] {
            let layout = Layout { block_size: 1 << 20, boundary: 4096, lead };
            for len in [0, 1, 1 << 20, (1 << 30) + 77] {
                for connections in [2, 7] {
                    let ranges = ranges(connections, len, &layout, false);
                    let covered = ranges.iter().fold(0, |end, range| if range.start == end { range.end } else { 0 });
                    assert_eq!(covered, len);
                    let sizes: Vec<u64> = ranges.iter().map(|range| range.end - range.start).collect();
                    assert!(sizes.iter().all(|size| *size <= MAX_RANGE));
                    assert!(sizes.last().is_none_or(|last| *last <= 1 << 20), "{sizes:?}");
                    // Every range but the first starts at a block boundary.
                    let mut starts = ranges.iter().skip(1).map(|range| range.start + lead as u64);
                    assert!(starts.all(|start| start.is_multiple_of(1 << 20)));
                }
            }
        }
    }

    #[test]
    fn in_order_each_range_is_one_block() {
        let layout = Layout { block_size: 1 << 20, boundary: 4096, lead: 0 };
        assert!(ranges(4, 10 << 20, &layout, true).iter().all(|range| range.end - range.start == 1 << 20));
    }
}
