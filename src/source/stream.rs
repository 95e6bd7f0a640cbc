//! A pipe, terminal, character device or generated file as a source: read in order, one full block at a time, however
//! short the reads are.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{ReadPlan, ReadReport, Source};
use crate::block::{Block, Layout};
use crate::direct::{DirectPolicy, Traffic};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::sys::{self, ChildGroup};

/// How long a worker waits for bytes before it checks whether the copy was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Requested pipe capacity in bytes: the most an unprivileged user may have (/proc/sys/fs/pipe-max-size).
const PIPE_SIZE: i32 = 1 << 20;

pub struct StreamSource {
    name: PathBuf,
    file: File,
    /// Bytes to skip first.
    skip: u64,
    /// The most bytes to copy.
    count: Option<u64>,
    /// Bytes the source must have, including the skipped ones.
    required_size: Option<u64>,
    /// A file that another process opened and that cannot be reopened: read from its current position.
    stored: bool,
    /// Read with RWF_DONTCACHE; cleared when the filesystem refuses that.
    dontcache: AtomicBool,
    layout: Layout,
    state: Mutex<State>,
    pace: Arc<Pace>,
    /// The command that writes the stream, if dio-cp started it.
    producer: Option<Arc<ChildGroup>>,
}

#[derive(Default)]
struct State {
    next_number: u64,
    offset: u64,
    /// Bytes read, including the skipped ones.
    bytes_read: u64,
    skipped: bool,
    /// Nothing more is to be read: the stream has ended, or --count is reached.
    ended: bool,
    /// A read found the end of the stream.
    reached_end: bool,
}

