//! Where the bytes come from.

mod file;
mod stream;
#[cfg(feature = "url")]
mod url;

use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use crate::block::{Block, Layout};
use crate::direct::{DirectPolicy, Traffic};
use crate::error::{Error, Result, quoted};
use crate::event::Observer;
use crate::job::{Endpoint, Job};
use crate::pace::Pace;
use crate::sequencer::Sequencer;
use crate::source_info::{SourceInfo, SuggestedName};
use crate::sys;

/// A source of blocks, read by several workers.
pub trait Source: Sync {
    /// Claims the next range, in order, and fills the block with it. False: there is no more, or
    /// the copy is over. Files read outside any lock, in parallel; streams inside one.
    fn next(&self, layout: &Layout, block: &mut Block, sequencer: &Sequencer) -> Result<bool>;

    /// How the copy will go; called before the first block is claimed.
    fn begin(&mut self, _layout: &Layout, _course: Course) {}

    /// Blocks wait for their time under a rate limit, transfers from a disk at the gate of --idle.
    fn pace(&mut self, pace: &Arc<Pace>);

    /// The copy is over before its time: whoever waits in [`Source::next`] should not wait on.
    fn stop(&self) {}

    /// How many workers it can keep busy whatever the queue depth is.
    fn workers(&self) -> usize {
        1
    }

    /// The bytes that the copy will have, if that is known.
    fn length(&self) -> Option<u64>;

    /// The alignment that direct reads must have, in bytes; 1 if they need none.
    fn alignment(&self) -> u64 {
        1
    }

    /// Room that a block's buffer needs for `layout`, in bytes.
    fn room(&self, layout: &Layout) -> usize {
        layout.block_size
    }

    /// Calls `each` with every range that will be copied as data: (offset, bytes).
    fn data_ranges(&self, _layout: &Layout, _each: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        Ok(())
    }

    /// Called when everything has been read: is it still what it was? Gives what the user should
    /// know, if anything.
    fn finish(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// The bytes read, by the way they took, and why not all went direct, if so.
    fn traffic(&self) -> (Traffic, Option<String>) {
        (Traffic::default(), None)
    }

    /// What was chosen, for -v.
    fn describe(&self) -> String;
}

/// How a copy will go, as far as the source cares.
pub struct Course {
    /// Bytes that are at the destination already, of an earlier copy: a multiple of every alignment.
    pub from: u64,
    /// The number of the first block.
    pub number: u64,
    /// Holes are wanted as blocks of zeros.
    pub whole: bool,
    /// Somebody takes the blocks one after another.
    #[cfg_attr(not(feature = "url"), allow(dead_code))]
    pub in_order: bool,
}

/// Opens the source. Nothing is read yet. `restarts`: how often this copy was begun anew.
pub fn open<'a>(job: &'a Job, observer: &'a dyn Observer, restarts: u32) -> Result<(Box<dyn Source + 'a>, SourceInfo)> {
    match &job.source {
        Endpoint::Standard => standard_input(job),
        #[cfg(feature = "url")]
        Endpoint::Url(url) => url::open(job, url, observer, restarts),
        #[cfg(not(feature = "url"))]
        Endpoint::Url(_) => {
            let _ = (observer, restarts);
            let name = job.source.name();
            let why = "this build cannot read URLs: it was made without the cargo feature `url`";
            Err(Error::usage(why).hint(format!("curl -fL {} | dio-cp - DST", quoted(&name))))
        }
        Endpoint::Path(path) => {
            let found = std::fs::metadata(path).map_err(|e| Error::io("opening", path, e))?;
            if found.is_dir() {
                let why = "it is a directory; dio-cp copies one file at a time";
                return Err(Error::failed("opening", path, why)
                    .hint(format!("tar -C {} -c . | dio-cp - out.tar", quoted(path))));
            }
            if found.file_type().is_socket() {
                return Err(Error::failed("opening", path, "it is a socket"));
            }
            if !found.is_file() && !found.file_type().is_block_device() {
                let file = File::open(path).map_err(|e| Error::io("opening", path, e))?;
                return stream(job, path, file, found, false);
            }
            regular(job, path, path, None)
        }
    }
}

/// A file or block device, opened as `open_as`, known as `name`.
fn regular<'a>(
    job: &Job,
    name: &Path,
    open_as: &Path,
    position: Option<File>,
) -> Result<(Box<dyn Source + 'a>, SourceInfo)> {
    let fail = |e| Error::io("opening", name, e);
    let (reader, file) = crate::direct::DirectReader::open(open_as, job.direct).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    let made_up = sys::PSEUDO_FILESYSTEMS.contains(&sys::filesystem(&file).map_err(fail)?);
    if metadata.is_file() && (metadata.len() == 0 || made_up) && position.is_none() {
        // Its length says nothing: read until it ends. Some of these files refuse O_DIRECT only now.
        let plain = File::open(open_as).map_err(fail)?;
        return stream(job, name, plain, metadata, false);
    }
    let source = file::FileSource::new(job, name, reader, &file, position)?;
    let length = source.length();
    let suggested_name = suggested_name(job);
    let identity = source.identity();
    Ok((
        Box::new(source),
        SourceInfo { name: name.into(), suggested_name, file: Some((file, metadata)), length, identity },
    ))
}

/// The last part of a path.
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
) -> Result<(Box<dyn Source + 'a>, SourceInfo)> {
    let kept = file.try_clone().map_err(|e| Error::io("opening", name, e))?;
    let source = stream::StreamSource::new(job, name, file, stored);
    let (length, suggested_name, file) = (source.length(), suggested_name(job), Some((kept, metadata)));
    Ok((Box::new(source), SourceInfo { name: name.into(), suggested_name, file, length, identity: None }))
}

fn standard_input<'a>(job: &Job) -> Result<(Box<dyn Source + 'a>, SourceInfo)> {
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
    // `dio-cp - out < in`: opened anew, so that O_DIRECT and the position are our own. Where that is
    // not allowed it is read as the stream that it also is.
    let again = sys::fd_path(&file);
    if stored && File::open(&again).is_ok() {
        return regular(job, name, &again, Some(file));
    }
    if stored && job.direct == DirectPolicy::Always {
        let why = "direct I/O refused: it was opened by somebody else, and may not be opened again";
        return Err(Error::refused(name, why));
    }
    stream(job, name, file, metadata, stored)
}
