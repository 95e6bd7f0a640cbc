//! What was written, read back from the medium and compared.
//!
//! Not the data are kept for that but a digest of each range of 4 MiB, however small the blocks are that
//! it was copied in: 32 bytes each, which is 8 MiB per TiB (twice that at most, while the list grows).

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::Block;
use crate::direct::{AlignedBuffer, DirectReader};
use crate::error::{Error, Result, quoted};
use crate::job::Job;
use crate::pace::{Pace, Rate, Side};
use crate::sys;

/// Neighbours become one that begin in the same of these.
const RANGE: u64 = Job::BLOCK_SIZE as u64;
/// The digest of a range is the sum of those of its pieces, which end at multiples of this: so it does not
/// depend on how the range was cut into blocks, if the cuts are at such multiples, too.
const PIECE: u64 = 16 << 10;
/// So far back neighbours are looked for: workers overtake each other, but not for long.
const NEAR: usize = 64;

struct Entry {
    offset: u64,
    len: u64,
    /// [`HOLE`]: it must read as zeros.
    digest: u128,
}

/// No digest of data that anybody will ever see.
const HOLE: u128 = 0;

impl Entry {
    /// True if `next` follows at once, and both can be one.
    fn joins(&self, next: &Entry) -> bool {
        let follows = self.offset + self.len == next.offset && next.offset.is_multiple_of(PIECE);
        follows && self.offset / RANGE == next.offset / RANGE && self.digest != HOLE && next.digest != HOLE
    }
}

/// Where in the file reading failed, and why.
type Failed = (u64, std::io::Error);

/// What was read from the source, block by block.
#[derive(Default)]
pub struct Ledger(Mutex<Vec<Entry>>);

/// Where the medium holds something else.
struct Mismatch {
    /// Offset in the copy of the first block that differs.
    first: u64,
    /// How many blocks differ.
    blocks: usize,
    /// Out of so many.
    of: usize,
}

impl Ledger {
    /// Notes a block.
    pub fn see(&self, block: &Block) {
        let digest = if block.hole { HOLE } else { digest(block.data(), block.offset) };
        let mut entry = Entry { offset: block.offset, len: block.len, digest };
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
        let Some(Mismatch { first, blocks, of }) = mismatch else {
            let pages = cached.map_or("an unknown number of".to_string(), |pages| pages.to_string());
            let what = format!("{pages} pages of {} were in the cache, and were compared there", quoted(name));
            return Ok((cached != Some(0)).then(|| format!("not verified on the medium: {what}")));
        };
        let why = format!(
            "the medium does not hold what was written: {blocks} of {of} blocks differ, the first one at byte {}",
            base + first
        );
        Err(Error::wrong(name, why).hint("another disk: this one, its cable or its memory is failing"))
    }

    /// Reads every block back with `workers` threads, `base` bytes further on than it was in the
    /// copy, and compares. Fails with the offset in the file where reading failed.
    fn compare(
        self,
        reader: &DirectReader,
        base: u64,
        job: &Job,
        rate: &Rate,
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
                rate.shut();
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
        Ok(first.map(|first| Mismatch { first, blocks: wrong.len(), of: entries.len() }))
    }
}

/// True if the medium holds what the entry says.
fn holds(
    reader: &DirectReader,
    buffer: &mut AlignedBuffer,
    base: u64,
    entry: &Entry,
    block_size: usize,
    rate: &Rate,
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
        let most = at + block_size as u64;
        let to = match most - most % PIECE {
            _ if most >= end => end,
            cut if cut > at => cut,
            _ => most,
        };
        let len = (to - at) as usize;
        rate.wait(Side::Read, len);
        let read = reader.read_block(buffer, 0, base + at, len).map_err(|e| (base + at, e))?;
        let bytes = &buffer[..read];
        if read < len || entry.digest == HOLE && bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if entry.digest != HOLE {
            sum = sum.wrapping_add(digest(bytes, at));
        }
        at = to;
    }
    Ok(sum == entry.digest)
}

/// Enough of BLAKE3 to tell any two ranges apart that were not made to collide, wherever they are.
fn digest(mut bytes: &[u8], mut at: u64) -> u128 {
    let mut sum = HOLE;
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(bytes.len().min((PIECE - at % PIECE) as usize));
        let mut key = [0; blake3::KEY_LEN];
        key[..8].copy_from_slice(&at.to_le_bytes());
        let mut short = [0; size_of::<u128>()];
        short.copy_from_slice(&blake3::keyed_hash(&key, piece).as_bytes()[..size_of::<u128>()]);
        sum = sum.wrapping_add(u128::from_le_bytes(short));
        (bytes, at) = (rest, at + piece.len() as u64);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries that blocks of these offsets and lengths leave, in the order of the file.
    fn entries(blocks: &[(u64, u64)], content: &[u8]) -> Vec<(u64, u64, u128)> {
        let ledger = Ledger::default();
        for &(offset, len) in blocks {
            let mut block = Block::new(len as usize).expect("memory");
            block.buffer[..len as usize].copy_from_slice(&content[offset as usize..][..len as usize]);
            (block.offset, block.len) = (offset, len);
            ledger.see(&block);
        }
        let mut entries = ledger.0.into_inner().expect("entries");
        entries.sort_unstable_by_key(|entry| entry.offset);
        entries.iter().map(|entry| (entry.offset, entry.len, entry.digest)).collect()
    }

    #[test]
    fn a_range_has_one_digest_however_small_and_disordered_its_blocks_come() {
        let content: Vec<u8> = (0..9u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let cut = |size: u64| -> Vec<(u64, u64)> {
            let end = content.len() as u64;
            (0..end).step_by(size as usize).map(|at| (at, size.min(end - at))).collect()
        };
        let whole = entries(&cut(RANGE), &content);
        assert_eq!(whole.iter().map(|entry| entry.1).collect::<Vec<_>>(), [RANGE, RANGE, 1 << 20]);
        for size in [16 << 10, 64 << 10, 512 << 10] {
            let mut blocks = cut(size);
            assert_eq!(entries(&blocks, &content), whole, "{size}");
            blocks.chunks_mut(7).for_each(<[_]>::reverse);
            assert_eq!(entries(&blocks, &content), whole, "{size}");
        }
        // What ends elsewhere stays by itself, or begins a new one.
        assert_eq!(entries(&cut(80 << 10), &content).len(), 3);
        assert_eq!(entries(&cut(6 << 20), &content).len(), 2);
        assert_eq!(entries(&[(0, 5000), (5000, 5000)], &content).len(), 2);
        assert_eq!(entries(&[(0, 16 << 10), (32 << 10, 16 << 10)], &content).len(), 2);
        // Two pieces that changed places are two others.
        let mut swapped = content.clone();
        swapped[..64 << 10].rotate_left(32 << 10);
        assert_ne!(entries(&cut(64 << 10), &swapped)[0], whole[0]);
    }
}
