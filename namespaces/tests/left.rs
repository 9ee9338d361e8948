//! Programs that were started where another runs, and that nobody has a handle of any more.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use cofferdam_namespaces::{Command, Namespace, Namespaces};
use cofferdam_testkit::{Need, Snapshot, have};

const SOON: Duration = Duration::from_secs(10);

/// The first process of a pid namespace is gone when all others are reaped: those that entered it are the caller's children.
#[test]
fn a_program_that_entered_and_was_left_does_not_keep_the_first_from_ending() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let before = Snapshot::take();
    let own = Namespaces::none().with(Namespace::Pid);
    let first = Command::new("sleep").arg("60").namespaces(own);
    let first = first.spawn().unwrap();
    for _ in 0..3 {
        Command::new("sleep")
            .arg("60")
            .enter(&first)
            .unwrap()
            .persist();
    }
    first.kill().unwrap();
    let start = Instant::now();
    let status = first.wait_timeout(SOON).unwrap();
    assert_eq!(status.and_then(|status| status.signal()), Some(9));
    assert!(start.elapsed() < SOON / 2, "{:?}", start.elapsed());
    drop(first);
    // Those that were left are reaped, and their pidfds closed.
    before.assert_same("no cgroup was made");
}
