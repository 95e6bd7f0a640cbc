//! What a copy reports to its caller while it runs. The copy knows nothing of progress bars or terminals.

use std::path::Path;

/// Something that happened during a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The copy starts, or starts over. Its length in bytes, if known.
    Start(Option<u64>),
    /// This many more bytes are at the destination, holes included.
    Copied(u64),
    /// A new phase starts.
    Phase(Phase),
    /// A choice the copy made, and why; for verbose output.
    Detail(&'a str),
    /// One more file was found, or is done, when trees are copied.
    FileFound,
    /// See [`Event::FileFound`].
    FileDone,
    /// The digest of a file of a tree, and the file's name in the destination.
    Digest(&'a Path, &'a [u8]),
    /// A file of a tree was not copied.
    Failure(&'a str),
    /// Something the user should know at once, such as a lost connection that is retried.
    Notice(&'a str),
}

/// The phases of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading what an interrupted copy left.
    Resuming,
    /// Reserving space at the destination.
    Reserving,
    /// Moving bytes.
    Copying,
    /// Waiting until the data are on the medium.
    Syncing,
    /// Reading back from the medium.
    Verifying,
}

impl Phase {
    /// The name of the phase in progress lines.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Resuming => "resuming",
            Phase::Reserving => "reserving",
            Phase::Copying => "copying",
            Phase::Syncing => "syncing",
            Phase::Verifying => "verifying",
        }
    }
}

/// The answer to [`Observer::confirm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Go ahead.
    Yes,
    /// Stop.
    No,
    /// Nobody can be asked.
    Nobody,
}

/// Receives the events of a copy. Called from several threads.
pub trait Observer: Sync {
    /// Handles an event. Called once for each block, so it must be quick.
    fn event(&self, _event: Event<'_>) {}

    /// Asks before something that cannot be undone.
    fn confirm(&self, _question: &str) -> Confirmation {
        Confirmation::Nobody
    }
}

/// An observer that ignores every event.
pub struct Silent;

impl Observer for Silent {}
