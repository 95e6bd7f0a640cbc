//! Many files: whole trees, or several files into a directory.
//!
//! ```text
//! place         which name each source gets, by cp's rules
//! sources       what the command line names: files, directories, URLs
//! walk          directories: read in the source, made in the destination, completed last
//! workers       the threads that copy what the walk finds
//! entry         a name in the source, and the name of its copy
//! files         one file: opened, filled, given its attributes
//! content       its bytes: cloned, read whole, or copied like a single file
//! special       symbolic links, FIFOs, device nodes
//! batch         up to 4096 files become durable together, and then get their names
//! links         entries with several names
//! hidden        hidden names, where a file cannot be without a name
//! directories   the directories of both trees, open or to be opened again
//! targets       the directories of the copy, until they are complete
//! filesystem    what is known of each filesystem
//! cache         --check-cache over all files
//! tally         what was done so far
//! report        what was done in the end
//! ```
//!
//! One thread walks, and up to [`WORKERS`] threads copy the entries that it finds. Small files are copied many at a time; a large
//! one is copied by [`copy`](mod@crate::copy) like a single file. Both trees are only reached by way of open directories, one
//! path component at a time and never through a symbolic link, so that a user who changes them during the copy cannot redirect
//! it.

mod batch;
mod cache;
mod content;
mod directories;
mod entry;
mod files;
mod filesystem;
mod hidden;
mod links;
mod place;
mod report;
mod sources;
mod special;
mod tally;
mod targets;
mod walk;
mod workers;

use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Instant;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::check::checksum_list::ChecksumList;
use crate::cleanup::Cleanup;
use crate::direct::AlignedBuffer;
use crate::error::{Error, Result, plain, quoted};
use crate::event::{Confirmation, Event, Observer};
use crate::job::{Checksum, Endpoint, TreeJob};
use crate::pace::Pace;
use crate::sys;
use batch::{Batch, Unnamed};
use cache::CacheCount;
use content::BUFFER_SIZE;
use directories::OpenDirectories;
use filesystem::Flag;
use hidden::HiddenFiles;
use links::Links;
use place::Place;
use sources::{Named, are_merged};
use special::Specials;
use tally::{Tally, get};

pub use cache::PagesLeft;
pub use report::TreeReport;
pub use tally::{FailedFile, Failures};

/// Threads that copy files.
const WORKERS: usize = 4;
/// As many of them go on when files are cloned, even on one processor.
const MIN_CLONING_WORKERS: usize = 2;
/// How many files the walk may be ahead of the workers.
const QUEUE: usize = 1024;

/// Everything that the threads share.
struct Tree<'a> {
    job: &'a TreeJob,
    observer: &'a dyn Observer,
    cleanup: &'a Cleanup,
    /// The one of the current download.
    download: Arc<Mutex<Option<Arc<Cleanup>>>>,
    pace: Arc<Pace>,
    /// --rate-limit or --idle is given.
    paced: bool,
    exclude: Gitignore,
    checksum_list: Option<ChecksumList>,
    tally: Arc<Tally>,
    cache: CacheCount,
    links: Links,
    batch: Batch,
    specials: Specials,
    hidden: Arc<HiddenFiles>,
    directories: Arc<OpenDirectories>,
    workers: usize,
    /// A file was cloned.
    cloned: Flag,
    /// One large file at a time.
    large: Mutex<()>,
    /// What an open directory has can be reached by a path, through /proc.
    has_proc: bool,
    /// Files can be created without a name, and get one by linkat(2).
    can_be_unnamed: bool,
    /// Device and inode number of the directories that trees are copied to, so that the walk does not copy the copy.
    target_roots: Mutex<Vec<(u64, u64)>>,
    skipped: AtomicU64,
}

/// What became of an entry.
enum Outcome {
    /// It is complete.
    Done,
    /// There is nothing to do: -n, -u, or a socket.
    Skipped,
    /// It is complete except for its name.
    Complete(Box<Unnamed>),
    /// It is named later: with other entries, or after another name of the same file.
    Waits,
}

/// Copies files and trees as `job` says. A file that cannot be copied does not end the copy: it is reported to `observer`
/// and in the report. Fails only if nothing can be copied.
pub fn copy_tree(job: &TreeJob, observer: &dyn Observer, cleanup: &Cleanup) -> Result<TreeReport> {
    let started = Instant::now();
    let max_open_files = sys::use_all_file_descriptors();
    let directories = OpenDirectories::new(max_open_files);
    let place = Place::of(job, &directories)?;
    let tree = Tree::new(job, observer, cleanup, directories, max_open_files)?;
    tree.prepare_for_signals();
    let destination = &place.directory().directory;
    tree.pace.watch(&[destination.open().map_err(|e| Error::io("opening", &job.destination, e))?.file()]);
    observer.event(Event::Start(None));
    let mut named = Named::default();
    if are_merged(job, &place) {
        // The second source must see what the first one has become.
        job.sources.chunks(1).try_for_each(|source| tree.copy_sources(source, &place, &mut named))?;
    } else {
        tree.copy_sources(&job.sources, &place, &mut named)?;
    }
    tree.leave(place.directory());
    // The names, and the attributes of directories.
    let not_synced = tree.sync(tree.directories.filesystems_written().iter()).err().map(|e| {
        let destination = quoted(&job.destination);
        format!("syncing the filesystem of {destination}: {}; a power failure may undo the copy", plain(&e))
    });
    Ok(tree.report(started, not_synced))
}

