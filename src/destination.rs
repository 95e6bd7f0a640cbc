//! Where the bytes go.

mod attributes;
mod device;
mod file;
mod partial;
mod publish;
mod stream;

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::Block;
use crate::cleanup::Cleanup;
use crate::direct::WriteReport;
use crate::error::{Error, Result, quoted};
use crate::event::Observer;
use crate::job::{Endpoint, Job};
use crate::pace::IdleGate;
use crate::sequencer::Sequencer;
use crate::source_info::SourceInfo;
use crate::sys;

/// A destination of blocks, written by several workers.
pub trait Destination: Sync {
    /// The alignment that direct writes must have, in bytes; 1 if they need none.
    fn alignment(&self) -> u64 {
        1
    }

    /// Where blocks should begin: a multiple of [`Destination::alignment`].
    fn unit(&self) -> u64 {
        1
    }

    /// The file that is written, if it is one whose pages can be counted.
    fn file(&self) -> Option<&File> {
        None
    }

    /// It takes the blocks one after another.
    fn in_order(&self) -> bool {
        false
    }

    /// Others want the disk, too: transfers wait at this gate.
    fn yield_at(&mut self, _idle: &Arc<IdleGate>) {}

    /// Bytes that an earlier, interrupted copy left here: a multiple of every alignment.
    fn resumed(&self) -> u64 {
        0
    }

