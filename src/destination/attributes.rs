//! Mode, owner, timestamps and extended attributes of the file that gets the name.

use std::ffi::OsString;
use std::fs::{File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use xattr::FileExt;

use super::target::Target;
use crate::error::{Error, Result, quoted};
use crate::job::Job;
use crate::source_info::SourceInfo;
use crate::sys;

/// Attributes that describe the old content. The kernel removes them on a write, so a replacement does not keep them.
const CONTENT_ATTRIBUTES: [&str; 3] = ["security.capability", "security.ima", "security.evm"];

/// The record of --resume belongs to one file and is never copied.
const RESUME_RECORD: &str = super::partial::ATTRIBUTE;

const HINT: &str = "use --in-place, which overwrites the bytes and keeps the file's attributes";
const TREE_HINT: &str = "use -a, which sets the attributes of the source instead";

/// Sets the attributes of a new file before it gets its name: with --preserve those of the source, otherwise those of the
/// file it replaces. `named`: it has a hidden name, and therefore a mode that only its owner can open.
pub fn apply(job: &Job, target: &Target, file: &File, source: &SourceInfo, named: bool) -> Result<Vec<String>> {
    if let Some((source_file, source_metadata)) = source.file.as_ref().filter(|_| job.preserve) {
        return preserve(file, &target.name, source_file, source_metadata);
    }
    // Read again: they may have changed during the copy.
    let replaced = if target.exists() { std::fs::metadata(&target.path).ok() } else { None };
    if let Some(replaced) = replaced {
        keep(file, target, &replaced)?;
    } else if named {
        set_mode(file, new_mode(source) & !job.umask).map_err(|e| Error::io("creating", &target.name, e))?;
    }
    Ok(Vec::new())
}

/// Gives `file` the mode, owner and extended attributes of the file that it replaces. Fails if one cannot be kept:
/// otherwise the owner or the permissions would change silently.
fn keep(file: &File, target: &Target, replaced: &Metadata) -> Result<()> {
    let (path, name) = (&target.path, &target.name);
    let fail = |kept: &str, e| Error::io(&format!("keeping the {kept} of"), name, e).hint(HINT);
    keep_owner(file, name, replaced)?;
    set_mode(file, replaced.mode()).map_err(|e| fail("mode", e))?;
    let fail_attribute = |e| fail("extended attributes", e);
    let old = list(xattr::list(path)).map_err(fail_attribute)?;
    for attribute in list(file.list_xattr()).map_err(fail_attribute)? {
        // For example, a default ACL of the directory could give access to users who could not read the old file.
        if !old.contains(&attribute) && !attribute.as_bytes().starts_with(b"security.") && attribute != RESUME_RECORD {
            file.remove_xattr(&attribute).map_err(fail_attribute)?;
        }
    }
    for attribute in old {
        if CONTENT_ATTRIBUTES.iter().any(|content| attribute == *content) || attribute == RESUME_RECORD {
            continue;
        }
        let Some(value) = xattr::get(path, &attribute).map_err(fail_attribute)? else { continue };
        if file.get_xattr(&attribute).map_err(fail_attribute)?.as_ref() != Some(&value) {
            file.set_xattr(&attribute, &value).map_err(fail_attribute)?;
        }
    }
    Ok(())
}

/// Fails before the copy starts if the user may not give the new file to the owner of the old one. Changes the owner, and
/// changes it back, because the file must stay private until it is complete.
pub fn try_owner(file: &File, target: &Target) -> Result<()> {
    let fail = |e| Error::io("keeping the owner of", &target.name, e).hint(HINT);
    let (own, replaced) = (file.metadata().map_err(fail)?, std::fs::metadata(&target.path).map_err(fail)?);
    keep_owner(file, &target.name, &replaced)?;
    keep_owner(file, &target.name, &own)
}

/// Gives `file` the owner and group in `wanted`.
fn keep_owner(file: &File, name: &Path, wanted: &Metadata) -> Result<()> {
    set_owner(file, wanted).map_err(|e| Error::io("keeping the owner of", name, e).hint(HINT))
}

/// Sets the owner and group in `wanted` if they differ: each change costs the filesystem a transaction.
fn set_owner(file: &File, wanted: &Metadata) -> io::Result<()> {
    let current = file.metadata()?;
    if (current.uid(), current.gid()) == (wanted.uid(), wanted.gid()) {
        return Ok(());
    }
    match fchown(file, Some(wanted.uid()), Some(wanted.gid())) {
        // An owner that this user namespace does not know.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Err(io::Error::from_raw_os_error(libc::EPERM)),
        other => other,
    }
}

/// Gives `file` the timestamps, owner, mode and extended attributes of the source (-p). What the user may not set, or the
/// filesystem does not support, is reported and left as it is, as with `cp -p`.
pub fn preserve(file: &File, name: &Path, source: &File, metadata: &Metadata) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut note = |attribute: &str, result: io::Result<()>| match result {
        Err(e) if sys::is_attribute_refusal(&e) => {
            notes.push(format!("the {attribute} of {} could not be preserved: {e}", quoted(name)));
            Ok(false)
        }
        Err(e) => Err(Error::io(&format!("preserving the {attribute} of"), name, e)),
        Ok(()) => Ok(true),
    };
    let owner_preserved = note("owner", set_owner(file, metadata))?;
    // With another owner, set-user-ID and set-group-ID bits would give that owner's rights away.
    let mode = if owner_preserved { metadata.mode() } else { metadata.mode() & 0o1777 } & 0o7777;
    let reading = |e| Error::io("reading the extended attributes to preserve in", name, e);
    let mut wanted = list(source.list_xattr()).map_err(reading)?;
    wanted.retain(|attribute| attribute != RESUME_RECORD);
    for attribute in list(file.list_xattr()).map_err(reading)? {
        // A default ACL of the directory gives a new file attributes that the source does not have.
        if !wanted.contains(&attribute) && !attribute.as_bytes().starts_with(b"security.") && attribute != RESUME_RECORD
        {
            note(&format!("attribute {}", attribute.display()), file.remove_xattr(&attribute))?;
        }
    }
    for attribute in wanted {
        let set = match source.get_xattr(&attribute) {
            Ok(None) => continue, // it has just been removed
            Ok(Some(value)) => file.set_xattr(&attribute, &value),
            Err(e) => Err(e),
        };
        note(&format!("attribute {}", attribute.display()), set)?;
    }
    // After the attributes, which the owner of a read-only file may not set. Changes of owner and ACL change the mode, too.
    let current_mode = file.metadata().map_err(|e| Error::io("reading the mode of", name, e))?.mode() & 0o7777;
    note("mode", if current_mode == mode { Ok(()) } else { set_mode(file, mode) })?;
    note("timestamps", set_times(file, metadata))?;
    Ok(notes)
}

