//! `--check-cache`: how many pages of source and destination are in the page cache before, during and after the copy.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::residency::Residency;
use crate::error::{Error, Result};
use crate::source_info::SourceInfo;

/// Time between two samples of the page cache during the copy. Pages that are cached only between two samples are
/// missed.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// The number of resident pages of one file, before, during and after a copy. None where the kernel does not report it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Before the copy.
    pub before: Option<u64>,
    /// The largest sample during the copy, taken every [`SAMPLE_INTERVAL`].
    pub peak: Option<u64>,
    /// After the copy.
    pub after: Option<u64>,
}

impl PageCounts {
    /// Pages that the copy added; None if unknown.
    pub fn added(&self) -> Option<u64> {
        Some(self.after?.saturating_sub(self.before?))
    }
}

/// The page counts of source and destination. None for an end that has no pages, such as a pipe.
#[derive(Clone, Copy, Debug, Default)]
pub struct BothPageCounts {
    pub source: Option<PageCounts>,
    pub destination: Option<PageCounts>,
}

/// Samples how many pages of source and destination are in the page cache. The default watches nothing.
#[derive(Default)]
pub struct CacheWatch {
    source: Option<WatchedFile>,
    destination: Option<WatchedFile>,
}

impl CacheWatch {
    /// Counts the pages before the copy. `destination` is None if it has no pages. Fails if neither end has pages.
    pub fn new(source: &SourceInfo, destination_name: &Path, destination: Option<&File>) -> Result<Self> {
        let source_file = source.stored_file();
        if source_file.is_none() && destination.is_none() {
            return Err(Error::usage(
                "--check-cache cannot be used here: neither SRC nor DST is a file or block device",
            ));
        }
        let watch = |name: &Path, file: Option<&File>| {
            let watched = file.map(WatchedFile::new).transpose();
            watched.map_err(|e| Error::io("counting the cached pages of", name, e))
        };
        Ok(Self { source: watch(&source.name, source_file)?, destination: watch(destination_name, destination)? })
    }

    /// Runs `work` while another thread samples the page cache.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let files: Vec<&WatchedFile> = [&self.source, &self.destination].into_iter().flatten().collect();
        if files.is_empty() {
            return work();
        }
        std::thread::scope(|scope| {
            let (done, finished) = mpsc::channel::<()>();
            let sample = move || {
                while finished.recv_timeout(SAMPLE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    files.iter().for_each(|file| file.sample());
                }
            };
            // If no thread can be started, the peak is the number of pages after the copy.
            let _ = std::thread::Builder::new().spawn_scoped(scope, sample);
            let result = work();
            drop(done); // ends the sampling
            result
        })
    }

    /// Counts the pages after the copy, and returns all counts.
    pub fn page_counts(&self) -> BothPageCounts {
        let counts = |file: &Option<WatchedFile>| file.as_ref().map(WatchedFile::page_counts);
        BothPageCounts { source: counts(&self.source), destination: counts(&self.destination) }
    }
}

struct WatchedFile {
    file: File,
    before: Option<u64>,
    peak: AtomicU64,
}

impl WatchedFile {
    fn new(file: &File) -> std::io::Result<Self> {
        let file = file.try_clone()?;
        let before = resident_pages(&file);
        Ok(Self { file, before, peak: AtomicU64::new(0) })
    }

    fn sample(&self) {
        self.peak.fetch_max(resident_pages(&self.file).unwrap_or(0), Ordering::Relaxed);
    }

    fn page_counts(&self) -> PageCounts {
        self.sample();
        let after = resident_pages(&self.file);
        let peak = after.map(|after| after.max(self.peak.load(Ordering::Relaxed)));
        PageCounts { before: self.before, peak, after }
    }
}

fn resident_pages(file: &File) -> Option<u64> {
    Residency::measure(file).ok()?.cached.resident()
}
