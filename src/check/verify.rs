//! What was written, read back from the medium and compared.
//!
//! Not the data are kept for that but a digest of each range of 4 MiB, however small the blocks are that
//! it was copied in: 48 bytes each, which is 12 MiB per TiB (twice that at most, while the list grows).

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::Block;
use crate::direct::{AlignedBuffer, DirectReader};
use crate::error::{Error, Result, quoted};
use crate::job::Job;
use crate::pace::{Direction, Pace, RateLimiter};
use crate::sys;

/// Neighbours become one that begin in the same of these.
const RANGE: u64 = Job::BLOCK_SIZE as u64;
/// So far back neighbours are looked for: workers overtake each other, but not for long.
const NEAR: usize = 64;

/// A block, or several of one length that follow each other.
struct Entry {
    offset: u64,
    len: u64,
    /// The length of each block.
    step: u64,
    /// The sum of the blocks' digests; [`HOLE`]: it must read as zeros.
    digest: u128,
}

/// No digest of data that anybody will ever see.
const HOLE: u128 = 0;

impl Entry {
    /// True if `next` follows at once, and both can be one.
    fn joins(&self, next: &Entry) -> bool {
        let follows = self.offset + self.len == next.offset && self.step == next.step;
        follows && self.offset / RANGE == next.offset / RANGE && self.digest != HOLE && next.digest != HOLE
    }
}

/// Where in the file reading failed, and why.
type Failed = (u64, std::io::Error);

/// What was read from the source, block by block.
#[derive(Default)]
pub struct RangeDigests(Mutex<Vec<Entry>>);

/// Where the medium holds something else.
struct Mismatch {
    /// Offset in the copy of the first range that differs.
    first: u64,
    /// How many ranges differ.
    ranges: usize,
    /// Out of so many.
    of: usize,
}

impl RangeDigests {
    /// Notes a block.
    pub fn update(&self, block: &Block) {
        let digest = if block.hole { HOLE } else { digest(block.data(), block.offset) };
        let mut entry = Entry { offset: block.offset, len: block.len, step: block.len, digest };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let near = |entry: &Entry, other: &Entry| other.joins(entry) || entry.joins(other);
        let from = entries.len().saturating_sub(NEAR);
        while let Some(found) = entries[from..].iter().position(|other| near(&entry, other)) {
            let other = entries.remove(from + found);
            entry.offset = entry.offset.min(other.offset);
            entry.len += other.len;
            entry.digest = entry.digest.wrapping_add(other.digest);
        }
        entries.push(entry);
    }

    /// Reads `file` back, where the copy begins at `base`. Fails if it is not what was read from the
    /// source. Gives a word on it if what was read may have come from the cache.
    pub fn verify(self, job: &Job, name: &Path, file: &File, base: u64, pace: &Pace) -> Result<Option<String>> {
        let fail = |e| Error::io("reading back", name, e);
        let mut reader = DirectReader::reread(file.try_clone().map_err(fail)?).map_err(fail)?;
        pace.idle.iter().for_each(|idle| reader.yield_at(idle));
        let cached = if reader.is_direct() { Some(0) } else { sys::cached_pages(file, 0, 0).ok() };
        let compared = self.compare(&reader, base, job, &pace.rate);
        let mismatch = compared.map_err(|(at, e)| fail(e).at(at))?;
        reader.finish().map_err(fail)?;
        let Some(Mismatch { first, ranges, of }) = mismatch else {
            let pages = cached.map_or("an unknown number of".to_string(), |pages| pages.to_string());
            let what = format!("{pages} pages of {} were in the cache, and were compared there", quoted(name));
            return Ok((cached != Some(0)).then(|| format!("not verified on the medium: {what}")));
        };
        let why = format!(
            "the medium does not hold what was written: {ranges} of {of} ranges differ, the first one at byte {}",
            base + first
        );
        Err(Error::corrupt(name, why).hint("another disk: this one, its cable or its memory is failing"))
    }

