//! `--check-cache`: what of source and destination is in the page cache before, at most during, and
//! after the copy.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::residency;

/// How often it looks during the copy. What comes and goes in between is not seen.
pub const SAMPLE: Duration = Duration::from_millis(10);

/// The resident pages of one file over the copy; None: the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// Before the copy.
    pub before: Option<u64>,
    /// The most that was seen while it ran, sampled every [`SAMPLE`].
    pub peak: u64,
    /// After it.
    pub after: Option<u64>,
}

impl Course {
    /// Pages that are there now and were not before; None: unknown.
    pub fn added(&self) -> Option<u64> {
        Some(self.after?.saturating_sub(self.before?))
    }
}

/// One file under observation.
pub struct Watched {
    file: File,
    before: Option<u64>,
    peak: AtomicU64,
}

impl Watched {
    /// Begins with what is there now.
    pub fn new(file: &File) -> std::io::Result<Self> {
        let watched = Self { file: file.try_clone()?, before: None, peak: AtomicU64::new(0) };
        let before = watched.now();
        Ok(Self { before, ..watched })
    }

    fn now(&self) -> Option<u64> {
        residency::of(&self.file).ok()?.cache.resident()
    }

    /// Looks once.
    pub fn sample(&self) {
        self.peak.fetch_max(self.now().unwrap_or(0), Ordering::Relaxed);
    }

    /// How it went.
    pub fn course(&self) -> Course {
        self.sample();
        Course { before: self.before, peak: self.peak.load(Ordering::Relaxed), after: self.now() }
    }
}
