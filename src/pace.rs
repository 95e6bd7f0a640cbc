//! How fast a copy goes, where that is not as fast as it can.

mod idle;
mod rate;

use std::fs::File;
use std::sync::Arc;

pub use idle::{IdleGate, TransferTime};
pub use rate::{Direction, RateLimiter, blocks};

use crate::job::Job;
use crate::sys;

/// What `--rate-limit` and `--idle` ask for. Without them it stands in nobody's way.
pub struct Pace {
    /// Blocks wait there, on their way in and on their way out.
    pub rate: RateLimiter,
    /// The gate for every transfer to and from a disk.
    pub idle: Option<Arc<IdleGate>>,
    /// Pauses of a tenth of a millisecond are to be no longer than that. This is what the caller had.
    slack: Option<i32>,
}

impl Pace {
    /// For a copy that reads and writes these files or devices, by the calling thread and those that it
    /// starts.
    pub fn new(job: &Job, files: &[&File]) -> Self {
        let idle = job.idle.then(|| Arc::new(IdleGate::new(files)));
        // What refuses it (a container's filter) goes a little slower.
        let paced = job.idle || job.rate_limit.is_some();
        let slack = if paced { sys::set_timer_slack(1).ok() } else { None };
        Self { rate: RateLimiter::new(job.rate_limit), idle, slack }
    }

    /// What `--idle` saw since it was last asked.
    pub fn messages(&self) -> Vec<String> {
        self.idle.as_ref().map_or(Vec::new(), |idle| idle.messages())
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        // The thread may be a caller's. It was not refused before.
        let _ = self.slack.map(sys::set_timer_slack);
    }
}
