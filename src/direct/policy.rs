//! What the caller wants where direct I/O is refused, and the account of what was done.

use std::fmt;

/// What to do where direct I/O is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DirectPolicy {
    /// Go on by other means that leave the cache clean, and say so.
    #[default]
    Auto,
    /// Fail with [`Refused`].
    Always,
    /// Do not try: go through the page cache on purpose.
    Never,
}

/// Direct I/O is refused, and [`DirectPolicy::Always`] was asked for. Travels inside an [`std::io::Error`].
#[derive(Debug)]
pub struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "direct I/O refused: {}", self.0)
    }
}

impl std::error::Error for Refused {}

/// Bytes moved, by the way they took. Padding and merged neighbours are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Between memory and device, past the page cache.
    pub direct: u64,
    /// From the page cache, where it was already; nothing came in, nothing was dropped.
    pub resident: u64,
    /// Through the page cache and out of it again, at once.
    pub uncached: u64,
    /// Through the page cache and left there, as [`DirectPolicy::Never`] asks.
    pub cached: u64,
    /// To or from a file that lives in memory (tmpfs).
    pub memory: u64,
}
