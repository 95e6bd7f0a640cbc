//! What is under the destination's name, so that a copy that ends early can clean up and say so.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{plain, quoted};
use crate::sys::ChildGroup;

/// How long a command has to end after a signal, before SIGKILL.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Shared by the copy and by any thread that may end it early, such as the one that watches for signals.
#[derive(Default)]
pub struct Cleanup {
    state: Mutex<State>,
    /// The command whose output is copied.
    command: Mutex<Option<Arc<ChildGroup>>>,
    exit_claimed: AtomicBool,
}

/// Ends a temporary file that can be kept. With true it keeps the file if that is wanted and worthwhile, and returns a
/// message about it; otherwise it removes the file.
pub(crate) type Keep = Box<dyn Fn(bool) -> io::Result<Option<String>> + Send>;

/// How to remove a file that is being built.
#[derive(Default)]
pub(crate) struct Temporary {
    /// Its hidden name. None if it has no name at all.
    pub path: Option<PathBuf>,
    /// For a file that can be kept.
    pub keep: Option<Keep>,
}

impl Temporary {
    fn end(&self, keep: bool) -> io::Result<Option<String>> {
        match (&self.keep, &self.path) {
            (Some(end), _) => end(keep),
            (None, Some(path)) => std::fs::remove_file(path).map(|()| None),
            (None, None) => Ok(None),
        }
    }
}

#[derive(Default)]
enum State {
    /// Nothing has been touched.
    #[default]
    Untouched,
    /// The new content is being written to a file without the final name.
    Building { name: PathBuf, existed: bool, temporary: Temporary },
    /// The destination's own bytes are being overwritten.
    Overwriting {
        name: PathBuf,
        /// None for a device.
        file: Option<File>,
        /// Space past the end of `file` may have been reserved.
        reserved: bool,
        /// A write has begun.
        touched: bool,
    },
    /// Many files are copied. Returns a message about what was done.
    CopyingTree { end: Box<dyn Fn() -> String + Send> },
    /// The new content has the final name.
    Published { name: PathBuf },
    /// The copy ended early; nothing may be published any more.
    Abandoned { message: Option<String> },
}

impl Cleanup {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `create` to make the file in which new content for `name` is built. The copy cannot be abandoned while `create`
    /// runs, so the file cannot be left behind. Fails if the copy was abandoned before.
    pub(crate) fn build<T>(
        &self,
        name: &Path,
        existed: bool,
        create: impl FnOnce() -> io::Result<(T, Temporary)>,
    ) -> io::Result<T> {
        let mut state = self.lock();
        if matches!(*state, State::Abandoned { .. }) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (file, temporary) = create()?;
        *state = State::Building { name: name.into(), existed, temporary };
        Ok(file)
    }

    /// Calls `spawn` to start the command whose output is copied. Fails if the copy was abandoned before, so no command
    /// starts after a signal.
    pub(crate) fn start_command(
        &self,
        spawn: impl FnOnce() -> io::Result<Arc<ChildGroup>>,
    ) -> io::Result<Arc<ChildGroup>> {
        // Not under the lock: starting a command from a filesystem that hangs must not delay a signal.
        let child = if self.is_abandoned() { Err(io::ErrorKind::Interrupted.into()) } else { spawn() }?;
        *self.command() = Some(child.clone());
        if self.is_abandoned() {
            child.end(libc::SIGTERM, END_TIMEOUT);
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(child)
    }

    fn command(&self) -> MutexGuard<'_, Option<Arc<ChildGroup>>> {
        self.command.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `signal` to the command whose output is copied, if there is one.
    pub fn signal_command(&self, signal: libc::c_int) {
        self.command().iter().for_each(|child| child.signal(signal));
    }

    /// Ends the command whose output is copied, if there is one: by `signal`, and a second later by SIGKILL.
    pub fn end_command(&self, signal: libc::c_int) {
        let child = self.command().clone();
        child.iter().filter(|child| !child.is_finished()).for_each(|child| child.end(signal, END_TIMEOUT));
    }

    /// Many files are going to be copied. `end` is called if that ends early: it removes what is unfinished, and returns a
    /// message about what was done.
    pub(crate) fn begin_tree(&self, end: Box<dyn Fn() -> String + Send>) {
        *self.lock() = State::CopyingTree { end };
    }

    /// True if the copy was ended early.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(*self.lock(), State::Abandoned { .. })
    }

