//! [`DirectWriter`]: accepts writes of any offset and length, and makes aligned direct transfers of them.

mod blocks;
mod complete;
mod sequential;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::file_io::FileIo;
use super::file_ops::PageRange;
use super::io_mode::open;
use super::{AlignedBuffer, Alignment, DirectPolicy};
use crate::pace::IdleGate;
use crate::sys;
use blocks::PartialBlock;

pub use complete::WriteReport;

/// Bytes per sequential write. Larger writes are hardly faster; 1 MiB writes are half as fast.
const BUFFER_SIZE: usize = 4 << 20;

/// Writes a file or block device, bypassing the page cache, with exactly the bytes and the length that the caller writes.
///
/// [`DirectWriter::create`] starts a new file; [`DirectWriter::new`] overwrites an open file or block device in place.
/// There are two ways to write:
///
/// - [`std::io::Write`] appends from offset 0, in chunks of any length, through a 4 MiB buffer.
/// - [`DirectWriter::write_at`] writes any number of bytes at any offset. It takes `&self`, so that several threads can
///   write at once.
///
/// Then call [`DirectWriter::finish`]. **Without `finish`, the end of the data is lost.**
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
///
/// With `write_at`, threads write their parts in any order:
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/doctest");
/// # std::fs::create_dir_all(&dir)?;
/// # let path = dir.join(format!("parts-{}.img", std::process::id()));
/// use dio_cp::{AlignedBuffer, DirectWriter};
///
/// let writer = DirectWriter::create(&path)?;
/// std::thread::scope(|scope| {
///     let parts = [1, 2, 3].map(|part: u8| {
///         let writer = &writer;
///         scope.spawn(move || {
///             let mut buffer = AlignedBuffer::new(1 << 20)?; // aligned, so it is not copied
///             buffer.fill(part);
///             writer.write_at(&buffer, u64::from(part - 1) << 20)
///         })
///     });
///     parts.into_iter().try_for_each(|part| part.join().expect("no panic"))
/// })?;
/// writer.finish()?;
///
/// assert_eq!(std::fs::metadata(&path)?.len(), 3 << 20);
/// # std::fs::remove_file(&path)
/// # }
/// ```
///
/// # Alignment
///
/// The writer probes the alignment that the file or device requires ([`Alignment::probe`]), and every direct transfer
/// meets it. The caller's offsets, lengths and buffers need no alignment. Aligned writes from an [`AlignedBuffer`] are
/// the fastest: they are not copied.
///
/// # The tail
///
/// A write that ends inside a block cannot be a direct transfer of exactly that length. What happens depends on the
/// destination:
///
/// - In a new file, the writer keeps the partial block in memory. `finish` pads it with zeros, writes it direct, and
///   truncates the file to its exact length. Until `finish` returns, other processes can see the file without its end,
///   or with padding.
/// - On a block device, and inside the existing bytes of a file, the writer reads the block, merges the new bytes into
///   it, and writes it back. The neighboring bytes do not change.
/// - If an existing file grows to a length that is not aligned, `finish` writes the partial blocks through the page
///   cache, so that no reader ever sees padding. It evicts the pages once they are on the medium.
///
/// # What `finish` does
///
/// It writes what is still in memory, sets the exact length, and waits until data and metadata are on the medium
/// (fsync). Then it evicts what the writer left in the page cache, and returns a [`WriteReport`]. It does not sync the
/// directory: if the name of a new file has to survive a power failure, call fsync on the directory as well.
///
/// # Errors
///
/// Errors are those of the system calls: open(2), pwrite(2), fsync(2). After a failed write, every later call fails
/// too, including `finish`, and the content of the file is undefined. If direct I/O is refused, that is not an error:
/// the writer falls back to uncached writes, and the [`WriteReport`] says why.
///
/// # Threads and asynchronous programs
///
/// The writer is `Send` and `Sync`. Every call blocks until the device has done its work. From asynchronous code, use
/// it on a blocking thread: with tokio, receive the data asynchronously, and pass them through a bounded channel to one
/// `spawn_blocking` task that owns the writer, calls `write_all` for each chunk, and `finish` at the end.
#[must_use = "without finish() the end of the data is lost"]
pub struct DirectWriter {
    io: FileIo,
    /// The alignment of the transfers: whole pages if the block size allows it, otherwise what the device requires.
    /// Filesystems complete a partially written block through the page cache.
    boundary: Alignment,
    /// The file was new and empty, so the writer may pad and truncate it.
    owned: bool,
    /// The length that the file had before.
    existing_len: u64,
    /// The page that contains the end of the existing bytes, if they end inside the page and it is not cached. When the
    /// file grows, the kernel reads this page into the cache to zero the rest of it.
    last_existing_page: Option<PageRange>,
    /// The offset after the last byte written.
    end: AtomicU64,
    /// Partial blocks that are written at the end.
    partial_blocks: Mutex<Vec<PartialBlock>>,
    /// The first failure: its kind and message.
    failure: OnceLock<(io::ErrorKind, String)>,
    /// For sequential writes, allocated at the first one.
    buffer: Option<AlignedBuffer>,
    /// The number of bytes in `buffer`.
    buffered: usize,
    /// The offset at which `buffer` is written.
    buffer_offset: u64,
}

