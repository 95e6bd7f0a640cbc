//! Anonymous memory for transfer buffers.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use super::check;

/// Size of a transparent huge page on x86-64, and on arm64 with 4 KiB pages.
const HUGE_PAGE: usize = 2 << 20;

/// Anonymous memory, page-aligned; aligned to 2 MiB and on huge pages from that size on.
pub struct AnonymousMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is private memory that only this value points to, like a Box<[u8]>.
unsafe impl Send for AnonymousMapping {}
// SAFETY: shared access hands out &[u8] only; changing it takes &mut self.
unsafe impl Sync for AnonymousMapping {}

impl AnonymousMapping {
    /// Maps `len` zero bytes. The pages are made when they are first touched.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let len = len.max(1).checked_next_multiple_of(4096).ok_or(io::ErrorKind::OutOfMemory)?;
        let spare = if len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let total = len.checked_add(spare).ok_or(io::ErrorKind::OutOfMemory)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for fresh memory at an address of the kernel's choice; no memory is touched.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), total, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let before = if spare > 0 { base.align_offset(HUGE_PAGE) } else { 0 };
        let start = base.wrapping_byte_add(before);
        if spare > 0 {
            let after = spare - before;
            // SAFETY: both ranges are parts of the mapping above that nothing points to: what lies
            // before the aligned start, and what lies behind start + len. Unmapping address ranges
            // of length 0 fails without effect, which is why the results are not looked at; nor is
            // that of madvise, which is advice.
            unsafe {
                libc::munmap(base, before);
                libc::munmap(start.wrapping_byte_add(len), after);
                libc::madvise(start, len, libc::MADV_HUGEPAGE);
            }
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Makes the pages now instead of at the first touch (madvise(2), Linux 5.14).
    pub fn populate(&mut self) -> io::Result<()> {
        // SAFETY: the range is this mapping, alive until drop; its contents do not change.
        check(unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_POPULATE_WRITE) })?;
        Ok(())
    }

    /// The memory.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped, initialised (zero pages), and alive as long as self is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The memory, to write to.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and &mut self is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AnonymousMapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `anonymous` kept; no borrow outlives self.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Size of a page of memory, and of the page cache, in bytes.
pub fn page_size() -> u64 {
    // SAFETY: integers only.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
