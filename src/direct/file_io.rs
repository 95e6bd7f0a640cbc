//! One open file: its I/O mode, the fallback to the next mode, and how many bytes took which path.

mod reads;
mod writes;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::file_ops::{FileOps, PageRange};
use super::io_mode::{Choice, IoMode, is_refusal};
use super::{Alignment, DirectPolicy, Refused, Traffic};
use crate::pace::{IdleGate, TransferTime};
use crate::sys;

/// An open file and the best I/O mode that it supports. Several threads may read and write at once.
pub(crate) struct FileIo {
    ops: Box<dyn FileOps>,
    alignment: Alignment,
    policy: DirectPolicy,
    /// If set, every transfer waits for this gate.
    idle: Option<Arc<IdleGate>>,
    typical_time: TransferTime,
    /// An [`IoMode`].
    mode: AtomicU8,
    why_not_direct: OnceLock<String>,
    /// For the modes that evict after reading: no page of the file was cached before the first read.
    cache_was_empty: OnceLock<bool>,
    /// The kernel did not report what was cached before a read, because the caller may not write the file.
    cache_unknown: AtomicBool,
    /// Why pages could not be evicted, if the kernel refused that.
    why_not_evicted: OnceLock<String>,
    direct_bytes: AtomicU64,
    uncached_bytes: AtomicU64,
    /// Through the page cache and left there, or in memory.
    cached_bytes: AtomicU64,
}

impl FileIo {
    /// Wraps a file that [`open`](super::open) opened. `refusal` says why O_DIRECT could not be set. Fails as
    /// [`IoMode::choose`] does.
    pub fn new(file: File, refusal: Option<String>, policy: DirectPolicy, writing: bool) -> io::Result<Self> {
        let choice = IoMode::choose(&file, refusal, policy, writing)?;
        let mode = choice.mode;
        let io = Self::with_choice(Box::new(file), policy, choice);
        if mode == IoMode::DontCache && !writing {
            io.disable_read_ahead()?;
        }
        Ok(io)
    }

    fn with_choice(ops: Box<dyn FileOps>, policy: DirectPolicy, choice: Choice) -> Self {
        Self {
            ops,
            alignment: choice.alignment,
            policy,
            idle: None,
            typical_time: TransferTime::default(),
            mode: AtomicU8::new(choice.mode as u8),
            why_not_direct: choice.why_not_direct.map_or_else(OnceLock::new, OnceLock::from),
            cache_was_empty: OnceLock::new(),
            cache_unknown: AtomicBool::new(false),
            why_not_evicted: OnceLock::new(),
            direct_bytes: AtomicU64::new(0),
            uncached_bytes: AtomicU64::new(0),
            cached_bytes: AtomicU64::new(0),
        }
    }

    /// Direct I/O on a fake disk in place of a file.
    #[cfg(test)]
    pub fn fake(disk: super::fake::FakeDisk, policy: DirectPolicy) -> Self {
        let choice = Choice { mode: IoMode::Direct, alignment: disk.alignment(), why_not_direct: None };
        Self::with_choice(Box::new(disk), policy, choice)
    }

    /// Turns read-ahead off: nothing distinguishes the pages that it inserts from the pages of other processes. Also
    /// records whether any page of the file is cached now.
    fn disable_read_ahead(&self) -> io::Result<()> {
        self.allow_refusal("posix_fadvise", self.ops.disable_read_ahead())?;
        self.record_empty_cache();
        Ok(())
    }

    /// Evicts clean pages, except those that the kernel is using at that moment. If the kernel refuses that, the pages
    /// stay, and [`FileIo::why_not_evicted`] says so.
    pub fn evict(&self, range: PageRange) -> io::Result<()> {
        self.allow_refusal("posix_fadvise", self.ops.evict(range.start, range.len))
    }

    /// Writes dirty pages back, so that they can be evicted. If the kernel refuses that, they stay.
    pub fn write_back(&self, range: PageRange) -> io::Result<()> {
        self.allow_refusal("sync_file_range", self.ops.write_back(range.start, range.len))
    }

