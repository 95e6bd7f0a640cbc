//! Verification: digests of the bytes copied, --verify, and the state of the page cache.

pub mod cache_watch;
pub mod cgroups;
pub mod checksum_list;
pub mod digest;
pub mod residency;
pub mod residency_scan;
pub mod verify;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::block::{Block, Layout};
use crate::direct::DirectReader;
use crate::error::{Error, Result};
use crate::job::{Algorithm, Checksum, Job};
use crate::pace::{Direction, Pace};
use crate::sys;
use digest::{Digest, hex};
use verify::RangeDigests;

/// No checksum list has this many bytes.
const MAX_LIST_LEN: u64 = 64 << 20;

/// A digest and its hash function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDigest {
    /// The hash function.
    pub algorithm: Algorithm,
    /// The digest, as raw bytes.
    pub bytes: Vec<u8>,
}

/// Everything that sees each block after it was read and before it is written: --checksum and --verify.
pub struct Checks {
    checksum: Option<ChecksumCheck>,
    /// For --verify.
    range_digests: Option<RangeDigests>,
}

/// --checksum and --checksum-file.
struct ChecksumCheck {
    algorithm: Algorithm,
    digest: Digest,
    /// The digest that is required.
    expected: Option<Vec<u8>>,
    /// Only the length of the digest in a list tells its algorithm.
    inferred: bool,
}

/// What the checks computed.
pub struct CheckResult {
    /// The digest of the bytes copied, if requested.
    pub digest: Option<NamedDigest>,
    /// What --verify compares the medium with.
    pub range_digests: Option<RangeDigests>,
}

impl Checks {
    /// The checks that `job` asks for. A checksum list is read now.
    pub fn new(job: &Job, layout: &Layout, source: &Path, destination: &Path) -> Result<Self> {
        let new_check = |checksum| ChecksumCheck::new(checksum, layout, [source, destination]);
        let checksum = job.checksum.as_ref().map(new_check).transpose()?;
        Ok(Self { checksum, range_digests: job.verify.then(RangeDigests::default) })
    }

    /// True if the blocks are consumed one after another.
    pub fn in_order(&self) -> bool {
        self.checksum.is_some()
    }

    /// True if the checks have to see every byte.
    pub fn need_bytes(&self) -> bool {
        self.checksum.is_some() || self.range_digests.is_some()
    }

    /// Digests the first `len` bytes of `file`, which an interrupted copy left. Returns the number of the block that comes
    /// next.
    pub fn digest_resumed(&self, job: &Job, name: &Path, file: &File, len: u64, pace: &Pace) -> Result<u64> {
        let Some(ChecksumCheck { digest, .. }) = &self.checksum else { return Ok(0) };
        let fail = |e| Error::io("reading back", name, e);
        // Reopened, so that a refusal of direct reads does not change how the file is written.
        let reopened = File::open(sys::fd_path(file)).map_err(fail)?;
        let mut reader = DirectReader::from_file(reopened).map_err(fail)?;
        pace.idle.iter().for_each(|idle| reader.yield_at(idle));
        let mut block = Block::new(reader.room(0, job.block_size)).map_err(fail)?;
        while block.offset < len {
            let wanted = (len - block.offset).min(job.block_size as u64);
            pace.rate.wait(Direction::Read, wanted as usize);
            let read = reader.read_block(&mut block.buffer, 0, block.offset, wanted as usize).map_err(fail)?;
            if (read as u64) < wanted {
                return Err(Error::failed("reading back", name, "it is shorter than what was written"));
            }
            block.len = wanted;
            digest.update(&block);
            (block.offset, block.number) = (block.offset + wanted, block.number + 1);
        }
        reader.finish().map_err(fail)?;
        Ok(block.number)
    }

    /// Digests a block. Several workers call this at once.
    pub fn update(&self, block: &Block) {
        if let Some(range_digests) = &self.range_digests {
            range_digests.update(block);
        }
        if let Some(checksum) = &self.checksum {
            checksum.digest.update(block);
        }
    }

    /// Wakes the workers that wait to digest a block: one has failed, and its block will not come.
    pub fn cancel(&self) {
        if let Some(checksum) = &self.checksum {
            checksum.digest.cancel();
        }
    }

    /// Ends the checks after the last block. Fails if the digest is not the one that `name` must have.
    pub fn finish(self, name: &Path) -> Result<CheckResult> {
        let digest = self.checksum.map(|checksum| checksum.finish(name)).transpose()?;
        Ok(CheckResult { digest, range_digests: self.range_digests })
    }
}

impl ChecksumCheck {
    fn new(checksum: &Checksum, layout: &Layout, names: [&Path; 2]) -> Result<Self> {
        let (mut algorithm, mut expected) = (checksum.algorithm, checksum.expected.clone());
        if let Some(list) = &checksum.list {
            // sha256sum calls standard input "-".
            let names = names.map(|name| match name.to_str() {
                Some("standard input" | "standard output") => Path::new("-"),
                _ => name,
            });
            let required = checksum_list::look_up(&read_list(list)?, &names, algorithm)
                .map_err(|why| Error::content(list, why))?;
            (algorithm, expected) = (Some(required.algorithm), Some(required.bytes));
        }
        let says_sha256 = |list: &PathBuf| list.to_string_lossy().to_lowercase().contains("sha256");
        let inferred = checksum.algorithm.is_none() && checksum.list.as_ref().is_some_and(|list| !says_sha256(list));
        let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
        Ok(Self { algorithm, digest: Digest::new(algorithm, layout), expected, inferred })
    }

    fn finish(self, name: &Path) -> Result<NamedDigest> {
        let bytes = self.digest.finish();
        let Some(expected) = self.expected.filter(|expected| *expected != bytes) else {
            return Ok(NamedDigest { algorithm: self.algorithm, bytes });
        };
        let (actual, expected) = (hex(&bytes), hex(&expected));
        let why = format!("its {} digest is {actual}, and {expected} is required", self.algorithm.name());
        let error = Error::corrupt(name, why);
        // b3sum's digests have the length of SHA-256's.
        if self.inferred && self.algorithm == Algorithm::Sha256 {
            return Err(error.hint("add --checksum blake3 if b3sum made the list"));
        }
        Err(error)
    }
}

fn read_list(list: &Path) -> Result<Vec<u8>> {
    let fail = |e| Error::io("reading", list, e);
    let mut text = Vec::new();
    File::open(list).map_err(fail)?.take(MAX_LIST_LEN).read_to_end(&mut text).map_err(fail)?;
    if text.len() as u64 == MAX_LIST_LEN {
        return Err(Error::failed("reading", list, "it is too long for a checksum list"));
    }
    Ok(text)
}
