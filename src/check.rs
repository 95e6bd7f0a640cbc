//! Proof: digests of what is copied, reading the destination back, and what the page cache holds.

pub mod cgroups;
pub mod digest;
pub mod list;
pub mod residency;
pub mod residency_scan;
pub mod verify;
pub mod watch;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::block::{Block, Layout};
use crate::direct::DirectReader;
use crate::error::{Error, Result};
use crate::job::{Algorithm, Job};
use crate::pace::{Direction, Pace};
use crate::sys;
use digest::{Digest, hex};
use verify::RangeDigests;

/// Bytes that no checksum list reaches.
const LONGEST_LIST: u64 = 64 << 20;

/// A digest, and by which function.
pub type Named = (Algorithm, Vec<u8>);

/// What looks at every block on its way, after it was read and before it is written.
pub struct Checks {
    /// For --checksum.
    digest: Option<(Algorithm, Digest)>,
    /// What the digest must be.
    expected: Option<Vec<u8>>,
    /// The algorithm is that of a list which does not name it.
    guessed: bool,
    /// For --verify.
    range_digests: Option<RangeDigests>,
}

impl Checks {
    /// What `job` asks for. A checksum list is read now.
    pub fn new(job: &Job, layout: &Layout, source: &Path, destination: &Path) -> Result<Self> {
        let mut checks = Self {
            digest: None,
            expected: None,
            guessed: false,
            range_digests: job.verify.then(RangeDigests::default),
        };
        let Some(checksum) = &job.checksum else { return Ok(checks) };
        let mut algorithm = checksum.algorithm;
        checks.expected = checksum.expected.clone();
        if let Some(list) = &checksum.list {
            let fail = |e| Error::io("reading", list, e);
            // A list is short; what is longer is something else.
            let mut text = Vec::new();
            let file = File::open(list).map_err(fail)?;
            file.take(LONGEST_LIST).read_to_end(&mut text).map_err(fail)?;
            if text.len() as u64 == LONGEST_LIST {
                return Err(Error::failed("reading", list, "it is too long for a checksum list"));
            }
            // sha256sum calls standard input "-".
            let names = [source, destination].map(|name| match name.to_str() {
                Some("standard input" | "standard output") => Path::new("-"),
                _ => name,
            });
            let found = list::look_up(&text, &names, algorithm);
            let (known, digest) = found.map_err(|why| Error::content(list, why))?;
            checks.guessed = algorithm.is_none();
            (algorithm, checks.expected) = (Some(known), Some(digest));
        }
        let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
        checks.digest = Some((algorithm, Digest::new(algorithm, layout)));
        Ok(checks)
    }

    /// Some tap takes the blocks one after another.
    pub fn in_order(&self) -> bool {
        self.digest.is_some()
    }

    /// Shows the digest the first `len` bytes of `file`, which an earlier copy of `name` had written. Gives
    /// the number of the block that comes next.
    pub fn catch_up(&self, job: &Job, name: &Path, file: &File, len: u64, pace: &Pace) -> Result<u64> {
        let Some((_, digest)) = &self.digest else { return Ok(0) };
        let fail = |e| Error::io("reading back", name, e);
        // Opened anew: whether it is read directly must not decide how it is written.
        let again = File::open(sys::fd_path(file)).map_err(fail)?;
        let mut reader = DirectReader::reread(again).map_err(fail)?;
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
            digest.see(&block);
            (block.offset, block.number) = (block.offset + wanted, block.number + 1);
        }
        reader.finish().map_err(fail)?;
        Ok(block.number)
    }

    /// Looks at a block. Called by several workers at once.
    pub fn see(&self, block: &Block) {
        if let Some(range_digests) = &self.range_digests {
            range_digests.see(block);
        }
        if let Some((_, digest)) = &self.digest {
            digest.see(block);
        }
    }

    /// Ends it for everybody: a worker failed, and its block will not come.
    pub fn cancel(&self) {
        if let Some((_, digest)) = &self.digest {
            digest.cancel();
        }
    }

    /// All blocks were seen: gives the digest and the range_digests. Fails if the digest is not the one that is
    /// required of `name`.
    pub fn finish(self, name: &Path) -> Result<(Option<Named>, Option<RangeDigests>)> {
        let Some((algorithm, digest)) = self.digest else { return Ok((None, self.range_digests)) };
        let found = digest.finish();
        if let Some(expected) = self.expected.filter(|expected| *expected != found) {
            let (algorithm, found, expected) = (algorithm.name(), hex(&found), hex(&expected));
            let why = format!("its {algorithm} digest is {found}, and {expected} is required");
            let hint = "--checksum blake3 beside --checksum-file, if b3sum made the list";
            return Err(match self.guessed && algorithm == "sha256" {
                true => Error::wrong(name, why).hint(hint),
                false => Error::wrong(name, why),
            });
        }
        Ok((Some((algorithm, found)), self.range_digests))
    }
}