impl<'a> Tree<'a> {
    fn new(
        job: &'a TreeJob,
        observer: &'a dyn Observer,
        cleanup: &'a Cleanup,
        directories: Arc<OpenDirectories>,
        max_open_files: u64,
    ) -> Result<Self> {
        let mut exclude = GitignoreBuilder::new("");
        for glob in &job.exclude {
            exclude.add_line(None, glob).map_err(|e| Error::usage(format!("--exclude {glob}: {e}")))?;
        }
        let has_proc = Path::new("/proc/self/fd").exists();
        let list = job.file.checksum.as_ref().and_then(|checksum| Some((checksum.list.as_ref()?, checksum.algorithm)));
        Ok(Self {
            job,
            observer,
            cleanup,
            download: Arc::default(),
            pace: Arc::new(Pace::new(job.file.rate_limit, job.file.idle)),
            paced: job.file.rate_limit.is_some() || job.file.idle,
            exclude: exclude.build().map_err(|e| Error::usage(format!("--exclude: {e}")))?,
            checksum_list: list.map(|(list, algorithm)| ChecksumList::read(list, algorithm)).transpose()?,
            tally: Arc::default(),
            cache: CacheCount::new(job.file.check_cache),
            links: Links::default(),
            batch: Batch::new(max_open_files),
            specials: Specials::new(max_open_files),
            hidden: Arc::default(),
            directories,
            workers: usize::try_from(max_open_files / 64).unwrap_or(WORKERS).clamp(1, WORKERS),
            cloned: Flag::default(),
            large: Mutex::default(),
            can_be_unnamed: has_proc && sys::can_link_unnamed(),
            has_proc,
            target_roots: Mutex::default(),
            skipped: AtomicU64::new(0),
        })
    }

    /// From now on, a signal that ends the copy removes what is unfinished and reports how far the copy got.
    fn prepare_for_signals(&self) {
        let (tally, destination) = (self.tally.clone(), self.job.destination.clone());
        let (hidden, download) = (self.hidden.clone(), self.download.clone());
        let end = move || {
            let left = hidden.end();
            let download = download.lock().unwrap_or_else(PoisonError::into_inner);
            let download = download.as_ref().and_then(|cleanup| cleanup.abandon());
            let (files, found) = (get(&tally.files) + get(&tally.unchanged), get(&tally.found));
            let mut message = format!(
                "{files} of {found} files found so far are complete in {}; repeat the command with -u to copy the rest",
                quoted(&destination)
            );
            if left > 0 {
                message += &format!("; hidden files (.*.dio-cp) that are left there and can be deleted: {left}");
            }
            download.into_iter().for_each(|download| message += &format!("; {download}"));
            message
        };
        self.cleanup.begin_tree(Box::new(end));
    }

    /// Copies some of the sources. Returns when all of their files have their names. Fails if no worker can be started.
    fn copy_sources(&self, sources: &[Endpoint], place: &Place, named: &mut Named) -> Result<()> {
        let (queue, items) = sync_channel(QUEUE);
        // The workers own it, so that the walk does not wait for workers that have ended.
        let items = Arc::new(Mutex::new(items));
        std::thread::scope(|scope| {
            let start_worker = |stops_when_cloning| {
                let (items, buffer) = (items.clone(), AlignedBuffer::new(BUFFER_SIZE)?);
                std::thread::Builder::new().spawn_scoped(scope, move || self.work(stops_when_cloning, &items, buffer))
            };
            let for_cloning = available_parallelism().map_or(1, NonZero::get).max(MIN_CLONING_WORKERS);
            start_worker(false).map_err(|e| Error::io("starting a thread to copy to", &self.job.destination, e))?;
            for number in 1..self.workers {
                if start_worker(number >= for_cloning).is_err() {
                    break; // where threads or memory are scarce, fewer workers do as well
                }
            }
            drop(items);
            for source in sources {
                let result = match source {
                    Endpoint::Path(path) => self.copy_source(path, place, &queue, named),
                    other => self.copy_url(other),
                };
                if let Err(error) = result {
                    self.report_uncounted_failure(source.name(), &error);
                }
            }
            drop(queue);
            Ok(())
        })?;
        self.publish_rest();
        self.create_specials();
        Ok(())
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
struct SingleFileObserver<'a>(&'a dyn Observer);

impl Observer for SingleFileObserver<'_> {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Copied(_) | Event::Notice(_) | Event::Detail(_)) {
            self.0.event(event);
        }
    }

    fn confirm(&self, question: &str) -> Confirmation {
        self.0.confirm(question)
    }
}