    /// Takes the result of an optional system call.
    fn allow_refusal(&self, call: &str, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(e) if sys::is_unavailable(&e) => {
                self.why_not_evicted.get_or_init(|| format!("the kernel refuses {call}"));
                Ok(())
            }
            other => other,
        }
    }

    /// Why pages of the file may stay in the page cache. None if all could be evicted.
    pub fn why_not_evicted(&self) -> Option<String> {
        self.why_not_evicted.get().cloned()
    }

    /// Records, at the first call, whether the page cache holds no page of the file.
    fn record_empty_cache(&self) {
        self.cache_was_empty.get_or_init(|| self.ops.cached_pages(0, 0).unwrap_or(0) == 0);
    }

    /// Makes every later transfer wait for `idle`.
    pub fn yield_at(&mut self, idle: &Arc<IdleGate>) {
        self.idle = Some(idle.clone());
    }

    /// Waits for the idle gate, if there is one, and then calls `transfer` with the number of bytes to transfer: `len`
    /// or less.
    fn with_permit<T>(&self, len: usize, transfer: impl FnOnce(usize) -> T) -> T {
        let idle = self.idle.as_ref().filter(|_| self.mode() != IoMode::InMemory);
        let permit = idle.map(|idle| idle.enter(&self.typical_time));
        let unit = if self.is_aligned() { self.alignment.offset } else { 1 };
        let max_len = permit.as_ref().map_or(usize::MAX, |permit| permit.max_len()) as u64;
        transfer(len.min((max_len - max_len % unit).max(unit) as usize))
    }

    pub fn ops(&self) -> &dyn FileOps {
        &*self.ops
    }

    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Why not all bytes were direct. None if they were.
    pub fn why_not_direct(&self) -> Option<String> {
        let why = self.why_not_direct.get()?;
        if self.cache_unknown.load(Ordering::Relaxed) {
            return Some(format!("{why}; pages that were cached before could not be identified, and were evicted too"));
        }
        Some(why.clone())
    }

    fn mode(&self) -> IoMode {
        IoMode::from_u8(self.mode.load(Ordering::Acquire))
    }

    /// True while transfers must be aligned.
    pub fn is_aligned(&self) -> bool {
        self.mode().is_aligned()
    }

    /// True if the filesystem may use the page cache in spite of O_DIRECT.
    pub fn may_be_buffered(&self) -> bool {
        self.mode() == IoMode::MaybeBuffered
    }

    /// True if the file is in the page cache on purpose and stays there.
    pub fn stays_cached(&self) -> bool {
        self.mode() >= IoMode::Buffered
    }

    /// The bytes transferred so far.
    pub fn traffic(&self) -> Traffic {
        let cached = self.cached_bytes.load(Ordering::Relaxed);
        let in_memory = self.mode() == IoMode::InMemory;
        Traffic {
            direct: self.direct_bytes.load(Ordering::Relaxed),
            resident: 0,
            uncached: self.uncached_bytes.load(Ordering::Relaxed),
            cached: if in_memory { 0 } else { cached },
            memory: if in_memory { cached } else { 0 },
        }
    }

    /// Counts `bytes` that were transferred in `mode`.
    fn count(&self, mode: IoMode, bytes: u64) {
        let counter = match mode {
            IoMode::Direct => &self.direct_bytes,
            IoMode::MaybeBuffered | IoMode::DontCache | IoMode::DropBehind => &self.uncached_bytes,
            IoMode::Buffered | IoMode::InMemory => &self.cached_bytes,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Switches from `mode` to the next mode if `error` means that the kernel refuses `mode`. Returns true if the
    /// caller should retry the transfer.
    fn fall_back(&self, mode: IoMode, error: &io::Error) -> io::Result<bool> {
        if self.mode() != mode {
            return Ok(true); // another thread has switched already
        }
        let next = match mode {
            IoMode::Direct | IoMode::MaybeBuffered if is_refusal(error) => IoMode::DontCache,
            IoMode::DontCache if is_refusal(error) || sys::is_unavailable(error) => IoMode::DropBehind,
            _ => return Ok(false),
        };
        self.disable_read_ahead()?;
        if next == IoMode::DontCache {
            let why = format!("the filesystem refuses aligned transfers ({error})");
            if self.policy == DirectPolicy::Always {
                return Err(io::Error::other(Refused(why)));
            }
            self.ops.set_direct(false)?;
            self.why_not_direct.get_or_init(|| why);
        }
        self.mode.store(next as u8, Ordering::Release);
        Ok(true)
    }
}
