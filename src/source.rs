//! Where the bytes come from.

mod command;
mod extents;
mod file;
mod stream;
#[cfg(feature = "url")]
mod url;

use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use crate::block::{Block, Layout};
use crate::cleanup::Cleanup;
use crate::direct::{DirectPolicy, DirectReader, Traffic};
use crate::error::{Error, Result};
use crate::event::Observer;
use crate::job::{Endpoint, Job};
use crate::pace::Pace;
use crate::sequencer::Sequencer;
use crate::source_info::{SourceInfo, SuggestedName};
use crate::sys;
pub use extents::Extents;

/// A source of blocks, read by several workers at once.
///
/// The order of the calls: [`Source::begin`], then [`Source::next`] until it returns false, then [`Source::finish`].
pub trait Source: Sync {
    /// Sets which blocks to read; nothing is read yet. A command starts now.
    fn begin(&mut self, plan: ReadPlan) -> Result<()>;

    /// Claims the next range, in order, and fills `block` with it. False: the source has ended, or the copy was
    /// cancelled. Files are read in parallel; streams one block after another.
    fn next(&self, block: &mut Block, sequencer: &Sequencer) -> Result<bool>;

    /// Interrupts a [`Source::next`] that waits, because the copy has failed.
    fn cancel(&self) {}

    /// Checks that the source is still what it was, once everything has been read.
    fn finish(&self) -> Result<ReadReport>;
}

/// Which blocks of the source to read, and how.
pub struct ReadPlan {
    /// How the copy is cut into blocks.
    pub layout: Layout,
    /// The first byte to read, from the first byte of the copy: a multiple of every alignment. What comes before it is at
    /// the destination already.
    pub start: u64,
    /// The number of the first block.
    pub first_block: u64,
    /// Deliver holes as blocks of zeros.
    pub fill_holes: bool,
    /// The range of the copy that the destination shares with the source already.
    pub cloned: Range<u64>,
    /// Reads the cloned range from the destination, if the checks need its bytes: the source may have changed since. None:
    /// the range is skipped.
    pub clone_reader: Option<CloneReader>,
    /// The blocks are consumed one after another.
    #[cfg_attr(not(feature = "url"), allow(dead_code))]
    pub in_order: bool,
}

/// Reads what the destination shares with the source.
pub struct CloneReader {
    /// Reads the destination.
    pub reader: DirectReader,
    /// Where the copy starts in the destination, in bytes.
    pub start: u64,
}

/// What was read, and how.
#[derive(Default)]
pub struct ReadReport {
    /// Bytes by I/O mode.
    pub traffic: Traffic,
    /// Why not all of them were read with direct I/O, if so.
    pub why_not_direct: Option<String>,
    /// Why pages of the source may stay in the page cache, if the kernel refused to evict them.
    pub why_not_evicted: Option<String>,
    /// What the user should know about the source, if anything: it changed during the copy.
    pub note: Option<String>,
    /// How the command ended, if the source is one.
    pub command: Option<CommandEnd>,
}

/// How the command whose output was copied ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// It exited with status 0.
    Succeeded,
    /// It was ended because --count needed no more of its output.
    EndedByCount,
}

/// A source that was opened, and everything the plan of a copy needs to know about it.
pub struct OpenSource<'a> {
    /// What the destination may know.
    pub info: SourceInfo,
    /// Alignment of direct reads in bytes; 1 if they need none.
    pub alignment: u64,
    /// How many reads it serves at once even if the queue depth is smaller: connections of a URL.
    pub min_workers: usize,
    /// Holes and data, for a file.
    pub extents: Option<Extents>,
    /// What was opened, for verbose output.
    pub description: String,
    /// Reads the blocks.
    pub source: Box<dyn Source + 'a>,
}

/// Opens the source; nothing is read yet. `restarts` counts how often this copy has started over.
pub fn open<'a>(
    job: &'a Job,
    pace: &Arc<Pace>,
    observer: &'a dyn Observer,
    cleanup: &'a Cleanup,
    restarts: u32,
) -> Result<OpenSource<'a>> {
    match &job.source {
        Endpoint::Command(words) => command::open(job, words, pace, cleanup),
        Endpoint::Standard => standard_input(job, pace),
        #[cfg(feature = "url")]
        Endpoint::Url(url) => url::open(job, url, pace, observer, restarts),
        #[cfg(not(feature = "url"))]
        Endpoint::Url(_) => {
            let _ = (observer, restarts);
            let name = job.source.name();
            let why = "this build cannot read URLs: it was built without the cargo feature `url`";
            Err(Error::usage(why)
                .hint(format!("dio-cp --from-command DST -- curl -fL {}", crate::error::quoted(&name))))
        }
        Endpoint::Path(path) => named_file(job, path, pace),
    }
}

