//! What `--residency` shows: a line a file, then the counts, in vmtouch's words.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::check::cgroups::MemoryCgroups;
use crate::check::residency::{Cache, Residency};
use crate::check::residency_scan::{ResidencyScan, ScanEvent};
use crate::error::{Error, Result, quoted, size};
use crate::sys;

/// How to show a survey.
pub struct ResidencyOptions {
    /// A line a file.
    pub verbose: bool,
    /// One JSON object.
    pub json: bool,
    /// Charges by cgroup.
    pub cgroups: bool,
    /// No counts, errors only.
    pub quiet: bool,
    /// A spinner on a terminal.
    pub progress: bool,
}

/// Surveys `paths` and prints what it finds. Fails with the last path that could not be read, after
/// all others were counted.
pub fn print_residency(paths: &[PathBuf], options: &ResidencyOptions) -> Result<()> {
    let began = Instant::now();
    if sys::was_closed(1) {
        return Err(Error::failed("writing", Path::new("standard output"), "it is closed"));
    }
    let root = "root can ask who is charged; the kernel needs CONFIG_MEMCG and CONFIG_PROC_PAGE_MONITOR";
    let groups = match options.cgroups {
        true => Some(MemoryCgroups::new().map_err(|(path, e)| Error::io("opening", &path, e).hint(root))?),
        false => None,
    };
    let bar = ProgressBar::with_draw_target(
        None,
        match options.progress {
            true => ProgressDrawTarget::stderr_with_hz(10),
            false => ProgressDrawTarget::hidden(),
        },
    );
    let (mut out, mut lines, mut broken) = (io::BufWriter::new(io::stdout()), Vec::new(), None);
    let survey = ResidencyScan::of(paths, groups.as_ref(), &mut |seen| match seen {
        ScanEvent::Failed(path, e) => bar.suspend(|| {
            // If standard error is closed there is nobody to tell it to; the status still does.
            let _ = writeln!(io::stderr(), "dio-cp: {}", Error::io("looking at", path, io_copy(e)));
        }),
        ScanEvent::File(path, found) => {
            bar.inc(1);
            bar.set_message(path.display().to_string());
            if options.verbose && options.json {
                lines.push(json_line(path, found));
            } else if options.verbose {
                let result = writeln!(out, "{}", line(path, found));
                broken = broken.take().or(result.err());
            }
        }
    });
    bar.finish_and_clear();
    let text = match (options.json, options.quiet) {
        (true, _) => json(&survey, groups.as_ref(), lines, began.elapsed()),
        (false, true) => String::new(),
        (false, false) => summary(&survey, groups.as_ref(), began.elapsed()),
    };
    let result = if text.is_empty() { Ok(()) } else { writeln!(out, "{text}") };
    let stdout = Path::new("standard output");
    broken.map_or(result, Err).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Error::broken_pipe(stdout),
        _ => Error::io("writing", stdout, e),
    })?;
    match survey.failed {
        0 => Ok(()),
        1 => Err(Error::summary("1 path could not be read")),
        n => Err(Error::summary(format!("{n} paths could not be read"))),
    }
}

fn io_copy(e: &io::Error) -> io::Error {
    e.raw_os_error().map_or_else(|| io::Error::other(e.to_string()), io::Error::from_raw_os_error)
}

/// Three digits, as vmtouch.
fn percent(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0%".to_string();
    }
    let text = format!("{:.3}", part as f64 * 100.0 / whole as f64);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `path  resident/pages  percent`, and what is dirty.
fn line(path: &Path, found: &Residency) -> String {
    let name = quoted(path);
    let name = name.trim_matches('\'');
    match &found.cache {
        Cache::Unknown => format!("{name}  unknown/{}  (the kernel does not tell)", found.pages),
        cache => {
            let resident = cache.resident().unwrap_or(0);
            let dirty = match cache {
                Cache::Known(stat) if stat.dirty + stat.write_back > 0 => {
                    format!("  {} dirty", stat.dirty + stat.write_back)
                }
                _ => String::new(),
            };
            format!("{name}  {resident}/{}  {}{dirty}", found.pages, percent(resident, found.pages))
        }
    }
}

fn summary(survey: &ResidencyScan, groups: Option<&MemoryCgroups>, elapsed: Duration) -> String {
    let ResidencyScan { files, directories, pages, resident, dirty, unknown, .. } = survey;
    let in_bytes = |pages: u64| size(pages.saturating_mul(sys::page_size()));
    let mut text = format!(
        "           Files: {files}\n     Directories: {directories}\n  Resident Pages: {resident}/{pages}  {}/{}  {}",
        in_bytes(*resident),
        in_bytes(*pages),
        percent(*resident, *pages)
    );
    if *dirty > 0 {
        text += &format!("\n     Dirty Pages: {dirty}  {}", in_bytes(*dirty));
    }
    if *unknown > 0 {
        text += &format!("\n         Unknown: {unknown} files of which the kernel does not tell");
    }
    text += &format!("\n         Elapsed: {:.6} seconds", elapsed.as_secs_f64());
    if let Some(groups) = groups {
        text += "\n\n    cgroup inode    percent         pages  path";
        let all: u64 = survey.charges.values().sum();
        let mut charges: Vec<_> = survey.charges.iter().collect();
        charges.sort_by_key(|(_, pages)| std::cmp::Reverse(**pages));
        for (inode, pages) in charges {
            let inode_word = if *inode == 0 { "-".to_string() } else { inode.to_string() };
            text += &format!("\n{inode_word:>16} {:>10} {pages:>13}  {}", percent(*pages, all), groups.name(*inode));
        }
    }
    text
}

fn json_line(path: &Path, found: &Residency) -> serde_json::Value {
    let known = match found.cache {
        Cache::Known(stat) => Some(stat),
        _ => None,
    };
    serde_json::json!({
        "path": path.display().to_string(),
        "pages": found.pages,
        "bytes": found.bytes,
        "resident": found.cache.resident(),
        "dirty": known.map(|stat| stat.dirty),
        "write_back": known.map(|stat| stat.write_back),
        "evicted": known.map(|stat| stat.evicted),
        "recently_evicted": known.map(|stat| stat.recently_evicted),
    })
}

fn json(
    survey: &ResidencyScan,
    groups: Option<&MemoryCgroups>,
    lines: Vec<serde_json::Value>,
    elapsed: Duration,
) -> String {
    let cgroups: Option<Vec<_>> = groups.map(|groups| {
        let charge = |(inode, pages): (&u64, &u64)| serde_json::json!({ "inode": inode, "path": groups.name(*inode), "pages": pages });
        survey.charges.iter().map(charge).collect()
    });
    serde_json::json!({
        "files": survey.files,
        "directories": survey.directories,
        "pages": survey.pages,
        "bytes": survey.bytes,
        "resident": survey.resident,
        "dirty": survey.dirty,
        "unknown": survey.unknown,
        "failed": survey.failed,
        "page_size": sys::page_size(),
        "seconds": elapsed.as_secs_f64(),
        "cgroups": cgroups,
        "list": lines,
    })
    .to_string()
}