/// The names of extended attributes; none if the filesystem does not have such attributes.
pub fn list(names: io::Result<xattr::XAttrs>) -> io::Result<Vec<OsString>> {
    match names {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(Vec::new()),
        other => Ok(other?.collect()),
    }
}

/// Gives `file` the mode, owner and extended attributes of the file at `path`, whose last component may not be a symbolic
/// link. `name` is its name in messages.
pub fn keep_from(file: &File, name: &Path, path: &Path) -> Result<()> {
    let replaced = std::fs::symlink_metadata(path).map_err(|e| Error::io("keeping the mode of", name, e))?;
    let target = Target { name: name.into(), path: path.into(), metadata: None };
    keep(file, &target, &replaced).map_err(|error| error.hint(TREE_HINT))
}

/// Gives `file` the access and modification times in `metadata`.
pub fn set_times(file: &File, metadata: &Metadata) -> io::Result<()> {
    file.set_times(FileTimes::new().set_accessed(metadata.accessed()?).set_modified(metadata.modified()?))
}

/// The mode of a new file, before the umask: that of the source, if it is a file.
pub fn new_mode(source: &SourceInfo) -> u32 {
    let metadata = source.file.as_ref().map(|(_, metadata)| metadata).filter(|metadata| metadata.is_file());
    metadata.map_or(0o666, |metadata| metadata.mode() & 0o777)
}

/// Sets permission and set-id bits; the type bits of `mode` do not matter.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode & 0o7777))
}
