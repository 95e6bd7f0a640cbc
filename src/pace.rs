//! How fast a copy goes, where that is not as fast as it can.

mod idle;
mod rate;

use std::fs::File;
use std::sync::Arc;

pub use idle::{Idle, Usual};
pub use rate::{Rate, Side, blocks};

use crate::job::Job;
use crate::sys;

/// What `--rate-limit` and `--idle` ask for. Without them it stands in nobody's way.
pub struct Pace {
    /// Blocks wait there, on their way in and on their way out.
    pub rate: Rate,
    /// The gate for every transfer to and from a disk.
    pub idle: Option<Arc<Idle>>,
    /// Pauses of a tenth of a millisecond are to be no longer than that.
    punctual: bool,
}

impl Pace {
    /// For a copy that reads and writes these files or devices, by the calling thread and those that it
    /// starts.
    pub fn new(job: &Job, files: &[&File]) -> Self {
        let idle = job.idle.then(|| Arc::new(Idle::new(files)));
        // What refuses it (a container's filter) goes a little slower.
        let punctual = (job.idle || job.rate_limit.is_some()) && sys::set_punctual(true).is_ok();
        Self { rate: Rate::new(job.rate_limit), idle, punctual }
    }

    /// What `--idle` saw since it was last asked.
    pub fn news(&self) -> Vec<String> {
        self.idle.as_ref().map_or(Vec::new(), |idle| idle.news())
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if self.punctual {
            // The thread may be a caller's. It was not refused before.
            let _ = sys::set_punctual(false);
        }
    }
}
