//! Checksum lists in the format of sha256sum(1) and its relatives, and in the BSD format.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::NamedDigest;
use super::digest::{from_hex, hex};
use crate::error::quoted;
use crate::job::Algorithm;

/// One line of a checksum list.
struct ListedDigest {
    /// The file's name, decoded as Latin-1.
    name: String,
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

/// Decodes bytes as Latin-1, one character per byte, because the names in a list need not be UTF-8.
fn from_latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| *byte as char).collect()
}

/// Finds the digest of a file in the text of a checksum list. The file may be listed under any of `names`. A line with
/// the same path is preferred; then one whose path ends with the name or is the end of it; then one with the same file
/// name. With `required`, only digests of that algorithm count. Without it, the algorithm is taken from the line (BSD
/// format) or inferred from the length of the digest. The error is the reason, without the list's name.
pub fn look_up(text: &[u8], names: &[&Path], required: Option<Algorithm>) -> Result<NamedDigest, String> {
    let lines = parse(text, required);
    find(&lines.iter().collect::<Vec<_>>(), names, required)
}

/// The lines of a list. With `required`, only those with digests of that algorithm.
fn parse(text: &[u8], required: Option<Algorithm>) -> Vec<ListedDigest> {
    let utf8_bom = b"\xef\xbb\xbf";
    let text = from_latin1(text.strip_prefix(utf8_bom).unwrap_or(text));
    let lines = text.lines().filter_map(|line| parse_bsd(line).or_else(|| parse_gnu(line, required)));
    // Every path ends with an empty one, so a line without a name would be for every file.
    let named = lines.filter(|line| !without_dot(&line.name).as_os_str().is_empty());
    named.filter(|line| required.is_none_or(|required| required == line.algorithm)).collect()
}

fn find(lines: &[&ListedDigest], names: &[&Path], required: Option<Algorithm>) -> Result<NamedDigest, String> {
    let same_path = |listed: &Path, name: &Path| listed.components().eq(name.components());
    let same_end = |listed: &Path, name: &Path| listed.ends_with(name) || name.ends_with(listed);
    let same_file_name = |listed: &Path, name: &Path| listed.file_name() == name.file_name();
    for matches in [same_path, same_end, same_file_name] {
        for name in names {
            let path = from_latin1(name.as_os_str().as_bytes());
            let path = without_dot(&path);
            let mut matching = lines.iter().filter(|line| matches(without_dot(&line.name), path));
            let Some(first) = matching.next() else { continue };
            // Digests of other lengths come from other algorithms and do not contradict this one.
            if matching.any(|line| line.bytes.len() == first.bytes.len() && line.bytes != first.bytes) {
                return Err(format!("it has several lines for {}, with different digests", quoted(name)));
            }
            return Ok(NamedDigest { algorithm: first.algorithm, bytes: first.bytes.clone() });
        }
    }
    let names = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(" or ");
    Err(match required {
        Some(algorithm) => format!("it has no {} line for {names}", algorithm.name()),
        None => format!("it has no line for {names}"),
    })
}

/// A checksum list for many files: its lines by file name.
pub struct ChecksumList {
    lines: HashMap<String, Vec<ListedDigest>>,
}

impl ChecksumList {
    /// Reads a list. With `required`, only digests of that algorithm count.
    pub fn read(path: &Path, required: Option<Algorithm>) -> crate::error::Result<Self> {
        Ok(Self::parse(&super::read_list(path)?, required))
    }

    fn parse(text: &[u8], required: Option<Algorithm>) -> Self {
        let mut lines: HashMap<String, Vec<ListedDigest>> = HashMap::new();
        for line in parse(text, required) {
            let file_name = Path::new(&line.name).file_name().unwrap_or_default().to_string_lossy().into_owned();
            lines.entry(file_name).or_default().push(line);
        }
        Self { lines }
    }

    /// Like [`look_up`] for the whole list.
    pub fn look_up(&self, names: &[&Path], required: Option<Algorithm>) -> Result<NamedDigest, String> {
        // All ways to match a name need the same file name.
        let file_name = names.first().and_then(|name| name.file_name()).unwrap_or_default();
        let lines = self.lines.get(&from_latin1(file_name.as_bytes())).map_or(&[][..], Vec::as_slice);
        find(&lines.iter().collect::<Vec<_>>(), names, required)
    }
}

fn without_dot(path: &str) -> &Path {
    Path::new(path.strip_prefix("./").unwrap_or(path))
}

