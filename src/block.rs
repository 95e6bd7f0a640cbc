//! One block of a copy, and how a copy is cut into blocks.

use std::io;

use crate::direct::AlignedBuffer;

/// One range of the copy, on its way from the source to the destination: its bytes, or a hole.
pub struct Block {
    /// 0, 1, 2, … in the order of the ranges.
    pub number: u64,
    /// Where the range starts, in bytes from the first byte copied.
    pub offset: u64,
    /// Length of the range in bytes. A hole may be longer than the buffer.
    pub len: u64,
    /// The range reads as zeros, and the buffer holds none of it.
    pub hole: bool,
    /// The destination shares the range with the source already: it is only checked, not written.
    pub cloned: bool,
    /// Where the range starts in the buffer, so that its bytes meet the destination's alignment.
    pub lead: usize,
    /// Memory for the bytes, and for what the source reads around them to stay aligned.
    pub buffer: AlignedBuffer,
}

impl Block {
    /// An empty block whose buffer holds `capacity` bytes.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self {
            number: 0,
            offset: 0,
            len: 0,
            hole: false,
            cloned: false,
            lead: 0,
            buffer: AlignedBuffer::new(capacity)?,
        })
    }

    /// The bytes of the range; empty for a hole.
    pub fn data(&self) -> &[u8] {
        if self.hole { &[] } else { &self.buffer[self.lead..self.lead + self.len as usize] }
    }
}

/// How a copy is cut into blocks: every block but the first starts at a boundary of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes per block.
    pub block_size: usize,
    /// Distance between the destination's block boundaries in bytes: a multiple of its alignment. Holes start and end at
    /// boundaries.
    pub boundary: u64,
    /// Where the first byte of the copy lies after a boundary, in bytes.
    pub lead: usize,
}

/// Where one block goes in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Its first byte in the buffer.
    pub lead: usize,
    /// Its longest length in bytes.
    pub max_len: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self { block_size: 1, boundary: 1, lead: 0 }
    }
}

impl Layout {
    /// The placement of the block that starts at `offset` of the copy.
    pub fn placement(&self, offset: u64) -> Placement {
        let lead = if offset == 0 { self.lead } else { 0 };
        Placement { lead, max_len: self.block_size - lead }
    }

    /// The last boundary at or before `offset`; 0 before the first one.
    pub fn round_down(&self, offset: u64) -> u64 {
        let past_boundary = offset.saturating_add(self.lead as u64) % self.boundary;
        offset.saturating_sub(past_boundary)
    }

    /// The first boundary at or after `offset`.
    pub fn round_up(&self, offset: u64) -> u64 {
        match self.round_down(offset) {
            boundary if boundary == offset => offset,
            _ => self.round_down(offset.saturating_add(self.boundary - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_block_is_short_and_the_rest_start_at_a_boundary() {
        let layout = Layout { block_size: 8192, boundary: 512, lead: 100 };
        assert_eq!(layout.placement(0), Placement { lead: 100, max_len: 8092 });
        assert_eq!(layout.placement(8092), Placement { lead: 0, max_len: 8192 });
        assert_eq!(layout.round_down(8092), 8092);
        assert_eq!(layout.round_down(8092 + 511), 8092);
        assert_eq!(layout.round_up(8093), 8092 + 512);
        assert_eq!(layout.round_down(5), 0);
        assert_eq!(layout.round_up(5), 412);
    }
}
