//! Parsers for the values of options.

use std::ffi::OsStr;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, ValueEnum};

use crate::check::digest::from_hex;
use crate::direct::DirectPolicy;
use crate::job::{Algorithm, Reflink, Sparse};

/// A longer timeout is a mistake, and could overflow a clock.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Headers that the client sets itself.
const RESERVED_HEADERS: [&str; 6] = ["range", "if-range", "connection", "content-length", "transfer-encoding", "host"];

/// A value of an option, what --help says about it, and what it stands for.
pub type Choice<T> = (&'static str, &'static str, T);

pub const DIRECT: [Choice<DirectPolicy>; 3] = [
    ("auto", "Copy without direct I/O, keep the page cache clean by other means, and say so", DirectPolicy::Auto),
    ("always", "Fail with exit status 4", DirectPolicy::Always),
    ("never", "Use the page cache in any case, even where direct I/O works", DirectPolicy::Never),
];

pub const REFLINK: [Choice<Reflink>; 3] = [
    ("auto", "Clone where the filesystem can, and move the bytes elsewhere", Reflink::Auto),
    ("always", "Fail with exit status 1 where the filesystem cannot clone", Reflink::Always),
    ("never", "Move the bytes", Reflink::Never),
];

pub const SPARSE: [Choice<Sparse>; 3] = [
    ("auto", "Holes in SRC stay holes", Sparse::Auto),
    ("always", "Blocks of zeros also become holes", Sparse::Always),
    ("never", "Everything is written", Sparse::Never),
];

/// Ways to show progress on standard error.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// A bar on a terminal, nothing elsewhere
    #[default]
    Auto,
    /// A bar, or lines of text if there is no terminal
    Bar,
    /// One JSON object per line
    Json,
    /// Nothing
    None,
}

/// Parses one of a few words.
pub fn choice<T: Copy + Send + Sync + 'static>(choices: &'static [Choice<T>; 3]) -> impl TypedValueParser<Value = T> {
    let words = choices.iter().map(|(word, help, _)| PossibleValue::new(*word).help(*help));
    PossibleValuesParser::new(words).try_map(|given| {
        let chosen = choices.iter().find(|(word, ..)| *word == given);
        chosen.map(|(_, _, value)| *value).ok_or("it is not one of the possible values")
    })
}

/// Bytes: K, M, G, T and KiB, MiB … are powers of 1024; kB, MB … powers of 1000.
pub fn size(text: &str) -> Result<u64, String> {
    // parse_size ignores spaces and underscores.
    let number = text.trim_end_matches(['b', 'B', ' ', '_']);
    if number.contains(['.', '-']) && number.ends_with(|c: char| c.is_ascii_digit()) {
        return Err("it must be a whole number of bytes; a fraction needs a unit, as in 1.5K".into());
    }
    // The largest size has 20 digits. parse_size 1.1 wraps around for some numbers with more.
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits = mantissa.chars().filter(char::is_ascii_digit);
    if digits.skip_while(|digit| *digit == '0').count() > 20 {
        return Err("it has too many digits; write a size such as 4096, 64K, 4M, 1.5GiB or 10GB".into());
    }
    // parse_size reads a lone K as 1000. Here it is 1024, as with dd.
    let binary = text.ends_with(|c: char| "kmgtpeKMGTPE".contains(c));
    let suffix = if binary { "iB" } else { "" };
    parse_size::parse_size(format!("{text}{suffix}"))
        .map_err(|e| format!("{e}; write a size such as 4096, 64K, 4M, 1.5GiB or 10GB"))
}

pub fn positive_size(text: &str) -> Result<u64, String> {
    size(text).and_then(|bytes| if bytes > 0 { Ok(bytes) } else { Err("it must be at least one byte".into()) })
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero() && *time < MAX_TIMEOUT) // 1e-10 is positive, and no nanosecond
        .ok_or_else(|| "write a number of seconds, such as 0.5 or 30".into())
}

