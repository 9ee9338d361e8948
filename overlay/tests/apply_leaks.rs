//! What is left after layers were applied and could not be. Alone in its binary: fds are the whole process's.
#![allow(
    clippy::unwrap_used,
    reason = "clippy sees only functions marked as tests"
)]

#[path = "archive/mod.rs"]
mod archive;

use std::fs;
use std::path::Path;

use cofferdam_overlay::{Apply, Digest, Limits};
use cofferdam_testkit::Snapshot;

use archive::{Archive, directory, in_world};

#[test]
fn no_fd_and_no_thread_is_left() {
    in_world(|world| {
        let lower = directory(world, "lower");
        fs::write(lower.join("f"), "").unwrap();
        let before = (Snapshot::take(), threads());
        for round in 0..2 {
            use_it_all(world, &lower, round);
        }
        before.0.assert_same("cofferdam-overlay");
        assert_eq!(threads(), before.1);
    });
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn use_it_all(world: &Path, lower: &Path, round: usize) {
    let layer = |name: &str| directory(world, &format!("{name}{round}"));
    let mut archive = Archive::new().link("l", "f").file(".wh.f", "");
    for n in 0..200 {
        archive = archive
            .directory(format!("{n}/"))
            .file(format!("{n}/f"), vec![1; 1000]);
    }
    let tar = archive.clone().end();
    Apply::new(layer("whole"))
        .lower([lower])
        .tar(&*tar)
        .unwrap();
    // It stops where the reader is far ahead.
    let stopped = archive
        .link("m", "gone")
        .file("large", vec![1; 7 << 20])
        .end();
    let refused = layer("refused");
    Apply::new(&refused)
        .lower([lower])
        .tar(&*stopped)
        .unwrap_err();
    Apply::new(&refused)
        .lower([lower])
        .blob(Digest::of(""))
        .tar(&*tar)
        .unwrap_err();
    Apply::new(&refused)
        .lower([lower])
        .limits(Limits::default().entries(100))
        .tar(&*tar)
        .unwrap_err();
    Apply::new(&refused)
        .lower([lower.join("gone")])
        .tar(&*tar)
        .unwrap_err();
    Apply::new(layer("whole")).tar(&*tar).unwrap_err();
}
