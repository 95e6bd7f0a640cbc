//! The report of `--residency`: one line per file, then the totals, with the labels of vmtouch(8).

use std::cmp::Reverse;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::check::cgroups::MemoryCgroups;
use crate::check::residency::{CachedPages, Residency};
use crate::check::residency_scan::{ResidencyTotals, ScanEvent, scan};
use crate::error::{Error, Result, quoted, size};
use crate::sys;

/// What to print about the pages of files.
pub struct ResidencyOptions {
    /// One line per file, or one JSON object in `list`.
    pub verbose: bool,
    /// One JSON object instead of text.
    pub json: bool,
    /// Also the memory cgroups that are charged for the pages.
    pub cgroups: bool,
    /// Errors only; no totals, except in JSON.
    pub quiet: bool,
    /// A spinner on the terminal.
    pub progress: bool,
}

/// Counts the pages of `paths` that are in the page cache, and prints the result on standard output. A path that cannot
/// be read is reported on standard error. The others are still counted, and the function fails at the end.
pub fn print_residency(paths: &[PathBuf], options: &ResidencyOptions) -> Result<()> {
    let started = Instant::now();
    let stdout = Path::new("standard output");
    if sys::was_closed(1) {
        return Err(Error::failed("writing", stdout, "it is closed"));
    }
    let cgroups = if options.cgroups { Some(open_cgroups()?) } else { None };
    let cgroups = cgroups.as_ref();
    let draw_target =
        if options.progress { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
    let spinner = ProgressBar::with_draw_target(None, draw_target);
    let (mut output, mut json_files) = (io::BufWriter::new(io::stdout()), Vec::new());
    let mut write_result = Ok(());
    let totals = scan(paths, cgroups, &mut |event| match event {
        ScanEvent::Failed { path, error } => spinner.suspend(|| print_failure(path, error)),
        ScanEvent::File { path, residency } => {
            spinner.inc(1);
            spinner.set_message(path.display().to_string());
            if options.verbose && options.json {
                json_files.push(file_json(path, residency));
            } else if options.verbose && write_result.is_ok() {
                write_result = writeln!(output, "{}", file_line(path, residency));
            }
        }
    });
    spinner.finish_and_clear();
    let elapsed = started.elapsed();
    if options.json {
        write_result = writeln!(output, "{}", json(&totals, cgroups, json_files, elapsed));
    } else if !options.quiet {
        let text = summary(&totals, cgroups, elapsed);
        write_result = write_result.and_then(|()| writeln!(output, "{text}"));
    }
    write_result.and_then(|()| output.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Error::broken_pipe(stdout),
        _ => Error::io("writing", stdout, e),
    })?;
    match totals.failed {
        0 => Ok(()),
        1 => Err(Error::summary("1 path could not be read")),
        failed => Err(Error::summary(format!("{failed} paths could not be read"))),
    }
}

fn open_cgroups() -> Result<MemoryCgroups> {
    let hint = "run it as root, on a kernel with CONFIG_MEMCG and CONFIG_PROC_PAGE_MONITOR";
    MemoryCgroups::new().map_err(|(path, e)| Error::io("opening", &path, e).hint(hint))
}

/// Prints the error on standard error. If that is closed, the exit status still shows that a path failed.
fn print_failure(path: &Path, error: io::Error) {
    let _ = writeln!(io::stderr(), "dio-cp: {}", Error::io("counting the cached pages of", path, error));
}

