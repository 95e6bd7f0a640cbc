//! System calls on open files: O_DIRECT, uncached reads and writes, allocation, extents, sync, locks.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::filesystem::is_on_overlayfs;
use super::{check, check_size, is_unavailable, offset, retry};

/// The most bytes that one read or write transfers: 0x7fff_f000 (read(2), NOTES), rounded down to a multiple of 1 MiB.
pub const MAX_TRANSFER: usize = 0x7ff0_0000;
const RWF_DONTCACHE: libc::c_int = 0x80; // Linux 6.14, include/uapi/linux/fs.h

/// Sets or clears O_DIRECT on an open file (fcntl(2), F_SETFL).
pub fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: integers only.
    let old_flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let new_flags = if on { old_flags | libc::O_DIRECT } else { old_flags & !libc::O_DIRECT };
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, new_flags) })?;
    Ok(())
}

/// Takes an exclusive lock that lasts until the file is closed (flock(2)). Fails with `WouldBlock` if another open file
/// holds the lock.
pub fn lock(file: &File) -> io::Result<()> {
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }))?;
    Ok(())
}

/// Reads without leaving pages in the page cache (preadv2(2), `RWF_DONTCACHE`, Linux 6.14). Reads at the file position
/// if `position` is None.
pub fn read_dontcache(file: &File, buffer: &mut [u8], position: Option<u64>) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len().min(MAX_TRANSFER) };
    let position = position.map_or(Ok(-1), offset)?; // -1 means the file position
    // SAFETY: the vector describes `buffer`, which is borrowed mutably until the call returns.
    retry(|| check_size(unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, position, RWF_DONTCACHE) }))
}

/// Writes without leaving pages in the page cache (pwritev2(2), `RWF_DONTCACHE`, Linux 6.14). Writes at the file
/// position if `position` is None.
pub fn write_dontcache(file: &File, data: &[u8], position: Option<u64>) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len().min(MAX_TRANSFER) };
    let position = position.map_or(Ok(-1), offset)?; // -1 means the file position
    // SAFETY: the vector describes `data`, which is borrowed until the call returns. The kernel only reads it.
    retry(|| check_size(unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, position, RWF_DONTCACHE) }))
}

/// Allocates, punches or zeroes a range of a file, as `mode` says (fallocate(2)).
pub fn fallocate(file: &File, mode: libc::c_int, start: u64, len: u64) -> io::Result<()> {
    let (start, len) = (offset(start)?, offset(len)?);
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) }))?;
    Ok(())
}

/// Writes the dirty pages of a range back to the device and waits until that is done (sync_file_range(2)). The pages
/// are then clean, but the data are not durable: the device may still hold them in its own cache.
pub fn write_back(file: &File, start: u64, len: u64) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    if is_on_overlayfs(file) {
        return file.sync_data(); // on overlayfs, sync_file_range does nothing and reports success
    }
    let (start, len) = (offset(start)?, offset(len)?);
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, flags) }))?;
    Ok(())
}

/// Fails if pages of the file could not be written back since it was opened (sync_file_range(2)). Waits for those that are
/// being written.
pub fn write_error(file: &File) -> io::Result<()> {
    // SAFETY: integers only.
    let result =
        retry(|| check(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE) }));
    match result {
        Err(e) if is_unavailable(&e) => file.sync_data(),
        other => other.map(drop),
    }
}

/// Writes everything on the filesystem that holds `file` to the medium (syncfs(2)).
pub fn sync_filesystem(file: &File) -> io::Result<()> {
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::syncfs(file.as_raw_fd()) }))?;
    Ok(())
}

/// The offset of the next data (`SEEK_DATA`) or the next hole (`SEEK_HOLE`) at or after `start` (lseek(2)). None if
/// there is none. Moves the file position, which the readers in this crate do not use.
pub fn seek_extent(file: &File, start: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: integers only.
    let position = unsafe { libc::lseek(file.as_raw_fd(), offset(start)?, whence) };
    match u64::try_from(position) {
        Ok(position) => Ok(Some(position)),
        Err(_) => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            e => Err(e),
        },
    }
}
