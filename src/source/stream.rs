//! A pipe, terminal, character device or made-up file as a source: read in order, a full block at
//! a time, however short the reads are.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Source;
use crate::block::{Block, Layout};
use crate::direct::{DirectPolicy, Traffic};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::pace::{Direction, Pace};
use crate::sequencer::Sequencer;
use crate::sys;

/// How long a worker waits for bytes before it looks whether another one failed.
const PATIENCE: Duration = Duration::from_millis(100);
/// Asked of a pipe: what an unprivileged user may have (/proc/sys/fs/pipe-max-size).
const PIPE: i32 = 1 << 20;

pub struct StreamSource {
    name: PathBuf,
    file: File,
    /// Bytes to pass over first.
    skip: u64,
    /// The most bytes to copy.
    count: Option<u64>,
    /// The bytes that the source must have, the skipped ones included.
    size: Option<u64>,
    /// A file that somebody else opened and that cannot be opened again: read at his position.
    stored: bool,
    /// Reads with RWF_DONTCACHE, until that is refused.
    dontcache: AtomicBool,
    state: Mutex<State>,
    pace: Option<Arc<Pace>>,
}

#[derive(Default)]
struct State {
    number: u64,
    offset: u64,
    skipped: bool,
    ended: bool,
}

impl StreamSource {
    pub fn new(job: &Job, name: &Path, file: File, stored: bool) -> Self {
        if file.metadata().is_ok_and(|m| m.file_type().is_fifo()) {
            // Fewer, larger reads. Refused when the user's pipes have their limit: then it stays.
            let _ = sys::widen_pipe(file.as_fd(), PIPE);
        }
        let (skip, count, size) = (job.skip, job.count, job.size);
        let dontcache = AtomicBool::new(stored && job.direct == DirectPolicy::Auto);
        Self { name: name.into(), file, skip, count, size, stored, dontcache, state: Mutex::default(), pace: None }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.dontcache.load(Ordering::Relaxed) {
            match sys::read_dontcache(&self.file, buffer, None) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                    self.dontcache.store(false, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        (&self.file).read(buffer)
    }

    /// Reads until `buffer` is full. Fewer: the stream ended, or the copy is over.
    fn fill(&self, buffer: &mut [u8], sequencer: &Sequencer) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && !sequencer.is_cancelled() {
            if !sys::wait_ready(self.file.as_fd(), false, PATIENCE)? {
                continue;
            }
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn pass_over(&self, scratch: &mut [u8], sequencer: &Sequencer) -> Result<()> {
        let mut left = self.skip;
        while left > 0 && !sequencer.is_cancelled() {
            let part = scratch.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.fill(&mut scratch[..part], sequencer).map_err(|e| Error::io("reading", &self.name, e))?;
            if read == 0 {
                let why = format!("it ended {left} bytes before --skip {} was reached", self.skip);
                return Err(Error::failed("reading", &self.name, why));
            }
            left -= read as u64;
        }
        Ok(())
    }

    /// What --size says the copy will have.
    fn expected(&self) -> Option<u64> {
        let count = self.count.unwrap_or(u64::MAX);
        self.size.map(|size| size.saturating_sub(self.skip).min(count))
    }
}

impl Source for StreamSource {
    fn next(&self, layout: &Layout, block: &mut Block, sequencer: &Sequencer) -> Result<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ended || sequencer.is_cancelled() {
            return Ok(false);
        }
        if !state.skipped {
            self.pass_over(&mut block.buffer, sequencer)?;
            state.skipped = true;
        }
        let fail = |e| Error::io("reading", &self.name, e);
        let (lead, room) = layout.place(state.offset);
        let left = self.count.map_or(u64::MAX, |count| count - state.offset);
        let room = room.min(usize::try_from(left).unwrap_or(usize::MAX));
        if let Some(pace) = &self.pace {
            // What comes late is not made up for: its time begins when it is there.
            while !sequencer.is_cancelled() && !sys::wait_ready(self.file.as_fd(), false, PATIENCE).map_err(fail)? {}
            pace.rate.wait(Direction::Read, room);
        }
        let read = self
            .fill(&mut block.buffer[lead..lead + room], sequencer)
            .map_err(|e| fail(e).at(self.skip + state.offset))?;
        if let Some(pace) = &self.pace {
            pace.rate.ended(Direction::Read, read);
        }
        if sequencer.is_cancelled() {
            return Ok(false);
        }
        (block.number, block.offset, block.len) = (state.number, state.offset, read as u64);
        (block.lead, block.hole) = (lead, false);
        state.number += 1;
        state.offset += read as u64;
        state.ended = read < room || left == read as u64;
        if let Some(expected) = self.expected()
            && (state.offset > expected || state.ended && state.offset < expected)
        {
            state.ended = true;
            let (has, more) = (self.skip + state.offset, if state.offset > expected { "at least " } else { "" });
            let why = format!("it has {more}{has} bytes, and --size says {}", self.size.unwrap_or(0));
            return Err(Error::content(&self.name, why));
        }
        Ok(read > 0)
    }

    fn pace(&mut self, pace: &Arc<Pace>) {
        self.pace = Some(pace.clone());
    }

    fn length(&self) -> Option<u64> {
        self.expected()
    }

    fn data_ranges(&self, _layout: &Layout, each: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        self.expected().map_or(Ok(()), |expected| each(0, expected))
    }

    fn traffic(&self) -> (Traffic, Option<String>) {
        let mut traffic = Traffic::default();
        if !self.stored {
            return (traffic, None);
        }
        let bytes = self.state.lock().unwrap_or_else(PoisonError::into_inner).offset;
        match self.dontcache.load(Ordering::Relaxed) {
            true => traffic.uncached = bytes,
            false => traffic.cached = bytes,
        }
        (traffic, Some("it was opened by somebody else, and may not be opened again".to_string()))
    }

    fn describe(&self) -> String {
        match self.expected() {
            Some(expected) => format!("a stream of {expected} bytes"),
            None => "a stream of unknown length".to_string(),
        }
    }
}
