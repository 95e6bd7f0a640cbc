//! What was done so far: counts, and the files that were not copied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    failures: Mutex<Failures>,
    traffic: Mutex<(Traffic, Traffic)>,
    /// Bytes that did not use direct I/O: read or written, what they used instead, and why.
    not_direct: Mutex<BTreeMap<(&'static str, &'static str, String), u64>>,
    /// Notes that are the same for many files, and for how many.
    notes: Mutex<BTreeMap<String, u64>>,
}

/// What failed.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// The first of them.
    pub files: Vec<FailedFile>,
    /// The kind of all of them, or Failed if they differ.
    pub kind: Option<ErrorKind>,
    /// What the user can try. On a full disk, thousands of files share one hint.
    pub hints: BTreeSet<String>,
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
        let mut failures = lock(&self.failures);
        failures.kind = match failures.kind {
            None if matches!(error.kind, ErrorKind::Content | ErrorKind::Refused) => Some(error.kind),
            Some(kind) if kind == error.kind => Some(kind),
            _ => Some(ErrorKind::Failed),
        };
        failures.hints.extend(error.hint.clone());
        if failures.files.len() < MAX_KEPT_FAILURES {
            failures.files.push(FailedFile { path, error: error.to_string() });
        }
    }

    /// What failed, for the report.
    pub fn take_failures(&self) -> Failures {
        std::mem::take(&mut *lock(&self.failures))
    }

    /// Adds bytes read and written.
    pub fn transferred(&self, read: Traffic, written: Traffic) {
        let mut traffic = lock(&self.traffic);
        (traffic.0, traffic.1) = (traffic.0 + read, traffic.1 + written);
    }

    /// Bytes read, and bytes written.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        *lock(&self.traffic)
    }

    /// Counts a note. `note` names no file, so that many files share it.
    pub fn note(&self, note: &str) {
        *lock(&self.notes).entry(note.to_string()).or_default() += 1;
    }

    /// Counts bytes that did not use direct I/O.
    pub fn not_direct(&self, verb: &'static str, traffic: &Traffic, why: Option<&str>) {
        if let (Some((bytes, how)), Some(why)) = (traffic.indirect(), why) {
            *lock(&self.not_direct).entry((verb, how, why.to_string())).or_default() += bytes;
        }
    }

    /// The notes, with the number of files where there are several.
    pub fn notes(&self) -> Vec<String> {
        let not_direct = lock(&self.not_direct);
        let not_direct =
            not_direct.iter().map(|((verb, how, why), bytes)| format!("not direct: {bytes} bytes {verb} {how}: {why}"));
        let notes = lock(&self.notes);
        let notes = notes.iter().map(|(note, n)| if *n == 1 { note.clone() } else { format!("{note} ({n} times)") });
        not_direct.chain(notes).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
