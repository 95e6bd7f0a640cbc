//! What needs drivers that not every kernel has: FAT, exFAT, NFS and the device mapper. `.ci/virtual-machine` runs these
//! tests under Debian's kernels.
#![cfg(feature = "url")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::matrix::{Copy, Expected, Matrix, copy_without_links, plainly};
use common::*;

fn copies_on(filesystem: &str) {
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 64 << 20, 512);
    tool(&format!("mkfs.{filesystem}"), [disk.name()]);
    let name = disk.name().to_string();
    let mount = Mount::with(&scratch, &["-t", filesystem, &name], Some(disk));
    copy_without_links(&mount.at, filesystem);
}

#[test]
#[ignore = "needs the kernel's FAT driver"]
fn copies_on_fat_are_exact() {
    copies_on("vfat");
}

#[test]
#[ignore = "needs the kernel's exFAT driver"]
fn copies_on_exfat_are_exact() {
    copies_on("exfat");
}

/// Server and client are the same machine.
#[test]
#[ignore = "needs the kernel's NFS client and server"]
fn copies_on_nfs_are_exact() {
    let scratch = Scratch::new();
    let exported = scratch.path("exported");
    fs::create_dir(&exported).unwrap();
    tool("modprobe", ["nfsd"]);
    tool("mount", ["-t", "nfsd", "nfsd", "/proc/fs/nfsd"]);
    for name in ["etab", "rmtab"] {
        fs::write(Path::new("/var/lib/nfs").join(name), "").unwrap();
    }
    fs::create_dir_all("/var/lib/nfs/v4recovery").unwrap();
    // A new server waits this long for clients of the time before.
    fs::write("/proc/fs/nfsd/nfsv4gracetime", "10").unwrap();
    fs::write("/proc/fs/nfsd/nfsv4leasetime", "10").unwrap();
    let client = format!("127.0.0.1:{}", exported.display());
    tool("exportfs", ["-o", "rw,no_root_squash,insecure,no_subtree_check,fsid=0", &client]);
    tool("rpc.mountd", ["--no-nfs-version", "3"]);
    tool("rpc.nfsd", ["--no-nfs-version", "3", "--no-udp", "4"]);
    let mount = Mount::with(&scratch, &["-t", "nfs4", "127.0.0.1:/"], None);
    let mut matrix = Matrix::for_users();
    for copy in Copy::FOR_USERS {
        matrix.copy_in(&mount.at, "NFS", copy, Expected::DONE, &plainly);
    }
    matrix.finish();
}

#[test]
#[ignore = "needs the kernel's device mapper"]
fn mapped_devices_are_copied_and_protected_like_others() {
    const LEN: usize = 64 << 20;
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, LEN as u64, 512);
    tool("modprobe", ["dm-mod"]);
    let table = format!("0 {} linear {} 0", LEN / 512, disk.name());
    tool("env", ["DM_DISABLE_UDEV=1", "dmsetup", "create", "dio-cp", "--table", &table]);
    let mapped = Path::new("/dev/mapper/dio-cp");
    let (src, dst) = (scratch.file("src", LEN), scratch.path("dst"));
    copies(["-f".as_ref(), "--verify".as_ref(), src.as_os_str(), mapped.as_os_str()]);
    copies(["--check-cache".as_ref(), mapped.as_os_str(), dst.as_os_str()]);
    same(&dst, &content(LEN));
    copies(["--idle".as_ref(), mapped.as_os_str(), dst.as_os_str()]);
    // The disk belongs to the mapped device, and that to a filesystem.
    let stderr = fails(1, ["-f".as_ref(), src.as_os_str(), disk.device.as_os_str()]);
    assert!(stderr.contains("dm-"), "{stderr}");
    tool("mkfs.ext4", ["-q".as_ref(), mapped.as_os_str()]);
    let mount = Mount::with(&scratch, &[mapped.to_str().unwrap()], None);
    let stderr = fails(1, ["-f".as_ref(), src.as_os_str(), mapped.as_os_str()]);
    assert!(stderr.contains("mounted"), "{stderr}");
    let mut matrix = Matrix::for_users();
    for copy in Copy::FOR_USERS {
        matrix.copy_in(&mount.at, "the device mapper", copy, Expected::DONE, &plainly);
    }
    matrix.finish();
    drop(mount);
    tool("env", ["DM_DISABLE_UDEV=1", "dmsetup", "remove", "--retry", "dio-cp"]);
}
