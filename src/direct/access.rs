//! How one file is reached: direct if it can be, else by the next best way; with an account of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::medium::Medium;
use super::{Alignment, DirectPolicy, Refused, Traffic};
use crate::pace::{IdleGate, TransferTime};
use crate::sys;

/// The ways to reach a file, best first; a refusal moves on to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
enum Way {
    /// O_DIRECT, and the filesystem keeps to it.
    Direct,
    /// O_DIRECT is accepted, but the filesystem may go through the cache all the same (btrfs).
    Doubtful,
    /// RWF_DONTCACHE, Linux 6.14.
    DontCache,
    /// Through the cache, then written back and dropped.
    DropBehind,
    /// Through the cache on purpose.
    Cached,
    /// There is nothing but the cache.
    Memory,
}

const WAYS: [Way; 6] = [Way::Direct, Way::Doubtful, Way::DontCache, Way::DropBehind, Way::Cached, Way::Memory];

/// Where others have a part of a range cached, the rest is told apart in steps of this.
const PART: u64 = 64 << 10;

/// One open file, reached by the best way that it allows.
pub(crate) struct Access {
    medium: Box<dyn Medium>,
    alignment: Alignment,
    policy: DirectPolicy,
    /// Every transfer passes there first.
    idle: Option<Arc<IdleGate>>,
    usual: TransferTime,
    way: AtomicU8,
    why: OnceLock<String>,
    /// For the ways that drop what they read: nobody had any of it cached when that began.
    alone: OnceLock<bool>,
    /// The kernel did not tell what was cached before: the caller could not write the file.
    blind: AtomicBool,
    direct: AtomicU64,
    uncached: AtomicU64,
    other: AtomicU64,
}

impl Access {
    /// Takes a file as [`open`] gave it. `writing` matters for filesystems that keep
    /// their word on reads only. Fails with [`Refused`] as `policy` says.
    pub fn new(file: File, refused: Option<String>, policy: DirectPolicy, writing: bool) -> io::Result<Self> {
        let usual = Alignment { memory: 4096, offset: 4096 };
        let device = file.metadata()?.file_type().is_block_device();
        let filesystem = if device { 0 } else { sys::filesystem(&file)? };
        let flags = sys::inode_flags(&file).unwrap_or(0);
        let memory = sys::MEMORY_FILESYSTEMS.contains(&filesystem);
        let (way, alignment, why) = if policy == DirectPolicy::Never {
            (if memory { Way::Memory } else { Way::Cached }, usual, None)
        } else if memory {
            (Way::Memory, usual, Some("it lives in memory".to_string()))
        } else if refused.is_some() {
            (Way::DontCache, usual, refused)
        } else {
            match Alignment::probe(&file)? {
                None => (Way::DontCache, usual, Some("the filesystem has none for this file".to_string())),
                Some(found) if filesystem == sys::BTRFS => {
                    // Measured on Linux 6.18: a direct write to a file with checksums goes through
                    // the cache, page by page, and btrfs drops the pages itself.
                    let checksums = flags & sys::NOCOW == 0;
                    match (writing, checksums) {
                        (true, true) => (Way::Doubtful, found, Some("btrfs buffers what it checksums".to_string())),
                        (true, false) => (Way::Direct, found, None),
                        (false, _) => (Way::Doubtful, found, None),
                    }
                }
                // Without extents (ext2, ext3), ext4 buffers the direct writes that fill holes.
                Some(found) if filesystem == sys::EXT && writing && flags & sys::EXTENTS_OR_INLINE == 0 => {
                    (Way::Doubtful, found, Some("files without extents are buffered".to_string()))
                }
                Some(found) => (Way::Direct, found, None),
            }
        };
        if way > Way::Doubtful {
            sys::set_direct(&file, false)?;
        }
        if let (DirectPolicy::Always, Some(why)) = (policy, &why) {
            return Err(io::Error::other(Refused(why.clone())));
        }
        let access = Self::with(Box::new(file), alignment, policy, way, why);
        if way == Way::DontCache && !writing {
            access.no_read_ahead()?;
        }
        Ok(access)
    }

    /// Read-ahead would insert pages that cannot be told from those of others; and who has any?
    fn no_read_ahead(&self) -> io::Result<()> {
        self.medium.no_read_ahead()?;
        self.alone.get_or_init(|| self.medium.cached(0, 0).unwrap_or(0) == 0);
        Ok(())
    }

    fn with(
        medium: Box<dyn Medium>,
        alignment: Alignment,
        policy: DirectPolicy,
        way: Way,
        why: Option<String>,
    ) -> Self {
        let access = Self {
            medium,
            alignment,
            policy,
            idle: None,
            usual: TransferTime::default(),
            way: AtomicU8::new(way as u8),
            why: OnceLock::new(),
            alone: OnceLock::new(),
            blind: AtomicBool::new(false),
            direct: AtomicU64::new(0),
            uncached: AtomicU64::new(0),
            other: AtomicU64::new(0),
        };
        if let Some(why) = why {
            access.why.get_or_init(|| why);
        }
        access
    }

