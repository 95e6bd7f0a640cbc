//! Proof: digests of what is copied, reading the destination back, and what the page cache holds.

pub mod cgroups;
pub mod digest;
pub mod list;
pub mod readback;
pub mod residency;
pub mod survey;
pub mod watch;

use crate::block::Block;
use crate::job::Algorithm;
use digest::Digest;
use readback::Ledger;

/// What looks at every block on its way, after it was read and before it is written.
#[derive(Default)]
pub struct Taps {
    /// For --checksum.
    pub digest: Option<(Algorithm, Digest)>,
    /// For --verify.
    pub ledger: Option<Ledger>,
}

impl Taps {
    /// Looks at a block. Called by several workers at once.
    pub fn see(&self, block: &Block) {
        if let Some(ledger) = &self.ledger {
            ledger.see(block);
        }
        if let Some((_, digest)) = &self.digest {
            digest.see(block);
        }
    }

    /// Ends it for everybody: a worker failed, and its block will not come.
    pub fn shut(&self) {
        if let Some((_, digest)) = &self.digest {
            digest.shut();
        }
    }
}