    /// Sets space aside for a range of the copy, so that a full disk is known at once.
    fn reserve(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Writes one block. Files and devices in parallel, at its offset; streams in order.
    fn put(&self, block: &Block, sequencer: &Sequencer) -> Result<()>;

    /// Everything is there: makes it exact, durable and visible. Before it is visible, `inspect` sees
    /// the file as it is on the medium, and where in it the copy begins; it may refuse it.
    fn finish(self: Box<Self>, from: &SourceInfo, inspect: Inspect<'_>) -> Result<Finished>;

    /// What was chosen, for -v.
    fn describe(&self) -> String;
}

/// See [`Destination::finish`].
pub type Inspect<'a> = &'a mut dyn FnMut(&File, u64) -> Result<()>;

/// What came of a destination.
pub struct Finished {
    /// How the bytes were written.
    pub written: WriteReport,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Opens the destination. Nothing is written yet; everything that can be refused now, is.
pub fn open<'a>(
    job: &'a Job,
    from: &SourceInfo,
    observer: &dyn Observer,
    cleanup: &'a Cleanup,
) -> Result<(PathBuf, Box<dyn Destination + 'a>)> {
    if let Endpoint::Url(_) = &job.destination {
        let why = format!("{} is a URL: dio-cp reads from URLs and writes to files", quoted(&job.destination.name()));
        return Err(Error::usage(why).hint("curl -T uploads"));
    }
    let Endpoint::Path(asked) = &job.destination else {
        let name = PathBuf::from("standard output");
        let fail = |e| Error::io("opening", &name, e);
        if sys::was_closed(1) {
            return Err(Error::failed("writing", &name, "it is closed"));
        }
        let file = io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(fail)?;
        refuse_same(from, &name, &file.metadata().map_err(fail)?)?;
        let stream = stream::StreamDestination::new(job, &name, file)?;
        return Ok((name, Box::new(stream)));
    };
    let (path, found) = resolve(job, asked, from)?;
    // A name that a server chose is like one under -n.
    let chosen_by_server = from.suggested_name.as_ref().is_some_and(|own| own.chosen_by_server) && path != *asked;
    if let Some(length) = from.length
        && job.seek.checked_add(length).is_none_or(|end| end > i64::MAX as u64)
    {
        return Err(Error::usage(format!("--seek {} and {length} bytes reach behind the largest offset", job.seek)));
    }
    let Some(found) = found else {
        let devices = std::fs::canonicalize(publish::directory_of(&path)).is_ok_and(|dir| dir == Path::new("/dev"));
        if devices && !job.force {
            let why = "there is no such device, and a file there would only fill the memory";
            return Err(Error::failed("opening", &path, why).hint("check the name, or -f if a file is meant"));
        }
        let mut new = file::FileDestination::replace(job, from, path.clone(), false, observer, cleanup)?;
        new.exclusive |= chosen_by_server;
        return Ok((path, Box::new(new)));
    };
    refuse_same(from, &path, &found)?;
    let kind = found.file_type();
    if job.no_clobber {
        return Err(Error::failed("creating", &path, "it exists, and -n says not to replace it"));
    }
    if job.resume && !kind.is_file() {
        let why = format!("--resume cannot be used here: {} is no file", quoted(&path));
        return Err(Error::usage(why).hint("--skip and --seek go on by hand"));
    }
    let destination: Box<dyn Destination + 'a> = if kind.is_block_device() {
        Box::new(device::open(job, from, &path, observer, cleanup)?)
    } else if kind.is_file() {
        match job.in_place {
            true => Box::new(file::FileDestination::in_place(job, &path, cleanup)?),
            false => Box::new(file::FileDestination::replace(job, from, path.clone(), true, observer, cleanup)?),
        }
    } else if kind.is_socket() {
        return Err(Error::failed("opening", &path, "it is a socket"));
    } else {
        if job.in_place {
            let what = format!("{} is a stream: it has no offset to write at", quoted(&path));
            return Err(Error::usage(format!("{what}; leave --seek and --in-place out")));
        }
        let file = File::options().write(true).open(&path).map_err(|e| Error::io("opening", &path, e))?;
        Box::new(stream::StreamDestination::new(job, &path, file)?)
    };
    Ok((path, destination))
}

/// Follows directories and symbolic links to the name that will be written.
fn resolve(job: &Job, asked: &Path, from: &SourceInfo) -> Result<(PathBuf, Option<Metadata>)> {
    let fail = |path: &Path, e| Err(Error::io("opening", path, e));
    let mut path = asked.to_path_buf();
    if std::fs::metadata(&path).is_ok_and(|m| m.is_dir()) {
        let Some(own) = &from.suggested_name else {
            let why = format!("{} is a directory, and {} has no name to keep", quoted(asked), quoted(&from.name));
            let line = format!("dio-cp {} {}", shell_word(&job.source.name()), shell_word(&path.join("NAME")));
            return Err(Error::usage(why).hint(line));
        };
        path.push(&own.name);
        if own.chosen_by_server && path.symlink_metadata().is_ok() {
            let why = "it exists, and its name was chosen by the server";
            return Err(Error::failed("replacing", &path, why).hint("name the file instead of the directory"));
        }
    }
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Err(Error::failed("opening", &path, "it is a directory")),
        Ok(found) if found.is_file() => match std::fs::canonicalize(&path) {
            // A file that has lost its name, by way of /dev/fd: the link is the only way to it.
            Ok(real) if std::fs::metadata(&real).is_ok_and(|m| m.ino() == found.ino()) => Ok((real, Some(found))),
            _ if job.in_place => Ok((path, Some(found))),
            _ => Err(Error::failed("replacing", &path, "it has no name; --in-place overwrites its bytes")),
        },
        Ok(found) => Ok((path, Some(found))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if path.symlink_metadata().is_ok() {
                let why = "it is a symbolic link to a file that is not there";
                return Err(Error::failed("creating", &path, why).hint("delete the link, or name the file itself"));
            }
            if path.as_os_str().as_bytes().ends_with(b"/") {
                return fail(&path, io::Error::from_raw_os_error(libc::ENOENT));
            }
            Ok((path, None))
        }
        Err(e) => fail(&path, e),
    }
}

/// A path as it is typed: in quotes, but for "-".
fn shell_word(path: &Path) -> String {
    if path == Path::new("-") { "-".to_string() } else { quoted(path) }
}

/// Refuses to copy a file onto itself, by whatever name.
fn refuse_same(from: &SourceInfo, path: &Path, found: &Metadata) -> Result<()> {
    let Some((_, a)) = &from.file else { return Ok(()) };
    let b = found;
    let inode = a.is_file() || a.file_type().is_fifo() && path != Path::new("standard output");
    let same = inode && (a.dev(), a.ino()) == (b.dev(), b.ino())
        || a.file_type().is_block_device() && b.file_type().is_block_device() && a.rdev() == b.rdev()
        || device::backed_by(a, b)
        || device::backed_by(b, a);
    if same {
        let why = format!("it is the same file as {}", quoted(&from.name));
        return Err(Error::failed("opening", path, why));
    }
    Ok(())
}
