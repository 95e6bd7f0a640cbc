//! Reading: continues short reads. If the mode is not direct, it evicts the pages that a read brought into the cache,
//! and leaves the pages that other processes had cached.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::FileIo;
use crate::direct::file_ops::PageRange;
use crate::direct::io_mode::IoMode;
use crate::direct::{DirectPolicy, Refused};

/// If a part of a range is cached already, the range is searched for uncached parts in steps of this many bytes.
const SEARCH_STEP: u64 = 64 << 10;

/// How often, and how long after one another, to evict pages that the kernel did not evict.
const MAX_EVICTIONS: u32 = 5;
const EVICTION_INTERVAL: Duration = Duration::from_millis(2);

/// The bytes of a transfer that the caller wants.
#[derive(Clone, Copy)]
struct Wanted {
    /// Bytes before them, which are read only to align the transfer.
    skip: usize,
    len: usize,
}

impl FileIo {
    /// Reads at `offset` until `buffer` holds `skip + len` bytes or the file ends. Returns the number of bytes read,
    /// which can be more. The first `skip` bytes are only read to align the transfer, and are not counted. While
    /// [`FileIo::is_aligned`], address, offset and length of `buffer` must be aligned.
    pub fn read_full(&self, buffer: &mut [u8], offset: u64, skip: usize, len: usize) -> io::Result<usize> {
        loop {
            // None: the kernel refuses this mode. Start over in the next mode, which may have to count cached pages
            // first.
            if let Some(read) = self.read_in_mode(self.mode(), buffer, offset, Wanted { skip, len })? {
                return Ok(read);
            }
        }
    }

    /// Reads in `mode`. Returns None if the kernel refuses it and the mode has changed.
    fn read_in_mode(&self, mode: IoMode, buffer: &mut [u8], offset: u64, wanted: Wanted) -> io::Result<Option<usize>> {
        let may_cache = matches!(mode, IoMode::MaybeBuffered | IoMode::DropBehind);
        let pages = PageRange::containing(offset, buffer.len());
        let cached_pages = || if may_cache { self.ops.cached_pages(pages.start, pages.len).ok() } else { None };
        if may_cache {
            self.record_empty_cache();
        }
        let cached_before = cached_pages();
        let to_evict = if may_cache { self.uncached_parts(pages, cached_before) } else { Vec::new() };
        let Some(read) = self.read_some(mode, buffer, offset, wanted.skip + wanted.len)? else { return Ok(None) };
        let mut mode_used = mode;
        if mode == IoMode::MaybeBuffered {
            // btrfs reads compressed extents through the page cache without reporting it.
            if cached_pages() > cached_before {
                let why = "the filesystem read through the page cache (compressed data?)";
                if self.policy == DirectPolicy::Always {
                    return Err(io::Error::other(Refused(why.into())));
                }
                self.why_not_direct.get_or_init(|| why.into());
            } else {
                mode_used = IoMode::Direct;
            }
        }
        if may_cache && mode_used != IoMode::Direct {
            self.cache_unknown.fetch_or(cached_before.is_none(), Ordering::Relaxed);
            for part in to_evict {
                self.evict(part)?;
            }
        }
        self.count(mode_used, read.saturating_sub(wanted.skip).min(wanted.len) as u64);
        Ok(Some(read))
    }

    /// The parts of a range to evict after reading: those without cached pages now. `cached` is the number of cached
    /// pages in the range. If it is unknown, this is the whole range, so that no page of this read stays cached.
    fn uncached_parts(&self, range: PageRange, cached: Option<u64>) -> Vec<PageRange> {
        if cached.is_none_or(|pages| pages == 0) {
            return vec![range];
        }
        let end = range.start + range.len;
        let starts = (range.start..end).step_by(SEARCH_STEP as usize);
        let parts = starts.map(|start| PageRange { start, len: SEARCH_STEP.min(end - start) });
        parts.filter(|part| self.ops.cached_pages(part.start, part.len).is_ok_and(|pages| pages == 0)).collect()
    }

    /// Call this after the last read. Two neighboring reads can each count the other's pages as cached before, and then
    /// leave them. If no page was cached before the first read, this evicts all pages of the file.
    pub fn finish_reading(&self) -> io::Result<()> {
        if self.cache_was_empty.get() != Some(&true) || self.uncached_bytes.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        for _ in 0..MAX_EVICTIONS {
            self.evict(PageRange::WHOLE_FILE)?;
            if self.ops.cached_pages(0, 0).map_or(true, |pages| pages == 0) {
                break;
            }
            // The kernel skips pages that it is using at that moment.
            std::thread::sleep(EVICTION_INTERVAL);
        }
        Ok(())
    }

    /// Reads until `buffer` holds `needed` bytes or the file ends. Returns None if the kernel refuses `mode`.
    fn read_some(&self, mode: IoMode, buffer: &mut [u8], offset: u64, needed: usize) -> io::Result<Option<usize>> {
        let end = if mode.is_aligned() { buffer.len() } else { needed };
        let mut done = 0;
        loop {
            let rest = &mut buffer[done..end];
            let read = |len| self.ops.read_at(&mut rest[..len], offset + done as u64, mode == IoMode::DontCache);
            let len = match self.with_permit(end - done, read) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if self.fall_back(mode, &e)? => return Ok(None),
                other => other?,
            };
            let total = done + len;
            if total >= needed || len == 0 {
                return Ok(Some(total));
            }
            let next = if mode.is_aligned() { self.alignment.round_down(total as u64) as usize } else { total };
            if next == done {
                return Ok(Some(total)); // less than one aligned block: the end of the file
            }
            done = next;
        }
    }
}
