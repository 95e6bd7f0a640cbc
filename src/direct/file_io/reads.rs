//! Reading: evicts the pages a read brought into the cache where the mode is not direct, and no others.

use std::io;
use std::sync::atomic::Ordering;

use super::FileIo;
use crate::direct::DirectPolicy;
use crate::direct::Refused;
use crate::direct::io_mode::IoMode;
use crate::sys;

/// Where others have a part of a range cached, the rest is told apart in steps of this.
const PART: u64 = 64 << 10;

impl FileIo {
    /// Reads at `at` until `skew + wanted` bytes are there or the file ends; gives the bytes read,
    /// perhaps more. The first `skew` are there for alignment only. While [`FileIo::aligned`],
    /// address, offset and length of `buffer` must be aligned.
    pub fn read_full(&self, buffer: &mut [u8], at: u64, skew: usize, wanted: usize) -> io::Result<usize> {
        loop {
            // None: this way is refused, and the next one must be watched from its beginning.
            if let Some(read) = self.read_by(self.mode(), buffer, at, skew, wanted)? {
                return Ok(read);
            }
        }
    }

    fn read_by(
        &self,
        mode: IoMode,
        buffer: &mut [u8],
        at: u64,
        skew: usize,
        wanted: usize,
    ) -> io::Result<Option<usize>> {
        let watched = matches!(mode, IoMode::MaybeBuffered | IoMode::DropBehind);
        let start = at - at % sys::page_size();
        let len = (at + buffer.len() as u64).next_multiple_of(sys::page_size()) - start;
        let cached = || if watched { self.ops.cached(start, len).ok() } else { None };
        if watched {
            self.cache_was_empty.get_or_init(|| self.ops.cached(0, 0).unwrap_or(0) == 0);
        }
        let before = cached();
        let cold = self.cold(watched, start, len, before);
        let Some(read) = self.read_some(mode, buffer, at, skew + wanted)? else { return Ok(None) };
        let mut took = mode;
        if mode == IoMode::MaybeBuffered {
            // btrfs reads compressed extents through the cache, and says nothing.
            if cached() > before {
                let why = "the filesystem went through the cache (compressed data?)";
                if self.policy == DirectPolicy::Always {
                    return Err(io::Error::other(Refused(why.into())));
                }
                self.why.get_or_init(|| why.into());
            } else {
                took = IoMode::Direct;
            }
        }
        if watched && took != IoMode::Direct {
            self.cache_unknown.fetch_or(before.is_none(), Ordering::Relaxed);
            for (start, len) in cold {
                self.ops.forget(start, len)?;
            }
        }
        self.count(took, read.saturating_sub(skew).min(wanted) as u64);
        Ok(Some(read))
    }

    /// The parts of a range that are to be dropped after reading: pages that others have there stay;
    /// where that cannot be known, ours must not.
    fn cold(&self, watched: bool, start: u64, len: u64, cached: Option<u64>) -> Vec<(u64, u64)> {
        if !watched || cached.is_none_or(|cached| cached == 0) {
            return if watched { vec![(start, len)] } else { Vec::new() };
        }
        let parts = (start..start + len).step_by(PART as usize).map(|at| (at, PART.min(start + len - at)));
        parts.filter(|(at, len)| self.ops.cached(*at, *len).is_ok_and(|cached| cached == 0)).collect()
    }

    /// Ends the reading: drops the pages that two neighbouring reads took for each other's.
    pub fn finish_reading(&self) -> io::Result<()> {
        if self.cache_was_empty.get() == Some(&true) && self.uncached.load(Ordering::Relaxed) > 0 {
            self.ops.forget(0, 0)?;
        }
        Ok(())
    }

    fn read_some(&self, mode: IoMode, buffer: &mut [u8], at: u64, needed: usize) -> io::Result<Option<usize>> {
        let aligned = mode <= IoMode::MaybeBuffered;
        let end = if aligned { buffer.len() } else { needed };
        let mut done = 0;
        loop {
            let rest = &mut buffer[done..end];
            let read = |len| self.ops.read_at(&mut rest[..len], at + done as u64, mode == IoMode::DontCache);
            let moved = match self.in_turn(end - done, read) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if self.fall_back(mode, &e)? => return Ok(None),
                other => other?,
            };
            let total = done + moved;
            if total >= needed || moved == 0 {
                return Ok(Some(total));
            }
            let next = if aligned { self.alignment.down(total as u64) as usize } else { total };
            if next == done {
                return Ok(Some(total)); // less than a block more: the file's end
            }
            done = next;
        }
    }
}
