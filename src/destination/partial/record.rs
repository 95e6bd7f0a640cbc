//! The record of a partial file: which source it belongs to, and how many of its bytes are on the medium. It is an
//! extended attribute with JSON, and never claims more than an earlier fsync has made durable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use xattr::FileExt;

use crate::error::escaped;
use crate::source_info::Identity;
use crate::sys;

/// The name of the extended attribute.
pub const ATTRIBUTE: &str = "user.dio-cp.partial";
/// Longer values are stored as a digest, because ext4 has one block for all attributes, of 1 KiB at least.
const MAX_VALUE_LEN: usize = 100;

/// The identity with long values replaced by their digests, as the record stores it.
pub fn shortened(identity: &Identity) -> Identity {
    let shorten = |value: &String| {
        if value.len() <= MAX_VALUE_LEN { value.clone() } else { format!("blake3:{}", blake3::hash(value.as_bytes())) }
    };
    identity.iter().map(|(key, value)| (*key, shorten(value))).collect()
}

/// Records that the first `durable` bytes of `file` are on the medium.
pub fn write(file: &File, identity: &Identity, durable: u64) -> io::Result<()> {
    file.set_xattr(ATTRIBUTE, &encode(identity, durable))
}

fn encode(identity: &Identity, durable: u64) -> Vec<u8> {
    let identity: serde_json::Map<String, serde_json::Value> =
        identity.iter().map(|(key, value)| (key.to_string(), value.as_str().into())).collect();
    serde_json::json!({ "durable": durable, "of": identity }).to_string().into_bytes()
}

/// How many bytes of `file` are on the medium, or why it cannot be resumed.
pub fn durable_bytes(file: &File, identity: &Identity) -> Result<u64, String> {
    let fail = |e: io::Error| format!("the partial file cannot be read ({e})");
    if !is_trusted(file).map_err(fail)? {
        return Err("another user may have written the partial file".to_string());
    }
    let record = file.get_xattr(ATTRIBUTE).map_err(fail)?.unwrap_or_default();
    let (durable, recorded) = parse(&record).ok_or("the partial file does not say what it belongs to")?;
    for (key, value) in identity {
        match recorded.get(*key) {
            Some(old) if old == value => {}
            Some(old) => return Err(format!("its {key} was {}, and is {value} now", escaped(old))),
            None => return Err(format!("the partial file belongs to another source: it has no {key}")),
        }
    }
    let total = recorded.get("number of bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    if durable > file.metadata().map_err(fail)?.len() || durable > total {
        return Err("the partial file is shorter than it should be".to_string());
    }
    Ok(durable)
}

/// True if only this user can have written the file.
pub fn is_trusted(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let own = metadata.uid() == sys::effective_user() && metadata.nlink() == 1;
    Ok(metadata.is_file() && own && metadata.mode() & 0o022 == 0)
}

fn parse(record: &[u8]) -> Option<(u64, BTreeMap<String, String>)> {
    let record: serde_json::Value = serde_json::from_slice(record).ok()?;
    let identity = record.get("of")?.as_object()?;
    let pair = |(key, value): (&String, &serde_json::Value)| Some((key.clone(), value.as_str()?.to_string()));
    Some((record.get("durable")?.as_u64()?, identity.iter().map(pair).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::cases::cases(5000))]

        #[test]
        fn a_record_is_read_back(file in "(?s).{0,40}", version in "(?s).{0,40}", durable in any::<u64>()) {
            let identity = vec![("file", file.clone()), ("version", version.clone())];
            let expected = BTreeMap::from([("file".to_string(), file), ("version".to_string(), version)]);
            prop_assert_eq!(parse(&encode(&identity, durable)), Some((durable, expected)));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(
            noise in prop::collection::vec(any::<u8>(), 0..80),
            text in "[{}\\[\\]\",:0-9a-z.-]{0,40}",
            nesting in 0usize..100_000,
            position in any::<prop::sample::Index>(),
        ) {
            let record = encode(&vec![("file", "1:2".to_string())], 65536);
            let (start, end) = record.split_at(position.index(record.len()));
            for bytes in [&noise[..], text.as_bytes(), "[".repeat(nesting).as_bytes(), start] {
                prop_assert_eq!(parse(bytes), None);
            }
            // No number but a whole one of 64 bits is a length.
            for durable in ["-1", "1.5", "1e3", "18446744073709551616", "null", "\"1\""] {
                prop_assert_eq!(parse(format!("{{\"durable\":{durable},\"of\":{{}}}}").as_bytes()), None);
            }
            let _ = parse(&[start, &noise, end].concat());
        }
    }
}
