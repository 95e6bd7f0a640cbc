//! A copy as it is asked for: validated, in domain types, with nothing opened yet.

use std::path::PathBuf;

use crate::direct::Direct;
use crate::error::{Error, Result};

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Standard input or standard output.
    Standard,
    /// A file, device, FIFO or directory.
    Path(PathBuf),
}

/// What becomes of holes and zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sparse {
    /// The source's holes stay holes.
    #[default]
    Auto,
    /// Runs of zeros become holes too.
    Always,
    /// Everything is written.
    Never,
}

/// A hash function that --checksum knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256, as sha256sum(1).
    Sha256,
    /// SHA-512, as sha512sum(1).
    Sha512,
    /// BLAKE3 with 32 bytes, as b3sum(1).
    Blake3,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Blake3];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
            Algorithm::Blake3 => "blake3",
        }
    }

    /// Bytes of a digest.
    pub fn bytes(self) -> usize {
        if self == Algorithm::Sha512 { 64 } else { 32 }
    }
}

/// The digest that is wanted, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// None: as the list says.
    pub algorithm: Option<Algorithm>,
    /// The digest that the copied bytes must have.
    pub expected: Option<Vec<u8>>,
    /// A checksum list that says it.
    pub list: Option<PathBuf>,
}

/// Everything that [`copy`](crate::copy()) needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Where the bytes come from.
    pub source: End,
    /// Where they go.
    pub destination: End,
    /// Bytes per read and write.
    pub block_size: usize,
    /// Blocks in flight.
    pub queue_depth: usize,
    /// What to do where direct I/O is refused.
    pub direct: Direct,
    /// Offset in the source, in bytes.
    pub skip: u64,
    /// The most bytes to copy.
    pub count: Option<u64>,
    /// Offset in the destination, in bytes.
    pub seek: u64,
    /// Overwrite the destination's own bytes.
    pub in_place: bool,
    /// What becomes of holes.
    pub sparse: Sparse,
    /// Fail if the destination exists.
    pub no_clobber: bool,
    /// Write to a block device without asking.
    pub force: bool,
    /// Wait for the medium.
    pub sync: bool,
    /// Keep timestamps, owner and extended attributes too.
    pub preserve: bool,
    /// The source must have exactly this many bytes.
    pub size: Option<u64>,
    /// The digest of the bytes copied.
    pub checksum: Option<Checksum>,
    /// Read the destination back from the medium and compare.
    pub verify: bool,
    /// Report how many pages of both ends are in the cache.
    pub check_cache: bool,
    /// The process's file mode creation mask.
    pub umask: u32,
}

impl Job {
    /// Bytes per block unless told otherwise.
    pub const BLOCK_SIZE: usize = 4 << 20;
    /// Blocks in flight unless told otherwise.
    pub const QUEUE_DEPTH: usize = 4;

    /// Fails unless blocks can be transferred at this alignment.
    pub(crate) fn suits(&self, alignment: u64) -> Result<()> {
        let block_size = self.block_size as u64;
        if block_size.is_multiple_of(alignment) || self.direct == Direct::Never {
            return Ok(());
        }
        let why = format!("--block-size {block_size} is not a multiple of {alignment}, as direct I/O needs here");
        Err(Error::usage(why).hint(format!("--block-size {} is", block_size.next_multiple_of(alignment))))
    }

    /// A plain copy of `source` to `destination`, with every option at its default.
    pub fn new(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        Self {
            source: End::Path(source.into()),
            destination: End::Path(destination.into()),
            block_size: Self::BLOCK_SIZE,
            queue_depth: Self::QUEUE_DEPTH,
            direct: Direct::Auto,
            skip: 0,
            count: None,
            seek: 0,
            in_place: false,
            sparse: Sparse::Auto,
            no_clobber: false,
            force: false,
            sync: true,
            preserve: false,
            size: None,
            checksum: None,
            verify: false,
            check_cache: false,
            umask: 0o022,
        }
    }
}
