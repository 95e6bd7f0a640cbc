//! A pipe, FIFO, terminal or character device as a destination: blocks are written in order.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Destination, DestinationInfo, Finished, Opened, Verify};
use crate::block::Block;
use crate::direct::{DirectPolicy, Traffic, WriteReport};
use crate::error::{Error, Result, quoted};
use crate::job::Job;
use crate::sequencer::Sequencer;
use crate::source_info::SourceInfo;
use crate::sys;

/// Asked of a pipe: what an unprivileged user may have (/proc/sys/fs/pipe-max-size).
const PIPE: i32 = 1 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub struct StreamDestination<'a> {
    job: &'a Job,
    name: PathBuf,
    file: File,
    /// Standard output led into a file: written at the position that the shell left, past the cache
    /// as far as that goes without aligned writes.
    stored: bool,
    /// Writes with RWF_DONTCACHE, until that is refused.
    dontcache: AtomicBool,
    bytes: AtomicU64,
}

impl<'a> StreamDestination<'a> {
    pub fn new(job: &'a Job, name: &Path, file: File) -> Result<Self> {
        let kind = file.metadata().map_err(|e| Error::io("opening", name, e))?.file_type();
        if kind.is_fifo() {
            // Fewer, larger writes. Refused when the user's pipes have their limit: then it stays.
            let _ = sys::widen_pipe(file.as_fd(), PIPE);
        }
        if job.verify {
            let why = format!("--verify cannot be used here: {} cannot be read back", quoted(name));
            return Err(Error::usage(why));
        }
        let stored = kind.is_file() || kind.is_block_device();
        if kind.is_block_device() && !job.force {
            let why = format!("{} is a block device: name it as DST, so that it can be checked", quoted(name));
            return Err(Error::usage(format!("{why}; -f writes to it as it is")));
        }
        if stored && job.direct == DirectPolicy::Always {
            let why = "direct I/O refused: it was opened by somebody else, who may write at any offset";
            return Err(Error::refused(name, why).hint("name the file as DST"));
        }
        let dontcache = AtomicBool::new(stored && job.direct == DirectPolicy::Auto);
        Ok(Self { job, name: name.into(), file, stored, dontcache, bytes: AtomicU64::new(0) })
    }

    /// Hands it to the copy.
    pub fn opened(self) -> Result<Opened<'a>> {
        let clone = || self.file.try_clone().map_err(|e| Error::io("opening", &self.name, e));
        let info = DestinationInfo {
            name: self.name.clone(),
            path: self.name.clone(),
            alignment: 1,
            block_boundary: 1,
            file: if self.stored { Some(clone()?) } else { None },
            in_order: true,
            resumed: 0,
            description: if self.stored { "a file, at its current position" } else { "a stream" }.to_string(),
        };
        Ok((info, Box::new(self)))
    }

    fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let dontcache = self.dontcache.load(Ordering::Relaxed);
            let result = match dontcache {
                true => sys::write_dontcache(&self.file, data, None),
                false => (&self.file).write(&data[..data.len().min(sys::MAX_TRANSFER)]),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.bytes.fetch_add(n as u64, Ordering::Relaxed);
                    data = &data[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Somebody else made it non-blocking; that is his business, and waiting ours.
                    sys::wait_ready(self.file.as_fd(), true, Duration::from_secs(1))?;
                }
                Err(e) if dontcache && matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                    self.dontcache.store(false, Ordering::Relaxed);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn write_block(&self, block: &Block, sequencer: &Sequencer) -> io::Result<()> {
        let mut left = if block.hole { block.len } else { 0 };
        while left > 0 && !sequencer.is_cancelled() {
            let part = left.min(ZEROS.len() as u64);
            self.write_all(&ZEROS[..part as usize])?;
            left -= part;
        }
        self.write_all(block.data())
    }

    /// Standard output in a file: on the medium, and out of the cache.
    fn settle(&self) -> io::Result<()> {
        let end = (&self.file).stream_position()?;
        let start = end.saturating_sub(self.bytes.load(Ordering::Relaxed));
        let start = start - start % sys::page_size(); // only whole pages can be dropped
        if self.job.sync {
            self.file.sync_all()?;
        }
        if self.job.direct != DirectPolicy::Never && end > start {
            if !self.job.sync {
                sys::write_back(&self.file, start, end - start)?;
            }
            sys::advise(&self.file, start, end - start, libc::POSIX_FADV_DONTNEED)?;
        }
        Ok(())
    }
}

impl Destination for StreamDestination<'_> {
    fn put(&self, block: &Block, sequencer: &Sequencer) -> Result<()> {
        // None: another worker failed, and has its own error to tell.
        let Some(result) = sequencer.run_in_turn(block.number, || self.write_block(block, sequencer)) else {
            return Ok(());
        };
        result.map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Error::broken_pipe(&self.name),
            _ => Error::io("writing", &self.name, e).at(block.offset),
        })
    }

    fn finish(self: Box<Self>, _source: &SourceInfo, _verify: Verify<'_>) -> Result<Finished> {
        let mut traffic = Traffic::default();
        let mut why = None;
        if self.stored {
            self.settle().map_err(|e| Error::io("syncing", &self.name, e))?;
            let bytes = self.bytes.load(Ordering::Relaxed);
            match self.job.direct {
                DirectPolicy::Never => traffic.cached = bytes,
                _ => (traffic.uncached, why) = (bytes, Some("it was opened by somebody else".to_string())),
            }
        }
        let written = WriteReport { traffic, why, cached_pages: None };
        Ok(Finished { written, notes: Vec::new() })
    }
}
