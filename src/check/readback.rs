//! What was written, read back from the medium and compared.
//!
//! Not the data are kept for that but a digest of each block: 32 bytes a block, which is 8 MiB per
//! TiB at the default block size (twice that at most, while the list grows).

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

/// Enough of a BLAKE3 digest to tell any two blocks apart that were not made to collide.
const BYTES: usize = 16;

struct Entry {
    offset: u64,
    len: u64,
    /// [`HOLE`]: it must read as zeros.
    digest: [u8; BYTES],
}

/// No digest of data that anybody will ever see.
const HOLE: [u8; BYTES] = [0; BYTES];

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
        let digest = if block.hole { HOLE } else { digest(block.data()) };
        let entry = Entry { offset: block.offset, len: block.len, digest };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
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
    let mut done = 0;
    while done < entry.len {
        let at = base + entry.offset + done;
        if entry.digest == HOLE {
            // What is a hole there, too, holds no bytes that could be wrong.
            let data = reader.next_data(at).map_err(|e| (at, e))?;
            let skip = data.saturating_sub(at).min(entry.len - done);
            if skip > 0 {
                done += skip;
                continue;
            }
        }
        let len = (entry.len - done).min(block_size as u64) as usize;
        rate.wait(Side::Read, len);
        let read = reader.read_block(buffer, 0, at, len).map_err(|e| (at, e))?;
        let bytes = &buffer[..read];
        let good = match entry.digest {
            HOLE => bytes.iter().all(|byte| *byte == 0),
            expected => digest(bytes) == expected,
        };
        if read < len || !good {
            return Ok(false);
        }
        done += len as u64;
    }
    Ok(true)
}

fn digest(bytes: &[u8]) -> [u8; BYTES] {
    let mut short = [0; BYTES];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..BYTES]);
    short
}
