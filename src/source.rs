//! Where the bytes come from.

mod file;
mod stream;

use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::block::{Block, Layout};
use crate::direct::Traffic;
use crate::error::{Error, Result};
use crate::job::{End, Job};
use crate::sys;
use crate::turnstile::Turnstile;

/// A source of blocks, read by several workers.
pub trait Source: Sync {
    /// Claims the next range, in order, and fills the block with it. False: there is no more, or
    /// the copy is over. Files read outside any lock, in parallel; streams inside one.
    fn next(&self, layout: &Layout, block: &mut Block, turns: &Turnstile) -> Result<bool>;

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

/// A source that is open, and what the destination may want to know of it.
pub struct Opened {
    /// The bytes.
    pub source: Box<dyn Source>,
    /// Its name in messages.
    pub name: PathBuf,
    /// What it is.
    pub metadata: Metadata,
    /// The file, for extended attributes.
    pub file: File,
}

/// Opens the source. Nothing is read yet.
pub fn open(job: &Job) -> Result<Opened> {
    match &job.source {
        End::Standard => standard_input(job),
        End::Path(path) => {
            let found = std::fs::metadata(path).map_err(|e| Error::io("opening", path, e))?;
            if found.is_dir() {
                let why = "it is a directory; dio-cp copies one file at a time";
                return Err(
                    Error::failed("opening", path, why).hint(format!("tar -C {0:?} -c . | dio-cp - out.tar", path))
                );
            }
            if found.file_type().is_socket() {
                return Err(Error::failed("opening", path, "it is a socket"));
            }
            if !found.is_file() && !found.file_type().is_block_device() {
                let file = File::open(path).map_err(|e| Error::io("opening", path, e))?;
                return stream(job, path, file, found);
            }
            regular(job, path, path, None)
        }
    }
}

/// A file or block device, opened as `open_as`, known as `name`.
fn regular(job: &Job, name: &Path, open_as: &Path, position: Option<File>) -> Result<Opened> {
    let fail = |e| Error::io("opening", name, e);
    let (reader, file) = crate::direct::DirectReader::open(open_as, job.direct).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    let made_up = sys::PSEUDO_FILESYSTEMS.contains(&sys::filesystem(&file).map_err(fail)?);
    if metadata.is_file() && (metadata.len() == 0 || made_up) && position.is_none() {
        // Its length says nothing: read until it ends. Some of these files refuse O_DIRECT only now.
        let plain = File::open(open_as).map_err(fail)?;
        return stream(job, name, plain, metadata);
    }
    let source = file::FileSource::new(job, name, reader, &file, position)?;
    Ok(Opened { source: Box::new(source), name: name.into(), metadata, file })
}

fn stream(job: &Job, name: &Path, file: File, metadata: Metadata) -> Result<Opened> {
    let kept = file.try_clone().map_err(|e| Error::io("opening", name, e))?;
    let source = stream::StreamSource::new(job, name, file);
    Ok(Opened { source: Box::new(source), name: name.into(), metadata, file: kept })
}

fn standard_input(job: &Job) -> Result<Opened> {
    let name = Path::new("standard input");
    let fail = |e| Error::io("opening", name, e);
    let file = std::io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.is_dir() {
        return Err(Error::failed("opening", name, "it is a directory"));
    }
    if metadata.len() > 0 && metadata.is_file() || metadata.file_type().is_block_device() {
        // `dio-cp - out < in`: opened anew, so that O_DIRECT and the position are our own. Where
        // that is not allowed it is read as the stream that it also is.
        let again = sys::fd_path(&file);
        if File::open(&again).is_ok() {
            return regular(job, name, &again, Some(file));
        }
    }
    stream(job, name, file, metadata)
}
