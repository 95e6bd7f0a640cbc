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

/// Requested pipe capacity in bytes: the most an unprivileged user may have (/proc/sys/fs/pipe-max-size).
const PIPE_SIZE: i32 = 1 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub struct StreamDestination<'a> {
    job: &'a Job,
    name: PathBuf,
    file: File,
    /// Standard output is redirected to a file: written from its current position, uncached but not aligned.
    stored: bool,
    /// Write with RWF_DONTCACHE; cleared when the filesystem refuses that.
    dontcache: AtomicBool,
    bytes: AtomicU64,
}

impl<'a> StreamDestination<'a> {
    pub fn new(job: &'a Job, name: &Path, file: File) -> Result<Self> {
        let kind = file.metadata().map_err(|e| Error::io("opening", name, e))?.file_type();
        if kind.is_fifo() {
            // Fewer, larger writes. Refused if the user's pipes are at their limit; the capacity then stays as it is.
            let _ = sys::widen_pipe(file.as_fd(), PIPE_SIZE);
        }
        if job.verify {
            let why = format!("--verify cannot be used here: {} cannot be read back", quoted(name));
            return Err(Error::usage(why));
        }
        let stored = kind.is_file() || kind.is_block_device();
        if kind.is_block_device() && !job.force {
            let why = format!("{} is a block device", quoted(name));
            return Err(Error::usage(why).hint("name the device as DST, or use -f to write to it without checks"));
        }
        if stored && job.direct == DirectPolicy::Always {
            let why = "direct I/O refused: another process opened it, and its position may not be aligned";
            return Err(Error::refused(name, why).hint("name the file as DST"));
        }
        let dontcache = AtomicBool::new(stored && job.direct == DirectPolicy::Auto);
        Ok(Self { job, name: name.into(), file, stored, dontcache, bytes: AtomicU64::new(0) })
    }

    /// Describes the destination for the copy.
    pub fn opened(self) -> Result<Opened<'a>> {
        let clone = || self.file.try_clone().map_err(|e| Error::io("opening", &self.name, e));
        let info = DestinationInfo {
            name: self.name.clone(),
            path: self.name.clone(),
            alignment: 1,
            block_boundary: 1,
            file: if self.stored { Some(clone()?) } else { None },
            in_order: true,
            confirmation: Duration::ZERO,
            resumed: 0,
            description: if self.stored { "a file, at its current position" } else { "a stream" }.to_string(),
        };
        Ok((info, Box::new(self)))
    }

    fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let dontcache = self.dontcache.load(Ordering::Relaxed);
            let result = if dontcache {
                sys::write_dontcache(&self.file, data, None)
            } else {
                (&self.file).write(&data[..data.len().min(sys::MAX_TRANSFER)])
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.bytes.fetch_add(n as u64, Ordering::Relaxed);
                    data = &data[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Another process made the pipe non-blocking.
                    sys::wait_ready(self.file.as_fd(), true, Duration::from_secs(1))?;
                }
                Err(e)
                    if dontcache
                        && (sys::is_unavailable(&e)
                            || matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))) =>
                {
                    self.dontcache.store(false, Ordering::Relaxed);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn write_block(&self, block: &Block, sequencer: &Sequencer) -> io::Result<()> {
        let mut remaining = if block.hole { block.len } else { 0 };
        while remaining > 0 && !sequencer.is_cancelled() {
            let part = remaining.min(ZEROS.len() as u64);
            self.write_all(&ZEROS[..part as usize])?;
            remaining -= part;
        }
        self.write_all(block.data())
    }

    /// For a file: waits for the medium and evicts the pages that were written. Returns why they may stay, if the kernel
    /// refuses to evict them.
    fn sync_and_evict(&self) -> io::Result<Option<String>> {
        let end = (&self.file).stream_position()?;
        let start = end.saturating_sub(self.bytes.load(Ordering::Relaxed));
        let start = start - start % sys::page_size(); // only whole pages can be evicted
        if self.job.sync {
            self.file.sync_all()?;
        }
        if self.job.direct != DirectPolicy::Never && end > start {
            let written_back = if self.job.sync { Ok(()) } else { sys::write_back(&self.file, start, end - start) };
            let evict = || sys::advise(&self.file, start, end - start, libc::POSIX_FADV_DONTNEED);
            match written_back.and_then(|()| evict()) {
                Err(e) if sys::is_unavailable(&e) => return Ok(Some("the kernel refuses posix_fadvise".to_string())),
                other => other?,
            }
        }
        Ok(None)
    }
}

impl Destination for StreamDestination<'_> {
    fn put(&self, block: &Block, sequencer: &Sequencer) -> Result<()> {
        // None: another worker failed and returns its own error.
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
        let (mut why, mut why_not_evicted) = (None, None);
        if self.stored {
            why_not_evicted = self.sync_and_evict().map_err(|e| Error::io("syncing", &self.name, e))?;
            let bytes = self.bytes.load(Ordering::Relaxed);
            match self.job.direct {
                DirectPolicy::Never => traffic.cached = bytes,
                _ => (traffic.uncached, why) = (bytes, Some("another process opened it".to_string())),
            }
        }
        let written = WriteReport { traffic, why, cached_pages: None, why_not_evicted };
        Ok(Finished { written, notes: Vec::new() })
    }
}
