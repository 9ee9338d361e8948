//! Handles of processes that somebody else started.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use cofferdam_namespaces::{Command, ErrorKind, Spawned};
use cofferdam_testkit::{Need, have};

#[test]
fn a_process_is_adopted_by_pid_and_start_time_and_by_nothing_less() {
    if !have(&[Need::Namespaces]) {
        return;
    }
    let sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let started = sleeper.start_time().unwrap();
    let pid = sleeper.persist();
    for (pid, started) in [(pid, started + 1), (0, 0), (u32::MAX, 0)] {
        let error = Spawned::adopt(pid, started).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::NotFound),
            "{pid} {started}: {error}"
        );
    }
    let mut adopted = Spawned::adopt(pid, started).unwrap();
    adopted.keep();
    drop(adopted);
    let adopted = Spawned::adopt(pid, started).unwrap();
    assert_eq!(adopted.try_wait().unwrap(), None, "kept, it runs on");
    adopted.kill().unwrap();
    let status = adopted.wait_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(status.unwrap().signal(), Some(9));
    let error = Spawned::adopt(pid, started).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}
