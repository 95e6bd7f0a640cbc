//! What stands under the destination's name, so that a sudden end can clean up and say so.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{plain, quoted};

/// Shared by the copy and by whoever may end it, such as a thread that waits for signals.
#[derive(Default)]
pub struct Cleanup(Mutex<State>, AtomicBool);

/// Ends a file that can be kept: keeps it, if that is asked for and worth it, and says so; else removes it.
pub(crate) type Keep = Box<dyn Fn(bool) -> io::Result<Option<String>> + Send>;

/// A file that is being built, apart from its content.
#[derive(Default)]
pub(crate) struct Temporary {
    /// The hidden name that it has until it is complete.
    pub path: Option<PathBuf>,
    /// For one that is more than deleted when the copy ends early.
    pub keep: Option<Keep>,
}

impl Temporary {
    /// Removes it, or keeps it and says so.
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
    /// Nothing was touched.
    #[default]
    Untouched,
    /// The new content is being built beside the name.
    Building { name: PathBuf, existed: bool, temporary: Temporary },
    /// The destination's own bytes are being overwritten. `reserved`: space behind its end may have
    /// been set aside, to be given back through `file`. `touched`: a write began.
    Overwriting { name: PathBuf, file: Option<File>, reserved: bool, touched: bool },
    /// The new content has the name.
    Published { name: PathBuf },
    /// It ended early: nothing may be published any more.
    Abandoned { left: Option<String> },
}

impl Cleanup {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on new content is being built for `name`. `create` makes the file; nobody can abandon the copy between the two.
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

    /// From now on `name`'s own bytes are to be overwritten; `file`, unless it is a device.
    pub(crate) fn overwrite(&self, name: &Path, file: Option<File>) {
        let mut state = self.lock();
        // Of a copy that begins anew, an earlier attempt may have touched it.
        let touched = matches!(*state, State::Overwriting { touched: true, .. });
        *state = State::Overwriting { name: name.into(), file, reserved: false, touched };
    }

    /// Space behind the end is being set aside for what is to be overwritten.
    pub(crate) fn reserving(&self) {
        if let State::Overwriting { reserved, .. } = &mut *self.lock() {
            *reserved = true;
        }
    }

    /// The first write to what is to be overwritten begins.
    pub(crate) fn touch(&self) {
        if let State::Overwriting { touched, .. } = &mut *self.lock() {
            *touched = true;
        }
    }

    /// Claims the right to end the program: true for the first who asks. A signal and an ordinary end
    /// must not both tell their story.
    pub fn claim(&self) -> bool {
        !self.1.swap(true, Ordering::AcqRel)
    }

    /// Gives the new content its name by `publish`, unless the copy was abandoned.
    pub(crate) fn publish(&self, publish: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        let State::Building { name, .. } = &*state else { return Err(io::ErrorKind::Interrupted.into()) };
        let name = name.clone();
        publish()?;
        *state = State::Published { name };
        Ok(())
    }

    /// Takes back what was begun, so that the copy can begin anew. False: it was ended meanwhile, or
    /// what was written cannot be taken back.
    pub(crate) fn roll_back(&self) -> bool {
        let mut state = self.lock();
        match &*state {
            State::Building { temporary, .. } => {
                if temporary.end(false).is_err() {
                    return false; // it would be left behind; ending the copy tells
                }
                *state = State::Untouched;
                true
            }
            // A device: it is written over from the start. A file could keep a longer end.
            State::Overwriting { file: None, .. } => true,
            _ => false,
        }
    }

    /// Ends the copy before its time: removes a named temporary or, for `--resume`, keeps it; lets
    /// nothing be published any more, and says what is left. The same answer however often it is asked.
    pub fn abandon(&self) -> Option<String> {
        self.end(true)
    }

    /// As [`Cleanup::abandon`], but what was copied is wrong, and not worth keeping.
    pub(crate) fn discard(&self) -> Option<String> {
        self.end(false)
    }

    fn end(&self, keep: bool) -> Option<String> {
        let mut state = self.lock();
        let left = match &*state {
            State::Untouched => None,
            State::Building { name, existed, temporary } => {
                let name = quoted(name);
                let mut left = match existed {
                    true => format!("{name} is as it was"),
                    false => format!("{name} was not created"),
                };
                match temporary.end(keep) {
                    Ok(Some(kept)) => left += &format!("; {kept}"),
                    Ok(None) => {}
                    Err(e) => {
                        let path = temporary.path.as_deref().map_or("a hidden file".to_string(), quoted);
                        left += &format!("; {path} is left behind and can be deleted ({})", plain(&e));
                    }
                }
                Some(left)
            }
            State::Overwriting { name, file, reserved, touched } => {
                let mut left = match touched {
                    true => format!("{} may be partly overwritten", quoted(name)),
                    false => format!("{} is as it was", quoted(name)),
                };
                // Setting the length that it has frees what is allocated behind it.
                let file = file.as_ref().filter(|_| *reserved);
                let given_back = file.map(|file| file.metadata().and_then(|found| file.set_len(found.len())));
                if let Some(Err(e)) = given_back {
                    left += &format!("; space behind its end could not be given back ({e})");
                }
                Some(left)
            }
            State::Published { name } => {
                Some(format!("{} is complete, but a power failure may still undo it", quoted(name)))
            }
            State::Abandoned { left } => left.clone(),
        };
        *state = State::Abandoned { left: left.clone() };
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_published_after_it_was_abandoned() -> io::Result<()> {
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