/// A write that was not attempted because an earlier write failed. It is the inner error of an [`io::Error`].
#[derive(Debug)]
pub(crate) struct EarlierFailure(String);

impl fmt::Display for EarlierFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an earlier write failed: {}", self.0)
    }
}

impl std::error::Error for EarlierFailure {}

impl DirectWriter {
    /// Creates the file `path`, or truncates it to length 0. The file has its name from the start, so other processes
    /// see it grow. If direct I/O is refused, the file is written uncached ([`DirectPolicy::Auto`]). Fails as open(2)
    /// does.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let (file, refusal) = open(path.as_ref(), &options, 0, DirectPolicy::Auto)?;
        Self::with_options(file, refusal, DirectPolicy::Auto, true, BUFFER_SIZE)
    }

    /// Overwrites an open file or block device in place. Bytes that are not written do not change. Sequential writes
    /// start at offset 0, whatever the file position is.
    ///
    /// Sets O_DIRECT on the file description, and clears it if direct I/O is refused. Open `file` for reading and
    /// writing: if it is open for writing only, partial blocks are written through the page cache at the end, and then
    /// evicted.
    pub fn new(file: File) -> io::Result<Self> {
        let refusal = sys::set_direct(&file, true).err().map(|e| e.to_string());
        Self::with_options(file, refusal, DirectPolicy::Auto, false, BUFFER_SIZE)
    }

    /// Wraps an open file. `refusal` says why [`open`] could not set O_DIRECT. `owned` says that the file is new and
    /// empty. All writes should start and end at multiples of `block_size`, except at the ends of the data.
    pub(crate) fn with_options(
        file: File,
        refusal: Option<String>,
        policy: DirectPolicy,
        owned: bool,
        block_size: usize,
    ) -> io::Result<Self> {
        let existing_len = if owned { 0 } else { sys::length(&file)? };
        let is_device = file.metadata()?.file_type().is_block_device();
        let io = FileIo::new(file, refusal, policy, true)?;
        let mut boundary = io.alignment();
        let page = boundary.offset.max(sys::page_size());
        if !is_device && (block_size as u64).is_multiple_of(page) {
            boundary.offset = page;
        }
        Ok(Self::from_io(io, boundary, owned, existing_len))
    }

    fn from_io(io: FileIo, boundary: Alignment, owned: bool, existing_len: u64) -> Self {
        let in_last_page = existing_len % sys::page_size();
        let last_page = PageRange { start: existing_len - in_last_page, len: sys::page_size() };
        let is_uncached = || io.ops().cached_pages(last_page.start, last_page.len).unwrap_or(0) == 0;
        let last_existing_page = (in_last_page > 0 && is_uncached()).then_some(last_page);
        Self {
            io,
            boundary,
            owned,
            existing_len,
            last_existing_page,
            end: AtomicU64::new(0),
            partial_blocks: Mutex::new(Vec::new()),
            failure: OnceLock::new(),
            buffer: None,
            buffered: 0,
            buffer_offset: 0,
        }
    }

    /// Makes every later write wait for `idle`.
    pub(crate) fn yield_at(&mut self, idle: &Arc<IdleGate>) {
        self.io.yield_at(idle);
    }

    /// Keeps the first `end` bytes, which an earlier writer wrote to this new file.
    pub(crate) fn resume_at(&self, end: u64) {
        self.end.fetch_max(end, Ordering::AcqRel);
    }

    /// The alignment that the file requires. Aligned writes from an [`AlignedBuffer`] go to the device as they are.
    /// Other writes are copied or merged.
    pub fn alignment(&self) -> Alignment {
        self.io.alignment()
    }

    /// The end of the padding of a new file whose data end at `end`. The padding fills whole pages, because ext4 zeroes
    /// the rest of a partially written block through the page cache.
    pub(crate) fn padded_end(&self, end: u64) -> u64 {
        end.next_multiple_of(self.boundary.offset.max(sys::page_size()))
    }

    /// Writes that start and end at multiples of this number of bytes need not be merged or kept in memory.
    pub(crate) fn boundary(&self) -> u64 {
        self.boundary.offset
    }

    /// True while writes use O_DIRECT. Turns false if the filesystem refuses them.
    pub fn is_direct(&self) -> bool {
        self.io.is_aligned()
    }

    /// Writes all of `data` at `offset`. Continues short writes, and retries interrupted ones. Several threads may call
    /// this at once, but each byte of the file may be written only once. Fails as pwrite(2) does, or if an earlier
    /// write failed.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.record_failure(|| self.put(data, offset))
    }

    /// Makes `len` bytes at `offset` read as zeros, without writing them if the filesystem supports that. Several
    /// threads may call this at once. Fails as [`DirectWriter::write_at`] does.
    pub fn zero_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.record_failure(|| self.put_zeros(offset, len))
    }

    /// Runs `write` unless an earlier write failed, and records its failure.
    fn record_failure<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.check_failure()?;
        write().inspect_err(|e| {
            self.failure.get_or_init(|| (e.kind(), e.to_string()));
        })
    }

    /// Fails if an earlier write failed.
    fn check_failure(&self) -> io::Result<()> {
        match self.failure.get() {
            Some((kind, message)) => Err(io::Error::new(*kind, EarlierFailure(message.clone()))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
