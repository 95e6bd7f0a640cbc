//! What a copy promises however it ends, written down once. Each function returns what is wrong, or None.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use super::faults::Outcome;
use super::manifest::{Attributes, Content, Entries, Entry, difference, manifest};

/// A copy ends by itself, without a panic or a signal.
pub fn end(outcome: &Outcome) -> Option<String> {
    let Outcome { status, stderr, hung, .. } = outcome;
    if *hung {
        return Some("it hung".into());
    }
    let crashed = stderr.contains("panicked") || status.code() == Some(101) || status.signal().is_some();
    crashed.then(|| "it crashed".into())
}

/// What is left in DST's directory beside DST: nothing, or what the message names.
pub fn nothing_else(outcome: &Outcome, mut names: Vec<String>, resume: bool) -> Option<String> {
    names.retain(|name| name != "dst");
    let kept = resume && outcome.says("are kept in") && names == [".dst.partial.dio-cp"];
    let said = names.is_empty() || kept || outcome.says("is left behind");
    (!said).then(|| format!("it left {names:?}"))
}

/// Exit status 0: all bytes have arrived. Otherwise, a part of them, and the message is not that of a success.
pub fn pipe(outcome: &Outcome, new: &[u8]) -> Option<String> {
    let received = &outcome.stdout;
    if outcome.status.success() {
        return (received != new).then(|| format!("{} of {} bytes", received.len(), new.len()));
    }
    message(outcome).or_else(|| (!new.starts_with(received)).then(|| "the bytes in the pipe are wrong".into()))
}

/// Exit status 0: DST is new. Otherwise, it is old or new, as the message says.
pub fn file(outcome: &Outcome, dst: &Path, old: Option<&[u8]>, new: &[u8]) -> Option<String> {
    let now = fs::read(dst).ok();
    let now = now.as_deref();
    let (is_old, is_new) = (now == old, now == Some(new));
    if outcome.status.success() {
        return (!is_new).then(|| "the bytes differ".into());
    }
    let wrong = |condition: bool, what: &str| condition.then(|| what.to_string());
    let complete = outcome.says("is complete, but") || outcome.says("the copy is complete");
    message(outcome)
        .or(wrong(outcome.says("was not created") && now.is_some(), "DST was created"))
        .or(wrong(outcome.says("is as it was") && !is_old, "DST is not as it was"))
        .or(wrong(complete && !is_new, "DST is not complete"))
        .or(wrong(!is_old && !is_new, "DST is neither old nor new"))
        .or(wrong(!is_old && !complete && !outcome.is_mute(), "DST is new, and the message does not say so"))
}

/// The same for a copy that overwrites DST's own bytes: each is old or new, and the file is not longer than the longer
/// one, padded to whole blocks.
pub fn in_place(outcome: &Outcome, dst: &Path, old: &[u8], new: &[u8]) -> Option<String> {
    if outcome.status.success() || !outcome.says("may be partly overwritten") {
        return file(outcome, dst, Some(old), new);
    }
    message(outcome).or_else(|| mixed(&fs::read(dst).unwrap(), old, new))
}

/// DST's bytes in the middle of a copy that overwrites them: each block is old or new. Blocks are written in any order, so
/// there may be blocks of zeros past the old end.
pub fn mixed(now: &[u8], old: &[u8], new: &[u8]) -> Option<String> {
    let limit = old.len().max(new.len().next_multiple_of(4096));
    if now.len() < old.len() || now.len() > limit {
        return Some(format!("{} bytes, from {} and {}", now.len(), old.len(), new.len()));
    }
    let is_old = |i: usize| now[i] == old.get(i).copied().unwrap_or_default();
    let is_new = |i: usize| now[i] == new.get(i).or(old.get(i)).copied().unwrap_or_default();
    let block = |start: usize| start..now.len().min(start + 4096);
    let foreign = (0..now.len()).step_by(4096).find(|start| !block(*start).all(is_old) && !block(*start).all(is_new));
    foreign.map(|start| format!("the block at {start} of {} is neither old nor new", now.len()))
}

/// Exit status 0: DST is like the source. Otherwise, each name is absent, old or new, and the message says how many are
/// missing.
pub fn tree(outcome: &Outcome, dst: &Path, old: &Entries, new: &Entries) -> Option<String> {
    let now = manifest(dst);
    let noted = outcome.says("could not be preserved");
    if outcome.status.success() {
        let contents = |tree: &Entries| tree.iter().map(|(p, e)| (p.clone(), e.content.clone())).collect::<Vec<_>>();
        return match noted {
            true => (contents(new) != contents(&now)).then(|| "the contents differ".into()),
            false => difference(new, &now),
        };
    }
    let bad_news = ["not copied", "the copy has finished", "may undo the copy"];
    if outcome.says(" copied, ") && !bad_news.iter().any(|text| outcome.says(text)) {
        return Some("it failed and claims success".into());
    }
    if !outcome.is_mute() && !outcome.says("dio-cp: ") {
        return Some("it says nothing".into());
    }
    each_old_or_new(&now, old, new, noted)
}

/// Each name is absent, old or new, and whole; what was there still is. `noted`: the user was told of attributes that
/// could not be preserved.
pub fn each_old_or_new(now: &Entries, old: &Entries, new: &Entries, noted: bool) -> Option<String> {
    if let Some(path) = old.keys().find(|path| !now.contains_key(*path)) {
        return Some(format!("'{}' is gone", path.display()));
    }
    now.iter().find_map(|(path, entry)| {
        let same = |other: &Entry| {
            // A hard link is a name of its own. The attributes of a directory come last.
            let attributes = |entry: &Entry| Attributes { same_as: None, ..entry.attributes.clone() };
            let excused = noted || entry.content == Content::Directory;
            other.content == entry.content && (excused || attributes(other) == attributes(entry))
        };
        let whole = [old.get(path), new.get(path)].into_iter().flatten().any(same);
        (!whole).then(|| format!("'{}' is neither old nor new: {entry:?}", path.display()))
    })
}

/// A failure is reported, and not as a success.
fn message(outcome: &Outcome) -> Option<String> {
    if outcome.stderr.lines().any(|line| line.contains(" copied, ") && line.contains("B/s")) {
        return Some("it failed and claims success".into());
    }
    (!outcome.is_mute() && !outcome.says("dio-cp: ")).then(|| "it says nothing".into())
}
