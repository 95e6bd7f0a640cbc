//! [`DirectWriter`]: any bytes in, aligned direct transfers out, the exact length at the end.

mod blocks;
mod sequential;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::file_io::FileIo;
use super::io_mode::open;
use super::{AlignedBuffer, Alignment, DirectPolicy, Traffic};
use crate::pace::IdleGate;
use crate::sys;

/// Bytes per write of the sequential face. Larger is hardly faster; 1 MiB is half as fast.
const BUFFER: usize = 4 << 20;

/// Writes a file or block device past the page cache.
///
/// Two faces on one file: [`io::Write`] appends from offset 0 in any chunking, through one 4 MiB
/// buffer; [`DirectWriter::write_at`] takes any offset and length, from several threads. Both end
/// in [`DirectWriter::finish`], which consumes the writer; **without it the tail is lost.**
///
/// Transfers are aligned as the device asks ([`Alignment::probe`]). What an aligned transfer cannot
/// express is made exact:
/// - in a file that this writer created, the last block is padded, written direct, and cut off;
/// - on a device, and inside a file that was there, the neighbouring bytes are read and kept;
/// - where a file that was there grows to an odd length, the last block goes through one page of
///   the cache, so that no padding is ever visible; the page is dropped after it is written.
///
/// A write that failed stays failed: every later call says so, [`DirectWriter::finish`] included.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/doctest");
/// # std::fs::create_dir_all(&dir)?;
/// # let path = dir.join(format!("out-{}.img", std::process::id()));
/// use std::io::{self, Read};
///
/// // Any reader: a response body, a decompressor, a socket.
/// let mut response = io::repeat(7).take(1_000_001);
///
/// let mut writer = dio_cp::DirectWriter::create(&path)?; // probes the alignment
/// io::copy(&mut response, &mut writer)?; // any chunking
/// let written = writer.finish()?; // exact length, on the medium, nothing cached
///
/// assert_eq!(std::fs::metadata(&path)?.len(), 1_000_001);
/// assert_eq!(written.traffic.cached, 0);
/// # std::fs::remove_file(&path)
/// # }
/// ```
#[must_use = "without finish() the tail is lost"]
pub struct DirectWriter {
    io: FileIo,
    /// What transfers keep to: whole pages where the writes allow it, else what the device asks.
    /// Filesystems fill up a block that is written in part through the cache.
    boundary: Alignment,
    /// Everything in the file is this writer's own: it may pad and cut.
    owned: bool,
    /// Bytes that were there before.
    existing: u64,
    /// Their last page, if it is a part of one and not cached: the kernel brings it in to zero the
    /// rest of it when the file grows.
    cut_page: Option<(u64, u64)>,
    /// One past the last byte written.
    end: AtomicU64,
    /// Parts of blocks behind what was there, to be written at the end: (offset, bytes).
    pieces: Mutex<Vec<(u64, Vec<u8>)>>,
    failed: OnceLock<(io::ErrorKind, String)>,
    buffer: Option<AlignedBuffer>,
    filled: usize,
    position: u64,
}

/// A write that was not tried, because one before it failed. Travels inside an [`io::Error`].
#[derive(Debug)]
pub(crate) struct EarlierFailure(String);

impl fmt::Display for EarlierFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an earlier write failed: {}", self.0)
    }
}

impl std::error::Error for EarlierFailure {}

/// What a finished writer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteReport {
    /// Bytes by the way they took.
    pub traffic: Traffic,
    /// Why not all of them went direct, if so.
    pub why: Option<String>,
    /// Pages of the written file in the cache at the end; None if the kernel does not tell
    /// (before Linux 6.5), if they are there on purpose, or if others may have had some before.
    pub cached_pages: Option<u64>,
}