/// The value of --checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChecksumValue {
    /// The hash function.
    pub algorithm: Algorithm,
    /// The required digest.
    pub expected: Option<Vec<u8>>,
}

/// `sha256`, `sha256:HEX`, `sha256=HEX` or `sha256-HEX`.
pub fn checksum(text: &str) -> Result<ChecksumValue, String> {
    let (name, hex) = text.split_once([':', '=', '-']).map_or((text, None), |(name, hex)| (name, Some(hex)));
    let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name));
    let algorithm = algorithm.ok_or("the algorithms are sha256, sha512 and blake3")?;
    let Some(hex) = hex else { return Ok(ChecksumValue { algorithm, expected: None }) };
    let digest = from_hex(hex).filter(|digest| digest.len() == algorithm.bytes());
    match digest {
        Some(digest) => Ok(ChecksumValue { algorithm, expected: Some(digest) }),
        None => Err(format!("a {} digest has {} hexadecimal digits", algorithm.name(), algorithm.bytes() * 2)),
    }
}

/// Parses "Name: value". Its errors do not repeat the value, which may be a secret.
#[derive(Clone)]
pub struct HeaderParser;

impl TypedValueParser for HeaderParser {
    type Value = (String, String);

    fn parse_ref(&self, command: &Command, _arg: Option<&Arg>, line: &OsStr) -> Result<Self::Value, clap::Error> {
        line.to_str()
            .ok_or_else(|| "the value of --header is not UTF-8".to_string())
            .and_then(header)
            .map_err(|why| clap::Error::raw(ErrorKind::ValueValidation, format!("{why}\n")).with_cmd(command))
    }
}

fn header(line: &str) -> Result<(String, String), String> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let well_formed = |(name, value): &(&str, &str)| {
        !name.is_empty() && name.chars().all(token) && !value.chars().any(|c| c.is_control())
    };
    let Some((name, value)) = line.split_once(':').filter(well_formed) else {
        return Err("the value of --header must be one header line, \"Name: value\"".into());
    };
    if RESERVED_HEADERS.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
        return Err(format!("--header {name} is not allowed: dio-cp sets that header itself (see --skip and --count)"));
    }
    Ok((name.to_string(), value.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_letters_and_ib_are_binary_and_b_is_decimal() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("64k", 65536),
            ("1M", 1 << 20),
            ("1MiB", 1 << 20),
            ("1MB", 1_000_000),
            ("2kB", 2000),
            ("1.5G", 3 << 29),
            ("1TiB", 1 << 40),
            ("1TB", 1_000_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "-1", "4X", "K", "20E", "0x10", "1,5M", "1.5", "1.5 ", "1.5_", "1.5B", "15e-1"] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["184467440737095516155", "18446744073709551615.5K", "0018446744073709551615 5"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(positive_size("0").is_err());
    }

    #[test]
    fn a_timeout_is_a_positive_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-0", "-1", "1e-10", "1e300", "nan", "inf", "ten", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_checksum_has_a_digest_of_the_right_length_or_none() {
        let none = ChecksumValue { algorithm: Algorithm::Sha512, expected: None };
        assert_eq!(checksum("SHA512"), Ok(none));
        for separator in [":", "=", "-"] {
            let value = checksum(&format!("blake3{separator}{}", "ab".repeat(32)));
            assert_eq!(value.map(|value| value.expected), Ok(Some(vec![0xab; 32])));
        }
        assert!(checksum("sha256:abcd").is_err_and(|why| why.contains("64 hexadecimal digits")));
        assert!(checksum("md5").is_err_and(|why| why.contains("sha512")));
    }

    #[test]
    fn a_header_is_one_line_and_not_a_reserved_one() {
        assert_eq!(header("A: b:c"), Ok(("A".into(), "b:c".into())));
        for line in ["no colon", ": value", "a b: c", "a: b\r\nc: d"] {
            assert!(header(line).is_err_and(|why| why.contains("one header line")), "{line}");
        }
        assert!(header("Range: bytes=0-1").is_err_and(|why| why.contains("--skip")));
    }
}