fn named_file<'a>(job: &'a Job, path: &Path, pace: &Arc<Pace>) -> Result<OpenSource<'a>> {
    let fail = |e| Error::io("opening", path, e);
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if metadata.is_dir() {
        return Err(Error::failed("opening", path, "it is a directory").hint("use -r, or -a to keep all attributes"));
    }
    if metadata.file_type().is_socket() {
        return Err(Error::failed("opening", path, "it is a socket"));
    }
    if metadata.is_file() || metadata.file_type().is_block_device() {
        return stored_file(job, path, path, None, pace);
    }
    let file = File::open(path).map_err(fail)?;
    stream(job, path, file, metadata, false, pace)
}

/// A regular file or block device. `open_path` may differ from `name`: standard input is reopened through /proc, and
/// `stdin` is then the shared file whose position counts.
fn stored_file<'a>(
    job: &'a Job,
    name: &Path,
    open_path: &Path,
    stdin: Option<File>,
    pace: &Arc<Pace>,
) -> Result<OpenSource<'a>> {
    let fail = |e| Error::io("opening", name, e);
    let (reader, file) = DirectReader::open(open_path, job.direct).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    let generated = sys::PSEUDO_FILESYSTEMS.contains(&sys::filesystem(&file).map_err(fail)?);
    if metadata.is_file() && (metadata.len() == 0 || generated) && stdin.is_none() {
        // The length of a file in /proc says nothing, so read until it ends. Some such files accept O_DIRECT at open
        // and refuse it at the first read.
        let without_direct = File::open(open_path).map_err(fail)?;
        return stream(job, name, without_direct, metadata, false, pace);
    }
    file::open(job, name, reader, (file, metadata), stdin, pace)
}

/// An open regular file as a source. `name` is its name in messages. `is_stream`: it is
/// read until it ends, for its length means nothing.
pub fn open_file<'a>(
    job: &'a Job,
    name: &Path,
    file: File,
    is_stream: bool,
    pace: &Arc<Pace>,
) -> Result<OpenSource<'a>> {
    let fail = |e| Error::io("opening", name, e);
    if is_stream {
        sys::set_direct(&file, false).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        return stream(job, name, file, metadata, false, pace);
    }
    let clone = file.try_clone().map_err(fail)?;
    let reader = DirectReader::with_policy(clone, job.direct).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    file::open(job, name, reader, (file, metadata), None, pace)
}

/// The last component of the source's path.
fn suggested_name(job: &Job) -> Option<SuggestedName> {
    let Endpoint::Path(path) = &job.source else { return None };
    path.file_name().map(|name| SuggestedName { name: name.into(), chosen_by_server: false })
}

fn stream<'a>(
    job: &Job,
    name: &Path,
    file: File,
    metadata: Metadata,
    stored: bool,
    pace: &Arc<Pace>,
) -> Result<OpenSource<'a>> {
    let kept = file.try_clone().map_err(|e| Error::io("opening", name, e))?;
    let source = stream::StreamSource::new(job, name, file, stored, pace.clone());
    let length = source.expected_length();
    let mut description = match length {
        Some(length) => format!("a stream of {length} bytes"),
        None => "a stream of unknown length".to_string(),
    };
    if metadata.file_type().is_fifo() {
        description += "; dio-cp cannot know whether the program that writes it fails (with --from-command it can)";
    }
    let info = SourceInfo {
        name: name.into(),
        suggested_name: suggested_name(job),
        file: Some((kept, metadata)),
        length,
        identity: None,
    };
    Ok(OpenSource { info, alignment: 1, min_workers: 1, extents: None, description, source: Box::new(source) })
}

fn standard_input<'a>(job: &'a Job, pace: &Arc<Pace>) -> Result<OpenSource<'a>> {
    let name = Path::new("standard input");
    let fail = |e| Error::io("opening", name, e);
    if sys::was_closed(0) {
        return Err(Error::failed("reading", name, "it is closed"));
    }
    let file = std::io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.is_dir() {
        return Err(Error::failed("opening", name, "it is a directory"));
    }
    let stored = metadata.len() > 0 && metadata.is_file() || metadata.file_type().is_block_device();
    // `dio-cp - out < in`: reopen it, so that O_DIRECT and the position are our own. If that is not permitted, read
    // it as a stream.
    let reopen_path = sys::fd_path(&file);
    if stored && File::open(&reopen_path).is_ok() {
        return stored_file(job, name, &reopen_path, Some(file), pace);
    }
    if stored && job.direct == DirectPolicy::Always {
        let why = "direct I/O refused: another process opened it, and it cannot be reopened";
        return Err(Error::refused(name, why));
    }
    stream(job, name, file, metadata, stored, pace)
}
