//! The system calls on a file that [`FileIo`](super::file_io::FileIo) makes, as a trait: tests put a fake disk in place
//! of the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};

use crate::sys;

/// Operations on a file. Each call is one system call: it may transfer fewer bytes than requested, and it may fail.
/// Offsets and lengths are in bytes.
pub(crate) trait FileOps: Send + Sync {
    /// Reads at `offset`. With `dontcache`, the kernel leaves no pages in the page cache.
    fn read_at(&self, buffer: &mut [u8], offset: u64, dontcache: bool) -> io::Result<usize>;
    /// Writes at `offset`. With `dontcache`, the kernel leaves no pages in the page cache.
    fn write_at(&self, data: &[u8], offset: u64, dontcache: bool) -> io::Result<usize>;
    /// Sets or clears O_DIRECT.
    fn set_direct(&self, on: bool) -> io::Result<()>;
    /// Makes a range read as zeros without writing it. Fails with EOPNOTSUPP where that is not possible.
    fn zero_range(&self, start: u64, len: u64) -> io::Result<()>;
    /// The offset of the next data at or after `offset`, or `u64::MAX` if there are none. Returns `offset` if the file
    /// cannot have holes.
    fn next_data(&self, offset: u64) -> io::Result<u64>;
    /// The current length.
    fn len(&self) -> io::Result<u64>;
    /// Truncates or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Waits until data and metadata are on the medium.
    fn sync(&self) -> io::Result<()>;
    /// Writes the dirty pages of a range back, without making them durable.
    fn write_back(&self, start: u64, len: u64) -> io::Result<()>;
    /// Evicts the clean pages of a range from the page cache. `len` 0 means to the end of the file.
    fn evict(&self, start: u64, len: u64) -> io::Result<()>;
    /// Turns read-ahead off.
    fn disable_read_ahead(&self) -> io::Result<()>;
    /// Counts the cached pages of a range. `len` 0 means to the end of the file.
    fn cached_pages(&self, start: u64, len: u64) -> io::Result<u64>;
}

impl FileOps for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64, dontcache: bool) -> io::Result<usize> {
        if dontcache {
            return sys::read_dontcache(self, buffer, Some(offset));
        }
        let len = buffer.len().min(sys::MAX_TRANSFER);
        FileExt::read_at(self, &mut buffer[..len], offset)
    }

    fn write_at(&self, data: &[u8], offset: u64, dontcache: bool) -> io::Result<usize> {
        if dontcache {
            return sys::write_dontcache(self, data, Some(offset));
        }
        let result = FileExt::write_at(self, &data[..data.len().min(sys::MAX_TRANSFER)], offset);
        match result {
            // The kernel shortens a write that reaches past the file size limit, and then refuses the misaligned
            // length.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && offset + data.len() as u64 > sys::file_size_limit() => {
                Err(io::Error::from_raw_os_error(libc::EFBIG))
            }
            other => other,
        }
    }

    fn set_direct(&self, on: bool) -> io::Result<()> {
        sys::set_direct(self, on)
    }

    fn zero_range(&self, start: u64, len: u64) -> io::Result<()> {
        let is_device = self.metadata()?.file_type().is_block_device();
        let mode = if is_device { libc::FALLOC_FL_ZERO_RANGE } else { libc::FALLOC_FL_PUNCH_HOLE };
        sys::fallocate(self, mode | libc::FALLOC_FL_KEEP_SIZE, start, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<u64> {
        match sys::seek_extent(self, offset, libc::SEEK_DATA) {
            Ok(data) => Ok(data.unwrap_or(u64::MAX)),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(offset),
            Err(e) => Err(e),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn write_back(&self, start: u64, len: u64) -> io::Result<()> {
        sys::write_back(self, start, len)
    }

    fn evict(&self, start: u64, len: u64) -> io::Result<()> {
        sys::advise(self, start, len, libc::POSIX_FADV_DONTNEED)
    }

    fn disable_read_ahead(&self) -> io::Result<()> {
        sys::advise(self, 0, 0, libc::POSIX_FADV_RANDOM)
    }

    fn cached_pages(&self, start: u64, len: u64) -> io::Result<u64> {
        sys::cached_pages(self, start, len)
    }
}

/// A range of a file in bytes, as [`FileOps::evict`] takes it: `len` 0 means to the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRange {
    pub start: u64,
    pub len: u64,
}

impl PageRange {
    pub const WHOLE_FILE: Self = Self { start: 0, len: 0 };

    /// The whole pages that contain `len` bytes at `offset`.
    pub fn containing(offset: u64, len: usize) -> Self {
        let start = offset - offset % sys::page_size();
        Self { start, len: (offset + len as u64).next_multiple_of(sys::page_size()) - start }
    }
}
