//! Many files: whole trees, or several files into a directory.
//!
//! ```text
//! place         which name each source gets, by cp's rules
//! walk          directories: read in the source, made in the destination, completed last
//! files         one entry: cloned, or read and written, with its attributes
//! cache         --check-cache over all files
//! batch         up to 4096 files become durable together, and then get their names
//! links         files with several names
//! tally         what was done so far
//! directories   the open directories of both trees
//! ```
//!
//! One thread walks, and [`WORKERS`] threads copy the entries that it finds. Small files are copied many at a time; a large
//! one is copied by [`copy`](mod@crate::copy) like a single file. Both trees are only reached by way of open directories, one
//! path component at a time and never through a symbolic link, so that a user who changes them during the copy cannot redirect
//! it.

mod batch;
mod cache;
mod content;
mod directories;
mod files;
mod links;
mod place;
mod report;
mod sources;
mod special;
mod tally;
mod walk;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::check::checksum_list::ChecksumList;
use crate::cleanup::Cleanup;
use crate::direct::AlignedBuffer;
use crate::error::{Error, Result};
use crate::event::{Confirmation, Event, Observer};
use crate::job::{Checksum, Endpoint, TreeJob};
use crate::pace::Pace;
use crate::sys;
use batch::Batch;
use cache::CacheCount;
use content::BUFFER_SIZE;
use files::{Item, Outcome};
use links::Links;
use place::Place;
use sources::Named;
use tally::{Tally, get};

pub use cache::PagesLeft;
pub use report::TreeReport;
pub use tally::FailedFile;

/// Threads that copy files.
const WORKERS: usize = 4;
/// How many files the walk may be ahead of the workers.
const QUEUE: usize = 1024;

/// Everything that the threads share.
struct Tree<'a> {
    job: &'a TreeJob,
    observer: &'a dyn Observer,
    cleanup: &'a Cleanup,
    pace: Arc<Pace>,
    /// --rate-limit or --idle is given.
    paced: bool,
    exclude: Gitignore,
    checksum_list: Option<ChecksumList>,
    tally: Arc<Tally>,
    cache: CacheCount,
    links: Links,
    batch: Batch,
    /// One large file at a time.
    large: Mutex<()>,
    /// Files can be created without a name, and get one by linkat(2).
    can_be_unnamed: bool,
    clone_refused: AtomicBool,
    source_not_direct: AtomicBool,
    /// Device and inode number of the directory that a tree is copied to, so that the walk does not copy the copy.
    target_roots: Mutex<Vec<(u64, u64)>>,
    skipped: AtomicU64,
}

/// Copies files and trees as `job` says. A file that cannot be copied does not end the copy: it is reported to `observer`
/// and in the report. Fails only if nothing can be copied.
pub fn copy_tree(job: &TreeJob, observer: &dyn Observer, cleanup: &Cleanup) -> Result<TreeReport> {
    let started = Instant::now();
    let place = Place::of(job)?;
    let tree = Tree::new(job, observer, cleanup)?;
    tree.begin();
    tree.pace.watch(&[place.directory().handle.file()]);
    observer.event(Event::Start(None));
    let (queue, items) = sync_channel(QUEUE);
    let items = Mutex::new(items);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| tree.work(&items));
        }
        let mut named = Named::default();
        for source in &job.sources {
            let result = match source {
                Endpoint::Path(path) => tree.copy_source(path, &place, &queue, &mut named),
                other => tree.copy_url(other),
            };
            if let Err(error) = result {
                tally::add(&tree.tally.found, 1);
                tree.report_failure(source.name(), &error);
            }
        }
        drop(queue);
    });
    tree.publish_rest();
    let directory = place.directory().clone();
    tree.leave(directory.clone());
    // The names, and the attributes of directories.
    tree.sync(std::iter::once(&directory))
        .map_err(|(directory, e)| Error::io("syncing the filesystem of", &directory.location.path(), e))?;
    Ok(tree.report(started))
}

