//! What to do if direct I/O is refused, and the count of bytes by the path they took.

use std::fmt;

/// What to do if the filesystem or the device refuses direct I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DirectPolicy {
    /// Fall back to other I/O that leaves nothing in the page cache, and report why.
    #[default]
    Auto,
    /// Fail with [`Refused`].
    Always,
    /// Do not try direct I/O. Use the page cache on purpose.
    Never,
}

/// Direct I/O was refused under [`DirectPolicy::Always`]. It is the inner error of an [`std::io::Error`]
/// ([`std::io::Error::get_ref`]).
#[derive(Debug)]
pub struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "direct I/O refused: {}", self.0)
    }
}

impl std::error::Error for Refused {}

/// Bytes read or written, by the path they took. Padding is not counted, and neither are neighboring bytes that were
/// read or written only to align a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Between memory and the device, bypassing the page cache.
    pub direct: u64,
    /// Read from pages that were in the page cache already. No page was inserted or evicted.
    pub resident: u64,
    /// Through the page cache, and evicted immediately.
    pub uncached: u64,
    /// Through the page cache, and left there, as [`DirectPolicy::Never`] says.
    pub cached: u64,
    /// To or from a file that is stored in memory (tmpfs).
    pub memory: u64,
}

impl Traffic {
    /// Bytes that did not use direct I/O, and what they used instead. None if there are none.
    pub fn indirect(&self) -> Option<(u64, &'static str)> {
        match *self {
            Traffic { uncached: bytes @ 1.., .. } => Some((bytes, "uncached")),
            Traffic { cached: bytes @ 1.., .. } => Some((bytes, "through the page cache")),
            Traffic { memory: bytes @ 1.., .. } => Some((bytes, "in memory")),
            _ => None,
        }
    }
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            direct: self.direct + other.direct,
            resident: self.resident + other.resident,
            uncached: self.uncached + other.uncached,
            cached: self.cached + other.cached,
            memory: self.memory + other.memory,
        }
    }
}
