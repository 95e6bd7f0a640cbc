//! Where the bytes go.

pub mod attributes;
mod device;
mod file;
mod partial;
mod publish;
mod stream;
mod sysfs;
mod target;
mod zero_runs;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::block::Block;
use crate::cleanup::Cleanup;
use crate::direct::WriteReport;
use crate::error::{Error, Result, quoted};
use crate::event::Observer;
use crate::job::{Endpoint, Job};
use crate::pace::Pace;
use crate::sequencer::Sequencer;
use crate::source_info::{CopiedRange, SourceInfo};
use crate::sys;
use file::FileDestination;
pub use publish::hidden_name;
use stream::StreamDestination;
use target::{Target, refuse_same_file};

/// A destination of blocks, written by several workers at once.
pub trait Destination: Sync {
    /// Reserves space for a range of the copy, so that a full disk is an error before anything is written.
    fn reserve(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Clones what it can of the source, and returns the range that is cloned, in bytes from the first byte copied.
    fn clone_blocks(&self, _source: &CopiedRange<'_>) -> io::Result<Range<u64>> {
        Err(io::Error::other("the destination is a stream"))
    }

    /// Writes one block: files and devices in parallel, at its offset; streams in order.
    fn put(&self, block: &Block, sequencer: &Sequencer) -> Result<()>;

    /// Completes the destination after the last block: exact length, durable, under its name. `verify` sees the file once
    /// it is on the medium and before it gets its name, and may reject it.
    fn finish(self: Box<Self>, source: &SourceInfo, verify: Verify<'_>) -> Result<Finished>;
}

/// Gets the written file, and the offset in it where the copy starts.
pub type Verify<'a> = &'a mut dyn FnMut(&File, u64) -> Result<()>;

/// A destination that was opened, as the plan of a copy sees it.
pub struct DestinationInfo {
    /// As the user gave it; in a directory, with the source's file name.
    pub name: PathBuf,
    /// The path that is written, with symbolic links to a file followed.
    pub path: PathBuf,
    /// Alignment of direct writes in bytes; 1 if they need none.
    pub alignment: u64,
    /// Where blocks should start: a multiple of `alignment`, in bytes.
    pub block_boundary: u64,
    /// The file, if its pages can be counted.
    pub file: Option<File>,
    /// It takes the blocks one after another.
    pub in_order: bool,
    /// How long the user took to confirm that it is overwritten.
    pub confirmation: Duration,
    /// Bytes that an interrupted copy left here: a multiple of every alignment.
    pub resumed: u64,
    /// What was opened, for verbose output.
    pub description: String,
}

/// The outcome for a destination.
pub struct Finished {
    /// How the bytes were written.
    pub written: WriteReport,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// An opened destination.
pub type Opened<'a> = (DestinationInfo, Box<dyn Destination + 'a>);

/// Opens the destination. Nothing is written yet, and everything that can be refused now is refused.
pub fn open<'a>(
    job: &'a Job,
    source: &SourceInfo,
    pace: &Pace,
    observer: &dyn Observer,
    cleanup: &'a Cleanup,
) -> Result<Opened<'a>> {
    match &job.destination {
        Endpoint::Standard => standard_output(job, source),
        Endpoint::Url(_) => {
            let name = quoted(&job.destination.name());
            let why = format!("{name} is a URL: dio-cp reads from URLs but writes only to files, devices and pipes");
            Err(Error::usage(why).hint("curl -T FILE URL"))
        }
        Endpoint::Command(_) => Err(Error::usage("a command can only be a source")),
        Endpoint::Path(given) => {
            let target = Target::resolve(job, given, source)?;
            check_reach(job, source)?;
            if target.exists() {
                existing(job, source, target, pace, observer, cleanup)
            } else {
                // A name that the server chose must not replace a file, as under -n.
                let server_chose = source.suggested_name.as_ref().is_some_and(|name| name.chosen_by_server);
                let exclusive = job.no_clobber || server_chose && target.name != *given;
                refuse_new_file_in_dev(job, &target)?;
                let new = FileDestination::replace(job, source, target, exclusive, observer, cleanup)?;
                Ok(new.opened(pace))
            }
        }
    }
}

