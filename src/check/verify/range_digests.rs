//! The digests of what was read from the source, one for each range of 4 MiB.

use std::sync::{Mutex, PoisonError};

use crate::block::Block;
use crate::job::Job;

/// Adjacent blocks that start in the same range of this many bytes share an entry.
const RANGE_SIZE: u64 = Job::BLOCK_SIZE as u64;
/// How many of the last entries are searched for an adjacent block. Workers overtake each other, but not by much.
const LOOKBACK: usize = 64;
/// The digest of a hole, which has to read as zeros. A block of data has this digest with a probability of 2^-128.
const HOLE_DIGEST: u128 = 0;

/// A block, or several adjacent blocks of the same length.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub struct RangeEntry {
    /// Start of the first block, in bytes from the first byte copied.
    pub offset: u64,
    /// Length of all blocks together, in bytes.
    pub len: u64,
    /// Length of each block, in bytes.
    pub block_len: u64,
    /// The sum of the digests of the blocks, or [`HOLE_DIGEST`].
    pub digest: u128,
}

impl RangeEntry {
    /// True if the entry describes a hole.
    pub fn is_hole(&self) -> bool {
        self.digest == HOLE_DIGEST
    }

    /// True if `next` starts where this entry ends, and one entry can describe both.
    fn can_absorb(&self, next: &RangeEntry) -> bool {
        let adjacent = self.offset + self.len == next.offset && self.block_len == next.block_len;
        let same_range = self.offset / RANGE_SIZE == next.offset / RANGE_SIZE;
        adjacent && same_range && !self.is_hole() && !next.is_hole()
    }
}

/// The digests of what was read from the source, in no particular order.
#[derive(Default)]
pub struct RangeDigests {
    entries: Mutex<Vec<RangeEntry>>,
}

impl RangeDigests {
    /// Adds the digest of a block.
    pub fn update(&self, block: &Block) {
        let digest = if block.hole { HOLE_DIGEST } else { digest(block.data(), block.offset) };
        let mut entry = RangeEntry { offset: block.offset, len: block.len, block_len: block.len, digest };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let search_start = entries.len().saturating_sub(LOOKBACK);
        let can_merge = |a: &RangeEntry, b: &RangeEntry| a.can_absorb(b) || b.can_absorb(a);
        while let Some(index) = entries[search_start..].iter().position(|other| can_merge(&entry, other)) {
            let other = entries.remove(search_start + index);
            entry.offset = entry.offset.min(other.offset);
            entry.len += other.len;
            entry.digest = entry.digest.wrapping_add(other.digest);
        }
        entries.push(entry);
    }

    /// The entries, sorted by offset.
    pub fn into_entries(self) -> Vec<RangeEntry> {
        let mut entries = self.entries.into_inner().unwrap_or_else(PoisonError::into_inner);
        entries.sort_unstable_by_key(|entry| entry.offset);
        entries
    }
}

/// 128 bits of BLAKE3, keyed with the offset of the block in the copy. If two blocks are swapped, both
/// digests change. 128 bits are enough to detect every difference, except in blocks constructed to collide.
pub fn digest(bytes: &[u8], offset: u64) -> u128 {
    let (mut key, mut truncated) = ([0; blake3::KEY_LEN], [0; size_of::<u128>()]);
    key[..size_of::<u64>()].copy_from_slice(&offset.to_le_bytes());
    truncated.copy_from_slice(&blake3::keyed_hash(&key, bytes).as_bytes()[..size_of::<u128>()]);
    u128::from_le_bytes(truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A block as the tests describe it.
    #[derive(Clone, Copy)]
    struct Piece {
        offset: u64,
        len: u64,
    }

    /// The entries that remain of these blocks, by offset.
    fn entries(pieces: &[Piece], content: &[u8]) -> Vec<RangeEntry> {
        let range_digests = RangeDigests::default();
        for &Piece { offset, len } in pieces {
            let mut block = Block::new(len as usize).expect("memory");
            block.buffer[..len as usize].copy_from_slice(&content[offset as usize..][..len as usize]);
            (block.offset, block.len) = (offset, len);
            range_digests.update(&block);
        }
        range_digests.into_entries()
    }

    fn lengths(entries: &[RangeEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.len).collect()
    }

    /// Cuts 9 MiB into blocks of `size` bytes, after a first one of `lead` bytes if that is not 0.
    fn cut(lead: u64, size: u64) -> Vec<Piece> {
        let first = (lead > 0).then_some(Piece { offset: 0, len: lead });
        let rest = (lead..9 * MIB).step_by(size as usize);
        let rest = rest.map(|offset| Piece { offset, len: size.min(9 * MIB - offset) });
        first.into_iter().chain(rest).collect()
    }

    fn content() -> Vec<u8> {
        (0..9 * MIB as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn small_blocks_share_one_entry_per_range_in_any_order() {
        let content = content();
        assert_eq!(lengths(&entries(&cut(0, RANGE_SIZE), &content)), [RANGE_SIZE, RANGE_SIZE, MIB]);
        for size in [512, 4 << 10, 64 << 10, 512 << 10] {
            let mut pieces = cut(0, size);
            let in_order = entries(&pieces, &content);
            assert_eq!(lengths(&in_order), [RANGE_SIZE, RANGE_SIZE, MIB], "{size}");
            pieces.chunks_mut(7).for_each(<[_]>::reverse);
            assert_eq!(entries(&pieces, &content), in_order, "{size}");
        }
    }

    #[test]
    fn a_short_first_or_last_block_has_its_own_entry() {
        let content = content();
        for (lead, size, max_entries) in [(0, 5000, 4), (511, 512, 5), (79 << 10, 80 << 10, 5), (0, 6 << 20, 2)] {
            let entries = entries(&cut(lead, size), &content);
            assert!(entries.len() <= max_entries, "{lead} {size}: {:?}", lengths(&entries));
            assert_eq!(lengths(&entries).iter().sum::<u64>(), 9 * MIB);
        }
    }

    #[test]
    fn blocks_with_a_gap_between_them_are_not_merged() {
        let pieces = [Piece { offset: 0, len: 4096 }, Piece { offset: 8192, len: 4096 }];
        assert_eq!(entries(&pieces, &content()).len(), 2);
    }

    #[test]
    fn swapped_blocks_change_the_digest() {
        let (content, mut swapped) = (content(), content());
        swapped[..128 << 10].rotate_left(64 << 10);
        assert_ne!(entries(&cut(0, 64 << 10), &swapped)[0], entries(&cut(0, 64 << 10), &content)[0]);
    }
}
