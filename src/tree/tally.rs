//! What was done so far: counts, and the files that were not copied.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::direct::Traffic;
use crate::error::{Error, ErrorKind};

/// Failures that are kept for the report. All of them are counted and printed.
const MAX_KEPT_FAILURES: usize = 10_000;

/// A file that was not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedFile {
    /// Its path in the source.
    pub path: PathBuf,
    /// The error message.
    pub error: String,
}

/// Counters that all threads share.
#[derive(Default)]
pub struct Tally {
    pub found: AtomicU64,
    pub files: AtomicU64,
    pub directories: AtomicU64,
    pub bytes: AtomicU64,
    pub cloned: AtomicU64,
    pub unchanged: AtomicU64,
    pub failed: AtomicU64,
    /// Failures whose kind is not [`ErrorKind::Content`].
    pub failed_otherwise: AtomicU64,
    failures: Mutex<Vec<FailedFile>>,
    traffic: Mutex<(Traffic, Traffic)>,
    /// Notes that are the same for many files, and for how many.
    notes: Mutex<BTreeMap<String, u64>>,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Reads a counter.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Tally {
    /// Counts a file that was not copied.
    pub fn failure(&self, path: PathBuf, error: &Error) {
        add(&self.failed, 1);
        if error.kind != ErrorKind::Content {
            add(&self.failed_otherwise, 1);
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < MAX_KEPT_FAILURES {
            failures.push(FailedFile { path, error: error.to_string() });
        }
    }

    /// The failures that were kept.
    pub fn take_failures(&self) -> Vec<FailedFile> {
        std::mem::take(&mut self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds bytes read and written.
    pub fn transferred(&self, read: Traffic, written: Traffic) {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        (traffic.0, traffic.1) = (traffic.0 + read, traffic.1 + written);
    }

    /// Bytes read, and bytes written.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        *self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a note. `note` names no file, so that many files share it.
    pub fn note(&self, note: &str) {
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner).entry(note.to_string()).or_default() += 1;
    }

    /// The notes, with the number of files where there are several.
    pub fn notes(&self) -> Vec<String> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().map(|(note, n)| if *n == 1 { note.clone() } else { format!("{note} ({n} times)") }).collect()
    }
}
