//! Ends the writing: exact length, fsync, eviction, and the report.

use std::io;
use std::sync::atomic::Ordering;

use super::DirectWriter;
use crate::direct::Traffic;
use crate::direct::file_ops::PageRange;

/// What a [`DirectWriter`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteReport {
    /// The bytes written, by the path they took.
    pub traffic: Traffic,
    /// Why not all bytes were written with direct I/O. None if they were.
    pub why: Option<String>,
    /// The number of pages of the file in the page cache after the writing. None if the kernel does not report it
    /// (before Linux 6.5), if the pages are there on purpose, or if the file existed before, because other processes
    /// may have had pages of it cached.
    pub cached_pages: Option<u64>,
    /// Why pages of the file may stay in the page cache. None if the kernel evicted all that the writer brought in.
    pub why_not_evicted: Option<String>,
}

/// A file that has all its bytes and its exact length, but is not on the medium yet. Its attributes can be set now: no
/// later write changes its timestamps or removes its capabilities.
#[must_use = "without finish() the file is not on the medium"]
pub(crate) struct CompleteFile {
    writer: DirectWriter,
    /// Ranges that the writer brought into the page cache.
    to_evict: Vec<PageRange>,
}

impl DirectWriter {
    /// Writes what is still in memory, gives the file its exact length, waits until data and metadata are on the medium
    /// (fsync), and evicts what the writer left in the page cache. Fails if one of these steps fails, or if an earlier
    /// write failed; the content of the file is then undefined.
    pub fn finish(self) -> io::Result<WriteReport> {
        self.complete()?.finish(true)
    }

    /// Writes what is still in memory, and gives the file its exact length. Fails if that fails, or if an earlier write
    /// failed.
    pub(crate) fn complete(mut self) -> io::Result<CompleteFile> {
        self.write_buffer(true)?;
        self.check_failure()?;
        let end = self.end.load(Ordering::Acquire);
        let mut to_evict = self.put_partial_blocks()?;
        let ops = self.io.ops();
        if self.owned {
            // Even to the same length, XFS and ext4 zero the rest of the last page in the cache (ftruncate).
            if ops.len()? != end {
                ops.set_len(end)?;
            }
            to_evict.push(PageRange::WHOLE_FILE);
        } else if end > self.existing_len {
            if ops.len()? < end {
                ops.set_len(end)?; // the file ends in a hole
            }
            to_evict.extend(self.last_existing_page);
        }
        Ok(CompleteFile { writer: self, to_evict })
    }
}

impl CompleteFile {
    /// Waits until the file is on the medium (fsync) if `sync`, and evicts what the writer brought into the page cache.
    pub(crate) fn finish(self, sync: bool) -> io::Result<WriteReport> {
        let DirectWriter { io, owned, .. } = &self.writer;
        let ops = io.ops();
        if sync {
            ops.sync()?;
        }
        let mut cached_pages = None;
        if !io.stays_cached() {
            for range in self.to_evict {
                // ext4 and XFS zero the rest of the last block in the page cache. Only clean pages can be evicted.
                if !sync {
                    io.write_back(range)?;
                }
                io.evict(range)?;
            }
            cached_pages = if *owned { ops.cached_pages(0, 0).ok() } else { None };
        }
        let (why, why_not_evicted) = (io.why_not_direct(), io.why_not_evicted());
        Ok(WriteReport { traffic: io.traffic(), why, cached_pages, why_not_evicted })
    }
}
