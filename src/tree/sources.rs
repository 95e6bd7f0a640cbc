//! The sources that the user named: files, directories and URLs.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};

use rustix::fs::FileType;

use super::entry::{Item, Names};
use super::place::{Place, names_a_directory, parent_of};
use super::tally::add;
use super::targets::TargetDirectory;
use super::{SingleFileObserver, Tree};
use crate::cleanup::Cleanup;
use crate::error::{Error, Result, quoted};
use crate::event::Event;
use crate::job::{Endpoint, Job, TreeJob};
use crate::sys::Directory;

/// What the command line has named so far.
#[derive(Default)]
pub struct Named {
    /// Device and inode numbers of the sources, and the names of their copies.
    sources: HashSet<((u64, u64), OsString)>,
    /// The names that files got in the destination.
    files: HashSet<OsString>,
}

/// True if two sources may have the same name: they are merged, and what comes later wins, as with cp.
pub fn are_merged(job: &TreeJob, place: &Place) -> bool {
    let mut names = HashSet::new();
    let paths = job.sources.iter().filter_map(|source| match source {
        Endpoint::Path(path) => Some(path),
        _ => None,
    });
    let mut names_of_copies = paths.map(|path| place.for_source(path).1);
    let same = names_of_copies.any(|name| name == OsStr::new(".") || !names.insert(name));
    same && job.sources.len() > 1
}

impl Tree<'_> {
    /// Downloads a URL into the destination.
    pub fn copy_url(&self, source: &Endpoint) -> Result<()> {
        let destination = Endpoint::Path(self.job.destination.clone());
        let job = Job { source: source.clone(), destination, ..self.job.file.clone() };
        // Its own: a download that fails must not end the copy of the other sources.
        let cleanup = Arc::new(Cleanup::default());
        *self.download.lock().unwrap_or_else(PoisonError::into_inner) = Some(cleanup.clone());
        if self.cleanup.is_abandoned() {
            return Ok(()); // a signal came before it could know of the download
        }
        let report = crate::copy(&job, &SingleFileObserver(self.observer), &cleanup)?;
        add(&self.tally.found, 1);
        self.observer.event(Event::FileFound);
        self.count_done(report.bytes);
        self.tally.transferred(report.source.traffic, report.destination.written.traffic);
        if let Some(digest) = &report.digest {
            self.observer.event(Event::Digest(&report.destination.name, &digest.bytes));
        }
        report.notes.iter().for_each(|note| self.observer.event(Event::Notice(note)));
        Ok(())
    }

    /// Copies one of the sources that the user named.
    pub fn copy_source(&self, source: &Path, place: &Place, queue: &SyncSender<Item>, named: &mut Named) -> Result<()> {
        let opening = |e| Error::io("opening", source, e);
        let follow = names_a_directory(source) || !self.job.recursive;
        let metadata = if follow { std::fs::metadata(source) } else { std::fs::symlink_metadata(source) };
        let metadata = metadata.map_err(opening)?;
        let id = (metadata.dev(), metadata.ino());
        let (target, target_name) = place.for_source(source);
        if !named.sources.insert((id, target_name.clone())) && !matches!(place, Place::As(..)) {
            let note = format!("{} was named more than once; it is copied once", quoted(source));
            self.observer.event(Event::Notice(&note));
            return Ok(());
        }
        if metadata.is_dir() {
            if !self.job.recursive {
                let why = "it is a directory";
                return Err(Error::failed("opening", source, why).hint("use -r, or -a to keep all attributes"));
            }
            return self.copy_directory(source, metadata, &target, &target_name, queue);
        }
        let kind = FileType::from_raw_mode(metadata.mode());
        let (target, target_name) = if kind == FileType::RegularFile {
            place.for_file(source, self.job, &self.directories)?
        } else {
            (target, target_name)
        };
        self.refuse_same_file(source, id, &target, &target_name)?;
        if !named.files.insert(target_name.clone()) && !self.job.file.no_clobber {
            let path = quoted(&target.directory.path_of(&target_name));
            return Err(Error::failed("copying", source, format!("{path} is already the copy of another source")));
        }
        if follow && kind != FileType::RegularFile && !self.job.recursive {
            let why = "it is neither a file nor a directory";
            return Err(Error::failed("opening", source, why).hint("copy it by itself, or with -r"));
        }
        // A link that the user named is followed.
        let followed = follow && kind == FileType::RegularFile;
        let opened = followed.then(|| std::fs::File::open(source)).transpose().map_err(opening)?;
        let (parent, source_name) = parent_of(source, &self.directories)?;
        self.queue(queue, Item { names: Names { source: parent, source_name, target, target_name }, kind, opened });
        Ok(())
    }

    fn copy_directory(
        &self,
        source: &Path,
        metadata: Metadata,
        parent: &Arc<TargetDirectory>,
        name: &OsStr,
        queue: &SyncSender<Item>,
    ) -> Result<()> {
        let root = Directory::open(source).and_then(|handle| self.directories.root(handle, source));
        let root = root.map_err(|e| Error::io("opening", source, e))?;
        let source_id = root.id();
        let target = if name == OsStr::new(".") {
            // Its entries go into the directory itself.
            let directory = parent.directory.clone();
            TargetDirectory::new(directory, Some(parent), false, Some((root.clone(), metadata)))
        } else {
            self.make_directory(root.clone(), metadata, parent, name)?
        };
        let id = target.directory.id();
        if id == source_id {
            self.leave(&target);
            let why = "source and destination are the same directory";
            return Err(Error::failed("copying", source, why));
        }
        self.target_roots.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.walk(root, target, queue);
        Ok(())
    }

    fn refuse_same_file(&self, source: &Path, id: (u64, u64), target: &TargetDirectory, name: &OsStr) -> Result<()> {
        let existing = target.directory.open().and_then(|directory| directory.stat_entry(name));
        let existing = existing.map_err(|e| Error::io("opening", &target.directory.path_of(name), e))?;
        if existing.is_some_and(|stat| (stat.st_dev, stat.st_ino) == id) {
            return Err(Error::failed("copying", source, "source and destination are the same file"));
        }
        Ok(())
    }
}
