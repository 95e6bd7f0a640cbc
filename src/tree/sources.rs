//! The sources that the user named: files, directories and URLs.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};

use rustix::fs::FileType;

use super::directories::{Location, SourceDirectory, TargetDirectory};
use super::files::Item;
use super::place::{Place, names_a_directory};
use super::walk::parent_of;
use super::{LargeFileObserver, Tree, tally};
use crate::error::{Error, Result, quoted};
use crate::event::Event;
use crate::job::{Endpoint, Job};
use crate::sys::Directory;

/// What was named so far.
#[derive(Default)]
pub struct Named {
    /// Device and inode numbers of the sources, and the names of their copies.
    sources: Vec<((u64, u64), OsString)>,
    /// Names that files got in the destination.
    files: Vec<OsString>,
}

impl Tree<'_> {
    /// Downloads a URL into the destination.
    pub fn copy_url(&self, source: &Endpoint) -> Result<()> {
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
    pub fn copy_source(&self, source: &Path, place: &Place, queue: &SyncSender<Item>, named: &mut Named) -> Result<()> {
        let (mut parent, name) = parent_of(source)?;
        let (target, target_name) = place.for_source(source);
        let follow = names_a_directory(source) || !self.job.recursive;
        let metadata = if follow { std::fs::metadata(source) } else { std::fs::symlink_metadata(source) };
        let metadata = metadata.map_err(|e| Error::io("opening", source, e))?;
        let id = (metadata.dev(), metadata.ino());
        if named.sources.contains(&(id, target_name.clone())) && !matches!(place, Place::As(..)) {
            let note = format!("{} was named more than once; it is copied once", quoted(source));
            self.observer.event(Event::Notice(&note));
            return Ok(());
        }
        named.sources.push((id, target_name.clone()));
        if metadata.is_dir() {
            if !self.job.recursive {
                let why = "it is a directory";
                return Err(Error::failed("opening", source, why).hint("use -r, or -a to keep all attributes"));
            }
            let handle = Directory::open(source).map_err(|e| Error::io("opening", source, e))?;
            let directory = SourceDirectory { handle, location: Location::root(source) };
            return self.copy_directory(Arc::new(directory), metadata, &target, &target_name, queue);
        }
        if self.is_same_file(&id, &target, &target_name)? {
            return Err(Error::failed("copying", source, "source and destination are the same file"));
        }
        if named.files.contains(&target_name) {
            let path = target.location.path_of(&target_name);
            let why = format!("{} is already the copy of another source", quoted(&path));
            return Err(Error::failed("copying", source, why));
        }
        named.files.push(target_name.clone());
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
        parent.location = Location::root(source.parent().unwrap_or(Path::new("")));
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

    fn is_same_file(&self, id: &(u64, u64), target: &TargetDirectory, name: &OsStr) -> Result<bool> {
        let path = || target.location.path_of(name);
        let existing = target.handle.stat_entry(name).map_err(|e| Error::io("opening", &path(), e))?;
        Ok(existing.is_some_and(|stat| (stat.st_dev, stat.st_ino) == *id))
    }
}
