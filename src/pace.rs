//! How fast a copy goes, where that is not as fast as it can.

mod idle;
mod rate;

use std::fs::File;
use std::sync::Arc;

pub use idle::{Idle, Usual};
pub use rate::{Rate, Side, blocks};

use crate::job::Job;

/// What `--rate-limit` and `--idle` ask for. Without them it stands in nobody's way.
pub struct Pace {
    /// Blocks wait there, on their way in and on their way out.
    pub rate: Rate,
    /// The gate for every transfer to and from a disk.
    pub idle: Option<Arc<Idle>>,
}

impl Pace {
    /// For a copy that reads and writes these files or devices.
    pub fn new(job: &Job, files: &[&File]) -> Self {
        let idle = job.idle.then(|| Arc::new(Idle::new(files)));
        Self { rate: Rate::new(job.rate_limit), idle }
    }

    /// What `--idle` saw since it was last asked.
    pub fn news(&self) -> Vec<String> {
        self.idle.as_ref().map_or(Vec::new(), |idle| idle.news())
    }
}
