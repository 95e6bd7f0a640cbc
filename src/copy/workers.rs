//! Third stage, and the heart of the copy: symmetric workers, each with one buffer, each in the same loop.
//!
//! ```text
//! source.next(&mut block)    claims the next range, in order, and reads it
//! checks.update(&block)      digests it: in parallel per block, or in order
//! destination.put(&block)    writes it: in parallel at its offset, or in order to a stream
//! ```
//!
//! There is no queue and no buffer pool. A worker that has to wait for its turn waits in the [`Sequencer`]. Ranges are
//! claimed in order, so some worker always holds the range that the others wait for. A worker that fails cancels the
//! sequencer, and the others stop at their next block.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::open::forward_idle_messages;
use super::plan::Planned;
use crate::block::Block;
use crate::check::Checks;
use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::event::{Event, Observer};
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::source::Source;

/// Every block is written.
pub struct Moved<'a> {
    pub planned: Planned<'a>,
    pub totals: Totals,
    /// From the start of the copy until now.
    pub copying: Duration,
}

/// What the workers moved, in bytes.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    /// Holes included.
    pub bytes: u64,
    pub holes: u64,
}

impl<'a> Planned<'a> {
    /// Moves every block from the source to the destination.
    pub fn move_blocks(self) -> Result<Moved<'a>> {
        let opened = &self.opened;
        let workers = Workers {
            source: &*opened.source.source,
            checks: &self.checks,
            destination: &*opened.destination,
            pace: &opened.context.pace,
            observer: opened.context.observer,
            buffer_size: self.buffer_size,
            sequencer: Sequencer::default(),
        };
        let totals = self.cache_watch.during(|| workers.run(self.workers))?;
        let copying = opened.context.started.elapsed();
        Ok(Moved { planned: self, totals, copying })
    }
}

/// What the workers share.
struct Workers<'a> {
    source: &'a dyn Source,
    checks: &'a Checks,
    destination: &'a dyn Destination,
    pace: &'a Pace,
    observer: &'a dyn Observer,
    buffer_size: usize,
    sequencer: Sequencer,
}

impl Workers<'_> {
    /// The loop of one worker.
    fn work(&self) -> Result<Totals> {
        let mut totals = Totals::default();
        let mut block = Block::new(self.buffer_size).map_err(out_of_memory)?;
        while self.source.next(&mut block, &self.sequencer)? {
            self.checks.update(&block);
            if block.cloned {
                self.observer.event(Event::Copied(block.len));
                continue; // the destination has it
            }
            self.pace.rate.wait(Direction::Write, block.data().len());
            self.destination.put(&block, &self.sequencer)?;
            self.observer.event(Event::Copied(block.len));
            forward_idle_messages(self.pace, self.observer);
            totals.bytes += block.len;
            totals.holes += if block.hole { block.len } else { 0 };
        }
        Ok(totals)
    }

    /// Runs `count` workers to the end of the source, or to the first failure.
    fn run(&self, count: usize) -> Result<Totals> {
        let result: Mutex<Result<Totals>> = Mutex::new(Ok(Totals::default()));
        let worker = || {
            let outcome = self.work();
            let failed = outcome.is_err();
            let mut total = result.lock().unwrap_or_else(PoisonError::into_inner);
            *total = combine(std::mem::replace(&mut *total, Ok(Totals::default())), outcome);
            drop(total);
            if failed {
                self.cancel(); // after the error was kept: what the others now fail with is not the cause
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..count {
                // Where threads are scarce, fewer workers do as well: this thread is always one of them.
                if std::thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                    break;
                }
            }
            worker();
        });
        result.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops every worker, wherever it waits.
    fn cancel(&self) {
        self.sequencer.cancel();
        self.checks.cancel();
        self.pace.rate.cancel();
        self.source.cancel();
    }
}

/// Adds up what two workers moved. Of two errors, the first is the cause, unless it only reports that another failed.
fn combine(first: Result<Totals>, second: Result<Totals>) -> Result<Totals> {
    match (first, second) {
        (Ok(a), Ok(b)) => Ok(Totals { bytes: a.bytes + b.bytes, holes: a.holes + b.holes }),
        (Err(first), Err(second)) if first.secondary => Err(second),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn out_of_memory(e: std::io::Error) -> Error {
    Error::io("allocating a buffer for", Path::new("the copy"), e).hint("use a smaller --block-size or --queue-depth")
}
