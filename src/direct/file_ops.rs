//! The operations of a file, as [`FileIo`](super::file_io::FileIo) uses them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};

use crate::sys;

/// What can be done to a file. One call is one system call: it may be short, and it may fail.
pub(crate) trait FileOps: Send + Sync {
    /// Reads at an offset; `dontcache` asks the kernel to leave no pages behind.
    fn read_at(&self, buffer: &mut [u8], at: u64, dontcache: bool) -> io::Result<usize>;
    /// Writes at an offset; `dontcache` as above.
    fn write_at(&self, data: &[u8], at: u64, dontcache: bool) -> io::Result<usize>;
    /// Switches O_DIRECT.
    fn set_direct(&self, on: bool) -> io::Result<()>;
    /// Makes a range read as zeros without writing them; EOPNOTSUPP where that is not possible.
    fn zero(&self, start: u64, len: u64) -> io::Result<()>;
    /// Where the next data begin, at `at` or behind; `at` where the file knows no holes.
    fn next_data(&self, at: u64) -> io::Result<u64>;
    /// The length now.
    fn len(&self) -> io::Result<u64>;
    /// Sets the length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Waits until data and metadata are on the medium.
    fn sync(&self) -> io::Result<()>;
    /// Writes dirty pages of a range back, without making them durable.
    fn write_back(&self, start: u64, len: u64) -> io::Result<()>;
    /// Drops clean pages of a range from the cache; `len` 0 means to the end.
    fn forget(&self, start: u64, len: u64) -> io::Result<()>;
    /// Turns read-ahead off.
    fn no_read_ahead(&self) -> io::Result<()>;
    /// Counts cached pages of a range; `len` 0 means to the end.
    fn cached(&self, start: u64, len: u64) -> io::Result<u64>;
}

impl FileOps for File {
    fn read_at(&self, buffer: &mut [u8], at: u64, dontcache: bool) -> io::Result<usize> {
        if dontcache {
            return sys::read_dontcache(self, buffer, Some(at));
        }
        let len = buffer.len().min(sys::MAX_TRANSFER);
        FileExt::read_at(self, &mut buffer[..len], at)
    }

    fn write_at(&self, data: &[u8], at: u64, dontcache: bool) -> io::Result<usize> {
        if dontcache {
            return sys::write_dontcache(self, data, Some(at));
        }
        let result = FileExt::write_at(self, &data[..data.len().min(sys::MAX_TRANSFER)], at);
        match result {
            // The kernel cuts a write at the limit, and then finds its length odd.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && at + data.len() as u64 > sys::file_size_limit() => {
                Err(io::Error::from_raw_os_error(libc::EFBIG))
            }
            other => other,
        }
    }

    fn set_direct(&self, on: bool) -> io::Result<()> {
        sys::set_direct(self, on)
    }

    fn zero(&self, start: u64, len: u64) -> io::Result<()> {
        let how = match self.metadata()?.file_type().is_block_device() {
            true => libc::FALLOC_FL_ZERO_RANGE,
            false => libc::FALLOC_FL_PUNCH_HOLE,
        };
        sys::fallocate(self, how | libc::FALLOC_FL_KEEP_SIZE, start, len)
    }

    fn next_data(&self, at: u64) -> io::Result<u64> {
        match sys::seek_extent(self, at, libc::SEEK_DATA) {
            Ok(found) => Ok(found.unwrap_or(u64::MAX)),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(at),
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

    fn forget(&self, start: u64, len: u64) -> io::Result<()> {
        sys::advise(self, start, len, libc::POSIX_FADV_DONTNEED)
    }

    fn no_read_ahead(&self) -> io::Result<()> {
        sys::advise(self, 0, 0, libc::POSIX_FADV_RANDOM)
    }

    fn cached(&self, start: u64, len: u64) -> io::Result<u64> {
        sys::cached_pages(self, start, len)
    }
}
