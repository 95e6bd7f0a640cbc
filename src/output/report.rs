//! The last line, in dd's words.

use std::time::Duration;

use humansize::{BINARY, DECIMAL, FormatSizeOptions, format_size};

/// `2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.87 s, 1.1 GB/s`
pub fn last_line(bytes: u64, elapsed: Duration) -> String {
    let plural = if bytes == 1 { "byte" } else { "bytes" };
    let sizes = match bytes {
        0..1000 => String::new(),
        1000..1024 => format!(" ({})", decimal(bytes)),
        _ => format!(" ({}, {})", decimal(bytes), format_size(bytes, one_place(FormatSizeOptions::from(BINARY)))),
    };
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 };
    format!("{bytes} {plural}{sizes} copied, {}, {}/s", time(seconds), decimal(rate as u64))
}

/// Powers of 1000, one decimal.
pub fn decimal(bytes: u64) -> String {
    let format = FormatSizeOptions::from(DECIMAL);
    format_size(bytes, if bytes < 1000 { format } else { one_place(format) })
}

fn one_place(format: FormatSizeOptions) -> FormatSizeOptions {
    format.decimal_places(1).decimal_zeroes(1)
}

/// Three digits that mean something.
fn time(seconds: f64) -> String {
    let places = match seconds {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    format!("{seconds:.places$} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_as_promised() {
        let line = last_line(2_147_483_648, Duration::from_millis(1870));
        assert_eq!(line, "2147483648 bytes (2.1 GB, 2.0 GiB) copied, 1.87 s, 1.1 GB/s");
        assert_eq!(last_line(1, Duration::from_millis(500)), "1 byte copied, 0.500 s, 2 B/s");
        assert_eq!(last_line(1000, Duration::from_secs(100)), "1000 bytes (1.0 kB) copied, 100 s, 10 B/s");
        assert_eq!(last_line(0, Duration::ZERO), "0 bytes copied, 0.0000 s, 0 B/s");
    }
}
