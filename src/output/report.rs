//! The last line, in dd's words.

use std::ffi::OsStr;
use std::time::Duration;

use crate::check::cache_watch::{PageCounts, SAMPLE_INTERVAL};
use crate::check::{checksum_list, digest};
use crate::copy::Report;
use crate::direct::Traffic;
use crate::error::{Error, Result};
use crate::job::Job;
use humansize::{BINARY, DECIMAL, FormatSizeOptions, format_size};

/// `2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.87 s, 1.1 GB/s`
pub fn last_line(bytes: u64, elapsed: Duration) -> String {
    let plural = if bytes == 1 { "byte" } else { "bytes" };
    let sizes = match bytes {
        0..1000 => String::new(),
        1000..1024 => format!(" ({})", decimal(bytes)),
        _ => format!(" ({}, {})", decimal(bytes), format_size(bytes, one_place(FormatSizeOptions::from(BINARY)))),
    };
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 };
    format!("{bytes} {plural}{sizes} copied, {}, {}/s", time(seconds), decimal(rate as u64))
}

/// The line that `sha256sum -c` reads: the digest and the destination's name as the user gave it.
pub fn digest_line(report: &Report) -> Option<Vec<u8>> {
    let digest = report.digest.as_ref()?;
    let name = report.destination.name.as_os_str();
    let name = if name == "standard output" { OsStr::new("-") } else { name };
    Some(checksum_list::line(&digest.bytes, name))
}

/// Everything that the report knows, as one JSON object.
pub fn json(report: &Report, job: &Job) -> String {
    let source = job.source.name().display().to_string();
    let digest = report
        .digest
        .as_ref()
        .map(|digest| serde_json::json!({ "algorithm": digest.algorithm.name(), "hex": digest::hex(&digest.bytes) }));
    let seconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e6;
    serde_json::json!({
        "source": source,
        "destination": report.destination.path.display().to_string(),
        "bytes": report.bytes,
        "resumed": report.resumed,
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
        "cache": { "source": report.source.cache.map(page_counts), "destination": report.destination.cache.map(page_counts) },
        "alignment": { "source": report.source.alignment, "destination": report.destination.alignment },
        "block_size": job.block_size,
        "queue_depth": job.queue_depth,
        "chosen": report.details,
        "notes": report.notes,
    })
    .to_string()
}

fn page_counts(course: PageCounts) -> serde_json::Value {
    serde_json::json!({ "before": course.before, "peak": course.peak, "after": course.after })
}

/// The lines of --check-cache.
pub fn cache_lines(report: &Report) -> Vec<String> {
    let line = |what: &str, course: &Option<PageCounts>| {
        let PageCounts { before, peak, after } = course.as_ref()?;
        let count = |pages: &Option<u64>| pages.map_or("unknown".to_string(), |pages| pages.to_string());
        let peak = count(peak);
        let sampled = format!("{peak} at most (sampled every {} ms)", SAMPLE_INTERVAL.as_millis());
        Some(format!("pages of the {what} in the cache: {} before, {sampled}, {} after", count(before), count(after)))
    };
    [line("source", &report.source.cache), line("destination", &report.destination.cache)]
        .into_iter()
        .flatten()
        .collect()
}

/// Fails if the copy left pages in the cache, or if the kernel does not report them.
pub fn require_clean(report: &Report, job: &Job) -> Result<()> {
    let (source, destination) = (&report.source, &report.destination);
    let source_added = source.cache.map(|counts| counts.added());
    // A file that was replaced had no pages: the copy left all that are there now.
    let new_file = !job.in_place && destination.written.cached_pages.is_some();
    let destination_added = destination.cache.map(|counts| if new_file { counts.after } else { counts.added() });
    for (name, added) in [(&job.source.name(), source_added), (&destination.name, destination_added)] {
        match added {
            None | Some(Some(0)) => {}
            Some(Some(pages)) => {
                return Err(Error::cache(name, format!("the copy is done, but left {pages} pages there")));
            }
            Some(None) => {
                let why = "the copy is done, but the kernel does not report what it left there";
                return Err(Error::cache(name, why).hint("run it as the file's owner, on Linux 6.5 or later"));
            }
        }
    }
    Ok(())
}

fn traffic(traffic: &Traffic) -> serde_json::Value {
    let Traffic { direct, resident, uncached, cached, memory } = traffic;
    serde_json::json!({
        "direct": direct, "resident": resident, "uncached": uncached, "cached": cached, "memory": memory,
    })
}

/// Powers of 1000, one decimal.
pub fn decimal(bytes: u64) -> String {
    let format = FormatSizeOptions::from(DECIMAL);
    format_size(bytes, if bytes < 1000 { format } else { one_place(format) })
}

fn one_place(format: FormatSizeOptions) -> FormatSizeOptions {
    format.decimal_places(1).decimal_zeroes(1)
}

/// Three digits that mean something.
fn time(seconds: f64) -> String {
    let places = match seconds {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    format!("{seconds:.places$} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_as_promised() {
        let line = last_line(2_147_483_648, Duration::from_millis(1870));
        assert_eq!(line, "2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.87 s, 1.1 GB/s");
        assert_eq!(last_line(1, Duration::from_millis(500)), "1 byte copied, 0.500 s, 2 B/s");
        assert_eq!(last_line(1000, Duration::from_secs(100)), "1000 bytes (1.0 kB) copied, 100 s, 10 B/s");
        assert_eq!(last_line(0, Duration::ZERO), "0 bytes copied, 0.0000 s, 0 B/s");
    }
}
