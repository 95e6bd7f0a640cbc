//! What people and scripts see: progress while it runs, the last line when it is done.

mod progress;
mod report;
mod survey;

pub use progress::{Display, Shown, Words};
pub use report::{cache_lines, digest_line, json, last_line, require_clean};
pub use survey::{SurveyOptions, survey};
