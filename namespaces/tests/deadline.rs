//! Starts whose caller gives up at once. Alone in its binary: fds and children are the whole process's.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use cofferdam_namespaces::{Command, ErrorKind};
use cofferdam_testkit::{Need, Snapshot, have};

#[test]
fn a_start_without_time_is_done_or_undone_and_nothing_else() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let name = format!("cofferdam-ns-{}-late", std::process::id());
    let cgroup = cgroup2_mount().join(&name);
    let before = Snapshot::take();
    fs::create_dir(&cgroup).unwrap();
    let mut timed_out = 0;
    for turn in 0..200 {
        let mut command = Command::new(std::env::current_exe().unwrap()).arg("--list");
        command = command.start_deadline(Duration::from_micros(turn % 20 * 100));
        if turn % 2 == 0 {
            command = command.cgroup(File::open(&cgroup).unwrap().into());
        }
        match command.spawn() {
            Ok(mut child) => assert!(child.wait().unwrap().success()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                timed_out += 1;
            }
        }
    }
    assert!(timed_out > 10, "{timed_out} of 200 had no time");
    // The threads that made the children go on for a moment.
    std::thread::sleep(Duration::from_millis(100));
    fs::remove_dir(&cgroup).unwrap();
    before.assert_same(&name);
}

fn cgroup2_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .into_iter()
        .find(|fields| fields[2] == "cgroup2")
        .unwrap()[1]
        .into()
}
