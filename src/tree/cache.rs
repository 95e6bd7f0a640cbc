//! `--check-cache` for trees: how many pages the copy left in the page cache, over all files.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::tally::{add, get};
use crate::error::{Error, Result};
use crate::sys;

/// Pages that were left, if that is to be counted.
#[derive(Default)]
pub struct CacheCount {
    enabled: bool,
    source: AtomicU64,
    destination: AtomicU64,
    /// Files whose pages the kernel does not report.
    unknown: AtomicU64,
}

/// What --check-cache found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagesLeft {
    /// Pages of the source that were not in the page cache before.
    pub source: u64,
    /// Pages of the copies.
    pub destination: u64,
    /// Files whose pages the kernel does not report.
    pub unknown: u64,
}

impl CacheCount {
    /// Counts nothing unless `enabled`.
    pub fn new(enabled: bool) -> Self {
        Self { enabled, ..Self::default() }
    }

    /// Counts the pages of a source file before it is read.
    pub fn before(&self, source: &File) -> Option<u64> {
        if self.enabled { sys::cached_pages(source, 0, 0).ok() } else { None }
    }

    /// Counts the pages that reading it has added.
    pub fn after(&self, source: &File, before: Option<u64>) {
        if self.enabled {
            match (before, sys::cached_pages(source, 0, 0)) {
                (Some(before), Ok(after)) => add(&self.source, after.saturating_sub(before)),
                _ => add(&self.unknown, 1),
            }
        }
    }

    /// Counts the pages of a complete copy.
    pub fn copied(&self, copy: &File) {
        if self.enabled {
            match sys::cached_pages(copy, 0, 0) {
                Ok(pages) => add(&self.destination, pages),
                Err(_) => add(&self.unknown, 1),
            }
        }
    }

    /// The counts; None without --check-cache.
    pub fn pages_left(&self) -> Option<PagesLeft> {
        let unknown = self.unknown.load(Ordering::Relaxed);
        self.enabled.then(|| PagesLeft { source: get(&self.source), destination: get(&self.destination), unknown })
    }
}

impl PagesLeft {
    /// Fails if the copy left pages, or if that is not known.
    pub fn require_none(&self, destination: &Path) -> Result<()> {
        let Self { source, destination: copies, unknown } = self;
        if source + copies > 0 {
            let why = format!(
                "the copy is complete, but it left {source} pages of the source and {copies} of the copies in the page cache"
            );
            return Err(Error::cache(destination, why));
        }
        if *unknown > 0 {
            let why = format!("the copy is complete, but the kernel does not report the pages of {unknown} files");
            let hint = "run it as the files' owner, on Linux 6.5 or later";
            return Err(Error::cache(destination, why).hint(hint));
        }
        Ok(())
    }
}
