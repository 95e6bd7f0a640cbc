//! Promise 4: exit status 0 means that data, name and length are on the medium. To simulate a power failure, the tests
//! copy the disk's backing file while the filesystem is still mounted, and mount the copy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::*;

/// The content of DST if the power fails right after the command. None if DST does not exist.
fn after_power_failure(kind: &str, args: &[&str], existed: bool) -> Option<Vec<u8>> {
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
    copies(args.iter().map(|word| word.as_ref()).chain([src.as_os_str(), dst.as_os_str()]));
    let image = scratch.path("image");
    tool("cp", ["--sparse=always".as_ref(), backing.as_os_str(), image.as_os_str()]);
    drop(mount); // both filesystems have the same UUID and must not be mounted at the same time
    let after = Mount::with(&scratch, &["-t", kind, "-o", "loop", image.to_str().unwrap()], None);
    fs::read(after.path("dst")).ok()
}

#[test]
fn a_finished_copy_survives_a_power_failure() {
    needs_root_and!("losetup", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs");
    for kind in ["ext4", "xfs", "btrfs"] {
        for existed in [false, true] {
            let actual = after_power_failure(kind, &[], existed);
            assert!(
                actual == Some(content(5_000_001)),
                "{kind}, existed: {existed}: {:?}",
                actual.map(|bytes| bytes.len())
            );
        }
        let actual = after_power_failure(kind, &["--in-place"], true);
        assert!(actual == Some(content(5_000_001)), "{kind}, in place: {:?}", actual.map(|bytes| bytes.len()));
    }
}

#[test]
fn a_copy_with_no_sync_does_not_survive_a_power_failure() {
    needs_root_and!("losetup", "mkfs.ext4");
    // Shows that the test above can fail.
    let actual = after_power_failure("ext4", &["--no-sync"], false);
    assert!(actual != Some(content(5_000_001)), "the simulated power failure loses nothing");
}
