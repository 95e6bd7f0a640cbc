//! Checksum lists: the lines that sha256sum(1) writes, and those of BSD.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::NamedDigest;
use super::digest::from_hex;
use crate::error::quoted;
use crate::job::Algorithm;

/// Bytes as characters, one to one: names in a list need not be UTF-8.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| *byte as char).collect()
}

/// Finds the digest of one of `names` in a list: by the path as it is, else by how much of its end is
/// the same, else by the file's own name. `wanted`: only of this algorithm; without it a line says so
/// itself (BSD), or the digest's length does.
pub fn look_up(text: &[u8], names: &[&Path], wanted: Option<Algorithm>) -> Result<NamedDigest, String> {
    let text = latin(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    let lines: Vec<_> = text.lines().filter_map(|line| bsd(line).or_else(|| gnu(line, wanted))).collect();
    let fits = |algorithm: Algorithm| wanted.is_none_or(|wanted| wanted == algorithm);
    let exact = |listed: &Path, name: &Path| listed.components().eq(name.components());
    let end = |listed: &Path, name: &Path| listed.ends_with(name) || name.ends_with(listed);
    let base = |listed: &Path, name: &Path| listed.file_name() == name.file_name();
    for same in [exact, end, base] {
        for name in names {
            let path = latin(name.as_os_str().as_bytes());
            let path = Path::new(path.strip_prefix("./").unwrap_or(&path));
            let listed = |listed: &str| same(Path::new(listed.strip_prefix("./").unwrap_or(listed)), path);
            let mut found = lines.iter().filter(|(name, algorithm, _)| listed(name) && fits(*algorithm));
            let Some((_, algorithm, digest)) = found.next() else { continue };
            if found.any(|(_, _, other)| other.len() == digest.len() && other != digest) {
                return Err(format!("it has several lines for {}, with different digests", quoted(name)));
            }
            return Ok(NamedDigest { algorithm: *algorithm, bytes: digest.clone() });
        }
    }
    let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
    let what = wanted.map_or("", Algorithm::name);
    Err(format!("it has no {what} line for {}", names.join(" or ")).replace("  ", " "))
}

/// `SHA256 (name) = digest`
fn bsd(line: &str) -> Option<(String, Algorithm, Vec<u8>)> {
    let (escaped, line) = unescape_mark(line.trim_end());
    let (tag, rest) = line.split_once(" (")?;
    let (name, digest) = rest.rsplit_once(") = ")?;
    let algorithm = Algorithm::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(tag))?;
    let digest = from_hex(digest).filter(|digest| digest.len() == algorithm.bytes())?;
    Some((unescape(name, escaped), algorithm, digest))
}

/// `digest  name`, or `digest *name`
fn gnu(line: &str, wanted: Option<Algorithm>) -> Option<(String, Algorithm, Vec<u8>)> {
    let (escaped, line) = unescape_mark(line.trim_end_matches(['\r', '\n']));
    let (digest, name) = line.split_once(' ')?;
    let name = name.strip_prefix([' ', '*'])?;
    let digest = from_hex(digest)?;
    let fits = |a: &Algorithm| a.bytes() == digest.len() && wanted.is_none_or(|wanted| wanted == *a);
    let algorithm = Algorithm::ALL.into_iter().find(fits)?;
    Some((unescape(name, escaped), algorithm, digest))
}

/// A backslash before the line: the name is escaped.
fn unescape_mark(line: &str) -> (bool, &str) {
    line.strip_prefix('\\').map_or((false, line), |rest| (true, rest))
}

fn unescape(name: &str, escaped: bool) -> String {
    if !escaped {
        return name.to_string();
    }
    let mut result = String::new();
    let mut rest = name.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => result.push(match rest.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => '\\',
            }),
            c => result.push(c),
        }
    }
    result
}

/// The line that `sha256sum -c` reads.
pub fn line(digest: &[u8], name: &OsStr) -> Vec<u8> {
    let hex = super::digest::hex(digest);
    let name = latin(name.as_bytes());
    let text = match name.contains(['\\', '\n', '\r']) {
        false => format!("{hex}  {name}"),
        true => {
            let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
            format!("\\{hex}  {escaped}")
        }
    };
    text.chars().map(|c| c as u8).collect() // back again, one to one
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const B: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

    fn find(text: &str, name: &str, wanted: Option<Algorithm>) -> Result<(Algorithm, String), String> {
        look_up(text.as_bytes(), &[Path::new(name)], wanted)
            .map(|found| (found.algorithm, super::super::digest::hex(&found.bytes)))
    }

    #[test]
    fn gnu_and_bsd_lines_are_found_by_name() {
        let list = format!("# a comment\n{B}  other\n{A} *os.iso\nSHA256 (b (1).iso) = {}\n", B.to_uppercase());
        assert_eq!(find(&list, "os.iso", None), Ok((Algorithm::Sha256, A.into())));
        assert_eq!(find(&list, "dir/os.iso", None), Ok((Algorithm::Sha256, A.into())));
        assert_eq!(find(&list, "b (1).iso", None), Ok((Algorithm::Sha256, B.into())));
        assert_eq!(find(&list, "os.iso", Some(Algorithm::Blake3)), Ok((Algorithm::Blake3, A.into())));
        assert!(find(&list, "os", None).is_err());
        assert!(find(&list, "os.iso", Some(Algorithm::Sha512)).is_err_and(|e| e.contains("sha512 line for 'os.iso'")));
    }

    #[test]
    fn what_it_writes_it_reads() {
        for name in ["plain", "with space", "new\nline", "back\\slash", "r\rn"] {
            let text = String::from_utf8(line(&from_hex(A).unwrap(), OsStr::new(name))).unwrap();
            assert_eq!(find(&text, name, None), Ok((Algorithm::Sha256, A.into())), "{text}");
        }
        let odd = OsStr::from_bytes(b"f\xff");
        let text = line(&from_hex(A).unwrap(), odd);
        assert!(text.ends_with(b"  f\xff"));
        assert!(look_up(&text, &[Path::new(odd)], None).is_ok());
    }

    #[test]
    fn the_path_counts_before_the_name() {
        let list = format!("\u{feff}{B}  a/boot.img\n{A}  b/boot.img\n{A}  ./other\n");
        assert_eq!(find(&list, "b/boot.img", None), Ok((Algorithm::Sha256, A.into())));
        assert_eq!(find(&list, "a/boot.img", None), Ok((Algorithm::Sha256, B.into())));
        assert_eq!(find(&list, "/srv/b/boot.img", None), Ok((Algorithm::Sha256, A.into())));
        assert!(find(&list, "boot.img", None).is_err_and(|e| e.contains("several lines")));
        assert_eq!(find(&list, "other", None), Ok((Algorithm::Sha256, A.into())));
    }
}
