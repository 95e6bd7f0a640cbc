//! The JSON report of a copy of trees.

use crate::job::TreeJob;
use crate::tree::TreeReport;

use super::report::traffic;

/// The whole report as one JSON object.
pub fn tree_json(report: &TreeReport, job: &TreeJob) -> String {
    let sources: Vec<_> = job.sources.iter().map(|source| source.name().display().to_string()).collect();
    let failures = report
        .failures
        .files
        .iter()
        .map(|failure| serde_json::json!({ "path": failure.path.display().to_string(), "error": failure.error }));
    serde_json::json!({
        "sources": sources,
        "destination": job.destination.display().to_string(),
        "files": report.files,
        "directories": report.directories,
        "bytes": report.bytes,
        "cloned": report.cloned,
        "skipped": report.skipped,
        "failed": report.failed,
        "failures": failures.collect::<Vec<_>>(),
        "read": traffic(&report.read),
        "written": traffic(&report.written),
        "cache": report.pages_left.map(|pages| serde_json::json!({
            "source": pages.source, "destination": pages.destination, "unknown": pages.unknown,
        })),
        "seconds": (report.elapsed.as_secs_f64() * 1e6).round() / 1e6,
        "synced": job.file.sync && report.not_synced.is_none(),
        "notes": report.notes,
    })
    .to_string()
}