    /// Reads every block back with `workers` threads, `base` bytes further on than it was in the
    /// copy, and compares. Fails with the offset in the file where reading failed.
    fn compare(
        self,
        reader: &DirectReader,
        base: u64,
        job: &Job,
        rate: &RateLimiter,
    ) -> std::result::Result<Option<Mismatch>, Failed> {
        let mut entries = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        entries.sort_unstable_by_key(|entry| entry.offset);
        let next = Mutex::new(entries.iter());
        let (failed, stop) = (Mutex::new(None), AtomicBool::new(false));
        let wrong: Mutex<Vec<u64>> = Mutex::default();
        let work = || {
            let result = || -> std::result::Result<(), Failed> {
                let room = reader.room(0, job.block_size);
                let mut buffer = AlignedBuffer::new(room).map_err(|e| (base, e))?;
                loop {
                    let entry = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(entry) = entry.filter(|_| !stop.load(Ordering::Relaxed)) else { return Ok(()) };
                    if !holds(reader, &mut buffer, base, entry, job.block_size, rate)? {
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push(entry.offset);
                    }
                }
            };
            if let Err(error) = result() {
                stop.store(true, Ordering::Relaxed);
                rate.cancel();
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..job.queue_depth.min(entries.len()) {
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
        let first = wrong.iter().min().copied();
        Ok(first.map(|first| Mismatch { first, ranges: wrong.len(), of: entries.len() }))
    }
}

/// True if the medium holds what the entry says.
fn holds(
    reader: &DirectReader,
    buffer: &mut AlignedBuffer,
    base: u64,
    entry: &Entry,
    block_size: usize,
    rate: &RateLimiter,
) -> std::result::Result<bool, Failed> {
    let (mut at, end, mut sum) = (entry.offset, entry.offset + entry.len, HOLE);
    while at < end {
        if entry.digest == HOLE {
            // What is a hole there, too, holds no bytes that could be wrong.
            let data = reader.next_data(base + at).map_err(|e| (base + at, e))?;
            let skip = data.saturating_sub(base + at).min(end - at);
            if skip > 0 {
                at += skip;
                continue;
            }
        }
        let step = if entry.digest == HOLE { block_size as u64 } else { entry.step };
        let len = step.min(end - at) as usize;
        rate.wait(Direction::Read, len);
        let read = reader.read_block(buffer, 0, base + at, len).map_err(|e| (base + at, e))?;
        let bytes = &buffer[..read];
        if read < len || entry.digest == HOLE && bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if entry.digest != HOLE {
            sum = sum.wrapping_add(digest(bytes, at));
        }
        at += len as u64;
    }
    Ok(sum == entry.digest)
}

/// Enough of BLAKE3 to tell any two blocks apart that were not made to collide; `at` is where it belongs, so
/// that two which changed places are two others.
fn digest(bytes: &[u8], at: u64) -> u128 {
    let (mut key, mut short) = ([0; blake3::KEY_LEN], [0; size_of::<u128>()]);
    key[..size_of::<u64>()].copy_from_slice(&at.to_le_bytes());
    short.copy_from_slice(&blake3::keyed_hash(&key, bytes).as_bytes()[..size_of::<u128>()]);
    u128::from_le_bytes(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries that blocks of these offsets and lengths leave, in the order of the file.
    fn entries(blocks: &[(u64, u64)], content: &[u8]) -> Vec<(u64, u64, u128)> {
        let range_digests = RangeDigests::default();
        for &(offset, len) in blocks {
            let mut block = Block::new(len as usize).expect("memory");
            block.buffer[..len as usize].copy_from_slice(&content[offset as usize..][..len as usize]);
            (block.offset, block.len) = (offset, len);
            range_digests.update(&block);
        }
        let mut entries = range_digests.0.into_inner().expect("entries");
        entries.sort_unstable_by_key(|entry| entry.offset);
        entries.iter().map(|entry| (entry.offset, entry.len, entry.digest)).collect()
    }

    #[test]
    fn a_range_has_one_entry_however_small_and_disordered_its_blocks_come() {
        let content: Vec<u8> = (0..9u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let cut = |lead: u64, size: u64| -> Vec<(u64, u64)> {
            let end = content.len() as u64;
            let rest = (lead..end).step_by(size as usize).map(|at| (at, size.min(end - at)));
            [(0, lead)].into_iter().filter(|(_, lead)| *lead > 0).chain(rest).collect()
        };
        let lengths = |entries: &[(u64, u64, u128)]| entries.iter().map(|entry| entry.1).collect::<Vec<_>>();
        assert_eq!(lengths(&entries(&cut(0, RANGE), &content)), [RANGE, RANGE, 1 << 20]);
        for size in [512, 4 << 10, 64 << 10, 512 << 10] {
            let mut blocks = cut(0, size);
            let in_order = entries(&blocks, &content);
            assert_eq!(lengths(&in_order), [RANGE, RANGE, 1 << 20], "{size}");
            blocks.chunks_mut(7).for_each(<[_]>::reverse);
            assert_eq!(entries(&blocks, &content), in_order, "{size}");
        }
        // A short first or last block is by itself.
        for (lead, size, most) in [(0, 5000, 4), (511, 512, 5), (79 << 10, 80 << 10, 5), (0, 6 << 20, 2)] {
            let found = entries(&cut(lead, size), &content);
            assert!(found.len() <= most, "{lead} {size}: {:?}", lengths(&found));
            assert_eq!(lengths(&found).iter().sum::<u64>(), 9 << 20);
        }
        assert_eq!(entries(&[(0, 4096), (8192, 4096)], &content).len(), 2);
        // Two blocks that changed places are two others.
        let mut swapped = content.clone();
        swapped[..128 << 10].rotate_left(64 << 10);
        assert_ne!(entries(&cut(0, 64 << 10), &swapped)[0], entries(&cut(0, 64 << 10), &content)[0]);
    }
}
