//! The last line, in dd's words.

use std::ffi::OsStr;
use std::time::Duration;

use crate::check::watch::{self, Course};
use crate::check::{digest, list};
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

/// The line that `sha256sum -c` reads, for the destination as the user named it.
pub fn digest_line(report: &Report, name: &OsStr) -> Option<Vec<u8>> {
    report.digest.as_ref().map(|(_, digest)| list::line(digest, name))
}

/// Everything that the report knows, as one JSON object.
pub fn json(report: &Report, job: &Job) -> String {
    let source = job.source.name().display().to_string();
    let digest = report
        .digest
        .as_ref()
        .map(|(algorithm, digest)| serde_json::json!({ "algorithm": algorithm.name(), "hex": digest::hex(digest) }));
    let seconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e6;
    serde_json::json!({
        "source": source,
        "destination": report.destination.display().to_string(),
        "bytes": report.bytes,
        "resumed": report.resumed,
        "holes": report.holes,
        "read": traffic(&report.read),
        "written": traffic(&report.written.traffic),
        "seconds": {
            "total": seconds(report.elapsed),
            "copy": seconds(report.copying),
            "sync": seconds(report.syncing),
            "verify": seconds(report.verifying),
        },
        "digest": digest,
        "verified": report.verified,
        "synced": job.sync,
        "cached_pages": report.written.cached_pages,
        "cache": { "source": report.cache.0.map(course), "destination": report.cache.1.map(course) },
        "alignment": { "source": report.alignment.0, "destination": report.alignment.1 },
        "block_size": job.block_size,
        "queue_depth": job.queue_depth,
        "chosen": report.chosen,
        "notes": report.notes,
    })
    .to_string()
}

fn course(course: Course) -> serde_json::Value {
    serde_json::json!({ "before": course.before, "peak": course.peak, "after": course.after })
}

/// The lines of --check-cache.
pub fn cache_lines(report: &Report) -> Vec<String> {
    let line = |what: &str, course: &Option<Course>| {
        let Course { before, peak, after } = course.as_ref()?;
        let count = |pages: &Option<u64>| pages.map_or("unknown".to_string(), |pages| pages.to_string());
        let peak = count(peak);
        let sampled = format!("{peak} at most (sampled every {} ms)", watch::SAMPLE.as_millis());
        Some(format!("pages of the {what} in the cache: {} before, {sampled}, {} after", count(before), count(after)))
    };
    [line("source", &report.cache.0), line("destination", &report.cache.1)].into_iter().flatten().collect()
}

/// Fails if the copy left pages in the cache, or if that is not known.
pub fn require_clean(report: &Report, job: &Job) -> Result<()> {
    let source = job.source.name();
    for (path, course) in [(&source, &report.cache.0), (&report.destination, &report.cache.1)] {
        // A file that was replaced had no pages: whatever is there, the copy left.
        let whole = *path == report.destination && !job.in_place && report.written.cached_pages.is_some();
        match course.as_ref().map(|course| if whole { course.after } else { course.added() }) {
            None | Some(Some(0)) => {}
            Some(Some(pages)) => {
                return Err(Error::cache(path, format!("the copy is done, and left {pages} pages there")));
            }
            Some(None) => {
                let why = "the copy is done, and the kernel does not tell what it left there";
                return Err(Error::cache(path, why).hint("ask as the file's owner, on Linux 6.5 or later"));
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