/// Opens an empty file without a name, to which the caller gives attributes and a name afterwards. `name` is its name in
/// messages.
pub fn open_unnamed<'a>(
    job: &'a Job,
    name: &Path,
    file: File,
    pace: &Pace,
    cleanup: &'a Cleanup,
) -> Result<Opened<'a>> {
    Ok(FileDestination::unnamed(job, name, file, cleanup)?.opened(pace))
}

fn existing<'a>(
    job: &'a Job,
    source: &SourceInfo,
    target: Target,
    pace: &Pace,
    observer: &dyn Observer,
    cleanup: &'a Cleanup,
) -> Result<Opened<'a>> {
    let Some(metadata) = &target.metadata else {
        return Err(Error::failed("opening", &target.name, "it was deleted in the meantime"));
    };
    refuse_same_file(source, &target.name, metadata)?;
    let kind = metadata.file_type();
    if job.no_clobber {
        return Err(Error::failed("creating", &target.name, "it exists, and -n forbids replacing it"));
    }
    if job.resume && !kind.is_file() {
        let why = format!("--resume cannot be used here: {} is not a file", quoted(&target.name));
        return Err(Error::usage(why).hint("use --skip and --seek to resume manually"));
    }
    if kind.is_block_device() {
        return device::open(job, source, target, pace, observer, cleanup);
    }
    if kind.is_file() && job.in_place {
        return Ok(FileDestination::in_place(job, target, cleanup)?.opened(pace));
    }
    if kind.is_file() {
        let exclusive = false;
        return Ok(FileDestination::replace(job, source, target, exclusive, observer, cleanup)?.opened(pace));
    }
    if kind.is_socket() {
        return Err(Error::failed("opening", &target.name, "it is a socket"));
    }
    if job.in_place {
        let why = format!("{} is a stream, which has no offset to write at", quoted(&target.name));
        return Err(Error::usage(format!("{why}; leave out --seek and --in-place")));
    }
    let file = File::options().write(true).open(&target.path).map_err(|e| Error::io("opening", &target.name, e))?;
    StreamDestination::new(job, &target.name, file)?.opened()
}

fn standard_output<'a>(job: &'a Job, source: &SourceInfo) -> Result<Opened<'a>> {
    let name = PathBuf::from("standard output");
    let fail = |e| Error::io("opening", &name, e);
    if sys::was_closed(1) {
        return Err(Error::failed("writing", &name, "it is closed"));
    }
    let file = io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(fail)?;
    refuse_same_file(source, &name, &file.metadata().map_err(fail)?)?;
    StreamDestination::new(job, &name, file)?.opened()
}

/// Fails if --seek and the source's length add up to more than the largest offset.
fn check_reach(job: &Job, source: &SourceInfo) -> Result<()> {
    let fits = |length: u64| job.seek.checked_add(length).is_some_and(|end| end <= i64::MAX as u64);
    match source.length {
        Some(length) if !fits(length) => {
            let why = format!("--seek {} plus {length} bytes is past the largest offset (8 EiB)", job.seek);
            Err(Error::usage(why))
        }
        _ => Ok(()),
    }
}

/// A misspelled device name must not become a file in memory.
fn refuse_new_file_in_dev(job: &Job, target: &Target) -> Result<()> {
    let directory = std::fs::canonicalize(publish::directory_of(&target.path));
    if !job.force && directory.is_ok_and(|directory| directory == Path::new("/dev")) {
        let why = "there is no such device, and a file in /dev would only take up memory";
        return Err(Error::failed("opening", &target.name, why).hint("check the name, or use -f to create a file"));
    }
    Ok(())
}
