//! What direct I/O on one file asks of addresses, offsets and lengths.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;

use crate::sys;

/// Where the kernel does not tell: right for every disk sold today.
const USUAL: u32 = 4096;

/// The alignment of one file's direct I/O, in bytes; both figures are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Memory addresses must be multiples of this.
    pub memory: usize,
    /// Offsets **and lengths** must be multiples of this. Not the same as `memory`: a disk with
    /// 4096-byte sectors takes buffers at any 512-byte address.
    pub offset: u64,
}

impl Alignment {
    /// Asks the kernel: `BLKSSZGET` for a block device, `STATX_DIOALIGN` (Linux 6.1) for a file,
    /// else 4096. None: this file has no direct I/O (ext4 with data=journal, encrypted files).
    pub fn probe(file: &File) -> io::Result<Option<Self>> {
        if file.metadata()?.file_type().is_block_device() {
            let sector = sys::sector_size(file)?;
            return Ok(Some(Self::new(sector, sector)));
        }
        Ok(match sys::dio_alignment(file)? {
            Some((_, 0)) => None,
            Some((memory, offset)) => Some(Self::new(memory, offset)),
            None => Some(Self::new(USUAL, USUAL)),
        })
    }

    fn new(memory: u32, offset: u32) -> Self {
        Self { memory: memory.max(1) as usize, offset: u64::from(offset.max(1)) }
    }

    /// The largest aligned offset that is not behind `at`.
    pub fn down(&self, at: u64) -> u64 {
        at - at % self.offset
    }

    /// The smallest aligned offset that is not before `at`; stops at the largest there is.
    pub fn up(&self, at: u64) -> u64 {
        self.down(at.saturating_add(self.offset - 1))
    }

    /// True if `data` lies where the device can reach it.
    pub fn fits(&self, data: &[u8]) -> bool {
        data.as_ptr().addr().is_multiple_of(self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_uses_the_offset_figure_and_never_overflows() {
        let disk_4kn = Alignment::new(512, 4096);
        assert_eq!(disk_4kn.down(4095), 0);
        assert_eq!(disk_4kn.down(4096), 4096);
        assert_eq!(disk_4kn.up(1), 4096);
        assert_eq!(disk_4kn.up(4096), 4096);
        assert_eq!(disk_4kn.up(u64::MAX), u64::MAX - 4095);
    }
}
