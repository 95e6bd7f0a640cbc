//! What people and scripts see: progress while it runs, the last line when it is done.

mod progress;
mod report;
mod residency;

pub use progress::{ProgressDisplay, ProgressMode, Verbosity};
pub use report::{cache_lines, digest_line, json, last_line, require_clean};
pub use residency::{ResidencyOptions, print_residency};
