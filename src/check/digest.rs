//! The digest of the bytes copied, computed while they pass.
//!
//! SHA-2 is a chain: the blocks go through a sequencer, one after the other, while other workers
//! read and write theirs. BLAKE3 is a tree: each worker hashes its own block's subtrees, in
//! parallel, and only the 32-byte results are put together in order.

use std::sync::{Mutex, PoisonError};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, max_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use sha2::digest::DynDigest;

use crate::block::{Block, Layout};
use crate::job::Algorithm;
use crate::sequencer::Sequencer;

/// The digest of one copy.
pub struct Digest {
    sequencer: Sequencer,
    state: Mutex<State>,
    /// Every block begins and ends at a chunk of the tree.
    parallel: bool,
}

enum State {
    Chain(Box<dyn DynDigest + Send>),
    Hasher(Box<blake3::Hasher>),
    Tree(Tree),
}

const CHUNK: u64 = blake3::CHUNK_LEN as u64;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Digest {
    /// For blocks that are cut as `layout` says.
    pub fn new(algorithm: Algorithm, layout: &Layout) -> Self {
        let chunks = |bytes: u64| bytes.is_multiple_of(CHUNK);
        let parallel = algorithm == Algorithm::Blake3
            && layout.lead == 0
            && chunks(layout.boundary)
            && chunks(layout.block_size as u64);
        let state = match algorithm {
            Algorithm::Sha256 => State::Chain(Box::new(sha2::Sha256::default())),
            Algorithm::Sha512 => State::Chain(Box::new(sha2::Sha512::default())),
            Algorithm::Blake3 if parallel => State::Tree(Tree::default()),
            Algorithm::Blake3 => State::Hasher(Box::default()),
        };
        Self { sequencer: Sequencer::default(), state: Mutex::new(state), parallel }
    }

    /// Takes a block in. Comes back when its turn has passed.
    pub fn update(&self, block: &Block) {
        let subtrees = if self.parallel { subtrees(block) } else { Vec::new() };
        let take = || match &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Chain(chain) => each_part(block, 0, block.len, &mut |part| chain.update(part)),
            State::Hasher(hasher) => each_part(block, 0, block.len, &mut |part| {
                hasher.update(part);
            }),
            State::Tree(tree) => subtrees.into_iter().for_each(|subtree| tree.push(subtree)),
        };
        self.sequencer.run_in_turn(block.number, take);
    }

    /// A block will not come: nobody waits for it any more.
    pub fn cancel(&self) {
        self.sequencer.cancel();
    }

    /// The digest of all blocks.
    pub fn finish(self) -> Vec<u8> {
        match self.state.into_inner().unwrap_or_else(PoisonError::into_inner) {
            State::Chain(chain) => chain.finalize().into_vec(),
            State::Hasher(hasher) => hasher.finalize().as_bytes().to_vec(),
            State::Tree(tree) => tree.root().as_bytes().to_vec(),
        }
    }
}

/// Calls `each` with the bytes of a range of the block; those of a hole are zeros.
fn each_part(block: &Block, from: u64, len: u64, each: &mut dyn FnMut(&[u8])) {
    if !block.hole {
        return each(&block.data()[from as usize..(from + len) as usize]);
    }
    let mut left = len;
    while left > 0 {
        let part = left.min(ZEROS.len() as u64);
        each(&ZEROS[..part as usize]);
        left -= part;
    }
}

/// A whole subtree of the BLAKE3 tree.
struct Subtree {
    len: u64,
    value: ChainingValue,
    /// Its hash if it is the whole input.
    root: blake3::Hash,
}

/// Cuts a block at the borders of the tree, and hashes the pieces.
fn subtrees(block: &Block) -> Vec<Subtree> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < block.len {
        let offset = block.offset + at;
        let left = block.len - at;
        // The largest power of two that fits; less than a chunk only at the very end.
        let fits = if left < CHUNK { left } else { 1 << left.ilog2() };
        let len = fits.min(max_subtree_len(offset).unwrap_or(u64::MAX));
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        each_part(block, at, len, &mut |part| {
            hasher.update(part);
        });
        // A subtree that begins elsewhere is never the root, and must not be asked.
        let root = if offset == 0 { hasher.finalize() } else { blake3::Hash::from_bytes([0; 32]) };
        pieces.push(Subtree { len, value: hasher.finalize_non_root(), root });
        at += len;
    }
    pieces
}

/// Subtrees in order, merged as far as is certain.
#[derive(Default)]
struct Tree(Vec<Subtree>);

impl Tree {
    fn push(&mut self, next: Subtree) {
        // More follows, so that these two are not the root's children.
        while let [.., left, right] = &self.0[..]
            && left.len == right.len
        {
            let value = merge_subtrees_non_root(&left.value, &right.value, Mode::Hash);
            let merged = Subtree { len: left.len * 2, value, root: left.root };
            self.0.truncate(self.0.len() - 2);
            self.0.push(merged);
        }
        self.0.push(next);
    }

    fn root(mut self) -> blake3::Hash {
        let Some(last) = self.0.pop() else { return blake3::hash(&[]) };
        let mut right = last.value;
        while let Some(left) = self.0.pop() {
            if self.0.is_empty() {
                return merge_subtrees_root(&left.value, &right, Mode::Hash);
            }
            right = merge_subtrees_non_root(&left.value, &right, Mode::Hash);
        }
        last.root
    }
}

/// A digest as people write it.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of an even number of hexadecimal digits, of either case.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Placement;

    /// Blocks as a copy would cut them, with a hole now and then.
    fn blocks(bytes: &[u8], layout: &Layout, holes: bool) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut offset = 0usize;
        while offset < bytes.len() {
            let Placement { lead, max_len: room } = layout.placement(offset as u64);
            let hole = holes && blocks.len() % 3 == 1;
            let len = if hole { layout.boundary as usize * 3 } else { room }.min(bytes.len() - offset);
            let mut block = Block::new(lead + room).unwrap();
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

    /// The reference, by the crates' own one-shot functions.
    fn reference(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
        use sha2::Digest as _;
        match algorithm {
            Algorithm::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Algorithm::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
            Algorithm::Blake3 => blake3::hash(bytes).as_bytes().to_vec(),
        }
    }

    #[test]
    fn any_cut_into_blocks_gives_the_digest_of_the_whole() {
        for (block_size, unit, lead) in
            [(4096, 4096, 0), (65_536, 4096, 0), (12_288, 4096, 0), (8192, 512, 0), (8192, 4096, 77)]
        {
            let layout = Layout { block_size, boundary: unit, lead };
            for len in [0, 1, 1023, 1024, 1025, 4096, 4097, 65_536, 65_537, 131_072, 200_001, 1_000_000] {
                for holes in [false, true] {
                    let mut bytes: Vec<u8> = (0..len).map(|i: usize| (i * 31 + i / 255) as u8).collect();
                    let cut = blocks(&bytes, &layout, holes);
                    for block in cut.iter().filter(|block| block.hole) {
                        bytes[block.offset as usize..(block.offset + block.len) as usize].fill(0);
                    }
                    for algorithm in Algorithm::ALL {
                        let digest = Digest::new(algorithm, &layout);
                        // Last first: the order must come from the sequencer.
                        std::thread::scope(|scope| {
                            for part in cut.chunks(4) {
                                for block in part.iter().rev() {
                                    scope.spawn(|| digest.update(block));
                                }
                            }
                        });
                        let found = hex(&digest.finish());
                        assert_eq!(found, hex(&reference(algorithm, &bytes)), "{algorithm:?} {layout:?} {len} {holes}");
                    }
                }
            }
        }
    }
}
