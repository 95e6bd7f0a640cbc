//! The static binary against the one that uses glibc. `.ci/release` builds it.

use crate::cases::{Task, cold};
use crate::peer::{Peer, peer};
use crate::place::Storage;
use crate::source::{CacheState, Content};
use crate::tools::STATIC;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// All of them, in the order of the tables.
pub fn all() -> Vec<Task> {
    vec![
        Task { copies: 100, peers: both(FILE), ..cold("static-4k", "{size}, cold, static binary", 4096) },
        Task { peers: both(FILE), rounds: 9, ..cold("static-1g", "{size}, cold, static binary", GIB) },
        Task {
            storage: Storage::Zram,
            content: Content::Filled,
            peers: both(FILE),
            rounds: 9,
            ..cold("static-zram", "{size}, cold, at memory speed, static binary", GIB)
        },
        Task {
            state: CacheState::Hot,
            peers: both("cat {src} | {program} -q - {dst}"),
            rounds: 9,
            ..cold("static-pipe", "{size} from a pipe, source cached, static binary", 2 * GIB)
        },
        Task {
            content: Content::Served,
            state: CacheState::Hot,
            peers: both("{program} -q --cacert {cacert} {tls} {dst}"),
            rounds: 9,
            ..cold("static-https", "{size} over https from nginx on this machine, static binary", 512 * MIB)
        },
    ]
}

const FILE: &str = "{program} -q {src} {dst}";

fn both(line: &str) -> Vec<Peer> {
    vec![
        peer("dio-cp", "sh", &line.replace("{program}", "{dio}")),
        peer("static dio-cp", STATIC, &line.replace("{program}", "{tool}")),
    ]
}
