//! Promise 4: exit status 0 means that data, name and length are on the medium. The disk is copied
//! as it is at that moment, behind the filesystem's back, and mounted elsewhere: what a power
//! failure would have left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::*;

/// What DST is after a power failure that follows the command; None: it is not there.
fn after_power_failure(kind: &str, words: &[&str], existed: bool) -> Option<Vec<u8>> {
    let scratch = Scratch::new();
    let src = scratch.file("src", 5_000_001);
    let disk = Loop::new(&scratch, 400 << 20, 512);
    let (device, backing) = (disk.name().to_string(), disk.backing.clone());
    tool(&format!("mkfs.{kind}"), ["-q", &device]);
    let mount = Mount::with(&scratch, &["-t", kind, &device], Some(disk));
    if existed {
        write(&mount.path("dst"), b"old");
    }
    tool("sync", ["-f".as_ref(), mount.at.as_os_str()]);
    let dst = mount.path("dst");
    copies(words.iter().map(|word| word.as_ref()).chain([src.as_os_str(), dst.as_os_str()]));
    let image = scratch.path("image");
    tool("cp", ["--sparse=always".as_ref(), backing.as_os_str(), image.as_os_str()]);
    drop(mount); // the two must not be mounted at once: they have one identity
    let after = Mount::with(&scratch, &["-t", kind, "-o", "loop", image.to_str().unwrap()], None);
    fs::read(after.path("dst")).ok()
}

#[test]
fn what_was_copied_survives_a_power_failure() {
    needs_root_and!("losetup", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs");
    for kind in ["ext4", "xfs", "btrfs"] {
        for existed in [false, true] {
            let found = after_power_failure(kind, &[], existed);
            assert!(found == Some(content(5_000_001)), "{kind}, existed: {existed}: {:?}", found.map(|f| f.len()));
        }
        let found = after_power_failure(kind, &["--in-place"], true);
        assert!(found == Some(content(5_000_001)), "{kind}, in place: {:?}", found.map(|f| f.len()));
    }
}

#[test]
fn without_waiting_for_the_medium_it_does_not() {
    needs_root_and!("losetup", "mkfs.ext4");
    // So that the test above is known to be able to fail.
    let found = after_power_failure("ext4", &["--no-sync"], false);
    assert!(found != Some(content(5_000_001)), "the simulated power failure loses nothing");
}
