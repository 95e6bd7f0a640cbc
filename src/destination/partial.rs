//! `--resume`: the partial file that an interrupted copy leaves, and how the next copy finds it.
//!
//! A partial file is a hidden file next to the destination. An extended attribute on it, the [`record`], says which source
//! it belongs to and how much of it is on the medium. The file is trusted only if it belongs to the user and nobody else
//! could have written it.

mod progress;
mod record;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::publish::{Unpublished, creating, directory_of, set_direct, sync_directory};
use super::target::Target;
use crate::cleanup::{Cleanup, Keep, Temporary};
use crate::error::{Error, Result, quoted, size};
use crate::event::{Event, Observer};
use crate::job::Job;
use crate::source_info::{Identity, SourceInfo};
use crate::sys;

pub use progress::Partial;
pub use record::ATTRIBUTE;

/// Copies resume at a multiple of this many bytes, which satisfies every alignment.
const RESUME_STEP: u64 = 64 << 10;

/// A partial file that is open and locked.
pub struct OpenedPartial {
    pub unpublished: Unpublished,
    pub partial: Arc<Partial>,
    /// Bytes that an earlier copy left, and that this one keeps.
    pub resumed: u64,
    /// Why an earlier partial file was not used, if there was one.
    pub why_not_resumed: Option<String>,
}

/// Opens the partial file of the target, or creates it. None: this copy cannot be kept, and the user has been told why.
pub fn resumable(
    job: &Job,
    source: &SourceInfo,
    target: &Target,
    observer: &dyn Observer,
    cleanup: &Cleanup,
) -> Result<Option<OpenedPartial>> {
    let name = &target.name;
    let cannot_keep = |name: &Path, why: &str| {
        observer.event(Event::Notice(&format!("an interrupted copy of {} cannot be kept: {why}", quoted(name))));
        Ok(None)
    };
    let Some(identity) = &source.identity else {
        return match &source.file {
            Some((_, metadata)) if metadata.is_file() => Ok(None), // it is empty
            Some(_) => {
                let why = format!("{} is neither a file nor a URL", quoted(&source.name));
                Err(Error::usage(format!("--resume cannot be used here: {why}")))
            }
            None => {
                cannot_keep(&source.name, "the server does not report its version (ETag, Last-Modified) and length")
            }
        };
    };
    let hidden = hidden_path(&target.path);
    refuse_partial_as_source(source, &hidden, name)?;
    let create = || {
        let opened = open(&hidden, identity, job)?;
        let partial = opened.partial.clone();
        let keep: Keep = Box::new(move |worthwhile| partial.end(worthwhile));
        Ok((opened, Temporary { path: None, keep: Some(keep) }))
    };
    let opened = match cleanup.build(name, target.exists(), create) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            return cannot_keep(name, "the filesystem does not store extended attributes or file owners");
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            return Err(Error::failed("creating", name, "another copy to it is running"));
        }
        other => other.map_err(|e| creating(if e.kind() == io::ErrorKind::NotFound { name } else { &hidden }, e))?,
    };
    sync_directory(target, &opened.unpublished.file)?;
    if let Some(why) = &opened.why_not_resumed {
        observer.event(Event::Notice(&format!("starting over with {}: {why}", quoted(name))));
    }
    if opened.resumed > 0 {
        let line = format!("resuming {} after {}, which an earlier copy left", quoted(name), size(opened.resumed));
        observer.event(Event::Notice(&line));
    }
    Ok(Some(opened))
}

/// The path of the partial file of `path`.
fn hidden_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
    let suffix = ".partial.dio-cp";
    // A file name has at most 255 bytes. A digest keeps two long names apart.
    let (kept, suffix) = if 1 + name.len() + suffix.len() <= 255 {
        (name, suffix.to_string())
    } else {
        let is_boundary = |i: &usize| name[*i] & 0xc0 != 0x80; // does not split a UTF-8 character
        let end = (0..=200).rev().find(is_boundary).unwrap_or(0);
        (&name[..end], format!(".{}{suffix}", &blake3::hash(name).to_hex()[..16]))
    };
    directory_of(path).join(OsStr::from_bytes(&[b".", kept, suffix.as_bytes()].concat()))
}

fn refuse_partial_as_source(source: &SourceInfo, hidden: &Path, name: &Path) -> Result<()> {
    let Some((_, source_metadata)) = &source.file else { return Ok(()) };
    let same = |m: std::fs::Metadata| (m.dev(), m.ino()) == (source_metadata.dev(), source_metadata.ino());
    if std::fs::symlink_metadata(hidden).is_ok_and(same) {
        let why = format!("it is the partial file of {}", quoted(name));
        return Err(Error::failed("opening", &source.name, why).hint("rename it first"));
    }
    Ok(())
}

/// Opens the partial file that an earlier copy of the same source left, or creates a new one. Fails with `WouldBlock` if
/// another copy uses it, and with `Unsupported` if the filesystem cannot keep one.
fn open(path: &Path, identity: &Identity, job: &Job) -> io::Result<OpenedPartial> {
    let identity = record::shortened(identity);
    let mut why_not_resumed = None;
    let (file, resumed) = loop {
        let mut options = OpenOptions::new();
        // O_DIRECT is set later: some filesystems refuse the flag at open.
        match options.read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => match create(path, &identity) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {} // another copy created it first
                other => break (other?, 0),
            },
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
                why_not_resumed = Some("the partial file is a symbolic link".to_string());
                std::fs::remove_file(path)?;
            }
            Err(e) => return Err(e),
            Ok(file) => {
                sys::lock(&file)?;
                if !is_file_at(&file, path)? {
                    continue; // the copy that had it locked has published or removed it
                }
                match record::durable_bytes(&file, &identity) {
                    Ok(durable) => break (file, durable - durable % RESUME_STEP),
                    Err(why) => {
                        why_not_resumed = Some(why);
                        std::fs::remove_file(path)?; // while it is locked, so that it cannot be another copy's
                    }
                }
            }
        }
    };
    let refused = set_direct(&file, job.direct);
    // An empty partial file is of no use to the next copy.
    let shared = file.try_clone().map_err(|e| if resumed == 0 { removing(path, e) } else { e })?;
    let partial = Partial::new(path, shared, identity, resumed);
    let unpublished = Unpublished { file, refused, temporary: Some(path.into()) };
    Ok(OpenedPartial { unpublished, partial: Arc::new(partial), resumed, why_not_resumed })
}

/// Creates and locks a partial file whose record claims no bytes. Fails with `AlreadyExists` if another copy locked it
/// first.
fn create(path: &Path, identity: &Identity) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    match sys::lock(&file) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e), // it is another copy's now
        other => other.map_err(|e| removing(path, e))?,
    }
    if !is_file_at(&file, path).map_err(|e| removing(path, e))? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let recorded = record::write(&file, identity, 0)
        .and_then(|()| if record::is_trusted(&file)? { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) });
    if let Err(e) = recorded {
        std::fs::remove_file(path)?;
        return Err(match e.raw_os_error() {
            Some(libc::ENOSPC | libc::E2BIG) => io::ErrorKind::Unsupported.into(), // no room for attributes
            _ => e,
        });
    }
    Ok(file)
}

/// Removes a partial file that cannot be used because of `error`, which is returned: it is the cause to report.
fn removing(path: &Path, error: io::Error) -> io::Error {
    let _ = std::fs::remove_file(path);
    error
}

/// True if `path` is a name of `file`.
fn is_file_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((opened.dev(), opened.ino()) == (named.dev(), named.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
