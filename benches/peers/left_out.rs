//! What this machine cannot measure.

use std::fmt;

/// The reason why a case or a command is left out of the results, such as a missing tool or permission. Any other error
/// means that the measurement failed.
#[derive(Debug)]
pub struct LeftOut(String);

impl LeftOut {
    pub fn error(reason: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self(reason.into()))
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LeftOut {}
