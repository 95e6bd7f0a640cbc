//! The report at the end of a copy: the last line in the format of dd(1), the digest, JSON, and --check-cache.

use std::ffi::OsStr;
use std::time::Duration;

use crate::check::cache_watch::{PageCounts, SAMPLE_INTERVAL};
use crate::check::{checksum_list, digest};
use crate::copy::{CommandEnd, Report};
use crate::direct::Traffic;
use crate::error::{Error, Result};
use crate::job::Job;
use humansize::{BINARY, DECIMAL, FormatSizeOptions, format_size};

/// The summary of a copy: `2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.87 s, 1.1 GB/s`. The rate counts only the bytes
/// that were `moved`, not those that were cloned.
pub fn last_line(bytes: u64, moved: u64, elapsed: Duration) -> String {
    let unit = if bytes == 1 { "byte" } else { "bytes" };
    let sizes = match bytes {
        0..1000 => String::new(),
        1000..1024 => format!(" ({})", decimal(bytes)),
        _ => format!(" ({}, {})", decimal(bytes), format_size(bytes, one_decimal(FormatSizeOptions::from(BINARY)))),
    };
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { moved as f64 / seconds } else { 0.0 };
    format!("{bytes} {unit}{sizes} copied, {}, {}/s", duration(seconds), decimal(rate as u64))
}

/// The summary of a copy of several files: `46469 files, 612345678 bytes (612.3 MB, 584.0 MiB) copied, 7.1 s, 86.2 MB/s`.
pub fn tree_last_line(files: u64, bytes: u64, moved: u64, elapsed: Duration) -> String {
    let unit = if files == 1 { "file" } else { "files" };
    format!("{files} {unit}, {}", last_line(bytes, moved, elapsed))
}

/// The digest and the destination's name as the user gave it, in the format of `sha256sum`. None if no digest was
/// requested.
pub fn digest_line(report: &Report) -> Option<Vec<u8>> {
    let digest = report.digest.as_ref()?;
    let name = report.destination.name.as_os_str();
    let name = if name == "standard output" { OsStr::new("-") } else { name };
    Some(checksum_list::line(&digest.bytes, name))
}

/// The whole report as one JSON object.
pub fn json(report: &Report, job: &Job) -> String {
    let source = job.source.name().display().to_string();
    let digest = report.digest.as_ref().map(|digest| {
        let hex = digest::hex(&digest.bytes);
        serde_json::json!({ "algorithm": digest.algorithm.name(), "hex": hex })
    });
    let seconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e6;
    serde_json::json!({
        "source": source,
        "command": report.source.command.map(command),
        "destination": report.destination.path.display().to_string(),
        "bytes": report.bytes,
        "resumed": report.resumed,
        "cloned": report.cloned,
        "holes": report.holes,
        "read": traffic(&report.source.traffic),
        "written": traffic(&report.destination.written.traffic),
        "seconds": {
            "total": seconds(report.times.total),
            "copy": seconds(report.times.copying),
            "sync": seconds(report.times.syncing),
            "verify": seconds(report.times.verifying),
        },
        "digest": digest,
        "verified": report.verified,
        "synced": job.sync,
        "cached_pages": report.destination.written.cached_pages,
        "cache": {
            "source": report.source.cache.map(page_counts),
            "destination": report.destination.cache.map(page_counts),
        },
        "alignment": { "source": report.source.alignment, "destination": report.destination.alignment },
        "block_size": job.block_size,
        "queue_depth": job.queue_depth,
        "chosen": report.details,
        "notes": report.notes,
    })
    .to_string()
}

fn command(end: CommandEnd) -> serde_json::Value {
    let status = match end {
        CommandEnd::Succeeded => Some(0),
        CommandEnd::EndedByCount => None,
    };
    serde_json::json!({ "status": status })
}

fn page_counts(counts: PageCounts) -> serde_json::Value {
    serde_json::json!({ "before": counts.before, "peak": counts.peak, "after": counts.after })
}

/// The lines that --check-cache prints: one for each end of the copy that can have pages in the page cache.
pub fn cache_lines(report: &Report) -> Vec<String> {
    let ends = [("source", report.source.cache), ("destination", report.destination.cache)];
    ends.into_iter().filter_map(|(end, counts)| Some(cache_line(end, counts?))).collect()
}

/// `end` is "source" or "destination".
fn cache_line(end: &str, counts: PageCounts) -> String {
    let count = |pages: Option<u64>| pages.map_or("unknown".to_string(), |pages| pages.to_string());
    let (before, peak, after) = (count(counts.before), count(counts.peak), count(counts.after));
    let interval = SAMPLE_INTERVAL.as_millis();
    format!(
        "pages of the {end} in the cache: {before} before, {peak} at most (sampled every {interval} ms), {after} after"
    )
}

/// Fails with [`ErrorKind::Cache`](crate::ErrorKind::Cache) if the copy left pages in the page cache, or if the kernel
/// does not report them.
pub fn require_clean(report: &Report, job: &Job) -> Result<()> {
    let (source, destination) = (&report.source, &report.destination);
    let source_added = source.cache.map(|counts| counts.added());
    // A new file had no pages before the copy, so the copy left all the pages that are there now.
    let new_file = !job.in_place && destination.written.cached_pages.is_some();
    let destination_added = destination.cache.map(|counts| if new_file { counts.after } else { counts.added() });
    for (name, added) in [(&job.source.name(), source_added), (&destination.name, destination_added)] {
        match added {
            None | Some(Some(0)) => {}
            Some(Some(pages)) => {
                let unit = if pages == 1 { "page" } else { "pages" };
                let why = format!("the copy is done, but it left {pages} {unit} in the page cache");
                return Err(Error::cache(name, why));
            }
            Some(None) => {
                let why = "the copy is done, but the kernel does not report whether it left pages in the page cache";
                return Err(Error::cache(name, why).hint("run it as the file's owner, on Linux 6.5 or later"));
            }
        }
    }
    Ok(())
}

pub fn traffic(traffic: &Traffic) -> serde_json::Value {
    let Traffic { direct, resident, uncached, cached, memory } = traffic;
    serde_json::json!({
        "direct": direct, "resident": resident, "uncached": uncached, "cached": cached, "memory": memory,
    })
}

/// A size in powers of 1000, with one decimal; exact below 1000 bytes.
pub fn decimal(bytes: u64) -> String {
    let format = FormatSizeOptions::from(DECIMAL);
    format_size(bytes, if bytes < 1000 { format } else { one_decimal(format) })
}

fn one_decimal(format: FormatSizeOptions) -> FormatSizeOptions {
    format.decimal_places(1).decimal_zeroes(1)
}

/// A duration with three significant digits.
fn duration(seconds: f64) -> String {
    let decimals = match seconds {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    format!("{seconds:.decimals$} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_gives_exact_bytes_and_readable_sizes() {
        let line = last_line(2_147_483_648, 2_147_483_648, Duration::from_millis(1870));
        assert_eq!(line, "2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.87 s, 1.1 GB/s");
        assert_eq!(last_line(1, 1, Duration::from_millis(500)), "1 byte copied, 0.500 s, 2 B/s");
        assert_eq!(last_line(1000, 1000, Duration::from_secs(100)), "1000 bytes (1.0 kB) copied, 100 s, 10 B/s");
        assert_eq!(last_line(1000, 0, Duration::from_secs(1)), "1000 bytes (1.0 kB) copied, 1.00 s, 0 B/s");
        assert_eq!(last_line(0, 0, Duration::ZERO), "0 bytes copied, 0.0000 s, 0 B/s");
    }
}