    /// The own bytes of `name` are going to be overwritten. `file` is None for a device.
    pub(crate) fn overwrite(&self, name: &Path, file: Option<File>) {
        let mut state = self.lock();
        // A copy that starts over may have written before.
        let touched = matches!(*state, State::Overwriting { touched: true, .. });
        *state = State::Overwriting { name: name.into(), file, reserved: false, touched };
    }

    /// Space past the end of the file that is overwritten is going to be reserved.
    pub(crate) fn reserving(&self) {
        if let State::Overwriting { reserved, .. } = &mut *self.lock() {
            *reserved = true;
        }
    }

    /// The first write to the file that is overwritten is going to begin.
    pub(crate) fn touch(&self) {
        if let State::Overwriting { touched, .. } = &mut *self.lock() {
            *touched = true;
        }
    }

    /// Claims the right to end the program: true for the first caller only. Either a signal or the ordinary end reports the
    /// outcome, not both.
    pub fn claim_exit(&self) -> bool {
        !self.exit_claimed.swap(true, Ordering::AcqRel)
    }

    /// Calls `publish` to give the new content its name. Fails if the copy was abandoned.
    pub(crate) fn publish(&self, publish: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        let State::Building { name, .. } = &*state else { return Err(io::ErrorKind::Interrupted.into()) };
        let name = name.clone();
        publish()?;
        *state = State::Published { name };
        Ok(())
    }

    /// Undoes what was begun, so that the copy can start over. False: the copy was abandoned, or what was written cannot be
    /// undone.
    pub(crate) fn roll_back(&self) -> bool {
        let mut state = self.lock();
        match &*state {
            State::Building { temporary, .. } => {
                if temporary.end(false).is_err() {
                    return false; // the file is left behind; `abandon` says so
                }
                *state = State::Untouched;
                true
            }
            // A device is overwritten from the start. A file could keep bytes past a shorter new end.
            State::Overwriting { file: None, .. } => true,
            _ => false,
        }
    }

    /// Ends the copy early: removes the temporary file or, for --resume, keeps it, and prevents any later publication.
    /// Returns a message about what is left; every call returns the same.
    pub fn abandon(&self) -> Option<String> {
        self.end(true)
    }

    /// Like [`Cleanup::abandon`], but keeps nothing, because what was copied is wrong.
    pub(crate) fn discard(&self) -> Option<String> {
        self.end(false)
    }

    fn end(&self, keep: bool) -> Option<String> {
        let mut state = self.lock();
        let message = match &*state {
            State::Untouched => None,
            State::Building { name, existed, temporary } => Some(end_building(name, *existed, temporary, keep)),
            State::Overwriting { name, file, reserved, touched } => {
                Some(end_overwriting(name, file.as_ref().filter(|_| *reserved), *touched))
            }
            State::CopyingTree { end } => Some(end()),
            State::Published { name } => {
                Some(format!("{} is complete, but a power failure may still undo the copy", quoted(name)))
            }
            State::Abandoned { message } => message.clone(),
        };
        *state = State::Abandoned { message: message.clone() };
        message
    }
}

fn end_building(name: &Path, existed: bool, temporary: &Temporary, keep: bool) -> String {
    let unchanged = if existed { "is as it was" } else { "was not created" };
    let message = format!("{} {unchanged}", quoted(name));
    match temporary.end(keep) {
        Ok(Some(kept)) => format!("{message}; {kept}"),
        Ok(None) => message,
        Err(e) => {
            let path = temporary.path.as_deref().map_or("a hidden file".to_string(), quoted);
            format!("{message}; {path} is left behind and can be deleted ({})", plain(&e))
        }
    }
}

/// `reserved`: the file, if space past its end was reserved.
fn end_overwriting(name: &Path, reserved: Option<&File>, touched: bool) -> String {
    let state = if touched { "may be partly overwritten" } else { "is as it was" };
    let message = format!("{} {state}", quoted(name));
    // Setting a file to the length it already has frees the space past its end.
    match reserved.map(|file| file.metadata().and_then(|metadata| file.set_len(metadata.len()))) {
        Some(Err(e)) => format!("{message}; space reserved past its end could not be freed ({})", plain(&e)),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_published_after_the_copy_was_abandoned() -> io::Result<()> {
        let cleanup = Cleanup::default();
        cleanup.build(Path::new("x"), true, || Ok(((), Temporary::default())))?;
        assert_eq!(cleanup.abandon().as_deref(), Some("'x' is as it was"));
        let mut ran = false;
        let publish = || {
            ran = true;
            Ok(())
        };
        assert!(cleanup.publish(publish).is_err());
        assert!(!ran);
        assert_eq!(cleanup.abandon().as_deref(), Some("'x' is as it was"));
        Ok(())
    }
}
