//! What users and scripts see: progress during the copy, and the report at the end.

mod progress;
mod report;
mod residency;
mod tree_report;

pub use progress::{ProgressDisplay, ProgressMode, Verbosity};
pub use report::{cache_lines, digest_line, json, last_line, require_clean, tree_last_line};
pub use residency::{ResidencyOptions, print_residency};
pub use tree_report::tree_json;
