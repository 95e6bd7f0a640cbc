//! The traveller: one block of a copy, on its way from the source to the destination.

use std::io;

use crate::direct::AlignedBuffer;

/// A range of the copy, with its bytes, or a hole.
pub struct Block {
    /// 0, 1, 2, … in the order of the ranges.
    pub number: u64,
    /// Where it begins, counted from the first byte copied.
    pub offset: u64,
    /// How long it is. A hole may be longer than any buffer.
    pub len: u64,
    /// It reads as zeros, and nothing was read.
    pub hole: bool,
    /// Where in the buffer its bytes begin, so that they lie at the destination's alignment.
    pub lead: usize,
    /// Its memory.
    pub buffer: AlignedBuffer,
}

impl Block {
    /// An empty block with room for `capacity` bytes.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self { number: 0, offset: 0, len: 0, hole: false, lead: 0, buffer: AlignedBuffer::new(capacity)? })
    }

    /// The bytes; those of a hole are not there.
    pub fn data(&self) -> &[u8] {
        if self.hole { &[] } else { &self.buffer[self.lead..self.lead + self.len as usize] }
    }
}

/// How a copy is cut into blocks: so that all but the first begin at the destination's alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes per block.
    pub block_size: usize,
    /// The destination's alignment in bytes; a hole begins and ends at a multiple of it.
    pub unit: u64,
    /// Where the destination begins, behind a multiple of `unit`.
    pub lead: usize,
}

impl Layout {
    /// Where in its buffer the block at `offset` begins, and how long it may be.
    pub fn place(&self, offset: u64) -> (usize, usize) {
        if offset == 0 { (self.lead, self.block_size - self.lead) } else { (0, self.block_size) }
    }

    /// The last place before `offset` where a hole may begin or end.
    pub fn down(&self, offset: u64) -> u64 {
        let lead = self.lead as u64;
        let behind = (offset.saturating_add(lead)) % self.unit;
        offset.saturating_sub(behind)
    }

    /// The first such place behind `offset`.
    pub fn up(&self, offset: u64) -> u64 {
        match self.down(offset) {
            down if down == offset => offset,
            _ => self.down(offset.saturating_add(self.unit - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_block_is_short_and_the_rest_are_aligned() {
        let layout = Layout { block_size: 8192, unit: 512, lead: 100 };
        assert_eq!(layout.place(0), (100, 8092));
        assert_eq!(layout.place(8092), (0, 8192));
        assert_eq!(layout.down(8092), 8092);
        assert_eq!(layout.down(8092 + 511), 8092);
        assert_eq!(layout.up(8093), 8092 + 512);
        assert_eq!(layout.down(5), 0);
        assert_eq!(layout.up(5), 412);
    }
}
