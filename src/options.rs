//! The command line, validated into a [`Job`]. Pure: nothing is opened and nobody is asked.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::check::digest::from_hex;
use crate::cli::{Cli, When};
use crate::direct::DirectPolicy;
use crate::error::{Error, Result, quoted};
use crate::job::{Algorithm, Checksum, Endpoint, HttpOptions, Job, Sparse};
use crate::pace;

/// More memory than this for buffers makes no copy faster.
const MOST_MEMORY: u64 = 1 << 30;
/// More threads than this make no copy faster.
const MOST_WORKERS: u64 = 1024;
/// More connections than this to one server are an attack on it.
const MOST_CONNECTIONS: u32 = 64;
/// A year: what is longer is a mistake, and clocks can add it up.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(31_536_000);

/// Validates the arguments. Every error says what would be right.
pub fn job(cli: &Cli, umask: u32) -> Result<Job> {
    if let Some(word) = cli.more.first() {
        let word = quoted(std::path::Path::new(word));
        return Err(Error::usage(format!("unexpected argument {word}: a copy has one SRC and one DST"))
            .hint("one dio-cp for each file; --residency takes many"));
    }
    let to = cli.destination.as_deref().unwrap_or_default();
    let (source, destination) = (end(&cli.source)?, end(to)?);
    let optional = |name, value: &Option<String>| value.as_ref().map(|value| size(name, value)).transpose();
    let rate_limit = optional("--rate-limit", &cli.rate_limit)?;
    if rate_limit == Some(0) {
        return Err(Error::usage("--rate-limit 0: nothing would ever be copied; without the option there is no limit"));
    }
    let usual = (Job::BLOCK_SIZE as u64, Job::QUEUE_DEPTH as u64);
    let usual = rate_limit.map_or(usual, |limit| pace::blocks(limit, usual));
    let block_size = optional("--block-size", &cli.block_size)?.unwrap_or(usual.0);
    if block_size == 0 {
        return Err(Error::usage("--block-size 0: a block has at least one byte; 4M is the default"));
    }
    let queue_depth = match cli.queue_depth.as_ref().map_or(Ok(usual.1), |given| given.parse::<u64>()) {
        Ok(n @ 1..=MOST_WORKERS) => n,
        _ => {
            let given = cli.queue_depth.as_deref().unwrap_or_default();
            return Err(Error::usage(format!("--queue-depth {given}: it takes a number from 1 to {MOST_WORKERS}")));
        }
    };
    let seek = optional("--seek", &cli.seek)?;
    let in_place = cli.in_place || seek.is_some();
    let checksum = checksum(cli)?;
    let http = http(cli, &source)?;
    let from_url = matches!(source, Endpoint::Url(_));
    let blocks = queue_depth.max(http.connections as u64);
    if block_size.saturating_mul(blocks) > MOST_MEMORY {
        let why = format!("--block-size {block_size} × {blocks} blocks in flight is more than 1 GiB of memory");
        return Err(Error::usage(why).hint("4M × 4 is as fast as any on most disks"));
    }
    let to_stream = destination == Endpoint::Standard;
    for (given, option, why) in [
        (to_stream && seek.is_some(), "--seek", "standard output has no offset to write at"),
        (to_stream && cli.in_place, "--in-place", "standard output has no bytes to overwrite"),
        (to_stream && cli.no_clobber, "--no-clobber", "standard output is always there"),
        (to_stream && cli.preserve, "--preserve", "standard output keeps no attributes"),
        (source == Endpoint::Standard && cli.preserve, "--preserve", "standard input has no attributes to keep"),
        (to_stream && cli.verify, "--verify", "standard output cannot be read back"),
        (to_stream && cli.json, "--json", "standard output is where the bytes go"),
        (cli.verify && cli.no_sync, "--verify", "--no-sync does not wait until there is something to read back"),
        (cli.verify && cli.direct == When::Never, "--verify", "--direct never would read back what the cache holds"),
        (from_url && cli.preserve, "--preserve", "a URL has no attributes to keep"),
        (source == Endpoint::Standard && cli.resume, "--resume", "standard input cannot be asked again"),
        (to_stream && cli.resume, "--resume", "standard output keeps nothing"),
        (in_place && cli.resume, "--resume", "--in-place and --seek keep what was copied where it belongs"),
        (in_place && cli.no_clobber, "--no-clobber", "--in-place and --seek overwrite what exists"),
        (in_place && cli.preserve, "--preserve", "--in-place and --seek leave DST's attributes alone"),
    ] {
        if given {
            return Err(Error::usage(format!("{option} cannot be used here: {why}")));
        }
    }
    let job = Job {
        source,
        destination,
        block_size: block_size as usize,
        queue_depth: queue_depth as usize,
        direct: match cli.direct {
            When::Auto => DirectPolicy::Auto,
            When::Always => DirectPolicy::Always,
            When::Never => DirectPolicy::Never,
        },
        skip: optional("--skip", &cli.skip)?.unwrap_or(0),
        count: optional("--count", &cli.count)?,
        seek: seek.unwrap_or(0),
        in_place,
        sparse: match cli.sparse {
            When::Auto => Sparse::Auto,
            When::Always => Sparse::Always,
            When::Never => Sparse::Never,
        },
        no_clobber: cli.no_clobber,
        force: cli.force,
        sync: !cli.no_sync,
        preserve: cli.preserve,
        size: optional("--size", &cli.size)?,
        checksum,
        verify: cli.verify,
        check_cache: cli.check_cache,
        resume: cli.resume,
        rate_limit,
        idle: cli.idle,
        http,
        umask,
    };
    let reach = |offset: u64| offset.checked_add(job.count.unwrap_or(0)).is_none_or(|end| end > i64::MAX as u64);
    if reach(job.skip) || reach(job.seek) {
        return Err(Error::usage("--skip, --seek or --count reaches behind the largest offset there is (8 EiB)"));
    }
    Ok(job)
}