impl<'a> Tree<'a> {
    fn new(job: &'a TreeJob, observer: &'a dyn Observer, cleanup: &'a Cleanup) -> Result<Self> {
        let mut exclude = GitignoreBuilder::new("");
        for glob in &job.exclude {
            exclude.add_line(None, glob).map_err(|e| Error::usage(format!("--exclude {glob}: {e}")))?;
        }
        let list = job.file.checksum.as_ref().and_then(|checksum| Some((checksum.list.as_ref()?, checksum.algorithm)));
        Ok(Self {
            job,
            observer,
            cleanup,
            pace: Arc::new(Pace::new(job.file.rate_limit, job.file.idle)),
            paced: job.file.rate_limit.is_some() || job.file.idle,
            exclude: exclude.build().map_err(|e| Error::usage(format!("--exclude: {e}")))?,
            checksum_list: list.map(|(list, algorithm)| ChecksumList::read(list, algorithm)).transpose()?,
            tally: Arc::default(),
            cache: CacheCount::new(job.file.check_cache),
            links: Links::default(),
            batch: Batch::new(sys::use_all_file_descriptors()),
            large: Mutex::default(),
            can_be_unnamed: sys::can_link_unnamed() && Path::new("/proc/self/fd").exists(),
            clone_refused: AtomicBool::new(false),
            source_not_direct: AtomicBool::new(false),
            target_roots: Mutex::default(),
            skipped: AtomicU64::new(0),
        })
    }

    /// From now on, a signal that ends the copy reports how far the copy got.
    fn begin(&self) {
        let (tally, destination) = (self.tally.clone(), self.job.destination.clone());
        let end =
            move || batch::interrupted(get(&tally.files) + get(&tally.unchanged), get(&tally.found), &destination);
        self.cleanup.begin_tree(Box::new(end));
    }

    /// True for the directory that a tree is being copied to.
    fn is_target_root(&self, metadata: &std::fs::Metadata) -> bool {
        let roots = self.target_roots.lock().unwrap_or_else(PoisonError::into_inner);
        roots.contains(&(metadata.dev(), metadata.ino()))
    }

    /// The loop of one worker.
    fn work(&self, items: &Mutex<Receiver<Item>>) {
        let buffer = AlignedBuffer::new(BUFFER_SIZE);
        let Ok(mut buffer) = buffer.map_err(|e| {
            self.report_failure(
                self.job.destination.clone(),
                &Error::io("allocating a buffer for", Path::new("the copy"), e),
            );
        }) else {
            return;
        };
        loop {
            let item = items.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(mut item) = item else { return };
            if self.cleanup.is_abandoned() {
                return;
            }
            match self.copy_entry(&mut item, &mut buffer) {
                Ok(Outcome::Complete(file)) => self.publish_later(*file),
                Ok(Outcome::Waits) => {} // its directory is left when it is linked
                Ok(Outcome::Done) => self.leave(item.target),
                Ok(Outcome::Skipped) => {
                    tally::add(&self.skipped, 1);
                    self.leave(item.target);
                }
                Err(error) => {
                    self.report_failure(item.source.location.path_of(&item.name), &error);
                    self.leave(item.target);
                }
            }
        }
    }

    /// Reports a file that was not copied.
    fn report_failure(&self, path: PathBuf, error: &Error) {
        self.observer.event(Event::Failure(&error.to_string()));
        if let Some(hint) = &error.hint {
            self.observer.event(Event::Failure(&format!("try: {hint}")));
        }
        self.tally.failure(path, error);
    }

    /// True if the bytes of every file have to pass through the checks.
    fn checks_content(&self) -> bool {
        self.job.file.checksum.is_some() || self.job.file.verify || self.job.file.size.is_some()
    }

    /// The digest to compute of a file, and its required value.
    fn checksum_of(&self, source: &Path, target: &Path) -> Result<Option<Checksum>> {
        let Some(checksum) = &self.job.file.checksum else { return Ok(None) };
        let Some(list) = &self.checksum_list else { return Ok(Some(checksum.clone())) };
        let required =
            list.look_up(&[target, source], checksum.algorithm).map_err(|why| Error::content(source, why))?;
        Ok(Some(Checksum { algorithm: Some(required.algorithm), expected: Some(required.bytes), list: None }))
    }
}

/// Passes on what a single file reports, except its start and its phases: the tree has its own.
struct LargeFileObserver<'a>(&'a dyn Observer);

impl Observer for LargeFileObserver<'_> {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Copied(_) | Event::Notice(_)) {
            self.0.event(event);
        }
    }

    fn confirm(&self, question: &str) -> Confirmation {
        self.0.confirm(question)
    }
}