impl DirectWriter {
    /// Creates `path`, or empties it, and writes it under that name from the start: a reader sees
    /// it grow. Where direct I/O is refused the file is written uncached ([`DirectPolicy::Auto`]).
    /// Fails as open(2) does.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let (file, refused) = open(path.as_ref(), &options, 0, DirectPolicy::Auto)?;
        Self::over(file, refused, DirectPolicy::Auto, true, BUFFER)
    }

    /// Overwrites an open file or block device in place, from offset 0; nothing outside the bytes
    /// written changes. Sets O_DIRECT on the file, and clears it again where it is refused. If `file`
    /// is not open for reading too, parts of blocks go through the cache at the end, and out of it.
    pub fn new(file: File) -> io::Result<Self> {
        let refused = sys::set_direct(&file, true).err().map(|e| e.to_string());
        Self::over(file, refused, DirectPolicy::Auto, false, BUFFER)
    }

    /// `owned`: the file is new and empty. `block_size`: the writes meet at multiples of it.
    pub(crate) fn over(
        file: File,
        refused: Option<String>,
        policy: DirectPolicy,
        owned: bool,
        block_size: usize,
    ) -> io::Result<Self> {
        let existing = if owned { 0 } else { sys::length(&file)? };
        let device = file.metadata()?.file_type().is_block_device();
        let io = FileIo::new(file, refused, policy, true)?;
        let mut unit = io.alignment();
        let page = unit.offset.max(sys::page_size());
        if !device && (block_size as u64).is_multiple_of(page) {
            unit.offset = page;
        }
        Ok(Self::on(io, unit, owned, existing))
    }

    /// From now on every write waits at this gate.
    pub(crate) fn yield_at(&mut self, idle: &Arc<IdleGate>) {
        self.io.yield_at(idle);
    }

    fn on(io: FileIo, boundary: Alignment, owned: bool, existing: u64) -> Self {
        let (page, cut) = (sys::page_size(), existing % sys::page_size());
        let cold = || io.ops().cached(existing - cut, page).unwrap_or(0) == 0;
        let cut_page = (cut > 0 && cold()).then_some((existing - cut, page));
        Self {
            io,
            boundary,
            owned,
            existing,
            cut_page,
            end: AtomicU64::new(0),
            pieces: Mutex::new(Vec::new()),
            failed: OnceLock::new(),
            buffer: None,
            filled: 0,
            position: 0,
        }
    }

    /// For a file that this writer owns and of which `end` bytes are there: an earlier writer's.
    pub(crate) fn go_on_from(&self, end: u64) {
        self.end.fetch_max(end, Ordering::AcqRel);
    }

    /// What the file asks of transfers. Writes that keep to it, from an [`AlignedBuffer`], go
    /// straight through; all others cost a copy or a merge.
    pub fn alignment(&self) -> Alignment {
        self.io.alignment()
    }

    /// How far the padding of an owned file that ends at `end` reaches: whole pages, for ext4 zeroes
    /// the rest of a block that is written in part through the cache.
    pub(crate) fn padded(&self, end: u64) -> u64 {
        end.next_multiple_of(self.boundary.offset.max(sys::page_size()))
    }

    /// Where writes should meet, in bytes, so that none has to be merged or kept.
    pub(crate) fn boundary(&self) -> u64 {
        self.boundary.offset
    }

    /// True while writes go with O_DIRECT.
    pub fn is_direct(&self) -> bool {
        self.io.aligned()
    }

    /// Writes all of `data` at `at`. Several threads may do so at once; no byte may be written
    /// twice. Short writes are gone on with. Fails as pwrite(2) does, and if a write failed before.
    pub fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.sticky(|| self.put(data, at))
    }

    /// Makes `len` bytes at `at` read as zeros, without writing them where the file allows it.
    pub fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.sticky(|| self.put_zeros(at, len))
    }

    /// Ends the writing: exact length, data and metadata on the medium (fsync), no page left in the
    /// cache. Fails if that cannot be, or if a write failed before; the file's content is then
    /// undefined.
    pub fn finish(self) -> io::Result<WriteReport> {
        self.finish_with(true, || Ok(()))
    }

    /// As [`DirectWriter::finish`]; `last` sees the file at its final length and before the fsync.
    /// Without `sync` nothing waits for the medium.
    pub(crate) fn finish_with(mut self, sync: bool, last: impl FnOnce() -> io::Result<()>) -> io::Result<WriteReport> {
        self.drain(true)?;
        self.check()?;
        let end = self.end.load(Ordering::Acquire);
        let mut brought_in = self.put_pieces()?;
        let ops = self.io.ops();
        if self.owned {
            ops.set_len(end)?;
            brought_in.push((0, 0));
        } else if end > self.existing {
            if ops.len()? < end {
                ops.set_len(end)?; // it ends in a hole
            }
            brought_in.extend(self.cut_page);
        }
        last()?;
        let mut cached_pages = None;
        if sync {
            ops.sync()?;
        }
        if !self.io.stays_cached() {
            for (start, len) in brought_in {
                // ext4 and XFS zero the rest of the cut block in the cache. Only a clean page can
                // be dropped.
                if !sync {
                    ops.write_back(start, len)?;
                }
                ops.forget(start, len)?;
            }
            cached_pages = if self.owned { ops.cached(0, 0).ok() } else { None };
        }
        let (traffic, why) = (self.io.traffic(), self.io.why());
        Ok(WriteReport { traffic, why, cached_pages })
    }

    fn sticky<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.check()?;
        work().inspect_err(|e| {
            self.failed.get_or_init(|| (e.kind(), e.to_string()));
        })
    }

    fn check(&self) -> io::Result<()> {
        match self.failed.get() {
            Some((kind, text)) => Err(io::Error::new(*kind, EarlierFailure(text.clone()))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