/// What only a URL takes.
fn http(cli: &Cli, source: &Endpoint) -> Result<HttpOptions> {
    for (given, option) in [
        (!cli.header.is_empty(), "--header"),
        (cli.cacert.is_some(), "--cacert"),
        (cli.connect_timeout.is_some(), "--connect-timeout"),
        (cli.timeout.is_some(), "--timeout"),
        (cli.retry.is_some(), "--retry"),
        (cli.connections.is_some(), "--connections"),
    ] {
        if given && !matches!(source, Endpoint::Url(_)) {
            return Err(Error::usage(format!("{option} cannot be used here: SRC is no URL")));
        }
    }
    let usual = HttpOptions::default();
    let headers: Result<Vec<(String, String)>> = cli.header.iter().map(|line| header(line)).collect();
    let timeout = seconds("--timeout", &cli.timeout)?;
    Ok(HttpOptions {
        headers: headers?,
        cacert: cli.cacert.as_ref().map(PathBuf::from),
        connect_timeout: seconds("--connect-timeout", &cli.connect_timeout)?.unwrap_or(usual.connect_timeout),
        timeout: timeout.unwrap_or(usual.timeout),
        retry: number("--retry", &cli.retry, 0, u32::MAX)?.unwrap_or(usual.retry),
        connections: number("--connections", &cli.connections, 1, MOST_CONNECTIONS)?
            .map_or(usual.connections, |n| n as usize),
    })
}

/// `Name: value`.
fn header(line: &str) -> Result<(String, String)> {
    // A value may be a secret: it is not repeated.
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !line.contains(':') || name.is_empty() || !name.chars().all(token) || value.chars().any(|c| c.is_control()) {
        return Err(Error::usage("--header: it takes one header line, \"Name: value\""));
    }
    let own = ["range", "if-range", "connection", "content-length", "transfer-encoding", "host"];
    if own.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        let why = format!("--header {name}: dio-cp sets it by itself");
        return Err(Error::usage(why).hint("--skip and --count copy a part"));
    }
    Ok((name.to_string(), value.trim().to_string()))
}

fn seconds(option: &str, text: &Option<String>) -> Result<Option<Duration>> {
    let Some(text) = text else { return Ok(None) };
    let found = text.parse().ok().filter(|seconds| *seconds > 0.0);
    match found.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(time) if time < LONGEST_TIMEOUT => Ok(Some(time)),
        _ => Err(Error::usage(format!("{option} {text}: it takes a number of seconds, 0.5 or 30"))),
    }
}