/// Parses `SHA256 (name) = digest`.
fn parse_bsd(line: &str) -> Option<ListedDigest> {
    let (escaped, line) = strip_escape_mark(line.trim_end());
    let (tag, rest) = line.split_once(" (")?;
    let (name, digest) = rest.rsplit_once(") = ")?;
    let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(tag))?;
    let bytes = from_hex(digest).filter(|bytes| bytes.len() == algorithm.bytes())?;
    Some(ListedDigest { name: unescape(name, escaped)?, algorithm, bytes })
}

/// Parses `digest  name` or `digest *name`.
fn parse_gnu(line: &str, required: Option<Algorithm>) -> Option<ListedDigest> {
    let (escaped, line) = strip_escape_mark(line.trim_end_matches(['\r', '\n']));
    let (digest, name) = line.split_once(' ')?;
    let name = name.strip_prefix([' ', '*'])?;
    let bytes = from_hex(digest)?;
    let mut candidates =
        Algorithm::ALL.into_iter().filter(|algorithm| required.is_none_or(|required| required == *algorithm));
    let algorithm = candidates.find(|algorithm| algorithm.bytes() == bytes.len())?;
    Some(ListedDigest { name: unescape(name, escaped)?, algorithm, bytes })
}

/// Removes the backslash at the start of a line, which marks an escaped name. True if there was one.
fn strip_escape_mark(line: &str) -> (bool, &str) {
    line.strip_prefix('\\').map_or((false, line), |rest| (true, rest))
}

/// None for an escape that sha256sum(1) does not know.
fn unescape(name: &str, escaped: bool) -> Option<String> {
    if !escaped {
        return Some(name.to_string());
    }
    let mut result = String::new();
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => result.push(match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('\\') => '\\',
                _ => return None,
            }),
            c => result.push(c),
        }
    }
    Some(result)
}

