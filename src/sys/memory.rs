//! Anonymous memory for transfer buffers.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use super::check;

/// The size of a transparent huge page on x86-64, and on arm64 with 4 KiB pages.
const HUGE_PAGE: usize = 2 << 20;

/// Page-aligned anonymous memory. From 2 MiB on, it is aligned to 2 MiB and uses huge pages if the kernel has some.
pub struct AnonymousMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is private memory that only this value points to, as with a Box<[u8]>.
unsafe impl Send for AnonymousMapping {}
// SAFETY: shared access gives out &[u8] only. Changing the memory requires &mut self.
unsafe impl Sync for AnonymousMapping {}

impl AnonymousMapping {
    /// Maps at least `len` bytes, all zero. The kernel allocates each page when it is first touched. Fails with
    /// `OutOfMemory` if there is not enough address space.
    pub fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1).checked_next_multiple_of(4096).ok_or(io::ErrorKind::OutOfMemory)?;
        let padding = if len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let total = len.checked_add(padding).ok_or(io::ErrorKind::OutOfMemory)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: maps new memory at an address that the kernel chooses. Existing memory is not touched.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), total, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let padding_before = if padding > 0 { base.align_offset(HUGE_PAGE) } else { 0 };
        let start = base.wrapping_byte_add(padding_before);
        if padding > 0 {
            let padding_after = padding - padding_before;
            // SAFETY: nothing points to the two unmapped ranges. Both are parts of the mapping above: one is before the
            // aligned start, the other after start + len. The results are ignored: munmap of a range of length 0 fails
            // without effect, and madvise is only advice.
            unsafe {
                libc::munmap(base, padding_before);
                libc::munmap(start.wrapping_byte_add(len), padding_after);
                libc::madvise(start, len, libc::MADV_HUGEPAGE);
            }
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Allocates all pages now instead of when they are first touched (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14).
    pub fn populate(&mut self) -> io::Result<()> {
        // SAFETY: the range is this mapping, which lives until drop. Its contents do not change.
        check(unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_POPULATE_WRITE) })?;
        Ok(())
    }

    /// The whole mapping.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the memory is mapped, initialized (zero pages), and lives as long as self is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The whole mapping, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and &mut self makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AnonymousMapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly the range that `new` kept. No borrow outlives self.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The size of a memory page, and of a page in the page cache, in bytes.
pub fn page_size() -> u64 {
    #[cfg(test)]
    if let Some(size) = other_page_size::get() {
        return size;
    }
    // SAFETY: integers only.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Page sizes of other processors, such as 16 and 64 KiB on arm64. For tests of calculations: it changes what
/// [`page_size`] returns, and not the pages of memory.
#[cfg(test)]
pub mod other_page_size {
    use std::cell::Cell;

    thread_local!(static SIZE: Cell<Option<u64>> = const { Cell::new(None) });

    pub fn get() -> Option<u64> {
        SIZE.get()
    }

    /// Runs `work` in this thread, in which `page_size` returns `size`.
    pub fn with<T>(size: u64, work: impl FnOnce() -> T) -> T {
        SIZE.set(Some(size));
        let result = work();
        SIZE.set(None);
        result
    }
}