/// A percentage with up to three decimals, as vmtouch prints it.
fn percent(part: u64, total: u64) -> String {
    if part == 0 || total == 0 {
        return "0%".to_string();
    }
    let text = format!("{:.3}", part as f64 * 100.0 / total as f64);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `path  resident/pages  percent`, and the number of dirty pages if there are any.
fn file_line(path: &Path, residency: &Residency) -> String {
    let name = quoted(path);
    let (name, pages) = (name.trim_matches('\''), residency.pages);
    let Some(resident) = residency.cached.resident() else {
        return format!("{name}  unknown/{pages}  (not reported by the kernel)");
    };
    let dirty = match residency.cached.dirty_or_under_writeback() {
        None | Some(0) => String::new(),
        Some(dirty) => format!("  {dirty} dirty"),
    };
    format!("{name}  {resident}/{pages}  {}{dirty}", percent(resident, pages))
}

fn summary(totals: &ResidencyTotals, cgroups: Option<&MemoryCgroups>, elapsed: Duration) -> String {
    let ResidencyTotals { files, directories, pages, resident, dirty, unknown, .. } = totals;
    let page_bytes = |pages: u64| size(pages.saturating_mul(sys::page_size()));
    let mut text = format!(
        "           Files: {files}\n     Directories: {directories}\n  Resident Pages: {resident}/{pages}  {}/{}  {}",
        page_bytes(*resident),
        page_bytes(*pages),
        percent(*resident, *pages)
    );
    if *dirty > 0 {
        text += &format!("\n     Dirty Pages: {dirty}  {}", page_bytes(*dirty));
    }
    if *unknown > 0 {
        let unit = if *unknown == 1 { "file" } else { "files" };
        text += &format!("\n         Unknown: {unknown} {unit} (not reported by the kernel)");
    }
    text += &format!("\n         Elapsed: {:.6} seconds", elapsed.as_secs_f64());
    if let Some(cgroups) = cgroups {
        text += &charges_table(totals, cgroups);
    }
    text
}

/// The cgroups that are charged for the resident pages, largest first.
fn charges_table(totals: &ResidencyTotals, cgroups: &MemoryCgroups) -> String {
    let mut table = "\n\n    cgroup inode    percent         pages  path".to_string();
    let charged_pages: u64 = totals.charges.values().sum();
    let mut charges: Vec<_> = totals.charges.iter().collect();
    charges.sort_by_key(|(_, pages)| Reverse(**pages));
    for (inode, pages) in charges {
        let inode_column = if *inode == 0 { "-".to_string() } else { inode.to_string() };
        let percent = percent(*pages, charged_pages);
        table += &format!("\n{inode_column:>16} {percent:>10} {pages:>13}  {}", cgroups.name(*inode));
    }
    table
}

fn file_json(path: &Path, residency: &Residency) -> serde_json::Value {
    let stat = match residency.cached {
        CachedPages::Detailed(stat) => Some(stat),
        _ => None,
    };
    serde_json::json!({
        "path": path.display().to_string(),
        "pages": residency.pages,
        "bytes": residency.bytes,
        "resident": residency.cached.resident(),
        "dirty": stat.map(|stat| stat.dirty),
        "write_back": stat.map(|stat| stat.write_back),
        "evicted": stat.map(|stat| stat.evicted),
        "recently_evicted": stat.map(|stat| stat.recently_evicted),
    })
}

fn json(
    totals: &ResidencyTotals,
    cgroups: Option<&MemoryCgroups>,
    files: Vec<serde_json::Value>,
    elapsed: Duration,
) -> String {
    let charges: Option<Vec<_>> = cgroups.map(|cgroups| {
        let charge = |(inode, pages): (&u64, &u64)| {
            let path = cgroups.name(*inode);
            serde_json::json!({ "inode": inode, "path": path, "pages": pages })
        };
        totals.charges.iter().map(charge).collect()
    });
    serde_json::json!({
        "files": totals.files,
        "directories": totals.directories,
        "pages": totals.pages,
        "bytes": totals.bytes,
        "resident": totals.resident,
        "dirty": totals.dirty,
        "unknown": totals.unknown,
        "failed": totals.failed,
        "page_size": sys::page_size(),
        "seconds": elapsed.as_secs_f64(),
        "cgroups": charges,
        "list": files,
    })
    .to_string()
}
