//! Memory that meets the address alignment of every device.

use std::io;
use std::ops::{Deref, DerefMut};

use crate::sys::AnonymousMapping;

/// A page-aligned buffer, which is suitable for every direct transfer. From 2 MiB on, the buffer uses huge pages if the
/// kernel has some: for a 4 MiB transfer, the kernel then pins two pages instead of a thousand.
///
/// It is a slice of bytes. [`DirectReader::read_block`](super::DirectReader::read_block) fills it, and
/// [`DirectWriter::write_at`](super::DirectWriter::write_at) writes it without copying the bytes first. The next call may
/// reuse it.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let mut buffer = dio_cp::AlignedBuffer::new(100_000)?;
/// assert!(buffer.len() >= 100_000); // whole pages
/// buffer[..5].copy_from_slice(b"hello");
///
/// let alignment = dio_cp::Alignment::probe(&std::fs::File::open("Cargo.toml")?)?;
/// assert!(alignment.is_none_or(|alignment| alignment.is_address_aligned(&buffer)));
/// # Ok(())
/// # }
/// ```
pub struct AlignedBuffer(AnonymousMapping);

impl AlignedBuffer {
    /// Allocates at least `len` bytes, rounded up to whole pages, all zero. The kernel allocates each page when it is
    /// first touched. Fails with `OutOfMemory` if there is not enough address space.
    pub fn new(len: usize) -> io::Result<Self> {
        AnonymousMapping::new(len).map(Self)
    }

    /// Allocates all pages now. If a page of the buffer is not present, btrfs uses the page cache for that part of a
    /// direct read (measured on Linux 6.18).
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
            buffer[last] = 1; // the last byte is writable
        }
        Ok(())
    }

    #[test]
    fn too_large_a_buffer_is_an_error_and_not_a_panic() {
        assert!(AlignedBuffer::new(usize::MAX - 5).is_err());
        assert!(AlignedBuffer::new(1 << 62).is_err());
    }
}
