//! Each system call of a copy fails once, at each of its occurrences, and what a copy promises holds all the same: exit
//! status 0 means an exact copy; anything else leaves each name old or new, says so, and leaves nothing else behind.
//!
//! By default a sample of the faults, with DIO_CP_LONG=1 all of them (thousands of copies).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::arena::{Arena, Kind, LEN, Variant, expected, only_file};
use common::cases::is_long;
use common::faults::{Fault, Outcome, faults_of, inject, sample};
use common::manifest::{Entries, difference, manifest};
use common::*;

/// Everything that is wrong with how a copy ended. `old` is DST before.
fn broken_promise(arena: &Arena, variant: &Variant, old: &Entries, new: &Entries, outcome: &Outcome) -> Option<String> {
    let resume = variant.options.contains(&"--resume");
    promises::end(outcome).or_else(|| promises::nothing_else(outcome, names(&arena.run), resume)).or_else(|| {
        let dst = &arena.dst;
        let (before, after) = (only_file(old), content(LEN));
        match variant.kind {
            Kind::Tree => promises::tree(outcome, dst, old, new),
            Kind::ToPipe => promises::pipe(outcome, &after),
            Kind::InPlace => promises::in_place(outcome, dst, before.unwrap(), &after),
            Kind::File | Kind::FromPipe | Kind::Command => {
                let preserved = variant.options.contains(&"-p") && !outcome.says("could not be preserved");
                let attributes =
                    if preserved && outcome.status.success() { difference(new, &manifest(dst)) } else { None };
                promises::file(outcome, dst, before, &after).or(attributes)
            }
        }
    })
}

fn sweep(variants: &[Variant]) {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }

    let arena = Arena::new();
    let log = arena.scratch.path("log");
    let mut broken = Vec::new();
    let (mut copies, mut hits, mut failed) = (0, 0, 0);
    for variant in variants {
        arena.reset(variant);
        let (old, new) = (manifest(&arena.dst), expected(&arena, variant));
        let (command, input) = arena.command(variant);
        let all = faults_of(&log, &command, &input);
        let chosen = if is_long() { all } else { sample(all, variant.sample) };
        for fault in chosen {
            arena.reset(variant);
            let outcome = inject(&log, &fault, &command, &input);
            copies += 1;
            hits += usize::from(!outcome.hits.is_empty());
            failed += usize::from(!outcome.status.success());
            let mut report = |what: String| {
                let Fault { call, when, error } = &fault;
                let (hits, stderr) = (outcome.hits.join("\n  "), &outcome.stderr);
                let status = outcome.status;
                broken.push(format!("{}: {call} {error} {when}: {what}\n  {hits}\n  {status}: {stderr}", variant.name));
            };
            if let Some(what) = broken_promise(&arena, variant, &old, &new, &outcome) {
                report(what);
            } else if !outcome.status.success() && variant.kind != Kind::ToPipe {
                // Whatever was left, the same command once more makes it good.
                let (again, input) = arena.command(variant);
                let output = feed(again, &input, 100_000);
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                let (status, stdout) = (output.status, output.stdout);
                let second = Outcome { status, stdout, stderr, hung: false, hits: Vec::new() };
                match broken_promise(&arena, variant, &old, &new, &second) {
                    Some(what) => report(format!("once more: {what} {}", second.stderr)),
                    None if !second.status.success() => report(format!("once more: {}", second.stderr)),
                    None => {}
                }
            }
        }
    }
    eprintln!("{copies} copies, {hits} with a fault, {failed} failed, {} broke a promise", broken.len());
    assert!(hits * 2 > copies && failed * 5 > copies, "{copies} copies, {hits} with a fault, {failed} failed");
    assert!(broken.is_empty(), "{} of {copies}:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn a_file_is_copied_exactly_or_not_at_all() {
    let variant = |name, options, old| Variant { name, kind: Kind::File, options, old, sample: 60 };
    sweep(&[
        variant("new", &[], false),
        variant("replace", &[], true),
        variant("resume", &["--resume"], false),
        variant("verify", &["--verify"], true),
        variant("checksum-file", &["--checksum-file", "sums"], false),
        Variant { kind: Kind::InPlace, ..variant("in place", &["--in-place"], true) },
    ]);
}

#[test]
fn a_file_keeps_its_attributes_or_the_user_is_told() {
    let variant = |name, old| Variant { name, kind: Kind::File, options: &["-p"], old, sample: 120 };
    sweep(&[variant("preserve, new", false), variant("preserve, replace", true)]);
}

#[test]
fn a_stream_is_copied_exactly_or_not_at_all() {
    let variant = |name, kind, old| Variant { name, kind, options: &[], old, sample: 60 };
    sweep(&[
        variant("from a pipe", Kind::FromPipe, true),
        variant("to a pipe", Kind::ToPipe, false),
        variant("from a command", Kind::Command, false),
    ]);
}

#[test]
fn each_file_of_a_tree_is_copied_exactly_or_not_at_all() {
    let variant = |name, options, old| Variant { name, kind: Kind::Tree, options, old, sample: 250 };
    sweep(&[variant("a new tree", &["-aT"], false), variant("an updated tree", &["-auT"], true)]);
}
