//! Memory that every device can reach.

use std::io;
use std::ops::{Deref, DerefMut};

use crate::sys::AnonymousMapping;

/// A buffer whose first byte is page-aligned, so that it suits every direct transfer. From 2 MiB on
/// it lies on huge pages where the kernel has some: the kernel then pins two pages for a 4 MiB
/// transfer instead of a thousand.
pub struct AlignedBuffer(AnonymousMapping);

impl AlignedBuffer {
    /// At least `len` bytes, rounded up to whole pages, all zero. Memory is used as it is touched.
    /// Fails with `OutOfMemory` if there is no room.
    pub fn new(len: usize) -> io::Result<Self> {
        AnonymousMapping::anonymous(len).map(Self)
    }

    /// Makes all pages present. btrfs goes through the page cache for the part of a direct read
    /// whose memory is not (measured on Linux 6.18).
    pub(super) fn populate(&mut self) -> io::Result<()> {
        self.0.populate()
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_buffers_are_page_aligned_and_large_ones_huge_page_aligned() -> io::Result<()> {
        for (len, alignment) in [(1, 4096), (4097, 4096), (2 << 20, 2 << 20), ((4 << 20) + 8192, 2 << 20)] {
            let mut buffer = AlignedBuffer::new(len)?;
            assert!(buffer.len() >= len);
            assert_eq!(buffer.as_ptr().addr() % alignment, 0, "{len}");
            assert!(buffer.iter().all(|b| *b == 0));
            let last = buffer.len() - 1;
            buffer[last] = 1; // the last byte is ours to write
        }
        Ok(())
    }

    #[test]
    fn more_memory_than_there_is_is_an_error_and_no_panic() {
        assert!(AlignedBuffer::new(usize::MAX - 5).is_err());
        assert!(AlignedBuffer::new(1 << 62).is_err());
    }
}
