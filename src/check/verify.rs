//! `--verify`: reads the copy back from the medium and compares it with what was read from the source.
//!
//! The comparison keeps a digest of each range of 4 MiB instead of the data, even if the blocks of the copy are
//! smaller. Each range needs 48 bytes of memory. That makes 12 MiB per TiB, and up to twice as much while the list
//! grows.

mod range_digests;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::direct::{AlignedBuffer, DirectReader};
use crate::error::{Error, Result, quoted};
use crate::job::Job;
use crate::pace::{Direction, Pace, RateLimiter};
use crate::sys;
use range_digests::{RangeEntry, digest};

pub use range_digests::RangeDigests;

/// What differs between the medium and the source.
struct Mismatch {
    /// Offset in the copy of the first range that differs.
    first_offset: u64,
    /// The number of ranges that differ.
    bad_ranges: usize,
    /// The number of ranges compared.
    total_ranges: usize,
}

/// Reading the copy back failed.
struct ReadBackError {
    /// Offset in the file.
    offset: u64,
    source: io::Error,
}

impl RangeDigests {
    /// Reads `file` back and compares it. The copy starts at offset `base` of the file. Returns a note for the user if
    /// the data may have come from the page cache instead of the medium. Fails with
    /// [`ErrorKind::Content`](crate::ErrorKind::Content) if the file differs from what was read from the source.
    pub fn verify(self, job: &Job, name: &Path, file: &File, base: u64, pace: &Pace) -> Result<Option<String>> {
        let fail = |e| Error::io("reading back", name, e);
        let mut reader = DirectReader::from_file(file.try_clone().map_err(fail)?).map_err(fail)?;
        pace.idle.iter().for_each(|idle| reader.yield_at(idle));
        let cached_pages = if reader.is_direct() { Some(0) } else { sys::cached_pages(file, 0, 0).ok() };
        let entries = self.into_entries();
        let comparison = Comparison { reader: &reader, rate: &pace.rate, base, block_size: job.block_size };
        let mismatch = comparison.run(&entries, job.queue_depth).map_err(|e| fail(e.source).at(e.offset))?;
        reader.finish().map_err(fail)?;
        if let Some(Mismatch { first_offset, bad_ranges, total_ranges }) = mismatch {
            let first = base + first_offset;
            let why = format!(
                "the medium does not hold what was written: {bad_ranges} of {total_ranges} ranges differ, the first \
                 one at byte {first}"
            );
            let hint = "copy to another disk: this disk, its cable or the memory is failing";
            return Err(Error::corrupt(name, why).hint(hint));
        }
        Ok(cached_pages_note(cached_pages, name))
    }
}

/// The note for the user if pages of the copy were in the page cache. None as the number of pages: it is unknown.
fn cached_pages_note(cached_pages: Option<u64>, name: &Path) -> Option<String> {
    let name = quoted(name);
    let reason = match cached_pages {
        Some(0) => return None,
        Some(1) => format!("1 page of {name} was in the page cache and was compared there"),
        Some(pages) => format!("{pages} pages of {name} were in the page cache and were compared there"),
        None => format!("the kernel does not report whether pages of {name} were in the page cache and compared there"),
    };
    Some(format!("not verified on the medium: {reason}"))
}

/// Reads the copy back and compares it.
struct Comparison<'a> {
    reader: &'a DirectReader,
    rate: &'a RateLimiter,
    /// Offset of the copy in the file.
    base: u64,
    block_size: usize,
}

impl Comparison<'_> {
    /// Compares every entry with the medium, with up to `max_workers` threads.
    fn run(&self, entries: &[RangeEntry], max_workers: usize) -> std::result::Result<Option<Mismatch>, ReadBackError> {
        let next_entry = Mutex::new(entries.iter());
        let (first_error, stop) = (Mutex::new(None), AtomicBool::new(false));
        let bad_offsets: Mutex<Vec<u64>> = Mutex::default();
        let compare_entries = || -> std::result::Result<(), ReadBackError> {
            let room = self.reader.room(0, self.block_size);
            let mut buffer = AlignedBuffer::new(room).map_err(|e| self.error(0, e))?;
            loop {
                let entry = lock(&next_entry).next();
                let Some(entry) = entry.filter(|_| !stop.load(Ordering::Relaxed)) else { return Ok(()) };
                if !self.is_intact(entry, &mut buffer)? {
                    lock(&bad_offsets).push(entry.offset);
                }
            }
        };
        let work = || {
            if let Err(error) = compare_entries() {
                stop.store(true, Ordering::Relaxed);
                self.rate.cancel();
                lock(&first_error).get_or_insert(error);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..max_workers.min(entries.len()) {
                // If no more threads can be started, those that run do all the work.
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        if let Some(error) = lock(&first_error).take() {
            return Err(error);
        }
        let bad_offsets = lock(&bad_offsets);
        let (bad_ranges, total_ranges) = (bad_offsets.len(), entries.len());
        Ok(bad_offsets.iter().min().map(|&first_offset| Mismatch { first_offset, bad_ranges, total_ranges }))
    }

    /// True if the medium holds the data of the entry.
    fn is_intact(&self, entry: &RangeEntry, buffer: &mut AlignedBuffer) -> std::result::Result<bool, ReadBackError> {
        let (mut offset, end, mut digest_sum) = (entry.offset, entry.offset + entry.len, 0u128);
        while offset < end {
            if entry.is_hole() {
                // Where the file has a hole too, there is nothing to read.
                let next_data = self.reader.next_data(self.base + offset).map_err(|e| self.error(offset, e))?;
                let hole_len = next_data.saturating_sub(self.base + offset).min(end - offset);
                if hole_len > 0 {
                    offset += hole_len;
                    continue;
                }
            }
            let block_len = if entry.is_hole() { self.block_size as u64 } else { entry.block_len };
            let len = block_len.min(end - offset) as usize;
            self.rate.wait(Direction::Read, len);
            let read = self.reader.read_block(buffer, 0, self.base + offset, len);
            let bytes = &buffer[..read.map_err(|e| self.error(offset, e))?];
            if bytes.len() < len || entry.is_hole() && bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            if !entry.is_hole() {
                digest_sum = digest_sum.wrapping_add(digest(bytes, offset));
            }
            offset += len as u64;
        }
        Ok(digest_sum == entry.digest)
    }

    /// `offset` is in the copy, and becomes the offset in the file.
    fn error(&self, offset: u64, source: io::Error) -> ReadBackError {
        ReadBackError { offset: self.base + offset, source }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