    /// A fake disk in place of a file, reached direct.
    #[cfg(test)]
    pub fn fake(disk: super::fake::FakeDisk, policy: DirectPolicy) -> Self {
        let alignment = disk.alignment();
        Self::with(Box::new(disk), alignment, policy, Way::Direct, None)
    }

    /// From now on every transfer waits at this gate.
    pub fn yield_at(&mut self, idle: &Arc<IdleGate>) {
        self.idle = Some(idle.clone());
    }

    /// Waits until `len` bytes, or a part of them, may be moved by `transfer`.
    fn in_turn<T>(&self, len: usize, transfer: impl FnOnce(usize) -> T) -> T {
        let idle = self.idle.as_ref().filter(|_| self.way() != Way::Memory);
        let turn = idle.map(|idle| idle.enter(&self.usual));
        let unit = if self.aligned() { self.alignment.offset } else { 1 };
        let most = turn.as_ref().map_or(usize::MAX, |turn| turn.most()) as u64;
        transfer(len.min((most - most % unit).max(unit) as usize))
    }

    pub fn medium(&self) -> &dyn Medium {
        &*self.medium
    }

    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Why not all of it is direct, if so.
    pub fn why(&self) -> Option<String> {
        let blind = "; what others had cached could not be told apart, and was dropped too";
        let blind = if self.blind.load(Ordering::Relaxed) { blind } else { "" };
        self.why.get().map(|why| format!("{why}{blind}"))
    }

    fn way(&self) -> Way {
        WAYS[usize::from(self.way.load(Ordering::Acquire)).min(WAYS.len() - 1)]
    }

    /// True while transfers must be aligned.
    pub fn aligned(&self) -> bool {
        self.way() <= Way::Doubtful
    }

    /// True where the filesystem has to be watched for going through the cache.
    pub fn doubtful(&self) -> bool {
        self.way() == Way::Doubtful
    }

    /// True if this file is in the cache on purpose, and stays there.
    pub fn stays_cached(&self) -> bool {
        self.way() >= Way::Cached
    }

    /// The bytes moved so far.
    pub fn traffic(&self) -> Traffic {
        let other = self.other.load(Ordering::Relaxed);
        let memory = self.way() == Way::Memory;
        Traffic {
            direct: self.direct.load(Ordering::Relaxed),
            resident: 0,
            uncached: self.uncached.load(Ordering::Relaxed),
            cached: if memory { 0 } else { other },
            memory: if memory { other } else { 0 },
        }
    }

    /// Counts `bytes` that moved by `way`.
    fn count(&self, way: Way, bytes: u64) {
        let counter = match way {
            Way::Direct => &self.direct,
            Way::Doubtful | Way::DontCache | Way::DropBehind => &self.uncached,
            Way::Cached | Way::Memory => &self.other,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Moves on to the next way if `error` means that this one is refused. True: try again.
    fn fall_back(&self, from: Way, error: &io::Error) -> io::Result<bool> {
        if self.way() != from {
            return Ok(true); // another thread did
        }
        let next = match from {
            Way::Direct | Way::Doubtful if refusal(error) => Way::DontCache,
            Way::DontCache if refusal(error) => Way::DropBehind,
            _ => return Ok(false),
        };
        self.no_read_ahead()?;
        if next == Way::DontCache {
            let why = format!("the filesystem refuses aligned transfers ({error})");
            if self.policy == DirectPolicy::Always {
                return Err(io::Error::other(Refused(why)));
            }
            self.medium.set_direct(false)?;
            self.why.get_or_init(|| why);
        }
        self.way.store(next as u8, Ordering::Release);
        Ok(true)
    }

    /// Writes all of `data`, of which `counted` bytes are the caller's own (the rest is padding).
    /// While [`Access::aligned`], address, offset and length must be aligned.
    pub fn write_all(&self, data: &[u8], at: u64, counted: u64) -> io::Result<()> {
        let (mut done, mut stuck) = (0, 0);
        while done < data.len() {
            let (way, rest) = (self.way(), &data[done..]);
            let write = |len| self.medium.write_at(&rest[..len], at + done as u64, way == Way::DontCache);
            let mut moved = match self.in_turn(rest.len(), write) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if self.fall_back(way, &e)? => continue,
                other => other?,
            };
            if way <= Way::Doubtful && moved < rest.len() {
                // The rest would start at an odd offset: go back to the last aligned one.
                moved = self.alignment.down(moved as u64) as usize;
            }
            stuck = if moved == 0 { stuck + 1 } else { 0 };
            if stuck > 3 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if way == Way::DropBehind {
                self.drop_behind(at + done as u64, moved as u64)?;
            }
            done += moved;
        }
        self.count(self.way(), counted);
        Ok(())
    }

    /// Writes what no aligned transfer can, the cut last block of a file that grows in place:
    /// through the page cache. Gives the range to drop once it is on the medium, if any; a page
    /// that others had cached stays. No other write may be under way.
    pub fn write_exact(&self, data: &[u8], at: u64) -> io::Result<Option<(u64, u64)>> {
        let start = at - at % sys::page_size();
        let len = (at + data.len() as u64).next_multiple_of(sys::page_size()) - start;
        let shared = self.medium.cached(start, len).unwrap_or(0) > 0;
        self.medium.set_direct(false)?;
        let mut done = 0;
        while done < data.len() {
            match self.medium.write_at(&data[done..], at + done as u64, false) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                other => done += other?,
            }
        }
        self.count(Way::DropBehind, data.len() as u64);
        Ok((!shared).then_some((start, len)))
    }

