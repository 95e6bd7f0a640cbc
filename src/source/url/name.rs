//! The file name of a copy in a directory: the one that the server suggests, or else the one in the URL.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::source_info::SuggestedName;

/// The longest file name on Linux filesystems, in bytes.
const MAX_NAME: usize = 255;

/// The name in `disposition`, a Content-Disposition header, or else the last segment of `url`. None if there is no such
/// name, or none that a file can have.
pub fn suggested_name(url: &Url, disposition: Option<&[u8]>) -> Option<SuggestedName> {
    let segment = url.path_segments().and_then(|mut segments| segments.next_back());
    let from_url = segment.map(|segment| percent_decode_str(segment).collect()).and_then(sanitized);
    let from_server = disposition.and_then(disposition_name).and_then(visible);
    match (from_server, from_url) {
        (Some(name), from_url) if Some(&name) != from_url.as_ref() => {
            Some(SuggestedName { name, chosen_by_server: true })
        }
        (_, from_url) => from_url.map(|name| SuggestedName { name, chosen_by_server: false }),
    }
}

/// Like [`sanitized`], and without the dots and spaces at the start: a server must not create hidden files.
fn visible(mut name: Vec<u8>) -> Option<OsString> {
    loop {
        name = sanitized(name)?.into_vec();
        let hidden = name.iter().take_while(|byte| matches!(byte, b'.' | b' ')).count();
        if hidden == 0 {
            return Some(OsString::from_vec(name));
        }
        // Other white space may follow, and another dot after that.
        name.drain(..hidden);
    }
}

/// Turns any bytes into one component of a path: takes what follows the last `/` or `\`, replaces characters that a
/// terminal obeys, and cuts the name to [`MAX_NAME`] bytes. None for an empty name, `.` and `..`.
fn sanitized(name: Vec<u8>) -> Option<OsString> {
    let name = name.rsplit(|byte| matches!(byte, b'/' | b'\\')).next().unwrap_or_default();
    let trimmed = std::str::from_utf8(name).map_or(name, |text| text.trim().as_bytes());
    let mut clean = Vec::new();
    for part in trimmed.utf8_chunks() {
        let harmless: String = part.valid().chars().map(|c| if misleads(c) { '_' } else { c }).collect();
        clean.extend_from_slice(harmless.as_bytes());
        clean.extend_from_slice(part.invalid());
    }
    while clean.len() > MAX_NAME || clean.len() > MAX_NAME - 4 && std::str::from_utf8(&clean).is_err() {
        clean.pop(); // do not cut a character in two
    }
    (!matches!(clean.as_slice(), b"" | b"." | b"..")).then(|| OsString::from_vec(clean))
}

