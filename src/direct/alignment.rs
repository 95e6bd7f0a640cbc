//! The alignment that direct I/O on a file requires.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;

use crate::sys;

/// Used if the kernel does not report the alignment. It is sufficient for every disk sold today.
const DEFAULT: u32 = 4096;

/// The alignment that direct I/O on a file requires, in bytes. Both numbers are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Memory addresses must be multiples of this.
    pub memory: usize,
    /// Offsets **and lengths** must be multiples of this. It can differ from `memory`: a disk with 4096-byte sectors
    /// accepts buffers at any address that is a multiple of 512.
    pub offset: u64,
}

impl Alignment {
    /// Asks the kernel for the alignment of an open file: `BLKSSZGET` for a block device, `STATX_DIOALIGN` (statx(2),
    /// Linux 6.1) for a file. If the kernel does not report it, both numbers are 4096. Returns None if the file does
    /// not support direct I/O (ext4 with data=journal, encrypted files). Fails if one of these system calls fails.
    pub fn probe(file: &File) -> io::Result<Option<Self>> {
        if file.metadata()?.file_type().is_block_device() {
            let sector = sys::sector_size(file)?;
            return Ok(Some(Self::new(sector, sector)));
        }
        Ok(match sys::dio_alignment(file)? {
            Some((_, 0)) => None,
            Some((memory, offset)) => Some(Self::new(memory, offset)),
            None => Some(Self::new(DEFAULT, DEFAULT)),
        })
    }

    fn new(memory: u32, offset: u32) -> Self {
        Self { memory: memory.max(1) as usize, offset: u64::from(offset.max(1)) }
    }

    /// The largest aligned offset that is not greater than `offset`.
    pub fn round_down(&self, offset: u64) -> u64 {
        offset - offset % self.offset
    }

    /// The smallest aligned offset that is not less than `offset`, or the largest aligned `u64` if that would overflow.
    pub fn round_up(&self, offset: u64) -> u64 {
        self.round_down(offset.saturating_add(self.offset - 1))
    }

    /// True if the address of `data` is aligned.
    pub fn is_address_aligned(&self, data: &[u8]) -> bool {
        data.as_ptr().addr().is_multiple_of(self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_uses_the_offset_alignment_and_never_overflows() {
        let disk_4kn = Alignment::new(512, 4096);
        assert_eq!(disk_4kn.round_down(4095), 0);
        assert_eq!(disk_4kn.round_down(4096), 4096);
        assert_eq!(disk_4kn.round_up(1), 4096);
        assert_eq!(disk_4kn.round_up(4096), 4096);
        assert_eq!(disk_4kn.round_up(u64::MAX), u64::MAX - 4095);
    }
}
