//! How fast a copy may go: `--rate-limit` and `--idle`.

mod idle;
mod rate;

use std::fs::File;
use std::sync::Arc;

pub use idle::{IdleGate, TransferTime};
pub use rate::{BlockPlan, Direction, RateLimiter};

use crate::sys;

/// The limits of one copy. Without `--rate-limit` and `--idle` it delays nothing.
pub struct Pace {
    /// Blocks wait here, once before they are read and once before they are written.
    pub rate: RateLimiter,
    /// Every transfer to or from a disk passes this gate.
    pub idle: Option<Arc<IdleGate>>,
    /// The caller's timer slack, which is restored at the end.
    timer_slack: Option<i32>,
}

impl Pace {
    /// Limits for the calling thread and the threads it starts. `rate_limit` is in bytes per second.
    pub fn new(rate_limit: Option<u64>, idle: bool) -> Self {
        // Pauses of a tenth of a millisecond must not last longer. A container's filter may refuse this; pauses are then
        // a little longer.
        let paced = idle || rate_limit.is_some();
        let timer_slack = if paced { sys::set_timer_slack(1).ok() } else { None };
        let idle = idle.then(|| Arc::new(IdleGate::new()));
        Self { rate: RateLimiter::new(rate_limit), idle, timer_slack }
    }

    /// Makes `--idle` watch the disks under these files or devices. Until then its gate is open.
    pub fn watch(&self, files: &[&File]) {
        if let Some(idle) = &self.idle {
            idle.watch(files);
        }
    }

    /// What `--idle` has observed since the last call.
    pub fn take_messages(&self) -> Vec<String> {
        self.idle.as_ref().map_or(Vec::new(), |idle| idle.take_messages())
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        // The thread may belong to a user of the library. The kernel accepted the change, so it accepts the old value.
        let _ = self.timer_slack.map(sys::set_timer_slack);
    }
}
