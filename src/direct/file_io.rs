//! How one file is reached: direct if it can be, else by the next best way; with an account of it.

mod reads;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::file_ops::FileOps;
use super::io_mode::{Choice, IoMode, is_refusal};
use super::{Alignment, DirectPolicy, Refused, Traffic};
use crate::pace::{IdleGate, TransferTime};
use crate::sys;

/// One open file, reached by the best way that it allows.
pub(crate) struct FileIo {
    ops: Box<dyn FileOps>,
    alignment: Alignment,
    policy: DirectPolicy,
    /// Every transfer passes there first.
    idle: Option<Arc<IdleGate>>,
    typical_time: TransferTime,
    mode: AtomicU8,
    why: OnceLock<String>,
    /// For the ways that drop what they read: nobody had any of it cached when that began.
    cache_was_empty: OnceLock<bool>,
    /// The kernel did not tell what was cached before: the caller could not write the file.
    cache_unknown: AtomicBool,
    direct: AtomicU64,
    uncached: AtomicU64,
    other: AtomicU64,
}

impl FileIo {
    /// Takes a file that [`open`](super::open) opened; `refusal` says why O_DIRECT was not set. Fails as
    /// [`IoMode::choose`] does.
    pub fn new(file: File, refusal: Option<String>, policy: DirectPolicy, writing: bool) -> io::Result<Self> {
        let Choice { mode, alignment, why_not_direct } = IoMode::choose(&file, refusal, policy, writing)?;
        let io = Self::with(Box::new(file), alignment, policy, mode, why_not_direct);
        if mode == IoMode::DontCache && !writing {
            io.no_read_ahead()?;
        }
        Ok(io)
    }

    /// Read-ahead would insert pages that cannot be told from those of others; and who has any?
    fn no_read_ahead(&self) -> io::Result<()> {
        self.ops.no_read_ahead()?;
        self.cache_was_empty.get_or_init(|| self.ops.cached(0, 0).unwrap_or(0) == 0);
        Ok(())
    }

    fn with(
        ops: Box<dyn FileOps>,
        alignment: Alignment,
        policy: DirectPolicy,
        mode: IoMode,
        why: Option<String>,
    ) -> Self {
        let io = Self {
            ops,
            alignment,
            policy,
            idle: None,
            typical_time: TransferTime::default(),
            mode: AtomicU8::new(mode as u8),
            why: OnceLock::new(),
            cache_was_empty: OnceLock::new(),
            cache_unknown: AtomicBool::new(false),
            direct: AtomicU64::new(0),
            uncached: AtomicU64::new(0),
            other: AtomicU64::new(0),
        };
        if let Some(why) = why {
            io.why.get_or_init(|| why);
        }
        io
    }

    /// A fake disk in place of a file, reached direct.
    #[cfg(test)]
    pub fn fake(disk: super::fake::FakeDisk, policy: DirectPolicy) -> Self {
        let alignment = disk.alignment();
        Self::with(Box::new(disk), alignment, policy, IoMode::Direct, None)
    }

    /// From now on every transfer waits at this gate.
    pub fn yield_at(&mut self, idle: &Arc<IdleGate>) {
        self.idle = Some(idle.clone());
    }

    /// Waits until `len` bytes, or a part of them, may be moved by `transfer`.
    fn in_turn<T>(&self, len: usize, transfer: impl FnOnce(usize) -> T) -> T {
        let idle = self.idle.as_ref().filter(|_| self.mode() != IoMode::InMemory);
        let permit = idle.map(|idle| idle.enter(&self.typical_time));
        let unit = if self.aligned() { self.alignment.offset } else { 1 };
        let max_len = permit.as_ref().map_or(usize::MAX, |permit| permit.max_len()) as u64;
        transfer(len.min((max_len - max_len % unit).max(unit) as usize))
    }

    pub fn ops(&self) -> &dyn FileOps {
        &*self.ops
    }

    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Why not all of it is direct, if so.
    pub fn why(&self) -> Option<String> {
        let cache_unknown = "; what others had cached could not be told apart, and was dropped too";
        let cache_unknown = if self.cache_unknown.load(Ordering::Relaxed) { cache_unknown } else { "" };
        self.why.get().map(|why| format!("{why}{cache_unknown}"))
    }

    fn mode(&self) -> IoMode {
        IoMode::from_u8(self.mode.load(Ordering::Acquire))
    }

