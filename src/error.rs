//! Errors: what the program was doing, to what, where, why it failed, and what the user can do.

use std::fmt;
use std::io;
use std::path::Path;

use crate::direct::{EarlierFailure, Refused};

/// The kind of a failure. It decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The copy failed: an I/O error, no space, the source changed. Exit status 1.
    Failed,
    /// The arguments are invalid. Exit status 2.
    Usage,
    /// The content is not what was required. Exit status 3.
    Content,
    /// Direct I/O was required, and refused. Exit status 4.
    Refused,
    /// The command of --from-command failed, or could not be started. Exit status 6.
    Command,
    /// Pages were left in the page cache, or the kernel does not report them. Exit status 5.
    Cache,
    /// The output no longer has a reader. The program is terminated by SIGPIPE without a message.
    BrokenPipe,
}

/// A failed copy. [`fmt::Display`] gives one line, without the program's name.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit status.
    pub kind: ErrorKind,
    /// The operation and its object: `writing 'out.iso'`.
    operation: String,
    offset: Option<u64>,
    reason: String,
    /// It follows from an earlier failure, which is the one to report.
    pub(crate) secondary: bool,
    /// The copy may start over from its first byte.
    pub(crate) restartable: bool,
    /// The bytes copied are wrong, so --resume must not keep them.
    pub(crate) corrupt: bool,
    /// What the user can try, if anything.
    pub hint: Option<String>,
    /// What is now under the destination's name, and what is left behind.
    pub destination_state: Option<String>,
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(kind: ErrorKind, operation: String, reason: impl Into<String>) -> Self {
        Self {
            kind,
            operation,
            offset: None,
            reason: reason.into(),
            secondary: false,
            restartable: false,
            corrupt: false,
            hint: None,
            destination_state: None,
        }
    }

    /// A system call failed during `operation` ("writing") on `path`.
    pub fn io(operation: &str, path: &Path, source: io::Error) -> Self {
        let refused = source.get_ref().is_some_and(|inner| inner.is::<Refused>());
        let kind = if refused { ErrorKind::Refused } else { ErrorKind::Failed };
        let mut error = Self::new(kind, format!("{operation} {}", quoted(path)), plain(&source));
        error.secondary = source.get_ref().is_some_and(|inner| inner.is::<EarlierFailure>());
        error.hint = if refused {
            Some(
                "leave out --direct always: dio-cp then copies without direct I/O and keeps the page cache clean"
                    .into(),
            )
        } else {
            hint(&source)
        };
        error
    }

    /// An error about several failures that were reported one by one, or about no file in particular.
    pub fn summary(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, String::new(), reason)
    }

    /// dio-cp itself rejects `path`, or cannot continue with it.
    pub fn failed(operation: &str, path: &Path, reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, format!("{operation} {}", quoted(path)), reason)
    }

    /// The arguments are invalid; `reason` says what is valid.
    pub fn usage(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, String::new(), reason)
    }

    /// The content of `path` is not what was required.
    pub fn content(path: &Path, reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Content, format!("checking {}", quoted(path)), reason)
    }

    /// Like [`Error::content`], but about bytes already copied, which --resume must not keep.
    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self { corrupt: true, ..Self::content(path, reason) }
    }

    /// Direct I/O is required for `path`, and not available.
    pub fn refused(path: &Path, reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, format!("opening {}", quoted(path)), reason)
    }

    /// The copy is done, but it left pages of `path` in the page cache.
    pub fn cache(path: &Path, reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cache, format!("checking the cache of {}", quoted(path)), reason)
    }

    /// The command whose output is copied failed.
    pub fn command(program: &Path, reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Command, format!("running {}", quoted(program)), reason)
    }

    /// `path` no longer has a reader.
    pub fn broken_pipe(path: &Path) -> Self {
        Self::new(ErrorKind::BrokenPipe, format!("writing {}", quoted(path)), "nobody reads it")
    }

    /// Adds the byte offset of the failure.
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Marks the copy as one that may start over.
    #[cfg(feature = "url")]
    pub(crate) fn restartable(mut self) -> Self {
        self.restartable = true;
        self
    }

    /// Sets what the user can try, replacing the suggestion for the system's error.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The program's exit status; None if it should end by SIGPIPE.
    pub fn exit_status(&self) -> Option<u8> {
        match self.kind {
            ErrorKind::Failed => Some(1),
            ErrorKind::Usage => Some(2),
            ErrorKind::Content => Some(3),
            ErrorKind::Refused => Some(4),
            ErrorKind::Cache => Some(5),
            ErrorKind::Command => Some(6),
            ErrorKind::BrokenPipe => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.operation)?;
        if let Some(offset) = self.offset {
            write!(f, " at {}", size(offset))?;
        }
        if !self.operation.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Error {}

/// A path as messages show it: in quotes, except for the two standard streams.
pub fn quoted(path: &Path) -> String {
    match path.to_str() {
        Some(stream @ ("standard input" | "standard output")) => stream.to_string(),
        _ => format!("'{}'", escaped(&path.display().to_string())),
    }
}

/// Text from elsewhere as messages show it: with escapes for control characters, which a terminal would obey.
pub fn escaped(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A size for people: in powers of 1024, and exact below 1 KiB.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let format = humansize::FormatSizeOptions::from(humansize::BINARY).decimal_places(1).decimal_zeroes(1);
    humansize::format_size(bytes, format)
}

/// The text of a system error, without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_string(),
        None => text,
    }
}

fn hint(error: &io::Error) -> Option<String> {
    let text = match error.raw_os_error()? {
        libc::ENOSPC => "free some space, or choose another destination",
        libc::EDQUOT => "delete some of your own files: your disk quota is used up",
        libc::EFBIG => "raise the file size limit (ulimit -f), or choose a filesystem that allows larger files",
        libc::EROFS => "remount it read-write, or choose another destination",
        libc::ENOTDIR => "check the path: one of its directories is a file",
        _ => return None,
    };
    Some(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_gives_operation_object_offset_and_reason() {
        let error =
            Error::io("writing", Path::new("out.iso"), io::Error::from_raw_os_error(libc::ENOSPC)).at(1288490189);
        assert_eq!(error.to_string(), "writing 'out.iso' at 1.2 GiB: No space left on device");
        assert_eq!(error.exit_status(), Some(1));
        assert!(error.hint.is_some());
    }

    #[test]
    fn usage_errors_exit_with_2_and_content_errors_with_3() {
        assert_eq!(Error::usage("x").exit_status(), Some(2));
        assert_eq!(Error::usage("x").to_string(), "x");
        assert_eq!(Error::content(Path::new("a"), "short").exit_status(), Some(3));
    }
}