impl StreamSource {
    pub fn new(job: &Job, name: &Path, file: File, stored: bool, pace: Arc<Pace>) -> Self {
        if file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            // Fewer, larger reads. Refused if the user's pipes are at their limit; the capacity then stays as it is.
            let _ = sys::widen_pipe(file.as_fd(), PIPE_SIZE);
        }
        Self {
            name: name.into(),
            file,
            skip: job.skip,
            count: job.count,
            required_size: job.size,
            stored,
            dontcache: AtomicBool::new(stored && job.direct == DirectPolicy::Auto),
            layout: Layout::default(),
            state: Mutex::default(),
            pace,
            producer: None,
        }
    }

    /// Watches the command that writes the stream while a read waits for it.
    pub fn set_producer(&mut self, producer: Arc<ChildGroup>) {
        self.producer = Some(producer);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if a read found the end of the stream.
    pub fn reached_end(&self) -> bool {
        self.state().reached_end
    }

    /// Bytes read so far, including the skipped ones.
    pub fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    /// True unless the stream ends after the last byte that was read, within `timeout`.
    pub fn has_more(&self, timeout: Duration) -> Result<bool> {
        let mut state = self.state();
        if state.reached_end {
            return Ok(false);
        }
        let fail = |e| Error::io("reading", &self.name, e);
        if !self.wait_readable(timeout).map_err(fail)? {
            return Ok(true);
        }
        Ok(self.fill(&mut state, &mut [0], &Sequencer::default()).map_err(fail)? > 0)
    }

    /// Waits until a read would not block. False after `timeout`. A command that has stopped because it needs the terminal
    /// gets it.
    fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        let ready = sys::wait_ready(self.file.as_fd(), false, timeout)?;
        if !ready {
            self.producer.iter().for_each(|producer| producer.lend_terminal_if_needed());
        }
        Ok(ready)
    }

    /// Bytes the copy will have, if --size says so.
    pub fn expected_length(&self) -> Option<u64> {
        let count = self.count.unwrap_or(u64::MAX);
        self.required_size.map(|size| size.saturating_sub(self.skip).min(count))
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.dontcache.load(Ordering::Relaxed) {
            match sys::read_dontcache(&self.file, buffer, None) {
                Err(e)
                    if sys::is_unavailable(&e) || matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
                {
                    self.dontcache.store(false, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        (&self.file).read(buffer)
    }

    /// Reads until `buffer` is full; fewer bytes if the stream ends or the copy is cancelled.
    fn fill(&self, state: &mut State, buffer: &mut [u8], sequencer: &Sequencer) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && !sequencer.is_cancelled() {
            if !self.wait_readable(POLL_INTERVAL)? {
                if self.producer.as_ref().is_some_and(|producer| producer.has_failed()) {
                    // A process that it has started may keep the pipe open for ever.
                    state.reached_end = true;
                    break;
                }
                continue;
            }
            match self.read(&mut buffer[filled..]) {
                Ok(0) => {
                    state.reached_end = true;
                    break;
                }
                Ok(n) => {
                    filled += n;
                    state.bytes_read += n as u64;
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    /// Reads and discards the bytes that --skip asks for.
    fn discard_skipped(&self, state: &mut State, scratch: &mut [u8], sequencer: &Sequencer) -> Result<()> {
        let mut remaining = self.skip;
        while remaining > 0 && !sequencer.is_cancelled() {
            let part = scratch.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
            let read = self.fill(state, &mut scratch[..part], sequencer);
            let read = read.map_err(|e| Error::io("reading", &self.name, e))?;
            if read == 0 {
                let why = format!("it ended {remaining} bytes before the offset of --skip {}", self.skip);
                return Err(Error::failed("reading", &self.name, why));
            }
            remaining -= read as u64;
        }
        Ok(())
    }

    /// Fails if the stream has more or fewer bytes than --size requires.
    fn check_size(&self, state: &mut State) -> Result<()> {
        let Some(expected) = self.expected_length() else { return Ok(()) };
        let too_long = state.offset > expected;
        let too_short = state.ended && state.offset < expected;
        if !too_long && !too_short {
            return Ok(());
        }
        state.ended = true;
        let at_least = if too_long { "at least " } else { "" };
        let (length, required) = (self.skip + state.offset, self.required_size.unwrap_or(0));
        Err(Error::content(&self.name, format!("it has {at_least}{length} bytes, and --size requires {required}")))
    }
}

impl Source for StreamSource {
    fn begin(&mut self, plan: ReadPlan) -> Result<()> {
        self.layout = plan.layout;
        Ok(())
    }

    fn next(&self, block: &mut Block, sequencer: &Sequencer) -> Result<bool> {
        let mut state = self.state();
        if state.ended || sequencer.is_cancelled() {
            return Ok(false);
        }
        if !state.skipped {
            self.discard_skipped(&mut state, &mut block.buffer, sequencer)?;
            state.skipped = true;
        }
        let fail = |e| Error::io("reading", &self.name, e);
        let placement = self.layout.placement(state.offset);
        let remaining = self.count.map_or(u64::MAX, |count| count - state.offset);
        let wanted = placement.max_len.min(usize::try_from(remaining).unwrap_or(usize::MAX));
        if self.pace.rate.limits() {
            // A stream that stalls does not catch up: the rate counts from when its bytes arrive.
            while !sequencer.is_cancelled() && !self.wait_readable(POLL_INTERVAL).map_err(fail)? {}
            self.pace.rate.wait(Direction::Read, wanted);
        }
        let buffer = &mut block.buffer[placement.lead..placement.lead + wanted];
        let read = self.fill(&mut state, buffer, sequencer).map_err(|e| fail(e).at(self.skip + state.offset))?;
        self.pace.rate.arrived(Direction::Read, read);
        if sequencer.is_cancelled() {
            return Ok(false);
        }
        (block.number, block.offset, block.len) = (state.next_number, state.offset, read as u64);
        (block.lead, block.hole) = (placement.lead, false);
        state.next_number += 1;
        state.offset += read as u64;
        state.ended = read < wanted || remaining == read as u64;
        self.check_size(&mut state)?;
        Ok(read > 0)
    }

    fn finish(&self) -> Result<ReadReport> {
        if !self.stored {
            return Ok(ReadReport::default());
        }
        let bytes = self.state().offset;
        let mut traffic = Traffic::default();
        if self.dontcache.load(Ordering::Relaxed) {
            traffic.uncached = bytes;
        } else {
            traffic.cached = bytes;
        }
        let why_not_direct = Some("another process opened it, and it cannot be reopened".to_string());
        Ok(ReadReport { traffic, why_not_direct, ..ReadReport::default() })
    }
}
