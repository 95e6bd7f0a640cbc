//! Files with hidden names, on filesystems that cannot create a file without a name.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directories::TreeDirectory;
use crate::destination::hidden_name;

/// The files that have hidden names now, so that a signal can remove them.
#[derive(Default)]
pub struct HiddenFiles(Mutex<State>);

#[derive(Default)]
struct State {
    files: HashMap<OsString, Arc<TreeDirectory>>,
    /// The copy has ended early, and creates no further file.
    ended: bool,
}

impl HiddenFiles {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a file with a hidden name, which is to be called `name`.
    pub fn create(&self, directory: &Arc<TreeDirectory>, name: &OsStr) -> io::Result<(File, OsString)> {
        let hidden = hidden_name(name);
        let opened = directory.open()?;
        let mut state = self.lock(); // until the file is in the list
        if state.ended {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let file = opened.create_file(&hidden)?;
        state.files.insert(hidden.clone(), directory.clone());
        Ok((file, hidden))
    }

    /// The file has its final name.
    pub fn renamed(&self, hidden: &OsStr) {
        self.lock().files.remove(hidden);
    }

    /// Removes a file that gets no other name.
    pub fn remove(&self, hidden: &OsStr) -> io::Result<()> {
        let Some(directory) = self.lock().files.remove(hidden) else { return Ok(()) };
        directory.open()?.remove_file(hidden)
    }

    /// Removes all of them, because the copy ends early. Returns the number of those that could not be removed.
    pub fn end(&self) -> usize {
        let mut state = self.lock();
        state.ended = true;
        let remove = |(name, directory): (OsString, Arc<TreeDirectory>)| match directory.open()?.remove_file(&name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()), // it has just been renamed
            other => other,
        };
        state.files.drain().map(remove).filter(io::Result::is_err).count()
    }
}
