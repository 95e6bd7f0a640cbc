//! What went wrong: doing what, to what, where, why, and the way out.

use std::fmt;
use std::io;
use std::path::Path;

use crate::direct::{EarlierFailure, Refused};

/// What kind of failure, as the exit status tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The copy failed: I/O, no space, the source changed. Exit status 1.
    Failed,
    /// The arguments cannot be meant. Exit status 2.
    Usage,
    /// The content is not what was required. Exit status 3.
    Content,
    /// Direct I/O was refused and required. Exit status 4.
    Refused,
    /// Pages were left in the cache, or that is not known. Exit status 5.
    Cache,
    /// Nobody reads what is written; the program ends by SIGPIPE, without a word.
    BrokenPipe,
}

/// A failed copy. [`fmt::Display`] gives one line without the program's name.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit status.
    pub kind: ErrorKind,
    doing: String,
    offset: Option<u64>,
    why: String,
    /// Something else failed before; that is the error to tell.
    pub(crate) consequence: bool,
    /// The copy may be begun anew, from its first byte.
    pub(crate) again: bool,
    /// What was copied is wrong, and not to be gone on with.
    pub(crate) wrong: bool,
    /// What to try, where there is an answer.
    pub hint: Option<String>,
    /// What now stands under the destination's name, and what is left behind.
    pub left: Option<String>,
}

/// A result whose error tells the whole story.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(kind: ErrorKind, doing: String, why: impl Into<String>) -> Self {
        Self {
            kind,
            doing,
            offset: None,
            why: why.into(),
            consequence: false,
            again: false,
            wrong: false,
            hint: None,
            left: None,
        }
    }

    /// The system said no while `doing` something ("writing") to `path`.
    pub fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        let refused = source.get_ref().is_some_and(|inner| inner.is::<Refused>());
        let kind = if refused { ErrorKind::Refused } else { ErrorKind::Failed };
        let mut error = Self::new(kind, format!("{doing} {}", quoted(path)), plain(&source));
        error.consequence = source.get_ref().is_some_and(|inner| inner.is::<EarlierFailure>());
        error.hint = match refused {
            true => Some("without --direct always it is copied by other means that leave the cache clean".into()),
            false => hint(&source),
        };
        error
    }

    /// What remains to be said after each failure was told.
    pub fn summary(why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, String::new(), why)
    }

    /// Something that dio-cp itself found wrong with `path`.
    pub fn failed(doing: &str, path: &Path, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, format!("{doing} {}", quoted(path)), why)
    }

    /// The arguments cannot be meant; `why` says what would be right.
    pub fn usage(why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, String::new(), why)
    }

    /// The content of `path` is not what was required.
    pub fn content(path: &Path, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Content, format!("checking {}", quoted(path)), why)
    }

    /// As [`Error::content`], of bytes that were copied: they are not worth keeping.
    pub(crate) fn wrong(path: &Path, why: impl Into<String>) -> Self {
        Self { wrong: true, ..Self::content(path, why) }
    }

    /// Direct I/O is not to be had for `path`, and was required.
    pub fn refused(path: &Path, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, format!("opening {}", quoted(path)), why)
    }

    /// The copy is done, and the page cache is not as it was.
    pub fn cache(path: &Path, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cache, format!("checking the cache of {}", quoted(path)), why)
    }

    /// Nobody reads the destination any more.
    pub fn broken_pipe(path: &Path) -> Self {
        Self::new(ErrorKind::BrokenPipe, format!("writing {}", quoted(path)), "nobody reads it")
    }

    /// Adds the byte offset where it happened.
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Says that the copy may be begun anew.
    #[cfg(feature = "url")]
    pub(crate) fn anew(mut self) -> Self {
        self.again = true;
        self
    }

    /// Adds what to try, in place of what the system's error suggests.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The program's exit status; None: it should end by SIGPIPE.
    pub fn exit_status(&self) -> Option<u8> {
        match self.kind {
            ErrorKind::Failed => Some(1),
            ErrorKind::Usage => Some(2),
            ErrorKind::Content => Some(3),
            ErrorKind::Refused => Some(4),
            ErrorKind::Cache => Some(5),
            ErrorKind::BrokenPipe => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        if let Some(offset) = self.offset {
            write!(f, " at {}", size(offset))?;
        }
        if !self.doing.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.why)
    }
}

impl std::error::Error for Error {}

/// A path as errors show it; the two standard streams by their names.
pub fn quoted(path: &Path) -> String {
    match path.to_str() {
        Some(stream @ ("standard input" | "standard output")) => stream.to_string(),
        // What a terminal would obey is shown instead.
        _ => {
            let shown = path.display().to_string();
            let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
            format!("'{}'", shown.chars().map(escape).collect::<String>())
        }
    }
}

/// A size for people, in powers of 1024; exact below 1 KiB.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let format = humansize::FormatSizeOptions::from(humansize::BINARY).decimal_places(1).decimal_zeroes(1);
    humansize::format_size(bytes, format)
}

/// The system's words without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_string(),
        None => text,
    }
}

fn hint(error: &io::Error) -> Option<String> {
    let text = match error.raw_os_error()? {
        libc::ENOSPC => "free some space, or choose another place",
        libc::EDQUOT => "free some of your own space: the quota is used up",
        libc::EFBIG => "raise the file size limit (ulimit -f), unless it is the filesystem's own",
        libc::EROFS => "remount it read-write, or choose another place",
        libc::ENOTDIR => "check the path: a part of it is a file",
        _ => return None,
    };
    Some(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_doing_what_to_what_where_and_why() {
        let error =
            Error::io("writing", Path::new("out.iso"), io::Error::from_raw_os_error(libc::ENOSPC)).at(1288490189);
        assert_eq!(error.to_string(), "writing 'out.iso' at 1.2 GiB: No space left on device");
        assert_eq!(error.exit_status(), Some(1));
        assert!(error.hint.is_some());
    }

    #[test]
    fn usage_is_two_and_content_is_three() {
        assert_eq!(Error::usage("x").exit_status(), Some(2));
        assert_eq!(Error::usage("x").to_string(), "x");
        assert_eq!(Error::content(Path::new("a"), "short").exit_status(), Some(3));
    }
}
