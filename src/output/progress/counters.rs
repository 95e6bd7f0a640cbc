//! How far a copy is, for progress lines.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::lock;
use crate::error::size;
use crate::event::Phase;
use crate::output::report::{last_line, tree_last_line};

/// How far the copy is, shared with the ticker.
pub struct Counters {
    started: OnceLock<Instant>,
    pub bytes: AtomicU64,
    /// Files of trees that were found, and that are done.
    pub files_found: AtomicU64,
    pub files_done: AtomicU64,
    pub total: Mutex<Option<u64>>,
    pub phase: Mutex<Phase>,
    /// The bar was removed; it is not drawn again.
    pub cleared: AtomicBool,
}

impl Counters {
    /// Zero bytes, and no time.
    pub fn new() -> Self {
        Self {
            started: OnceLock::new(),
            bytes: AtomicU64::new(0),
            files_found: AtomicU64::new(0),
            files_done: AtomicU64::new(0),
            total: Mutex::new(None),
            phase: Mutex::new(Phase::Copying),
            cleared: AtomicBool::new(false),
        }
    }

    /// Starts the clock. False if it is running.
    pub fn start(&self) -> bool {
        self.started.set(Instant::now()).is_ok()
    }

    fn elapsed(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Files of trees that were found, and that are done.
    pub fn files(&self) -> (u64, u64) {
        (self.files_found.load(Ordering::Relaxed), self.files_done.load(Ordering::Relaxed))
    }

    pub fn total(&self) -> Option<u64> {
        *lock(&self.total)
    }

    pub fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    pub fn line(&self) -> String {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let copied = match self.files() {
            (0, _) => last_line(bytes, bytes, self.elapsed()),
            (_, done) => tree_last_line(done, bytes, bytes, self.elapsed()),
        };
        let found = match self.files() {
            (0, _) => String::new(),
            (found, _) => format!(", of {found} files found so far"),
        };
        let total = self.total().map(|total| format!(", of {}", size(total))).unwrap_or_default();
        let phase = match self.phase() {
            Phase::Copying => String::new(),
            phase => format!(", {}", phase.name()),
        };
        format!("{copied}{found}{total}{phase}")
    }

    pub fn json(&self, phase: &str) -> String {
        let (bytes, seconds) = (self.bytes.load(Ordering::Relaxed), self.elapsed().as_secs_f64());
        let rate = if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 };
        let (files_found, files_done) = self.files();
        let mut line = serde_json::json!({
            "phase": phase,
            "bytes": bytes,
            "total": self.total(),
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "bytes_per_second": rate,
        });
        if files_found > 0 {
            (line["files"], line["files_found"]) = (files_done.into(), files_found.into());
        }
        line.to_string()
    }
}
