//! What people and scripts see: progress while it runs, the last line when it is done.

mod progress;
mod report;

pub use progress::{Display, Shown};
pub use report::{digest_line, json, last_line};
