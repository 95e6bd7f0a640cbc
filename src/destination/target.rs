//! Which file, device or stream DST names.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::sysfs::is_backed_by;
use crate::error::{Error, Result, quoted};
use crate::job::{Endpoint, Job};
use crate::source_info::SourceInfo;

/// The place a copy goes to.
#[derive(Clone)]
pub struct Target {
    /// As the user gave it; in a directory, with the source's file name. Messages use this.
    pub name: PathBuf,
    /// The path that is written, with symbolic links to a file followed.
    pub path: PathBuf,
    /// The attributes of what is there now; None if nothing is.
    pub metadata: Option<Metadata>,
}

impl Target {
    /// Follows a directory and symbolic links to the file that will be written.
    pub fn resolve(job: &Job, given: &Path, source: &SourceInfo) -> Result<Self> {
        let name = if std::fs::metadata(given).is_ok_and(|metadata| metadata.is_dir()) {
            name_in_directory(job, given, source)?
        } else {
            given.to_path_buf()
        };
        match std::fs::metadata(&name) {
            Ok(metadata) if metadata.is_dir() => Err(Error::failed("opening", &name, "it is a directory")),
            Ok(metadata) if metadata.is_file() => Self::existing_file(job, name, metadata),
            Ok(metadata) => Ok(Self { path: name.clone(), name, metadata: Some(metadata) }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::missing(name),
            Err(e) => Err(Error::io("opening", &name, e)),
        }
    }

    /// True if something is there that will be replaced or overwritten.
    pub fn exists(&self) -> bool {
        self.metadata.is_some()
    }

    fn existing_file(job: &Job, name: PathBuf, metadata: Metadata) -> Result<Self> {
        let same_inode = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|m| m.ino() == metadata.ino());
        let path = match std::fs::canonicalize(&name).ok().filter(same_inode) {
            Some(path) => path,
            // The file was deleted, and is reached through /dev/fd: the link is the only way to it.
            None if job.in_place => name.clone(),
            None => {
                let why = "it has no name that could be replaced";
                return Err(Error::failed("replacing", &name, why).hint("use --in-place to overwrite its bytes"));
            }
        };
        Ok(Self { name, path, metadata: Some(metadata) })
    }

    fn missing(name: PathBuf) -> Result<Self> {
        if name.symlink_metadata().is_ok() {
            let why = "it is a symbolic link to a file that does not exist";
            return Err(Error::failed("creating", &name, why).hint("delete the link, or name the file itself"));
        }
        if name.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Error::io("opening", &name, io::Error::from_raw_os_error(libc::ENOENT)));
        }
        Ok(Self { path: name.clone(), name, metadata: None })
    }
}

/// The name of the copy in a directory: the source's own, or the one a server suggests if nothing has it yet.
fn name_in_directory(job: &Job, directory: &Path, source: &SourceInfo) -> Result<PathBuf> {
    let Some(suggested) = &source.suggested_name else {
        let why = format!("{} is a directory, and {} has no file name", quoted(directory), quoted(&source.name));
        let name = shell_word(&directory.join("NAME"));
        let command = match &job.source {
            Endpoint::Command(_) => format!("dio-cp --from-command {name} -- {}", shell_word(&job.source.name())),
            source => format!("dio-cp {} {name}", shell_word(&source.name())),
        };
        return Err(Error::usage(why).hint(command));
    };
    let name = directory.join(&suggested.name);
    if suggested.chosen_by_server && name.symlink_metadata().is_ok() {
        let why = "it exists, and its name was chosen by the server";
        return Err(Error::failed("replacing", &name, why).hint("name the file instead of the directory"));
    }
    Ok(name)
}

/// A path as typed in a shell: quoted, except for "-".
fn shell_word(path: &Path) -> String {
    if path == Path::new("-") { "-".to_string() } else { quoted(path) }
}

/// Fails if source and destination are the same file, by whatever name.
pub fn refuse_same_file(source: &SourceInfo, name: &Path, destination: &Metadata) -> Result<()> {
    let Some((_, source_metadata)) = &source.file else { return Ok(()) };
    let (a, b) = (source_metadata, destination);
    let comparable = a.is_file() || a.file_type().is_fifo() && name != Path::new("standard output");
    let same_inode = comparable && (a.dev(), a.ino()) == (b.dev(), b.ino());
    let both_devices = a.file_type().is_block_device() && b.file_type().is_block_device();
    let same_device = both_devices && a.rdev() == b.rdev();
    if same_inode || same_device || is_backed_by(a, b) || is_backed_by(b, a) {
        let why = format!("it is the same file as {}", quoted(&source.name));
        return Err(Error::failed("opening", name, why));
    }
    Ok(())
}
