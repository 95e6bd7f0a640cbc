//! Memory-mapped files: which of their pages are cached, and copying out the cached data.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{check, check_size, offset, page_size};

/// The most bytes to map at once when counting cached pages: 65,536 pages of 4 KiB. A file of any size then fits in the
/// address space.
pub const WINDOW: u64 = 256 << 20;

/// A range of a file, mapped read-only to query its pages or to copy their data. The code never makes a reference into
/// the mapping, because other processes may change or truncate the file at any time.
pub struct FileMapping {
    address: *mut libc::c_void,
    len: usize,
}

impl FileMapping {
    /// Maps `len` bytes from `start` on (mmap(2)). `start` must be a multiple of the page size.
    pub fn new(file: &File, start: u64, len: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        let (fd, start) = (file.as_raw_fd(), offset(start)?);
        // SAFETY: maps the file at an address that the kernel chooses. Existing memory is not touched.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, start) };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { address, len }) }
    }

    /// Fills `buffer` with the bytes from `skip` on. The kernel copies them, so that a file that was truncated in the
    /// meantime causes an error (EFAULT) and not a SIGBUS. The pages are not marked as used, and the kernel does no
    /// read-ahead. Returns false if the mapping or the copy ends before `buffer` is full.
    pub fn copy_out(&self, skip: usize, buffer: &mut [u8]) -> io::Result<bool> {
        if skip.checked_add(buffer.len()).is_none_or(|end| end > self.len) {
            return Ok(false);
        }
        // With this advice, an access does not change the age of the pages.
        // SAFETY: the range is this mapping, which lives until drop.
        check(unsafe { libc::madvise(self.address, self.len, libc::MADV_RANDOM) })?;
        let local = libc::iovec { iov_base: self.address.wrapping_byte_add(skip), iov_len: buffer.len() };
        let remote = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // This process writes to itself. `buffer` is the remote side, because the kernel marks the pages of the remote
        // side as used (process_vm_writev(2); mm/gup.c).
        // SAFETY: reads from this mapping, which lives until drop, and writes to `buffer`, which is borrowed mutably
        // until the call returns.
        let copied = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
        Ok(check_size(copied)? == buffer.len())
    }

    /// One byte for each page. The lowest bit is set if the page is in the page cache (mincore(2)).
    pub fn resident(&self) -> io::Result<Vec<u8>> {
        let mut pages = vec![0u8; self.len.div_ceil(page_size() as usize)];
        // SAFETY: the range is this mapping, and `pages` has one byte for each of its pages.
        check(unsafe { libc::mincore(self.address, self.len, pages.as_mut_ptr()) })?;
        Ok(pages)
    }

    /// The number of pages that are in the page cache.
    pub fn resident_pages(&self) -> io::Result<u64> {
        Ok(self.resident()?.iter().filter(|page| **page & 1 == 1).count() as u64)
    }

    /// Adds `count` cached pages, starting with page number `first`, to the page table, so that /proc/self/pagemap
    /// shows where they are (madvise(2), `MADV_POPULATE_READ`, Linux 5.14). Returns an error where touching the pages
    /// would raise a SIGBUS.
    pub fn populate(&self, first: usize, count: usize) -> io::Result<()> {
        let page = page_size() as usize;
        let len = (count * page).min(self.len - first * page);
        // SAFETY: the range is inside this mapping, which lives until drop. No content changes.
        check(unsafe { libc::madvise(self.address.wrapping_byte_add(first * page), len, libc::MADV_POPULATE_READ) })?;
        Ok(())
    }

    /// The address of the mapping, for /proc/self/pagemap.
    pub fn address(&self) -> u64 {
        self.address.addr() as u64
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly the range that `new` mapped. No reference into it exists.
        unsafe { libc::munmap(self.address, self.len) };
    }
}
