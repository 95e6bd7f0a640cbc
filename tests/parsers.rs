//! What others wrote and a copy reads: the record of a partial file, and checksum lists with any file names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use common::cases::cases;
use common::partial::{ATTRIBUTE, create_partial, partial, record};
use common::*;
use proptest::prelude::*;

/// A file name in which the characters that matter to a list or a terminal are frequent.
fn file_name() -> impl Strategy<Value = Vec<u8>> {
    let pieces =
        ["a", ".", "\\", "\\n", "\n", "\r", " ", "*", "-", "SHA256 (", ") = ", "\u{85}", "ä", "\u{feff}", "\x1b[2J"];
    let piece = prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec());
    let byte = any::<u8>().prop_filter("not in a name", |byte| !matches!(byte, 0 | b'/'));
    let piece = prop_oneof![6 => piece, 1 => prop::collection::vec(byte, 1..3), 1 => Just(vec![b'x'; 60])];
    let names = prop::collection::vec(piece, 1..7).prop_map(|pieces| pieces.concat());
    names.prop_filter("not a name", |name| name.len() <= 255 && name != b"." && name != b"..")
}

/// A change of a record: where, what, and the new byte.
type Edit = (prop::sample::Index, u8, u8);

fn edited(record: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut record = record.to_vec();
    for (position, kind, byte) in edits.iter().filter(|_| !record.is_empty()).collect::<Vec<_>>() {
        let at = position.index(record.len().max(1));
        match kind % 5 {
            0 if at < record.len() => record[at] = *byte,
            1 => record.insert(at, *byte),
            2 if at < record.len() => drop(record.remove(at)),
            3 => record.truncate(at.max(record.len().saturating_sub(9))),
            // A digit instead of a digit: another number of durable bytes, or another source.
            _ => {
                let digits: Vec<usize> = (0..record.len()).filter(|i| record[*i].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    record[digits[position.index(digits.len())]] = b'0' + byte % 10;
                }
            }
        }
    }
    record
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn no_record_of_a_partial_file_leads_to_a_wrong_copy(
        edits in prop::collection::vec(any::<Edit>(), 0..4),
        noise in prop::collection::vec(any::<u8>(), 0..200),
        blocks in 0usize..5,
        more in 0usize..1000,
        claimed in prop::option::of(0u64..400_000),
    ) {
        let scratch = Scratch::new();
        let (src, dst) = (scratch.file("src", 300_000), scratch.path("dst"));
        let bytes = content(300_000);
        let durable = blocks * 65_536 + more;
        let right = record(&src, claimed.unwrap_or(durable as u64));
        let resumable = claimed.unwrap_or(durable as u64).min(durable as u64 + 1);
        let wrong = vec![0xee; 300_000];
        // After any edit, the file still has what the record can claim at most. With noise, it has nothing right.
        for (record, partial_bytes) in [(edited(&right, &edits), &bytes[..durable]), (noise, &wrong[..])] {
            fs::write(&dst, b"old").unwrap();
            create_partial(&dst, &record, partial_bytes);
            let stderr = copies([src.as_os_str(), dst.as_os_str(), OsStr::new("--resume")]);
            prop_assert!(fs::read(&dst).unwrap() == bytes, "{}", stderr);
            prop_assert!(!stderr.trim_end().replace('\n', "").contains(char::is_control), "{stderr:?}");
            prop_assert!(!partial(&dst).exists() && xattr::get(&dst, ATTRIBUTE).unwrap().is_none());
            if record == right {
                let expected = resumable <= durable as u64 && resumable >= 65_536;
                prop_assert_eq!(stderr.contains("resuming"), expected, "{}", stderr);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn the_lines_for_any_file_names_are_those_of_sha256sum(
        names in prop::collection::btree_set(file_name(), 1..20),
        many in any::<bool>(),
    ) {
        let scratch = Scratch::new();
        let (src, dst, list) = (scratch.path("src"), scratch.path("dst"), scratch.path("list"));
        fs::create_dir(&src).unwrap();
        fs::create_dir(&dst).unwrap();
        let files = |directory: &Path| -> Vec<_> {
            names.iter().map(|name| directory.join(OsStr::from_bytes(name))).collect()
        };
        for (number, file) in files(&src).iter().enumerate() {
            fs::write(file, content(number * 1000)).unwrap();
        }
        let copy = |from: &Path, to: &Path| {
            dio_cp().args(["--checksum", "sha256", "-q", "-r", "-T"]).args([from, to]).output().unwrap()
        };
        // A tree, or file by file.
        let lines: Vec<u8> = if many {
            let output = copy(&src, &dst);
            prop_assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        } else {
            let pairs = files(&src).into_iter().zip(files(&dst));
            pairs.map(|(from, to)| copy(&from, &to).stdout).collect::<Vec<_>>().concat()
        };
        fs::write(&list, &lines).unwrap();
        let output = Command::new("sha256sum").args(["-c", "--strict", "--quiet"]).arg(&list).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        prop_assert!(output.status.success(), "{} {}", stderr, String::from_utf8_lossy(&lines));
        let sums = Command::new("sha256sum").args(files(&dst)).output().unwrap().stdout;
        let set = |text: &[u8]| text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<BTreeSet<_>>();
        prop_assert_eq!(set(&sums), set(&lines));

        // sha256sum's own list is read: each digest is required of its file.
        let again = scratch.path("again");
        fs::write(&list, &sums).unwrap();
        let required = || {
            let command = ["-q".as_ref(), "-r".as_ref(), "-T".as_ref(), "--checksum-file".as_ref(), list.as_os_str()];
            dio_cp().args(command).args([&src, &again]).output().unwrap()
        };
        let output = required();
        prop_assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let changed = files(&src).pop().unwrap();
        fs::write(&changed, b"changed").unwrap();
        prop_assert!(!required().status.success());
    }
}