fn number(option: &str, text: &Option<String>, least: u32, most: u32) -> Result<Option<u32>> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(n) if (least..=most).contains(&n) => Ok(Some(n)),
        _ => Err(Error::usage(format!("{option} {text}: it takes a number from {least} to {most}"))),
    }
}

/// `sha256`, `sha256:HEX`, `sha256=HEX`, `sha256-HEX`; and the list.
fn checksum(cli: &Cli) -> Result<Option<Checksum>> {
    let list = cli.checksum_file.as_ref().map(PathBuf::from);
    let Some(text) = &cli.checksum else {
        return Ok(list.map(|list| Checksum { algorithm: None, expected: None, list: Some(list) }));
    };
    let (word, hex) = match text.split_once([':', '=', '-']) {
        Some((word, hex)) => (word, Some(hex)),
        None => (text.as_str(), None),
    };
    let Some(algorithm) = Algorithm::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(word)) else {
        return Err(Error::usage(format!("--checksum {text}: it knows sha256, sha512 and blake3")));
    };
    let expected = hex.map(|hex| {
        from_hex(hex).filter(|digest| digest.len() == algorithm.bytes()).ok_or_else(|| {
            let (name, digits) = (algorithm.name(), algorithm.bytes() * 2);
            Error::usage(format!("--checksum {text}: a {name} digest has {digits} hexadecimal digits"))
        })
    });
    let expected = expected.transpose()?;
    if expected.is_some() && list.is_some() {
        return Err(Error::usage("--checksum with a digest and --checksum-file are two answers to one question"));
    }
    Ok(Some(Checksum { algorithm: Some(algorithm), expected, list }))
}

fn end(word: &OsStr) -> Result<Endpoint> {
    let bytes = word.as_bytes();
    if bytes.is_empty() {
        return Err(Error::usage("SRC or DST is empty; - is standard input or output"));
    }
    if Endpoint::is_url(word.as_ref()) {
        let Some(url) = word.to_str() else { return Err(Error::usage("the URL is not UTF-8; percent-encode it")) };
        return Ok(Endpoint::Url(url.to_string()));
    }
    Ok(if bytes == b"-" { Endpoint::Standard } else { Endpoint::Path(PathBuf::from(word)) })
}

/// Somebody's fingers typed dd: the error shows the same in dio-cp's words.
pub fn refuse_dd_words(words: &[String]) -> Result<()> {
    let value = |key: &str| words.iter().take_while(|word| *word != "--").find_map(|word| word.strip_prefix(key));
    let (from, to) = (value("if="), value("of="));
    if from.is_none() && to.is_none() {
        return Ok(());
    }
    let mut line = format!("dio-cp {} {}", from.unwrap_or("-"), to.unwrap_or("-"));
    if let Some(bs) = value("bs=") {
        line += &format!(" -b {bs}");
    }
    // dd counts in blocks, dio-cp in bytes.
    let block = size("bs", value("bs=").unwrap_or("512")).unwrap_or(512);
    for (key, option) in [("skip=", "--skip"), ("count=", "--count"), ("seek=", "--seek")] {
        if let Some(blocks) = value(key).and_then(|value| value.parse::<u64>().ok()) {
            line += &format!(" {option} {}", blocks.saturating_mul(block));
        }
    }
    if value("conv=").is_some_and(|conv| conv.contains("notrunc")) && value("seek=").is_none() {
        line += " --in-place";
    }
    Err(Error::usage("if= and of= are dd's way to say it").hint(line))
}

