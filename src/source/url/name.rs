//! The file name that a URL has, or that its server proposes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use percent_encoding::percent_decode_str;
use url::Url;

use crate::source_info::SuggestedName;

/// The longest name that Linux filesystems take, in bytes.
const LONGEST: usize = 255;

/// The name in `disposition`, a Content-Disposition header, or else the last segment of `url`. None:
/// there is none, or none that could be a file's.
pub fn suggested_name(url: &Url, disposition: Option<&[u8]>) -> Option<SuggestedName> {
    let last = url.path_segments().and_then(|mut segments| segments.next_back());
    let seen = last.map(|segment| percent_decode_str(segment).collect()).and_then(harmless);
    // A server has no business with hidden files.
    let shown = |name: OsString| {
        let hidden = name.as_bytes().iter().take_while(|byte| matches!(byte, b'.' | b' ')).count();
        harmless(name.as_bytes()[hidden..].to_vec())
    };
    let proposed = disposition.and_then(proposed).and_then(harmless).and_then(shown);
    match (proposed, seen) {
        (Some(name), seen) if Some(&name) != seen.as_ref() => Some(SuggestedName { name, chosen_by_server: true }),
        (_, seen) => seen.map(|name| SuggestedName { name, chosen_by_server: false }),
    }
}

/// One component of a path, whatever was in it: behind the last separator of any system, nothing that
/// a terminal obeys, not too long.
fn harmless(name: Vec<u8>) -> Option<OsString> {
    let name = name.rsplit(|byte| matches!(byte, b'/' | b'\\')).next().unwrap_or_default();
    let text = OsStr::from_bytes(name).to_str();
    let mut clean: Vec<u8> = match text {
        Some(text) => text.trim().chars().map(|c| if misleads(c) { '_' } else { c }).collect::<String>().into_bytes(),
        None => name.iter().map(|byte| if byte.is_ascii_control() { b'_' } else { *byte }).collect(),
    };
    while clean.len() > LONGEST || clean.len() > LONGEST - 4 && std::str::from_utf8(&clean).is_err() {
        clean.pop(); // never half a character
    }
    (!matches!(clean.as_slice(), b"" | b"." | b"..")).then(|| OsString::from_vec(clean))
}

/// What a terminal obeys, or what turns text around.
fn misleads(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The file name in a Content-Disposition header: `filename*` before `filename`. (RFC 6266; no library
/// here does quoted strings and both forms without a mail parser behind it.)
fn proposed(header: &[u8]) -> Option<Vec<u8>> {
    let (mut plain, mut extended) = (None, None);
    for (key, value) in parameters(header) {
        if key.eq_ignore_ascii_case(b"filename") {
            plain.get_or_insert(value);
        } else if key.eq_ignore_ascii_case(b"filename*") {
            // charset'language'percent-encoded
            let mut parts = value.splitn(3, |byte| *byte == b'\'');
            let (charset, encoded) = (parts.next().unwrap_or_default(), parts.nth(1));
            let decoded = encoded.map(|encoded| percent_encoding::percent_decode(encoded).collect::<Vec<u8>>());
            if charset.eq_ignore_ascii_case(b"utf-8") {
                extended = extended.or(decoded);
            }
        }
    }
    extended.or(plain)
}

/// The parameters behind the first semicolon: names, and values without their quotes.
fn parameters(header: &[u8]) -> Vec<(&[u8], Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = header.iter().position(|byte| *byte == b';').map_or(&[][..], |at| &header[at + 1..]);
    while let Some(equals) = rest.iter().position(|byte| *byte == b'=') {
        let key = rest[..equals].rsplit(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        rest = rest[equals + 1..].trim_ascii_start();
        let mut value = Vec::new();
        let mut at = 0;
        if rest.first() == Some(&b'"') {
            at = 1;
            while at < rest.len() && rest[at] != b'"' {
                at += usize::from(rest[at] == b'\\' && at + 1 < rest.len());
                value.push(rest[at]);
                at += 1;
            }
        }
        let end = rest[at..].iter().position(|byte| *byte == b';').map_or(rest.len(), |semicolon| at + semicolon);
        if at == 0 {
            value = rest[..end].trim_ascii().to_vec();
        }
        found.push((key, value));
        rest = &rest[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(url: &str, disposition: Option<&str>) -> Option<String> {
        let url = Url::parse(url).ok()?;
        suggested_name(&url, disposition.map(str::as_bytes)).map(|own| own.name.to_string_lossy().into_owned())
    }

    #[test]
    fn a_url_without_a_proposal_gives_its_last_segment() {
        for (url, expected) in [
            ("http://h/a/b.iso?x=y/z#f", Some("b.iso")),
            ("http://h/a%20b%C3%A4.iso", Some("a bä.iso")),
            ("http://h/..%2f..%2fetc%2fpasswd", Some("passwd")),
            ("http://h/a%00b", Some("a_b")),
            ("http://h/%2e%2e", None),
            ("http://h/x/..%5c", None),
            ("http://h/", None),
            ("http://h", None),
        ] {
            assert_eq!(name(url, None).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_proposal_is_taken_as_a_name_and_nothing_else() {
        for (header, expected) in [
            ("attachment; filename=a.iso", "a.iso"),
            ("attachment; filename=\"a; b.iso\"; size=3", "a; b.iso"),
            ("attachment; filename=\"a \\\"b\\\".iso\"", "a \"b\".iso"),
            ("attachment; filename=x; filename*=UTF-8''na%C3%AFve.iso", "naïve.iso"),
            ("attachment; FileName*=utf-8'en'%e2%82%ac%20rates", "€ rates"),
            ("attachment; filename=\"../../etc/passwd\"", "passwd"),
            ("attachment; filename=\"..\\..\\boot.ini\"", "boot.ini"),
            ("attachment; filename*=UTF-8''..%2F..%2Fx", "x"),
            ("attachment; filename=\".bashrc\"", "bashrc"),
            ("attachment; filename=\" .bashrc\"", "bashrc"),
            ("attachment; filename=\"x/. .bashrc\"", "bashrc"),
            ("attachment; filename=\"..\\\\.profile\"", "profile"),
            ("attachment; filename*=UTF-8''a%E2%80%AEfdp.exe", "a_fdp.exe"),
            ("attachment; filename=\"a\u{1b}[2Jb\"", "a_[2Jb"),
            ("attachment; filename=\"..\"", "seen"),
            ("attachment; filename=\"/\"", "seen"),
            ("attachment; filename=\"unclosed", "unclosed"),
            ("attachment; filename=", "seen"),
            ("inline", "seen"),
            ("", "seen"),
        ] {
            assert_eq!(name("http://h/seen", Some(header)).as_deref(), Some(expected), "{header}");
        }
        let long = format!("attachment; filename=\"{}\"", "ä".repeat(200));
        assert_eq!(name("http://h/", Some(&long)).map(|name| name.len()), Some(254));
    }

    #[test]
    fn only_a_name_that_the_user_did_not_see_is_foreign() {
        let chosen_by_server = |disposition: &str| {
            let url = Url::parse("http://h/seen").ok()?;
            suggested_name(&url, Some(disposition.as_bytes())).map(|own| own.chosen_by_server)
        };
        assert_eq!(chosen_by_server("attachment; filename=seen"), Some(false));
        assert_eq!(chosen_by_server("attachment; filename=other"), Some(true));
    }
}
