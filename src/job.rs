//! The description of one copy: validated options in domain types. Nothing is opened yet.

mod trees;
mod url_name;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::direct::DirectPolicy;
use crate::error::{Error, Result};
pub use trees::{TargetRule, TreeJob};
use url_name::without_password;

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Standard input or standard output.
    Standard,
    /// A file, device, FIFO or directory.
    Path(PathBuf),
    /// An http or https URL; a source only.
    Url(String),
    /// What a command prints: the program and its arguments; a source only.
    Command(Vec<OsString>),
}

impl Endpoint {
    /// The name for messages: a URL without its password, a command without its arguments.
    pub fn name(&self) -> PathBuf {
        match self {
            Endpoint::Standard => "-".into(),
            Endpoint::Path(path) => path.clone(),
            Endpoint::Url(url) => without_password(url).into(),
            // Its arguments may contain a password.
            Endpoint::Command(words) => words.first().map(PathBuf::from).unwrap_or_default(),
        }
    }

    /// True if `word` starts like an http or https URL.
    pub fn is_url(word: &Path) -> bool {
        let word = word.as_os_str().as_encoded_bytes();
        let begins = |scheme: &str| word.get(..scheme.len()).is_some_and(|b| b.eq_ignore_ascii_case(scheme.as_bytes()));
        begins("http://") || begins("https://")
    }
}

/// Options for a source that is a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// Additional request headers: (name, value).
    pub headers: Vec<(String, String)>,
    /// File with the certificates (PEM) to trust instead of the system's.
    pub cacert: Option<PathBuf>,
    /// Limit for the name lookup, and for the connection.
    pub connect_timeout: Duration,
    /// Limit for how long the server may send nothing.
    pub timeout: Duration,
    /// Retries after consecutive failures.
    pub retry: u32,
    /// Connections that fetch ranges in parallel.
    pub connections: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            headers: Vec::new(),
            cacert: None,
            connect_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(60),
            retry: 5,
            connections: 1,
        }
    }
}

/// Whether to clone the source where it shares a filesystem with the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reflink {
    /// Clone if the filesystem can; otherwise move the bytes.
    #[default]
    Auto,
    /// Fail if the filesystem cannot clone.
    Always,
    /// Move the bytes.
    Never,
}

/// How holes and zeros are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sparse {
    /// Holes in the source stay holes.
    #[default]
    Auto,
    /// Runs of zeros become holes too.
    Always,
    /// Everything is written; no holes.
    Never,
}

/// A hash function for --checksum.
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
    /// Every supported algorithm.
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Blake3];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
            Algorithm::Blake3 => "blake3",
        }
    }

    /// Length of a digest in bytes.
    pub fn bytes(self) -> usize {
        if self == Algorithm::Sha512 { 64 } else { 32 }
    }
}

/// The digest to compute, and its required value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// None if the checksum list decides.
    pub algorithm: Option<Algorithm>,
    /// The required digest of the bytes copied.
    pub expected: Option<Vec<u8>>,
    /// A checksum list with the required digest.
    pub list: Option<PathBuf>,
}

/// Everything [`copy`](crate::copy()) needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The source.
    pub source: Endpoint,
    /// The destination.
    pub destination: Endpoint,
    /// Bytes per read and write.
    pub block_size: usize,
    /// Blocks in flight.
    pub queue_depth: usize,
    /// What to do if direct I/O is refused.
    pub direct: DirectPolicy,
    /// Whether to clone instead of moving bytes. A clone needs [`DirectPolicy::Auto`] and [`Sparse::Auto`].
    pub reflink: Reflink,
    /// Offset in the source, in bytes.
    pub skip: u64,
    /// Copy at most this many bytes.
    pub count: Option<u64>,
    /// Offset in the destination, in bytes.
    pub seek: u64,
    /// Overwrite the destination in place.
    pub in_place: bool,
    /// How holes are written.
    pub sparse: Sparse,
    /// Fail if the destination exists.
    pub no_clobber: bool,
    /// Overwrite a block device without confirmation.
    pub force: bool,
    /// Wait until the data are on the medium.
    pub sync: bool,
    /// Also preserve timestamps, owner, mode and extended attributes.
    pub preserve: bool,
    /// The source must have exactly this many bytes.
    pub size: Option<u64>,
    /// Digest to compute of the bytes copied.
    pub checksum: Option<Checksum>,
    /// Read the destination back from the medium and compare.
    pub verify: bool,
    /// Report how many pages of source and destination are in the page cache.
    pub check_cache: bool,
    /// Keep the partial file if the copy is interrupted, and resume from an earlier one.
    pub resume: bool,
    /// Limit in bytes per second, for reading and for writing each.
    pub rate_limit: Option<u64>,
    /// Yield the disks to other processes.
    pub idle: bool,
    /// Options for a URL.
    pub http: HttpOptions,
    /// File mode creation mask of the process.
    pub umask: u32,
}

impl Job {
    /// Default bytes per block.
    pub const BLOCK_SIZE: usize = 4 << 20;
    /// Default number of blocks in flight.
    pub const QUEUE_DEPTH: usize = 4;

    /// Fails unless the block size is a multiple of `alignment`, as direct I/O needs.
    pub(crate) fn check_block_size(&self, alignment: u64) -> Result<()> {
        let block_size = self.block_size as u64;
        if block_size.is_multiple_of(alignment) || self.direct == DirectPolicy::Never {
            return Ok(());
        }
        let why = format!("--block-size {block_size} is not a multiple of {alignment}, which direct I/O needs here");
        Err(Error::usage(why).hint(format!("--block-size {}", block_size.next_multiple_of(alignment))))
    }

    /// A copy of `source` to `destination` with every option at its default.
    pub fn new(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        Self {
            source: Endpoint::Path(source.into()),
            destination: Endpoint::Path(destination.into()),
            block_size: Self::BLOCK_SIZE,
            queue_depth: Self::QUEUE_DEPTH,
            direct: DirectPolicy::Auto,
            reflink: Reflink::Auto,
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
            resume: false,
            rate_limit: None,
            idle: false,
            http: HttpOptions::default(),
            umask: 0o022,
        }
    }
}
