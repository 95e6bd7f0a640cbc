//! Mode, owner, timestamps and extended attributes of the file that gets the name.

use std::ffi::OsString;
use std::fs::{File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use xattr::FileExt;

use super::file::new_mode;
use super::target::Target;
use crate::error::{Error, Result, quoted};
use crate::job::Job;
use crate::source_info::SourceInfo;

/// Attributes that vouch for the old content: the kernel drops them at a write, and so does this.
const OF_THE_CONTENT: [&str; 3] = ["security.capability", "security.ima", "security.evm"];

/// Is of one file only.
const MARK: &str = super::partial::ATTRIBUTE;

const IN_PLACE: &str = "--in-place overwrites the bytes and leaves the file what it is";

/// Sets the attributes of a new file before it gets its name: the source's under --preserve, else those of the file it
/// replaces. `named`: it was created under a hidden name, and only for its owner.
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

/// Makes `file` look like the file at `path` that it is about to replace: mode, owner, extended
/// attributes. What cannot be kept is an error, for the file would change hands unseen.
fn keep(file: &File, target: &Target, of: &Metadata) -> Result<()> {
    let (path, name) = (&target.path, &target.name);
    let fail = |what: &str, e| Error::io(&format!("keeping the {what} of"), name, e).hint(IN_PLACE);
    keep_owner(file, name, of)?;
    set_mode(file, of.mode()).map_err(|e| fail("mode", e))?;
    let fail_attribute = |e| fail("extended attributes", e);
    let old: Vec<OsString> = match xattr::list(path) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Vec::new(),
        other => other.map_err(fail_attribute)?.collect(),
    };
    for attribute in file.list_xattr().into_iter().flatten() {
        // A default ACL of the directory, say, would open it to people who could not see the old one.
        if !old.contains(&attribute) && !attribute.as_bytes().starts_with(b"security.") && attribute != MARK {
            file.remove_xattr(&attribute).map_err(fail_attribute)?;
        }
    }
    for attribute in old {
        if OF_THE_CONTENT.iter().any(|content| attribute == *content) || attribute == MARK {
            continue;
        }
        let Some(value) = xattr::get(path, &attribute).map_err(fail_attribute)? else { continue };
        if file.get_xattr(&attribute).ok().flatten().as_ref() != Some(&value) {
            file.set_xattr(&attribute, &value).map_err(fail_attribute)?;
        }
    }
    Ok(())
}

/// Fails at once, and not after an hour, if the user may not give the new file to the owner of the old one: tries it, and
/// takes it back, because the file must stay private until it is complete.
pub fn try_owner(file: &File, target: &Target) -> Result<()> {
    let fail = |e| Error::io("keeping the owner of", &target.name, e).hint(IN_PLACE);
    let (own, replaced) = (file.metadata().map_err(fail)?, std::fs::metadata(&target.path).map_err(fail)?);
    keep_owner(file, &target.name, &replaced)?;
    keep_owner(file, &target.name, &own)
}

/// The owner's part of [`keep`].
fn keep_owner(file: &File, path: &Path, of: &Metadata) -> Result<()> {
    let fail = |e| Error::io("keeping the owner of", path, e).hint(IN_PLACE);
    let now = file.metadata().map_err(fail)?;
    if (now.uid(), now.gid()) != (of.uid(), of.gid()) {
        fchown(file, Some(of.uid()), Some(of.gid())).map_err(fail)?;
    }
    Ok(())
}

/// Gives `file` the timestamps, owner, mode and extended attributes of the source (-p). What the
/// user may not set, or the filesystem does not know, is left and named: `cp -p` does so too.
fn preserve(file: &File, name: &Path, source: &File, of: &Metadata) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut note = |what: &str, result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied || e.kind() == io::ErrorKind::Unsupported => {
            notes.push(format!("the {what} of {} could not be preserved: {e}", quoted(name)));
            Ok(false)
        }
        Err(e) => Err(Error::io(&format!("preserving the {what} of"), name, e)),
        Ok(()) => Ok(true),
    };
    let owned = note("owner", fchown(file, Some(of.uid()), Some(of.gid())))?;
    // Set-id bits belong to an owner: without him they would be a hole.
    note("mode", set_mode(file, if owned { of.mode() } else { of.mode() & 0o1777 }))?;
    for attribute in source.list_xattr().into_iter().flatten().filter(|attribute| attribute != MARK) {
        if let Some(value) = source.get_xattr(&attribute).ok().flatten() {
            note(&format!("attribute {}", attribute.display()), file.set_xattr(&attribute, &value))?;
        }
    }
    let times =
        of.accessed().and_then(|accessed| Ok(FileTimes::new().set_accessed(accessed).set_modified(of.modified()?)));
    note("timestamps", times.and_then(|times| file.set_times(times)))?;
    Ok(notes)
}

/// Sets permission and set-id bits; the type bits of `mode` do not matter.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode & 0o7777))
}
