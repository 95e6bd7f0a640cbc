//! The digest of the bytes copied, computed during the copy.
//!
//! SHA-2 hashes the blocks one after another. A sequencer puts them in order, while other workers read and write their
//! blocks. BLAKE3 is a tree: the workers hash the subtrees of their blocks in parallel, and only the 32-byte results
//! are merged in order.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, max_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use sha2::digest::DynDigest;

use crate::block::{Block, Layout};
use crate::job::Algorithm;
use crate::sequencer::Sequencer;

/// The digest of one copy.
pub struct Digest {
    sequencer: Sequencer,
    hasher: Mutex<Hasher>,
    /// True if the workers hash in parallel. This needs BLAKE3, and blocks that start and end at chunk boundaries.
    parallel: bool,
}

enum Hasher {
    Sha2(Box<dyn DynDigest + Send>),
    /// BLAKE3, for blocks that do not start and end at chunk boundaries: hashed one after another.
    Blake3Sequential(Box<blake3::Hasher>),
    /// BLAKE3, with subtrees that the workers hash in parallel.
    Blake3Parallel(SubtreeStack),
}

/// The length of a chunk, the leaf of the BLAKE3 tree, in bytes.
const CHUNK_LEN: u64 = blake3::CHUNK_LEN as u64;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Digest {
    /// A digest of blocks that are cut according to `layout`.
    pub fn new(algorithm: Algorithm, layout: &Layout) -> Self {
        let whole_chunks = |bytes: u64| bytes.is_multiple_of(CHUNK_LEN);
        let parallel = algorithm == Algorithm::Blake3
            && layout.lead == 0
            && whole_chunks(layout.boundary)
            && whole_chunks(layout.block_size as u64);
        let hasher = match algorithm {
            Algorithm::Sha256 => Hasher::Sha2(Box::new(sha2::Sha256::default())),
            Algorithm::Sha512 => Hasher::Sha2(Box::new(sha2::Sha512::default())),
            Algorithm::Blake3 if parallel => Hasher::Blake3Parallel(SubtreeStack::default()),
            Algorithm::Blake3 => Hasher::Blake3Sequential(Box::default()),
        };
        Self { sequencer: Sequencer::default(), hasher: Mutex::new(hasher), parallel }
    }

    /// Adds a block. Returns after all earlier blocks and this one were added, or after [`Digest::cancel`].
    pub fn update(&self, block: &Block) {
        let subtrees = if self.parallel { hash_subtrees(block) } else { Vec::new() };
        let add = || match &mut *self.hasher.lock().unwrap_or_else(PoisonError::into_inner) {
            Hasher::Sha2(sha2) => for_each_part(block, 0, block.len, &mut |part| sha2.update(part)),
            Hasher::Blake3Sequential(blake3) => for_each_part(block, 0, block.len, &mut |part| {
                blake3.update(part);
            }),
            Hasher::Blake3Parallel(stack) => subtrees.into_iter().for_each(|subtree| stack.push(subtree)),
        };
        self.sequencer.run_in_turn(block.number, || {
            add();
            Ok::<_, Infallible>(())
        });
    }

    /// Wakes the workers that wait in [`Digest::update`], because an earlier block will not be added.
    pub fn cancel(&self) {
        self.sequencer.cancel();
    }

    /// The digest of all blocks.
    pub fn finish(self) -> Vec<u8> {
        match self.hasher.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Hasher::Sha2(sha2) => sha2.finalize().into_vec(),
            Hasher::Blake3Sequential(blake3) => blake3.finalize().as_bytes().to_vec(),
            Hasher::Blake3Parallel(stack) => stack.root_hash().as_bytes().to_vec(),
        }
    }
}

/// Calls `hash` with the bytes of a range of the block, in parts. The bytes of a hole are zeros.
fn for_each_part(block: &Block, start: u64, len: u64, hash: &mut dyn FnMut(&[u8])) {
    if !block.hole {
        return hash(&block.data()[start as usize..(start + len) as usize]);
    }
    let mut remaining = len;
    while remaining > 0 {
        let part = remaining.min(ZEROS.len() as u64);
        hash(&ZEROS[..part as usize]);
        remaining -= part;
    }
}

/// A subtree of the BLAKE3 tree, hashed.
struct Subtree {
    /// Length of its input in bytes.
    len: u64,
    chaining_value: ChainingValue,
    /// The digest, if this subtree turns out to be the whole input. Only valid if the subtree starts at offset 0.
    hash_as_root: blake3::Hash,
}

