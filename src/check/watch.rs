//! `--check-cache`: what of source and destination is in the page cache before, at most during, and
//! after the copy.

use std::fs::{File, Metadata};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::residency;
use crate::error::{Error, Result};
use crate::source_info::SourceInfo;

/// How often it looks during the copy. What comes and goes in between is not seen.
pub const SAMPLE: Duration = Duration::from_millis(10);

/// The resident pages of one file over the copy; None: the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// Before the copy.
    pub before: Option<u64>,
    /// The most that was seen while it ran, sampled every [`SAMPLE`].
    pub peak: Option<u64>,
    /// After it.
    pub after: Option<u64>,
}

impl Course {
    /// Pages that are there now and were not before; None: unknown.
    pub fn added(&self) -> Option<u64> {
        Some(self.after?.saturating_sub(self.before?))
    }
}

/// Source and destination under observation, as far as they have pages.
#[derive(Default)]
pub struct Watch {
    source: Option<Watched>,
    destination: Option<Watched>,
}

impl Watch {
    /// Begins with what is there now.
    pub fn new(from: &SourceInfo, name: &Path, to: Option<&File>) -> Result<Self> {
        let has_pages = |found: &Metadata| found.is_file() || found.file_type().is_block_device();
        let source = from.file.as_ref().filter(|(_, found)| has_pages(found)).map(|(file, _)| file);
        let watch = |name: &Path, file: Option<&File>| {
            file.map(|file| Watched::new(file).map_err(|e| Error::io("looking at the cache of", name, e))).transpose()
        };
        if source.is_none() && to.is_none() {
            return Err(Error::usage("--check-cache cannot be used here: neither SRC nor DST has pages"));
        }
        Ok(Self { source: watch(&from.name, source)?, destination: watch(name, to)? })
    }

    /// Does `work` while a thread looks at the cache now and then.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let files: Vec<&Watched> = [&self.source, &self.destination].into_iter().flatten().collect();
        if files.is_empty() {
            return work();
        }
        std::thread::scope(|scope| {
            let (done, wait) = mpsc::channel::<()>();
            let sample = move || {
                while wait.recv_timeout(SAMPLE) == Err(RecvTimeoutError::Timeout) {
                    files.iter().for_each(|file| file.sample());
                }
            };
            // Without a thread to spare the peak is what is seen at the end.
            let _ = std::thread::Builder::new().spawn_scoped(scope, sample);
            let result = work();
            drop(done);
            result
        })
    }

    /// How it went, of the source and of the destination.
    pub fn courses(&self) -> (Option<Course>, Option<Course>) {
        (self.source.as_ref().map(Watched::course), self.destination.as_ref().map(Watched::course))
    }
}

/// One file under observation.
struct Watched {
    file: File,
    before: Option<u64>,
    peak: AtomicU64,
}

impl Watched {
    fn new(file: &File) -> std::io::Result<Self> {
        let watched = Self { file: file.try_clone()?, before: None, peak: AtomicU64::new(0) };
        let before = watched.now();
        Ok(Self { before, ..watched })
    }

    fn now(&self) -> Option<u64> {
        residency::of(&self.file).ok()?.cache.resident()
    }

    fn sample(&self) {
        self.peak.fetch_max(self.now().unwrap_or(0), Ordering::Relaxed);
    }

    fn course(&self) -> Course {
        self.sample();
        let after = self.now();
        let peak = after.map(|after| after.max(self.peak.load(Ordering::Relaxed)));
        Course { before: self.before, peak, after }
    }
}