/// The line for a file in the format of sha256sum(1), without the newline. `sha256sum -c` accepts it.
pub fn line(digest: &[u8], name: &OsStr) -> Vec<u8> {
    let (digest, name) = (hex(digest), from_latin1(name.as_bytes()));
    let text = if name.contains(['\\', '\n', '\r']) {
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        format!("\\{digest}  {escaped}")
    } else {
        format!("{digest}  {name}")
    };
    text.chars().map(|c| c as u8).collect() // Latin-1 back to bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST_A: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const DIGEST_B: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

    fn find(list: &str, name: &str, required: Option<Algorithm>) -> Result<(Algorithm, String), String> {
        let digest = look_up(list.as_bytes(), &[Path::new(name)], required)?;
        Ok((digest.algorithm, hex(&digest.bytes)))
    }

    fn sha256(digest: &str) -> Result<(Algorithm, String), String> {
        Ok((Algorithm::Sha256, digest.to_string()))
    }

    #[test]
    fn gnu_and_bsd_lines_are_found_by_name() {
        let upper_case = DIGEST_B.to_uppercase();
        let list = format!("# a comment\n{DIGEST_B}  other\n{DIGEST_A} *os.iso\nSHA256 (b (1).iso) = {upper_case}\n");
        assert_eq!(find(&list, "os.iso", None), sha256(DIGEST_A));
        assert_eq!(find(&list, "dir/os.iso", None), sha256(DIGEST_A));
        assert_eq!(find(&list, "b (1).iso", None), sha256(DIGEST_B));
        assert_eq!(find(&list, "os.iso", Some(Algorithm::Blake3)), Ok((Algorithm::Blake3, DIGEST_A.into())));
        assert!(find(&list, "os", None).is_err());
        assert!(find(&list, "os.iso", Some(Algorithm::Sha512)).is_err_and(|e| e.contains("sha512 line for 'os.iso'")));
    }

    #[test]
    fn a_written_line_can_be_read_back() {
        for name in ["plain", "with space", "new\nline", "back\\slash", "r\rn"] {
            let list = String::from_utf8(line(&from_hex(DIGEST_A).unwrap(), OsStr::new(name))).unwrap();
            assert_eq!(find(&list, name, None), sha256(DIGEST_A), "{list}");
        }
        let not_utf8 = OsStr::from_bytes(b"f\xff");
        let list = line(&from_hex(DIGEST_A).unwrap(), not_utf8);
        assert!(list.ends_with(b"  f\xff"));
        assert!(look_up(&list, &[Path::new(not_utf8)], None).is_ok());
    }

    #[test]
    fn a_line_with_the_same_path_is_preferred_to_one_with_the_same_file_name() {
        let list = format!("\u{feff}{DIGEST_B}  a/boot.img\n{DIGEST_A}  b/boot.img\n{DIGEST_A}  ./other\n");
        assert_eq!(find(&list, "b/boot.img", None), sha256(DIGEST_A));
        assert_eq!(find(&list, "a/boot.img", None), sha256(DIGEST_B));
        assert_eq!(find(&list, "/srv/b/boot.img", None), sha256(DIGEST_A));
        assert!(find(&list, "boot.img", None).is_err_and(|e| e.contains("several lines")));
        assert_eq!(find(&list, "other", None), sha256(DIGEST_A));
    }

    #[test]
    fn a_line_without_a_name_or_with_an_unknown_escape_is_for_no_file() {
        for line in ["  ", " *", "  ./"] {
            assert!(find(&format!("{DIGEST_A}{line}"), "os.iso", None).is_err(), "{line}");
        }
        assert!(find(&format!("SHA256 () = {DIGEST_A}"), "os.iso", None).is_err());
        for name in ["a\\b", "ab\\", "\\ab"] {
            assert!(find(&format!("\\{DIGEST_A}  {name}"), "ab", None).is_err(), "{name}");
        }
    }

    /// A path without NUL, in which the characters that matter to a list are frequent.
    fn path() -> impl Strategy<Value = Vec<u8>> {
        let pieces =
            ["a", "b", "/", "./", "..", "\\", "\\n", "\n", "\r", " ", "*", "(", ") = ", "\u{85}", "ä", "\u{feff}"];
        let piece = prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec());
        let piece = prop_oneof![6 => piece, 1 => prop::collection::vec(1u8..=255, 1..3)];
        prop::collection::vec(piece, 1..7).prop_map(|pieces| pieces.concat())
    }

    /// A line of a list, well-formed or nearly so.
    fn list_line() -> impl Strategy<Value = Vec<u8>> {
        let digest = prop_oneof![
            4 => prop::sample::select(vec![DIGEST_A, DIGEST_B]).prop_map(str::to_string),
            1 => "[0-9a-fA-F]{60,68}",
        ];
        let end = prop::sample::select(vec!["\n", "\r\n", " \n", ""]);
        (digest, path(), prop::sample::select(vec!["  ", " *", " ", "\t", "bsd"]), any::<bool>(), end).prop_map(
            |(digest, name, form, escaped, end)| {
                let mark = if escaped { "\\" } else { "" };
                let (before, after) = match form {
                    "bsd" => (format!("{mark}SHA256 ("), format!(") = {digest}{end}")),
                    separator => (format!("{mark}{digest}{separator}"), end.to_string()),
                };
                [before.as_bytes(), &name, after.as_bytes()].concat()
            },
        )
    }

    proptest! {
        #![proptest_config(crate::cases::cases(5000))]

        #[test]
        fn any_name_is_found_by_the_line_that_is_written_for_it(
            name in path(),
            others in prop::collection::vec(path(), 0..4),
        ) {
            let name = Path::new(OsStr::from_bytes(&name));
            prop_assume!(name.file_name().is_some());
            let same = |other: &Vec<u8>| Path::new(OsStr::from_bytes(other)).file_name() == name.file_name();
            let digest = from_hex(DIGEST_A).unwrap();
            let others = others.iter().filter(|other| !same(other));
            let other_lines = others.map(|other| line(&[7; 32], OsStr::from_bytes(other)));
            for end in [&b"\n"[..], b"\r\n"] {
                let lines = other_lines.clone().chain([line(&digest, name.as_os_str())]);
                let list = lines.map(|line| [&line, end].concat()).collect::<Vec<_>>().concat();
                prop_assert_eq!(look_up(&list, &[name], None).map(|found| found.bytes), Ok(digest.clone()));
            }
        }

        #[test]
        fn any_list_gives_a_digest_of_its_own_for_the_same_file_name(
            lines in prop::collection::vec(list_line(), 0..6),
            noise in prop::collection::vec(any::<u8>(), 0..50),
            name in path(),
        ) {
            let name = Path::new(OsStr::from_bytes(&name));
            prop_assume!(name.file_name().is_some());
            let list = [lines.concat(), noise].concat();
            let found = look_up(&list, &[name], None);
            if let Ok(found) = &found {
                let text = from_latin1(&list).to_lowercase();
                let file_name = from_latin1(name.file_name().unwrap().as_bytes());
                prop_assert!(text.contains(&hex(&found.bytes)));
                let unescaped = from_latin1(&list).replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\");
                prop_assert!(text.contains(&file_name.to_lowercase()) || unescaped.contains(&file_name));
            }
            let of_many = ChecksumList::parse(&list, None).look_up(&[name], None);
            prop_assert_eq!(of_many.ok(), found.ok());
        }
    }
}
