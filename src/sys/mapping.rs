//! Files mapped into memory, to ask about their pages or to copy them out.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::{check, check_size, offset, page_size};

/// Bytes that mincore looks at in one go: 64 Ki pages, so that a file of any size fits in the address space.
pub const WINDOW: u64 = 256 << 20;

/// A part of a file, mapped to ask about its pages, or to have what is in them. No reference into it is
/// ever made: the file is others' to change and to cut.
pub struct FileMapping {
    start: *mut libc::c_void,
    len: usize,
}

impl FileMapping {
    /// Maps `len` bytes at `at`, a multiple of the page size.
    pub fn new(file: &File, at: u64, len: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: asks for an address of the kernel's choice; no memory of ours is touched.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), offset(at)?) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, len }) }
    }

    /// Copies the bytes from `skip` on into `buffer`: the kernel does it, so that a file which became
    /// shorter is an error (EFAULT) and not a SIGBUS. The pages are not marked as used, and nothing is
    /// read ahead of them. False: there is less than `buffer` takes.
    pub fn copy_out(&self, skip: usize, buffer: &mut [u8]) -> io::Result<bool> {
        if skip.checked_add(buffer.len()).is_none_or(|end| end > self.len) {
            return Ok(false);
        }
        // SAFETY: advice on this mapping, which lives until drop: random access leaves the age of pages alone.
        check(unsafe { libc::madvise(self.start, self.len, libc::MADV_RANDOM) })?;
        let from = libc::iovec { iov_base: self.start.wrapping_byte_add(skip), iov_len: buffer.len() };
        let to = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: to this process itself: from inside this mapping, which lives until drop, to `buffer`,
        // borrowed mutably until the call returns. The written side is named as the remote one because
        // the kernel marks the pages of that side as used (process_vm_writev(2); mm/gup.c).
        let moved = unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &to, 1, 0) };
        Ok(check_size(moved)? == buffer.len())
    }

    /// A byte a page, whose lowest bit says whether the page is in the cache (mincore(2)).
    pub fn resident(&self) -> io::Result<Vec<u8>> {
        let mut pages = vec![0u8; self.len.div_ceil(page_size() as usize)];
        // SAFETY: the range is this mapping; `pages` has a byte for each of its pages.
        check(unsafe { libc::mincore(self.start, self.len, pages.as_mut_ptr()) })?;
        Ok(pages)
    }

    /// How many pages are in the cache.
    pub fn resident_pages(&self) -> io::Result<u64> {
        Ok(self.resident()?.iter().filter(|page| **page & 1 == 1).count() as u64)
    }

    /// Maps `count` pages from page `first` on, that are in the cache, so that pagemap shows where they
    /// are (`MADV_POPULATE_READ`, Linux 5.14: an error where a touch would be a SIGBUS).
    pub fn populate(&self, first: usize, count: usize) -> io::Result<()> {
        let page = page_size() as usize;
        let len = (count * page).min(self.len - first * page);
        // SAFETY: inside this mapping, which lives until drop; nothing is changed.
        check(unsafe { libc::madvise(self.start.wrapping_byte_add(first * page), len, libc::MADV_POPULATE_READ) })?;
        Ok(())
    }

    /// Where it is mapped, for /proc/self/pagemap.
    pub fn address(&self) -> u64 {
        self.start.addr() as u64
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no reference into it was ever made.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
