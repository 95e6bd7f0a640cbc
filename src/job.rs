//! A copy as it is asked for: validated, in domain types, with nothing opened yet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::direct::DirectPolicy;
use crate::error::{Error, Result};

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Standard input or standard output.
    Standard,
    /// A file, device, FIFO or directory.
    Path(PathBuf),
    /// An http or https URL; a source only.
    Url(String),
}

impl Endpoint {
    /// Its name in messages: a URL without its password.
    pub fn name(&self) -> PathBuf {
        match self {
            Endpoint::Standard => "-".into(),
            Endpoint::Path(path) => path.clone(),
            Endpoint::Url(url) => without_password(url).into(),
        }
    }

    /// True for what begins like an http or https URL.
    pub fn is_url(word: &Path) -> bool {
        let word = word.as_os_str().as_encoded_bytes();
        let begins = |scheme: &str| word.get(..scheme.len()).is_some_and(|b| b.eq_ignore_ascii_case(scheme.as_bytes()));
        begins("http://") || begins("https://")
    }
}

/// `https://user:secret@host/x` without `:secret`. What may be a password is hidden as well: one with a
/// slash in it makes no URL, but is one all the same.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once(':') else { return url.to_string() };
    let rest = rest.trim_start_matches(['/', '\\']);
    let authority = &rest[..rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len())];
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let broken = !authority.ends_with(']') && !port.is_empty() && port.parse::<u16>().is_err();
    let at = if authority.contains('@') || !broken { authority.rfind('@') } else { rest.rfind('@') };
    let Some(at) = at else { return format!("{scheme}://{rest}") };
    let user = rest[..at].split(':').next().unwrap_or_default();
    format!("{scheme}://{user}{}", &rest[at..])
}

/// What a URL as a source needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// More header lines of the request: (name, value).
    pub headers: Vec<(String, String)>,
    /// The certificates to trust, in PEM, instead of the system's.
    pub cacert: Option<PathBuf>,
    /// How long looking up the name and connecting may take.
    pub connect_timeout: Duration,
    /// How long the server may be silent.
    pub timeout: Duration,
    /// How often, in a row, a request is tried again.
    pub retry: u32,
    /// Connections that fetch ranges side by side.
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
    pub source: Endpoint,
    /// Where they go.
    pub destination: Endpoint,
    /// Bytes per read and write.
    pub block_size: usize,
    /// Blocks in flight.
    pub queue_depth: usize,
    /// What to do where direct I/O is refused.
    pub direct: DirectPolicy,
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
    /// Keep what was copied if the copy is interrupted, and go on from what an earlier one kept.
    pub resume: bool,
    /// The most bytes per second, for reading and for writing.
    pub rate_limit: Option<u64>,
    /// Take only what nobody else wants of the disks.
    pub idle: bool,
    /// For a URL.
    pub http: HttpOptions,
    /// The process's file mode creation mask.
    pub umask: u32,
}

impl Job {
    /// Bytes per block unless told otherwise.
    pub const BLOCK_SIZE: usize = 4 << 20;
    /// Blocks in flight unless told otherwise.
    pub const QUEUE_DEPTH: usize = 4;

    /// Fails unless blocks can be transferred at this alignment.
    pub(crate) fn check_block_size(&self, alignment: u64) -> Result<()> {
        let block_size = self.block_size as u64;
        if block_size.is_multiple_of(alignment) || self.direct == DirectPolicy::Never {
            return Ok(());
        }
        let why = format!("--block-size {block_size} is not a multiple of {alignment}, as direct I/O needs here");
        Err(Error::usage(why).hint(format!("--block-size {} is", block_size.next_multiple_of(alignment))))
    }

    /// A plain copy of `source` to `destination`, with every option at its default.
    pub fn new(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        Self {
            source: Endpoint::Path(source.into()),
            destination: Endpoint::Path(destination.into()),
            block_size: Self::BLOCK_SIZE,
            queue_depth: Self::QUEUE_DEPTH,
            direct: DirectPolicy::Auto,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_named_without_its_password() {
        for (url, name) in [
            ("https://example.org/a:b@c", "https://example.org/a:b@c"),
            ("https://u:secret@example.org/a", "https://u@example.org/a"),
            ("HTTP://u:se@cret@example.org?x@y", "HTTP://u@example.org?x@y"),
            ("http://u@example.org", "http://u@example.org"),
            ("http://:secret@example.org", "http://@example.org"),
            ("http:///u:secret@example.org/", "http://u@example.org/"),
            ("http://\\u:secret@example.org/", "http://u@example.org/"),
            ("http://u:sec/ret@example.org/", "http://u@example.org/"),
            ("http://u:sec?ret@example.org/", "http://u@example.org/"),
            ("http://u:sec#ret@example.org/", "http://u@example.org/"),
            ("http://u:99999/secret@example.org/", "http://u@example.org/"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            ("http://[::1]/a@b", "http://[::1]/a@b"),
            ("http://h:8080/a@b", "http://h:8080/a@b"),
        ] {
            assert_eq!(Endpoint::Url(url.into()).name(), PathBuf::from(name));
        }
    }
}