/// Divides a block at the subtree boundaries of the BLAKE3 tree, and hashes the subtrees.
fn hash_subtrees(block: &Block) -> Vec<Subtree> {
    let mut subtrees = Vec::new();
    let mut start = 0;
    while start < block.len {
        let input_offset = block.offset + start;
        let remaining = block.len - start;
        // The largest power of two that fits. Only the last part of the input can be shorter than a chunk.
        let max_len = if remaining < CHUNK_LEN { remaining } else { 1 << remaining.ilog2() };
        let len = max_len.min(max_subtree_len(input_offset).unwrap_or(u64::MAX));
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(input_offset);
        for_each_part(block, start, len, &mut |part| {
            hasher.update(part);
        });
        // `finalize` panics after any other input offset. Such a subtree is never the root.
        let hash_as_root = if input_offset == 0 { hasher.finalize() } else { blake3::Hash::from_bytes([0; 32]) };
        subtrees.push(Subtree { len, chaining_value: hasher.finalize_non_root(), hash_as_root });
        start += len;
    }
    subtrees
}

/// Adjacent subtrees in order, merged where it is certain that they have a common parent other than the root.
#[derive(Default)]
struct SubtreeStack(Vec<Subtree>);

impl SubtreeStack {
    fn push(&mut self, next: Subtree) {
        // Since more input follows, the parent of these two subtrees is not the root.
        while let [.., left, right] = &self.0[..]
            && left.len == right.len
        {
            let chaining_value = merge_subtrees_non_root(&left.chaining_value, &right.chaining_value, Mode::Hash);
            let merged = Subtree { len: left.len * 2, chaining_value, hash_as_root: left.hash_as_root };
            self.0.truncate(self.0.len() - 2);
            self.0.push(merged);
        }
        self.0.push(next);
    }

    fn root_hash(mut self) -> blake3::Hash {
        let Some(last) = self.0.pop() else { return blake3::hash(&[]) };
        let mut right = last.chaining_value;
        while let Some(left) = self.0.pop() {
            if self.0.is_empty() {
                return merge_subtrees_root(&left.chaining_value, &right, Mode::Hash);
            }
            right = merge_subtrees_non_root(&left.chaining_value, &right, Mode::Hash);
        }
        last.hash_as_root
    }
}

/// A digest as lower-case hexadecimal digits.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses an even number of hexadecimal digits, in upper or lower case. None if the text is anything else, or empty.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Placement;

    /// Cuts `bytes` into blocks as a copy does. With `holes`, every third block is a hole.
    fn cut(bytes: &[u8], layout: &Layout, holes: bool) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut offset = 0usize;
        while offset < bytes.len() {
            let Placement { lead, max_len } = layout.placement(offset as u64);
            let hole = holes && blocks.len() % 3 == 1;
            let len = if hole { layout.boundary as usize * 3 } else { max_len }.min(bytes.len() - offset);
            let mut block = Block::new(lead + max_len).unwrap();
            (block.number, block.offset, block.len) = (blocks.len() as u64, offset as u64, len as u64);
            (block.lead, block.hole) = (lead, hole);
            if !hole {
                block.buffer[lead..lead + len].copy_from_slice(&bytes[offset..offset + len]);
            }
            blocks.push(block);
            offset += len;
        }
        blocks
    }

    /// The digest from the crates' own one-shot functions.
    fn one_shot_digest(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
        use sha2::Digest as _;
        match algorithm {
            Algorithm::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Algorithm::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
            Algorithm::Blake3 => blake3::hash(bytes).as_bytes().to_vec(),
        }
    }

    /// Adds the blocks from several threads, the later ones of each group first, and returns the digest in hexadecimal.
    fn digest_out_of_order(algorithm: Algorithm, layout: &Layout, blocks: &[Block]) -> String {
        let digest = Digest::new(algorithm, layout);
        std::thread::scope(|scope| {
            for group in blocks.chunks(4) {
                for block in group.iter().rev() {
                    scope.spawn(|| digest.update(block));
                }
            }
        });
        hex(&digest.finish())
    }

    #[test]
    fn every_division_into_blocks_gives_the_digest_of_the_whole_input() {
        let layout = |block_size, boundary, lead| Layout { block_size, boundary, lead };
        let aligned = [layout(4096, 4096, 0), layout(65_536, 4096, 0), layout(12_288, 4096, 0)];
        let unaligned = [layout(8192, 512, 0), layout(8192, 4096, 77)];
        for layout in aligned.iter().chain(&unaligned) {
            for len in [0, 1, 1023, 1024, 1025, 4096, 4097, 65_536, 65_537, 131_072, 200_001, 1_000_000] {
                for holes in [false, true] {
                    let mut bytes: Vec<u8> = (0..len).map(|i: usize| (i * 31 + i / 255) as u8).collect();
                    let blocks = cut(&bytes, layout, holes);
                    for block in blocks.iter().filter(|block| block.hole) {
                        bytes[block.offset as usize..(block.offset + block.len) as usize].fill(0);
                    }
                    for algorithm in Algorithm::ALL {
                        let digest = digest_out_of_order(algorithm, layout, &blocks);
                        let expected = hex(&one_shot_digest(algorithm, &bytes));
                        assert_eq!(digest, expected, "{algorithm:?} {layout:?} {len} {holes}");
                    }
                }
            }
        }
    }
}