/// A size as people write it: K, M, G, T and KiB, MiB … are powers of 1024; kB, MB … of 1000.
fn size(option: &str, text: &str) -> Result<u64> {
    // The library reads a lone K as 1000; here, as with dd and most others, it is 1024.
    let lone = text.chars().last().filter(|c| "kmgtpeKMGTPE".contains(*c));
    let full = match lone {
        Some(_) => format!("{text}iB"),
        None => text.to_string(),
    };
    if text.contains('.') && text.ends_with(|c: char| c.is_ascii_digit()) {
        return Err(Error::usage(format!("{option} {text}: there are no fractions of a byte; 1.5K has a unit")));
    }
    parse_size::parse_size(&full)
        .map_err(|e| Error::usage(format!("{option} {text}: {e}; sizes are written 4096, 64K, 4M, 1.5GiB, 10GB")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn parse(words: &[&str]) -> Result<Job> {
        let cli = Cli::try_parse_from([&["dio-cp"], words].concat()).map_err(|e| Error::usage(e.to_string()))?;
        job(&cli, 0o022)
    }

    fn refused(words: &[&str]) -> String {
        match parse(words) {
            Ok(job) => format!("accepted as {job:?}"),
            Err(e) => format!("{e} {}", e.hint.as_deref().unwrap_or_default()),
        }
    }

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
            assert_eq!(size("--size", text).ok(), Some(bytes), "{text}");
        }
        for text in ["", "-1", "4X", "K", "20E", "0x10", "1,5M"] {
            assert!(size("--size", text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let job = parse(&["a", "b"]).ok();
        assert_eq!(job, Some(Job::new("a", "b")));
    }

    #[test]
    fn seek_implies_in_place() {
        assert_eq!(parse(&["a", "b", "--seek", "0"]).map(|j| (j.in_place, j.seek)).ok(), Some((true, 0)));
    }

    #[test]
    fn what_a_url_takes_is_taken() {
        let words = ["HTTPS://example.org/a", "b", "--header", "A: b:c", "--header", "D:e", "--timeout", "0.5"];
        let job = parse(&words).ok();
        assert_eq!(job.as_ref().map(|j| j.source.clone()), Some(Endpoint::Url("HTTPS://example.org/a".into())));
        let http = job.map(|j| j.http).unwrap_or_default();
        assert_eq!(http.headers, [("A".into(), "b:c".into()), ("D".into(), "e".into())]);
        assert_eq!((http.timeout, http.connections, http.retry), (Duration::from_millis(500), 1, 5));
    }

    #[test]
    fn dd_words_get_the_right_form() {
        let hint = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_string).collect();
            refuse_dd_words(&words).err().and_then(|e| e.hint)
        };
        assert_eq!(hint("if=/dev/zero of=x").as_deref(), Some("dio-cp /dev/zero x"));
        assert_eq!(hint("if=y").as_deref(), Some("dio-cp y -"));
        let whole = "of=x if=y bs=4M count=3 seek=1 conv=notrunc,fsync oflag=direct status=progress";
        assert_eq!(hint(whole).as_deref(), Some("dio-cp y x -b 4M --count 12582912 --seek 4194304"));
        assert_eq!(hint("a b"), None);
    }

    #[test]
    fn bad_values_and_combinations_say_what_would_be_right() {
        assert!(refused(&["a", "b", "--queue-depth", "0"]).contains("from 1 to"));
        assert!(refused(&["a", "b", "-b", "0"]).contains("at least one byte"));
        assert!(refused(&["a", "b", "-b", "1G", "--queue-depth", "2"]).contains("1 GiB"));
        assert!(refused(&["a", "-", "--seek", "1"]).contains("no offset"));
        assert!(refused(&["a", "-", "-n"]).contains("always there"));
        assert!(refused(&["a", "b", "-n", "--in-place"]).contains("overwrite"));
        assert!(refused(&["-", "b", "-p"]).contains("no attributes"));
        assert!(refused(&["a", "b", "--skip", "8E", "--count", "8E"]).contains("8 EiB"));
        assert!(refused(&["a", "b", "--retry", "2"]).contains("no URL"));
        assert!(refused(&["-", "b", "--resume"]).contains("asked again"));
        let url = "https://example.org/a.iso";
        assert!(refused(&[url, "b", "--header", "no colon"]).contains("Name: value"));
        assert!(refused(&[url, "b", "--header", "a: b\r\nc: d"]).contains("one header line"));
        assert!(refused(&[url, "b", "--header", "Range: bytes=0-1"]).contains("--skip"));
        assert!(refused(&[url, "b", "--timeout", "0"]).contains("seconds"));
        assert!(refused(&[url, "b", "--timeout", "1e300"]).contains("seconds"));
        assert!(refused(&[url, "b", "--connections", "65"]).contains("from 1 to 64"));
        assert!(refused(&[url, "b", "-p"]).contains("no attributes"));
        assert!(refused(&["a", ""]).contains("empty"));
    }
}
