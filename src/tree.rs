//! Many files: whole trees, or several files into a directory.
//!
//! ```text
//! place         which name each source gets, by cp's rules
//! walk          directories: read in the source, made in the destination, completed last
//! files         one entry: cloned, or read and written, with its attributes
//! batch         hundreds of files become durable together, and then get their names
//! links         files with several names
//! tally         what was done so far
//! directories   the open directories of both trees
//! ```
//!
//! One thread walks, and [`WORKERS`] threads copy the entries that it finds. Small files are copied many at a time; a large
//! one is copied by [`copy`](crate::copy) like a single file. Both trees are only reached by way of open directories, one
//! path component at a time and never through a symbolic link, so that users who change them meanwhile cannot lead the copy
//! elsewhere.

mod batch;
mod directories;
mod files;
mod links;
mod place;
mod tally;
mod walk;

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::FileType;

use crate::check::checksum_list::ChecksumList;
use crate::cleanup::Cleanup;
use crate::direct::{AlignedBuffer, Traffic};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::event::{Confirmation, Event, Observer};
use crate::job::{Checksum, Endpoint, Job, TreeJob};
use crate::pace::Pace;
use crate::sys;
use batch::Batch;
use directories::{SourceDirectory, TargetDirectory};
use files::{BUFFER_SIZE, Item, Outcome};
use links::Links;
use place::Place;
use tally::{Tally, get};

pub use tally::FailedFile;

/// Threads that copy files.
const WORKERS: usize = 4;
/// Files that the walk may be ahead.
const QUEUE: usize = 1024;

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
    /// The first of these.
    pub failures: Vec<FailedFile>,
    /// Bytes read, by how they were read.
    pub read: Traffic,
    /// Bytes written, by how they were written.
    pub written: Traffic,
    /// From the start until everything was on the medium.
    pub elapsed: Duration,
    /// What the user should know.
    pub notes: Vec<String>,
    /// The kind of the failures: Content if the content of all of them was not as required.
    failure_kind: ErrorKind,
}

