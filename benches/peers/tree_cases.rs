//! The cases of directories, of clones, and of commands whose output is copied.

use crate::cases::{PreviousCopy, Task, cold};
use crate::peer::{Peer, cp, peer, xcp};
use crate::place::Storage;
use crate::source::{CacheState, Content};
use crate::tree::BYTES;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const CACHES_DROPPED: &str =
    "cold: before each run, /proc/sys/vm/drop_caches empties the page cache and the caches of names and inodes";
const SYNC_OF_TREE: &str = "`sync -f` waits until the whole filesystem of the copy is on the medium";
const DELETED_LATER: &str = "the copies are deleted at the end of a round, and the next one begins a minute later: in the \
                             minute after many files were deleted, ext4 spends most of the time in a search for inodes that \
                             are not among them";

/// All of them, in the order of the tables.
pub fn all() -> Vec<Task> {
    let tree = |name, title, storage| Task {
        storage,
        content: Content::SystemTree,
        state: CacheState::Dropped,
        notes: &[CACHES_DROPPED, SYNC_OF_TREE],
        ..cold(name, title, BYTES)
    };
    let clone = |name, title, storage| Task {
        storage,
        content: Content::Shared,
        copies: 10,
        peers: vec![peer("dio-cp", "sh", "{dio} -q {src} {dst}"), cp(), xcp()],
        notes: &["each copy is a clone of the same file, which shares its data"],
        ..cold(name, title, GIB)
    };
    vec![
        Task {
            peers: small_files(),
            previous: PreviousCopy::DeletedLater,
            notes: &[CACHES_DROPPED, SYNC_OF_TREE, DELETED_LATER],
            ..tree("tree", "{size} of small files, cold, a tree", Storage::Disk)
        },
        Task {
            content: Content::LargeFiles,
            peers: large_files(),
            notes: &[SYNC_OF_TREE],
            ..cold("tree-large", "{size} in 8 files, cold, a directory", 8 * 200 * MIB)
        },
        Task {
            state: CacheState::Hot,
            previous: PreviousCopy::Kept,
            peers: unchanged(),
            notes: &[
                "the copy exists already and nothing has changed; names and inodes are cached",
                "no command has anything to write, so none is followed by `sync`",
            ],
            ..tree("tree-unchanged", "{size} of small files, unchanged, a tree", Storage::Disk)
        },
        clone("clone-xfs", "{size}, cold, cloned on XFS", Storage::Xfs),
        clone("clone-btrfs", "{size}, cold, cloned on btrfs", Storage::Btrfs),
        Task { peers: cloned_tree(), ..tree("tree-clone-xfs", "{size} of small files, cold, on XFS", Storage::Xfs) },
        Task {
            peers: cloned_tree(),
            ..tree("tree-clone-btrfs", "{size} of small files, cold, on btrfs", Storage::Btrfs)
        },
        Task {
            content: Content::InMemory,
            state: CacheState::Hot,
            peers: producer(),
            ..cold("producer", "{size} from a command that reads tmpfs", 2 * GIB)
        },
    ]
}

fn dio_tree() -> Peer {
    peer("dio-cp -a", "sh", "{dio} -q -a {src} {dst}")
}

fn cp_tree() -> Peer {
    peer("cp -a + sync", "cp", "cp -a {src} {dst} && sync -f {dst}")
}

fn xcp_tree() -> Peer {
    peer("xcp -r + sync", "xcp", "{tool} --no-progress -r {src} {dst} && sync -f {dst}")
}

fn small_files() -> Vec<Peer> {
    vec![
        dio_tree(),
        cp_tree(),
        peer("rsync -a + sync", "rsync", "rsync -a {src}/ {dst} && sync -f {dst}"),
        peer("nocache cp -a + sync", "nocache", "nocache cp -a {src} {dst} && sync -f {dst}"),
        xcp_tree(),
        peer("tar to tar + sync", "tar", "mkdir {dst} && tar -C {src} -cf - . | tar -C {dst} -xpf - && sync -f {dst}"),
    ]
}

fn large_files() -> Vec<Peer> {
    let one_by_one = |copy: &str| format!("mkdir {{dst}} && for f in {{src}}/*; do {copy} || exit 1; done");
    let dd = r#"dd if="$f" of={dst}/"${f##*/}" bs=4M iflag=direct oflag=direct conv=fsync status=none"#;
    vec![
        dio_tree(),
        peer("dio-cp, one by one", "sh", &one_by_one(r#"{dio} -q "$f" {dst}/"#)),
        peer("dd 4M direct, each", "dd", &format!("{} && {{sync}}", one_by_one(dd))),
        cp_tree(),
        xcp_tree(),
    ]
}

fn unchanged() -> Vec<Peer> {
    vec![
        peer("dio-cp -a -u", "sh", "{dio} -q -a -u -T {src} {dst}"),
        peer("rsync -a", "rsync", "rsync -a {src}/ {dst}"),
        peer("cp -a -u", "cp", "cp -a -u -T {src} {dst}"),
    ]
}

fn cloned_tree() -> Vec<Peer> {
    vec![dio_tree(), cp_tree(), xcp_tree()]
}

fn producer() -> Vec<Peer> {
    vec![
        peer("dio-cp --from-command", "sh", "{dio} -q --from-command {dst} -- cat {src}"),
        peer("dio-cp -, a pipe", "sh", "cat {src} | {dio} -q - {dst}"),
    ]
}
