//! What a copy of trees did, for the caller.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Tree;
use super::cache::PagesLeft;
use super::tally::{Failures, get};
use crate::direct::Traffic;
use crate::error::{Error, ErrorKind, Result};

/// What a copy of trees did.
#[derive(Clone, Debug)]
pub struct TreeReport {
    /// Files, symbolic links and device nodes that are complete, including further names of a file.
    pub files: u64,
    /// Directories that were created.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Of these, bytes that share their blocks with the source.
    pub cloned: u64,
    /// Files that -u found unchanged, or that -n left alone.
    pub skipped: u64,
    /// Files that were found.
    pub found: u64,
    /// How many were not copied.
    pub failed: u64,
    /// What failed.
    pub failures: Failures,
    /// Bytes read, by how they were read.
    pub read: Traffic,
    /// Bytes written, by how they were written.
    pub written: Traffic,
    /// What --check-cache found, if requested.
    pub pages_left: Option<PagesLeft>,
    /// From the start until everything was on the medium.
    pub elapsed: Duration,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Why the names may not be on the medium, if so.
    pub not_synced: Option<String>,
}

impl TreeReport {
    /// Fails if a file was not copied, or if the copies may not be on the medium.
    pub fn require_complete(&self) -> Result<()> {
        if let Some(why) = &self.not_synced {
            return Err(Error::summary(why));
        }
        if self.failed == 0 {
            return Ok(());
        }
        let verb = if self.failed == 1 { "was" } else { "were" };
        let mut error = Error::summary(format!("{} of {} files {verb} not copied", self.failed, self.found));
        error.kind = self.failures.kind.unwrap_or(ErrorKind::Failed);
        let hints: Vec<_> = self.failures.hints.iter().map(String::as_str).collect();
        Err(if hints.is_empty() { error } else { error.hint(hints.join("; ")) })
    }
}

impl Tree<'_> {
    /// Puts the report together.
    pub fn report(&self, started: Instant, not_synced: Option<String>) -> TreeReport {
        let (read, written) = self.tally.traffic();
        let mut notes = self.tally.notes();
        let cloned = get(&self.tally.cloned);
        if cloned > 0 {
            notes.push(format!("cloned: {cloned} bytes share the blocks of their sources"));
        }
        TreeReport {
            files: get(&self.tally.files),
            directories: get(&self.tally.directories),
            bytes: get(&self.tally.bytes),
            cloned,
            skipped: self.skipped.load(Ordering::Relaxed),
            found: get(&self.tally.found),
            failed: get(&self.tally.failed),
            failures: self.tally.take_failures(),
            read,
            written,
            pages_left: self.cache.pages_left(),
            elapsed: started.elapsed(),
            notes,
            not_synced,
        }
    }
}