impl TreeReport {
    /// Fails if a file was not copied.
    pub fn require_complete(&self) -> Result<()> {
        if self.failed == 0 {
            return Ok(());
        }
        let verb = if self.failed == 1 { "was" } else { "were" };
        let mut error = Error::summary(format!("{} of {} files {verb} not copied", self.failed, self.found));
        error.kind = self.failure_kind;
        Err(error)
    }
}

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
        let mut named = Vec::new();
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

    /// Says from now on, if a signal ends the copy, how far it came.
    fn begin(&self) {
        let (tally, destination) = (self.tally.clone(), self.job.destination.clone());
        let end =
            move || batch::interrupted(get(&tally.files) + get(&tally.unchanged), get(&tally.found), &destination);
        self.cleanup.begin_tree(Box::new(end));
    }

    /// Downloads a URL into the destination.
    fn copy_url(&self, source: &Endpoint) -> Result<()> {
        let destination = Endpoint::Path(self.job.destination.clone());
        let job = Job { source: source.clone(), destination, ..self.job.file.clone() };
        tally::add(&self.tally.found, 1);
        let result = crate::copy(&job, &LargeFileObserver(self.observer), self.cleanup);
        if self.cleanup.is_abandoned() {
            // After an error, nothing could be published any more.
            self.cleanup.start_over();
        }
        self.begin();
        let report = result.inspect_err(|_| {
            self.tally.found.fetch_sub(1, Ordering::Relaxed);
        })?;
        tally::add(&self.tally.files, 1);
        tally::add(&self.tally.bytes, report.bytes);
        self.tally.transferred(report.source.traffic, report.destination.written.traffic);
        if let Some(digest) = &report.digest {
            self.observer.event(Event::Digest(&report.destination.name, &digest.bytes));
        }
        report.notes.iter().for_each(|note| self.observer.event(Event::Notice(note)));
        Ok(())
    }

    /// Copies one of the sources that the user named.
    fn copy_source(
        &self,
        source: &Path,
        place: &Place,
        queue: &SyncSender<Item>,
        named: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let (mut parent, name) = walk::parent_of(source)?;
        let (target, target_name) = place.for_source(source);
        let follow = place::names_a_directory(source) || !self.job.recursive;
        let metadata = if follow { std::fs::metadata(source) } else { std::fs::symlink_metadata(source) };
        let metadata = metadata.map_err(|e| Error::io("opening", source, e))?;
        let id = (metadata.dev(), metadata.ino());
        if named.contains(&id) && !matches!(place, Place::As(..)) {
            let note = format!("{} was named more than once; it is copied once", quoted(source));
            self.observer.event(Event::Notice(&note));
            return Ok(());
        }
        named.push(id);
        if metadata.is_dir() {
            if !self.job.recursive {
                let why = "it is a directory";
                return Err(Error::failed("opening", source, why).hint("use -r, or -a to keep all attributes"));
            }
            let handle = sys::Directory::open(source).map_err(|e| Error::io("opening", source, e))?;
            let directory = SourceDirectory { handle, location: directories::Location::root(source) };
            return self.copy_directory(Arc::new(directory), metadata, &target, &target_name, queue);
        }
        if self.is_same_file(&id, &target, &target_name)? {
            return Err(Error::failed("copying", source, "source and destination are the same file"));
        }
        let kind = FileType::from_raw_mode(metadata.mode());
        if follow && kind != FileType::RegularFile && !self.job.recursive {
            let why = "it is neither a file nor a directory";
            return Err(Error::failed("opening", source, why).hint("copy it by itself, or with -r"));
        }
        let opened = if follow && kind == FileType::RegularFile {
            Some(std::fs::File::open(source).map_err(|e| Error::io("opening", source, e))?)
        } else {
            None
        };
        tally::add(&self.tally.found, 1);
        self.observer.event(Event::FileFound);
        target.expect_one_more();
        // The path in messages is the one that the user gave.
        parent.location = directories::Location::root(source.parent().unwrap_or(Path::new("")));
        let item = Item { source: Arc::new(parent), name, target, target_name, kind, opened };
        if let Err(refused) = queue.send(item) {
            self.leave(refused.0.target);
        }
        Ok(())
    }

    fn copy_directory(
        &self,
        source: Arc<SourceDirectory>,
        metadata: std::fs::Metadata,
        parent: &Arc<TargetDirectory>,
        name: &OsStr,
        queue: &SyncSender<Item>,
    ) -> Result<()> {
        let (source, target) = if name == OsStr::new(".") {
            // Its entries go into the directory itself.
            let handle = parent.handle.open_self().map_err(|e| Error::io("opening", &parent.location.path(), e))?;
            let original = Some((source.clone(), metadata.clone()));
            (source, TargetDirectory::new(handle, parent.location.clone(), Some(parent), false, original))
        } else {
            self.make_directory(source, metadata.clone(), parent, name)?
        };
        let root = target.handle.file().metadata();
        let root = root.map_err(|e| Error::io("opening", &target.location.path(), e))?;
        let id = (root.dev(), root.ino());
        if id == (metadata.dev(), metadata.ino()) {
            self.leave(target.clone());
            return Err(Error::failed(
                "copying",
                &target.location.path(),
                "source and destination are the same directory",
            ));
        }
        self.target_roots.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.walk(source, target, queue);
        Ok(())
    }

    /// True for the directory that a tree is being copied to.
    fn is_target_root(&self, metadata: &std::fs::Metadata) -> bool {
        let roots = self.target_roots.lock().unwrap_or_else(PoisonError::into_inner);
        roots.contains(&(metadata.dev(), metadata.ino()))
    }

    fn is_same_file(&self, id: &(u64, u64), target: &TargetDirectory, name: &OsStr) -> Result<bool> {
        let path = || target.location.path_of(name);
        let existing = target.handle.stat_entry(name).map_err(|e| Error::io("opening", &path(), e))?;
        Ok(existing.is_some_and(|stat| (stat.st_dev, stat.st_ino) == *id))
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

    fn report(&self, started: Instant) -> TreeReport {
        let (read, written) = self.tally.traffic();
        let mut notes = self.tally.notes();
        let cloned = get(&self.tally.cloned);
        if cloned > 0 {
            notes.push(format!("cloned: {cloned} bytes share the blocks of their sources"));
        }
        let all_content = get(&self.tally.failed_otherwise) == 0;
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
            elapsed: started.elapsed(),
            notes,
            failure_kind: if all_content { ErrorKind::Content } else { ErrorKind::Failed },
        }
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
