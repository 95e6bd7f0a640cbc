//! What a copy tells whoever watches it. The engine knows no bar and no terminal.

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The copying begins, or begins anew; its length in bytes, if that is known.
    Start(Option<u64>),
    /// So many bytes more are at the destination, holes included.
    Copied(u64),
    /// A new phase.
    Phase(Phase),
    /// What was chosen, and why.
    Detail(&'a str),
    /// What the user should know at once: a connection was lost, and is tried again.
    Notice(&'a str),
}

/// Where a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading what an earlier copy left.
    Resuming,
    /// Reserving space on the destination.
    Reserving,
    /// Bytes move.
    Copying,
    /// All bytes are there; waiting for the medium.
    Syncing,
    /// Reading back from the medium.
    Verifying,
}

impl Phase {
    /// The word for it in progress lines.
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

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Go on.
    Yes,
    /// Do not.
    No,
    /// There is nobody to ask.
    Nobody,
}

/// Whoever watches a copy. Called from several threads.
pub trait Observer: Sync {
    /// Something happened. Called once a block, so it must be quick.
    fn event(&self, _event: Event<'_>) {}

    /// Asks before something that cannot be undone.
    fn confirm(&self, _question: &str) -> Confirmation {
        Confirmation::Nobody
    }
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {}
