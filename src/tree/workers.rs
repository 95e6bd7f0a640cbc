//! The threads that copy what the walk finds.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};

use rustix::fs::FileType;

use super::entry::Item;
use super::tally::add;
use super::{Outcome, Tree};
use crate::direct::AlignedBuffer;
use crate::error::{Error, Result, quoted};
use crate::event::Event;

/// A worker takes up to this many items at once: waking up a thread for each costs more than copying a small file.
const MAX_TAKEN: usize = 16;

/// Waits for an item, and takes those that follow it already. Returns none after the last one.
fn take(items: &Receiver<Item>) -> Vec<Item> {
    let mut taken = Vec::with_capacity(MAX_TAKEN);
    taken.extend(items.recv());
    taken.extend(items.try_iter().take(MAX_TAKEN - 1));
    taken
}

impl Tree<'_> {
    /// The loop of one worker. With `stops_when_cloning`, it ends once files are cloned: clones read no data, and with more
    /// threads than processors, they only wait for each other's locks in the kernel.
    pub fn work(&self, stops_when_cloning: bool, items: &Mutex<Receiver<Item>>, mut buffer: AlignedBuffer) {
        while !(stops_when_cloning && self.cloned.is_set()) {
            let taken = take(&items.lock().unwrap_or_else(PoisonError::into_inner));
            if taken.is_empty() {
                return;
            }
            for item in taken {
                if self.cleanup.is_abandoned() {
                    return;
                }
                self.copy_item(item, &mut buffer);
            }
        }
    }

    fn copy_item(&self, item: Item, buffer: &mut AlignedBuffer) {
        match self.copy_entry(&item, buffer) {
            Ok(Outcome::Complete(file)) => {
                drop(item); // its open file
                self.publish_later(*file);
            }
            Ok(Outcome::Waits) => {} // its directory is left when it is named
            Ok(Outcome::Done) => self.leave(&item.names.target),
            Ok(Outcome::Skipped) => {
                add(&self.skipped, 1);
                self.leave(&item.names.target);
            }
            Err(error) => {
                self.report_failure(item.names.source_path(), &error);
                self.leave(&item.names.target);
            }
        }
    }

    /// Copies one entry. `buffer` is the thread's own.
    fn copy_entry(&self, item: &Item, buffer: &mut AlignedBuffer) -> Result<Outcome> {
        let target = &item.names.target;
        let existing = if target.created {
            None
        } else {
            let existing = target.directory.open().and_then(|directory| directory.stat_entry(&item.names.target_name));
            existing.map_err(|e| Error::io("opening", &item.names.target_path(), e))?
        };
        if let Some(existing) = &existing {
            if FileType::from_raw_mode(existing.st_mode) == FileType::Directory {
                let why = "it is a directory, and a file cannot replace it";
                return Err(Error::failed("replacing", &item.names.target_path(), why));
            }
            if self.job.file.no_clobber {
                return Ok(Outcome::Skipped);
            }
        }
        match item.kind {
            FileType::RegularFile => self.copy_file(item, existing.as_ref(), buffer),
            FileType::Symlink | FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                self.copy_special(item, existing.as_ref())
            }
            _ => {
                let socket = quoted(&item.names.source_path());
                self.observer.event(Event::Notice(&format!("{socket} is a socket and was skipped")));
                Ok(Outcome::Skipped)
            }
        }
    }

    /// Counts a complete entry.
    pub fn count_done(&self, bytes: u64) -> Outcome {
        add(&self.tally.files, 1);
        add(&self.tally.bytes, bytes);
        self.observer.event(Event::FileDone);
        Outcome::Done
    }

    /// Reports something that was not copied, and that nothing has counted as found.
    pub fn report_uncounted_failure(&self, path: PathBuf, error: &Error) {
        add(&self.tally.found, 1);
        self.observer.event(Event::FileFound);
        self.report_failure(path, error);
    }

    /// Reports a file that was not copied.
    pub fn report_failure(&self, path: PathBuf, error: &Error) {
        self.observer.event(Event::Failure(&error.to_string()));
        self.tally.failure(path, error);
    }
}