    /// True while transfers must be aligned.
    pub fn aligned(&self) -> bool {
        self.mode() <= IoMode::MaybeBuffered
    }

    /// True where the filesystem has to be watched for going through the cache.
    pub fn may_be_buffered(&self) -> bool {
        self.mode() == IoMode::MaybeBuffered
    }

    /// True if this file is in the cache on purpose, and stays there.
    pub fn stays_cached(&self) -> bool {
        self.mode() >= IoMode::Buffered
    }

    /// The bytes moved so far.
    pub fn traffic(&self) -> Traffic {
        let other = self.other.load(Ordering::Relaxed);
        let memory = self.mode() == IoMode::InMemory;
        Traffic {
            direct: self.direct.load(Ordering::Relaxed),
            resident: 0,
            uncached: self.uncached.load(Ordering::Relaxed),
            cached: if memory { 0 } else { other },
            memory: if memory { other } else { 0 },
        }
    }

    /// Counts `bytes` that moved by `way`.
    fn count(&self, mode: IoMode, bytes: u64) {
        let counter = match mode {
            IoMode::Direct => &self.direct,
            IoMode::MaybeBuffered | IoMode::DontCache | IoMode::DropBehind => &self.uncached,
            IoMode::Buffered | IoMode::InMemory => &self.other,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Moves on to the next way if `error` means that this one is refused. True: try again.
    fn fall_back(&self, from: IoMode, error: &io::Error) -> io::Result<bool> {
        if self.mode() != from {
            return Ok(true); // another thread did
        }
        let next = match from {
            IoMode::Direct | IoMode::MaybeBuffered if is_refusal(error) => IoMode::DontCache,
            IoMode::DontCache if is_refusal(error) => IoMode::DropBehind,
            _ => return Ok(false),
        };
        self.no_read_ahead()?;
        if next == IoMode::DontCache {
            let why = format!("the filesystem refuses aligned transfers ({error})");
            if self.policy == DirectPolicy::Always {
                return Err(io::Error::other(Refused(why)));
            }
            self.ops.set_direct(false)?;
            self.why.get_or_init(|| why);
        }
        self.mode.store(next as u8, Ordering::Release);
        Ok(true)
    }

    /// Writes all of `data`, of which `counted` bytes are the caller's own (the rest is padding).
    /// While [`FileIo::aligned`], address, offset and length must be aligned.
    pub fn write_all(&self, data: &[u8], at: u64, counted: u64) -> io::Result<()> {
        let (mut done, mut stuck) = (0, 0);
        while done < data.len() {
            let (mode, rest) = (self.mode(), &data[done..]);
            let write = |len| self.ops.write_at(&rest[..len], at + done as u64, mode == IoMode::DontCache);
            let mut moved = match self.in_turn(rest.len(), write) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if self.fall_back(mode, &e)? => continue,
                other => other?,
            };
            if mode <= IoMode::MaybeBuffered && moved < rest.len() {
                // The rest would start at an odd offset: go back to the last aligned one.
                moved = self.alignment.down(moved as u64) as usize;
            }
            stuck = if moved == 0 { stuck + 1 } else { 0 };
            if stuck > 3 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if mode == IoMode::DropBehind {
                self.drop_behind(at + done as u64, moved as u64)?;
            }
            done += moved;
        }
        self.count(self.mode(), counted);
        Ok(())
    }

    /// Writes what no aligned transfer can, the cut last block of a file that grows in place:
    /// through the page cache. Gives the range to drop once it is on the medium, if any; a page
    /// that others had cached stays. No other write may be under way.
    pub fn write_exact(&self, data: &[u8], at: u64) -> io::Result<Option<(u64, u64)>> {
        let start = at - at % sys::page_size();
        let len = (at + data.len() as u64).next_multiple_of(sys::page_size()) - start;
        let shared = self.ops.cached(start, len).unwrap_or(0) > 0;
        self.ops.set_direct(false)?;
        let mut done = 0;
        while done < data.len() {
            match self.ops.write_at(&data[done..], at + done as u64, false) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                other => done += other?,
            }
        }
        self.count(IoMode::DropBehind, data.len() as u64);
        Ok((!shared).then_some((start, len)))
    }

    fn drop_behind(&self, start: u64, len: u64) -> io::Result<()> {
        // Not every filesystem has a ranged write-back; all have fsync.
        self.ops.write_back(start, len).or_else(|_| self.ops.sync())?;
        self.ops.forget(start, len)
    }
}