/// True for control characters, and for characters that change the direction of text.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The file name in a Content-Disposition header: `filename*`, or else `filename` (RFC 6266). Parsed here because the
/// libraries that support quoted strings and both forms bring a mail parser.
fn disposition_name(header: &[u8]) -> Option<Vec<u8>> {
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

/// The parameters after the first semicolon: names, and values without their quotes.
fn parameters(header: &[u8]) -> Vec<(&[u8], Vec<u8>)> {
    let mut parameters = Vec::new();
    let mut rest = header.iter().position(|byte| *byte == b';').map_or(&[][..], |semicolon| &header[semicolon + 1..]);
    while let Some(equals) = rest.iter().position(|byte| *byte == b'=') {
        let key = rest[..equals].rsplit(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        rest = rest[equals + 1..].trim_ascii_start();
        let (value, end) = parameter_value(rest);
        parameters.push((key, value));
        rest = &rest[end..];
    }
    parameters
}

/// The value at the start of `rest`, and the position of the semicolon after it.
fn parameter_value(rest: &[u8]) -> (Vec<u8>, usize) {
    let value_end =
        |from: usize| rest[from..].iter().position(|byte| *byte == b';').map_or(rest.len(), |len| from + len);
    if rest.first() != Some(&b'"') {
        let end = value_end(0);
        return (rest[..end].trim_ascii().to_vec(), end);
    }
    let mut value = Vec::new();
    let mut position = 1;
    while position < rest.len() && rest[position] != b'"' {
        let escaped = rest[position] == b'\\' && position + 1 < rest.len();
        position += usize::from(escaped);
        value.push(rest[position]);
        position += 1;
    }
    (value, value_end(position))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    fn name(url: &str, disposition: Option<&str>) -> Option<String> {
        let url = Url::parse(url).ok()?;
        suggested_name(&url, disposition.map(str::as_bytes))
            .map(|suggested| suggested.name.to_string_lossy().into_owned())
    }

    #[test]
    fn without_a_suggestion_the_name_is_the_last_segment_of_the_url() {
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
    fn a_suggestion_is_a_file_name_and_never_a_path_or_a_hidden_file() {
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
            ("attachment; filename*=UTF-8''.%C2%A0.bashrc", "bashrc"),
            ("attachment; filename*=UTF-8''a%E2%80%AEfdp.exe", "a_fdp.exe"),
            ("attachment; filename*=UTF-8''a%D8%9Cfdp.exe", "a_fdp.exe"),
            ("attachment; filename*=UTF-8''a%FF%E2%80%AEfdp.exe", "a\u{fffd}_fdp.exe"),
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
    fn a_name_is_the_servers_choice_unless_it_is_the_one_in_the_url() {
        let chosen_by_server = |disposition: &str| {
            let url = Url::parse("http://h/seen").ok()?;
            suggested_name(&url, Some(disposition.as_bytes())).map(|suggested| suggested.chosen_by_server)
        };
        assert_eq!(chosen_by_server("attachment; filename=seen"), Some(false));
        assert_eq!(chosen_by_server("attachment; filename=other"), Some(true));
    }

    /// Bytes in which the characters that matter are frequent.
    fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "/",
            "\\",
            ".",
            "..",
            " ",
            "\0",
            "\n",
            "\x1b",
            "\x7f",
            "\u{85}",
            "\u{9b}",
            "\u{a0}",
            "\u{202e}",
            "\u{61c}",
            "\u{2066}",
            "%2f",
            "%00",
            "%2e",
            "%ff",
            "%E2%80%AE",
            "\"",
            ";",
            "=",
            "'",
            "a",
            "ä",
            "filename",
            "UTF-8''",
            "*",
        ];
        let piece = prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec());
        let piece = prop_oneof![6 => piece, 1 => prop::collection::vec(any::<u8>(), 1..4), 1 => Just(vec![b'x'; 100])];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn check(name: &OsString, hidden_allowed: bool) -> std::result::Result<(), TestCaseError> {
        let bytes = name.as_bytes();
        prop_assert!(!bytes.is_empty() && bytes.len() <= MAX_NAME && bytes != b"." && bytes != b"..", "{name:?}");
        prop_assert!(!bytes.iter().any(|byte| matches!(byte, b'/' | b'\\') || byte.is_ascii_control()), "{name:?}");
        let directions = ['\u{61c}', '\u{202e}', '\u{2066}'];
        let text = name.to_string_lossy();
        prop_assert!(!text.contains(char::is_control) && !text.contains(directions), "{name:?}");
        prop_assert!(hidden_allowed || !matches!(bytes[0], b'.' | b' '), "{name:?}");
        Ok(())
    }

    proptest! {
        #![proptest_config(crate::cases::cases(20_000))]

        #[test]
        fn any_suggestion_gives_a_harmless_name_or_none(
            start in prop::sample::select(vec!["", "attachment; filename=", "a;filename=\"", "a;filename*=utf-8''"]),
            rest in tricky_bytes(),
        ) {
            let url = Url::parse("http://h/").unwrap();
            if let Some(suggested) = suggested_name(&url, Some(&[start.as_bytes(), &rest].concat())) {
                prop_assert!(suggested.chosen_by_server);
                check(&suggested.name, false)?;
            }
        }

        #[test]
        fn any_url_gives_a_harmless_name_or_none(rest in tricky_bytes()) {
            let url = format!("http://h/{}", String::from_utf8_lossy(&rest));
            if let Some(suggested) = Url::parse(&url).ok().and_then(|url| suggested_name(&url, None)) {
                prop_assert!(!suggested.chosen_by_server);
                check(&suggested.name, true)?;
            }
        }

        #[test]
        fn a_harmless_name_is_kept_in_every_form(
            name in "[a-zA-Z0-9äß€;=\"'%()_-]{1,20}",
            more in "[ ]?(; [a-z]{1,5}=[a-z]{0,3}){0,2}",
        ) {
            let percent = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
            let quoted = name.replace('"', "\\\"");
            for form in [
                format!("filename*=UTF-8'en'{percent}"),
                format!("filename=\"{quoted}\""),
                format!("x=y; filename=z; filename*=utf-8''{percent}"),
            ] {
                let header = format!("attachment; {form}{more}");
                let suggested = suggested_name(&Url::parse("http://h/").unwrap(), Some(header.as_bytes()));
                prop_assert_eq!(suggested.map(|suggested| suggested.name), Some(OsString::from(&name)), "{}", form);
            }
        }
    }
}
