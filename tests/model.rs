//! Random combinations of --skip, --seek, --count and --in-place, compared with a model in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[derive(Clone, Debug)]
struct Case {
    /// The length of the source.
    source: usize,
    /// The length of the existing destination.
    existing: Option<usize>,
    skip: usize,
    count: Option<usize>,
    seek: Option<usize>,
    in_place: bool,
    pipe: bool,
    block: usize,
    depth: usize,
    sparse: &'static str,
    direct: &'static str,
    /// True if a part of the source is zeros.
    zeros: bool,
}

impl Case {
    /// The content of DST after the copy.
    fn expected(&self, source: &[u8], existing: Option<&[u8]>) -> Vec<u8> {
        let end = self.count.map_or(source.len(), |count| source.len().min(self.skip + count));
        let copied = &source[self.skip..end];
        if !self.in_place && self.seek.is_none() {
            return copied.to_vec();
        }
        let seek = self.seek.unwrap_or(0);
        let mut result = existing.unwrap_or(&[]).to_vec();
        if !copied.is_empty() && result.len() < seek + copied.len() {
            result.resize(seek + copied.len(), 0);
        }
        if !copied.is_empty() {
            result[seek..seek + copied.len()].copy_from_slice(copied);
        }
        result
    }
}

/// Offsets up to `max`, many of them near a multiple of 512.
fn offset(max: usize) -> impl Strategy<Value = usize> {
    let near = (0usize..40, 0usize..3).prop_map(|(blocks, extra)| (blocks * 512 + extra).saturating_sub(1));
    prop_oneof![near, 0..=max].prop_map(move |offset| offset.min(max))
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (offset(100_000), prop::option::of(offset(100_000)));
    let shape = (prop::sample::select(vec![512usize, 4096, 16384, 65536]), 1usize..5);
    let modes = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
    let policies = (prop::sample::select(vec!["auto", "always", "never"]), prop::sample::select(vec!["auto", "never"]));
    (sizes, shape, modes, policies, prop::option::of(offset(50_000)), prop::option::of(offset(50_000)), 0.0..1.0f64)
        .prop_map(
            |((source, existing), (block, depth), (in_place, pipe, zeros), (sparse, direct), seek, count, skip)| {
                let skip = if skip < 0.3 { 0 } else { (source as f64 * (skip - 0.3)) as usize };
                Case { source, existing, skip, count, seek, in_place, pipe, block, depth, sparse, direct, zeros }
            },
        )
}

#[test]
fn any_combination_of_options_gives_the_bytes_of_the_model() {
    let scratch = Scratch::new();
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&case(), |case| {
        let (src, dst) = (scratch.path("src"), scratch.path("dst"));
        let mut source = content(case.source);
        if case.zeros && source.len() > 9000 {
            source[1000..9000].fill(0);
        }
        let existing = case.existing.map(|len| vec![0xee; len]);
        write(&src, &source);
        let _ = fs::remove_file(&dst);
        if let Some(existing) = &existing {
            write(&dst, existing);
        }
        let mut command = dio_cp();
        command.args(["--sparse", case.sparse, "--direct", case.direct]);
        command.args(["-b", &case.block.to_string(), "--queue-depth", &case.depth.to_string()]);
        command.args(["--skip", &case.skip.to_string()]);
        if let Some(count) = case.count {
            command.args(["--count", &count.to_string()]);
        }
        if let Some(seek) = case.seek {
            command.args(["--seek", &seek.to_string()]);
        }
        if case.in_place {
            command.arg("--in-place");
        }
        let output = if case.pipe {
            command.arg("-").arg(&dst);
            feed(command, &source, 7000)
        } else {
            command.arg(&src).arg(&dst).output().unwrap()
        };
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        prop_assert!(output.status.success(), "{}", stderr);
        let actual = fs::read(&dst).unwrap();
        let expected = case.expected(&source, existing.as_deref());
        prop_assert_eq!(actual.len(), expected.len(), "length; {}", stderr);
        prop_assert!(
            actual == expected,
            "bytes differ at {:?}",
            (0..actual.len()).find(|i| actual[*i] != expected[*i])
        );
        prop_assert_eq!(scratch.names().len(), 2);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
