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
    ("auto", "Copy without direct I/O, keep the page cache clean by other means, and report it", DirectPolicy::Auto),
    ("always", "Fail with exit status 4", DirectPolicy::Always),
    ("never", "Use the page cache in any case, even where direct I/O works", DirectPolicy::Never),
];

pub const REFLINK: [Choice<Reflink>; 3] = [
    ("auto", "Clone if the filesystem can; otherwise copy the data", Reflink::Auto),
    ("always", "Fail with exit status 1 if the file cannot be cloned", Reflink::Always),
    ("never", "Copy the data", Reflink::Never),
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
    use proptest::prelude::*;

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

    /// The factor of each unit.
    const UNITS: [(&str, u64); 20] = [
        ("", 1),
        ("B", 1),
        ("k", 1 << 10),
        ("K", 1 << 10),
        ("M", 1 << 20),
        ("g", 1 << 30),
        ("T", 1 << 40),
        ("P", 1 << 50),
        ("E", 1 << 60),
        ("KiB", 1 << 10),
        ("Mib", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("EiB", 1 << 60),
        ("kB", 1000),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("EB", 1_000_000_000_000_000_000),
    ];

    proptest! {
        #![proptest_config(crate::cases::cases(20_000))]

        #[test]
        fn a_size_is_the_number_times_the_unit_or_too_large(
            number in prop_oneof![any::<u64>(), 0u64..5000, Just(u64::MAX)],
            more in "[0-9]{0,3}",
            spaces in "[ _]{0,2}",
            (unit, factor) in prop::sample::select(UNITS.to_vec()),
        ) {
            let digits = format!("{number}{more}");
            let exact = digits.parse::<u128>().unwrap_or(u128::MAX).checked_mul(factor.into());
            let expected = exact.and_then(|bytes| u64::try_from(bytes).ok());
            prop_assert_eq!(size(&format!("{digits}{spaces}{unit}")).ok(), expected);
        }

        #[test]
        fn a_size_with_a_fraction_or_an_exponent_is_rounded_to_a_byte(
            whole in 0u64..100_000,
            fraction in "[0-9]{1,10}",
            exponent in prop::option::of(-5i32..6),
            (unit, factor) in prop::sample::select(UNITS[2..].to_vec()),
        ) {
            let exponent_text = exponent.map(|exponent| format!("e{exponent}")).unwrap_or_default();
            // In units of 10^-15: ten digits and an exponent of -5.
            let number: u128 = format!("{whole}{fraction:0<10}").parse().unwrap();
            let power = 10u128.pow((5 + exponent.unwrap_or(0)) as u32);
            let scaled = (number * power).checked_mul(factor.into());
            let rounded = scaled.map(|scaled| (scaled + 10u128.pow(15) / 2) / 10u128.pow(15));
            let expected = rounded.and_then(|bytes| u64::try_from(bytes).ok());
            prop_assert_eq!(size(&format!("{whole}.{fraction}{exponent_text}{unit}")).ok(), expected);
        }

        #[test]
        fn any_text_is_a_size_or_an_error(text in prop_oneof![".{0,60}", "[-+0-9._ eEkKmMgGiIbB]{0,60}"]) {
            if let Ok(bytes) = size(&text) {
                prop_assert!(text.contains(|c: char| c.is_ascii_digit()) && !text.trim().starts_with('-'));
                prop_assert_eq!(positive_size(&text).ok(), Some(bytes).filter(|bytes| *bytes > 0));
            }
        }

        #[test]
        fn any_text_is_a_positive_time_or_an_error(
            text in prop_oneof![".{0,20}", "[-+]?[0-9]{0,5}[.]?[0-9]{0,5}(e-?[0-9]{1,3})?"],
        ) {
            if let Ok(time) = seconds(&text) {
                prop_assert!(!time.is_zero() && time < MAX_TIMEOUT);
            }
        }

        #[test]
        fn any_text_is_a_header_without_control_characters_or_an_error(
            text in prop_oneof!["(?s).{0,40}", "[a-zA-Z-]{1,9}:.{0,30}"],
        ) {
            if let Ok((name, value)) = header(&text) {
                prop_assert!(!name.contains([':', ' ']) && !value.contains(char::is_control));
            }
            let _ = checksum(&text);
        }
    }
}