    fn drop_behind(&self, start: u64, len: u64) -> io::Result<()> {
        // Not every filesystem has a ranged write-back; all have fsync.
        self.medium.write_back(start, len).or_else(|_| self.medium.sync())?;
        self.medium.forget(start, len)
    }

    /// Reads at `at` until `skew + wanted` bytes are there or the file ends; gives the bytes read,
    /// perhaps more. The first `skew` are there for alignment only. While [`Access::aligned`],
    /// address, offset and length of `buffer` must be aligned.
    pub fn read_full(&self, buffer: &mut [u8], at: u64, skew: usize, wanted: usize) -> io::Result<usize> {
        loop {
            // None: this way is refused, and the next one must be watched from its beginning.
            if let Some(read) = self.read_by(self.way(), buffer, at, skew, wanted)? {
                return Ok(read);
            }
        }
    }

    fn read_by(&self, way: Way, buffer: &mut [u8], at: u64, skew: usize, wanted: usize) -> io::Result<Option<usize>> {
        let watched = matches!(way, Way::Doubtful | Way::DropBehind);
        let start = at - at % sys::page_size();
        let len = (at + buffer.len() as u64).next_multiple_of(sys::page_size()) - start;
        let cached = || if watched { self.medium.cached(start, len).ok() } else { None };
        if watched {
            self.alone.get_or_init(|| self.medium.cached(0, 0).unwrap_or(0) == 0);
        }
        let before = cached();
        let cold = self.cold(watched, start, len, before);
        let Some(read) = self.read_some(way, buffer, at, skew + wanted)? else { return Ok(None) };
        let mut took = way;
        if way == Way::Doubtful {
            // btrfs reads compressed extents through the cache, and says nothing.
            if cached() > before {
                let why = "the filesystem went through the cache (compressed data?)";
                if self.policy == DirectPolicy::Always {
                    return Err(io::Error::other(Refused(why.into())));
                }
                self.why.get_or_init(|| why.into());
            } else {
                took = Way::Direct;
            }
        }
        if watched && took != Way::Direct {
            self.blind.fetch_or(before.is_none(), Ordering::Relaxed);
            for (start, len) in cold {
                self.medium.forget(start, len)?;
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
        parts.filter(|(at, len)| self.medium.cached(*at, *len).is_ok_and(|cached| cached == 0)).collect()
    }

    /// Ends the reading: drops the pages that two neighbouring reads took for each other's.
    pub fn finish_reading(&self) -> io::Result<()> {
        if self.alone.get() == Some(&true) && self.uncached.load(Ordering::Relaxed) > 0 {
            self.medium.forget(0, 0)?;
        }
        Ok(())
    }

    fn read_some(&self, way: Way, buffer: &mut [u8], at: u64, needed: usize) -> io::Result<Option<usize>> {
        let aligned = way <= Way::Doubtful;
        let end = if aligned { buffer.len() } else { needed };
        let mut done = 0;
        loop {
            let rest = &mut buffer[done..end];
            let read = |len| self.medium.read_at(&mut rest[..len], at + done as u64, way == Way::DontCache);
            let moved = match self.in_turn(end - done, read) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if self.fall_back(way, &e)? => return Ok(None),
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

/// Opens `path` with O_DIRECT, or without where the filesystem or `policy` say so.
pub(crate) fn open(
    path: &Path,
    options: &OpenOptions,
    flags: i32,
    policy: DirectPolicy,
) -> io::Result<(File, Option<String>)> {
    if policy == DirectPolicy::Never {
        return Ok((options.clone().custom_flags(flags).open(path)?, None));
    }
    match options.clone().custom_flags(flags | libc::O_DIRECT).open(path) {
        Err(e) if refusal(&e) => {
            let file = options.clone().custom_flags(flags).open(path)?;
            Ok((file, Some(format!("the filesystem does not open with O_DIRECT ({e})"))))
        }
        other => Ok((other?, None)),
    }
}

/// True for the errors by which filesystems say that they do not do this kind of I/O.
fn refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS))
}
