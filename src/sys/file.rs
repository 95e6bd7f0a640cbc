//! Operations on open files: O_DIRECT, uncached transfers, allocation, extents, sync, locks.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::filesystem::overlays;
use super::{check, check_size, offset, retry};

/// The most bytes one `read` or `write` transfers (read(2), NOTES), rounded down to 1 MiB.
pub const MAX_TRANSFER: usize = 0x7ff0_0000;
const RWF_DONTCACHE: libc::c_int = 0x80; // Linux 6.14, include/uapi/linux/fs.h

/// Sets or clears O_DIRECT on an open file (fcntl(2), F_SETFL).
pub fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL take and give integers.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let wanted = if on { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) })?;
    Ok(())
}

/// Locks an open file for as long as it is open (flock(2)). Fails with `WouldBlock` if somebody else has it.
pub fn lock(file: &File) -> io::Result<()> {
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }))?;
    Ok(())
}

/// Reads without leaving pages behind (`RWF_DONTCACHE`); at the file's own position if `at` is None.
pub fn read_dontcache(file: &File, buffer: &mut [u8], at: Option<u64>) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len().min(MAX_TRANSFER) };
    let at = at.map_or(Ok(-1), offset)?;
    // SAFETY: the vector describes `buffer`, borrowed mutably until the call returns.
    retry(|| check_size(unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, at, RWF_DONTCACHE) }))
}

/// Writes without leaving pages behind (`RWF_DONTCACHE`); at the file's own position if `at` is None.
pub fn write_dontcache(file: &File, data: &[u8], at: Option<u64>) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len().min(MAX_TRANSFER) };
    let at = at.map_or(Ok(-1), offset)?;
    // SAFETY: the vector describes `data`, borrowed until the call returns; the kernel only reads it.
    retry(|| check_size(unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, at, RWF_DONTCACHE) }))
}

/// fallocate(2) with `mode`.
pub fn fallocate(file: &File, mode: libc::c_int, start: u64, len: u64) -> io::Result<()> {
    let (start, len) = (offset(start)?, offset(len)?);
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) }))?;
    Ok(())
}

/// Writes the range's dirty pages to the device and waits for it (sync_file_range(2)): makes them
/// clean, not durable.
pub fn write_back(file: &File, start: u64, len: u64) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    if overlays(file) {
        return file.sync_data(); // there it does nothing, and says that it did
    }
    let (start, len) = (offset(start)?, offset(len)?);
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, flags) }))?;
    Ok(())
}

/// syncfs(2): everything on the filesystem that holds `file`.
pub fn sync_filesystem(file: &File) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syncfs(file.as_raw_fd()) })?;
    Ok(())
}

/// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`: None behind the last data.
pub fn seek_extent(file: &File, from: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: integers only. The file's position moves; readers here never use it.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset(from)?, whence) };
    match u64::try_from(found) {
        Ok(at) => Ok(Some(at)),
        Err(_) => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            e => Err(e),
        },
    }
}
