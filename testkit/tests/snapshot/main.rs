//! One test alone in its binary: fds and children are the whole process's.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod sys;

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};

use cofferdam_testkit::{Need, NetNs, Snapshot, have, in_mount_namespace};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const MINE: &str = "cofferdam-testkit";

/// What the comparison says of `change`, which lasts as long as the value it returns; without it all is the same.
fn noticed<T>(change: impl FnOnce() -> T) -> String {
    let before = Snapshot::take();
    before.assert_same(MINE);
    let changed = change();
    let panic = catch_unwind(AssertUnwindSafe(|| before.assert_same(MINE)));
    drop(changed);
    let message = panic.expect_err("a change was not noticed");
    message.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn every_kind_of_leftover_is_noticed() {
    let fd = noticed(|| File::open("/dev/null").unwrap());
    assert!(
        fd.starts_with("fds changed") && fd.contains("/dev/null"),
        "{fd}"
    );
    children();
    if !have(&[Need::Namespaces]) {
        return;
    }
    in_mount_namespace(mounts);
    NetNs::new().run(|| {
        let link = noticed(|| sys::bridge("br0").unwrap());
        assert_eq!(link, "links changed: [\"br0\"]");
    });
    if have(&[Need::Root, Need::Cgroup2]) {
        cgroups();
    }
}

/// A zombie counts, until it is waited for.
fn children() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("--list")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let id = child.id().to_string();
    assert!(Snapshot::take().children.contains(&id));
    rustix::process::waitid(
        rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child)),
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
    )
    .unwrap();
    assert!(Snapshot::take().children.contains(&id));
    child.wait().unwrap();
    assert!(!Snapshot::take().children.contains(&id));
}

fn mounts() {
    let target = std::env::temp_dir();
    let message = noticed(|| mount("tmpfs", &target, "tmpfs", MountFlags::empty(), None).unwrap());
    assert!(message.starts_with("mounts changed"), "{message}");
    let before = Snapshot::take();
    unmount(&target, UnmountFlags::empty()).unwrap();
    // What went is a change too.
    assert!(catch_unwind(|| before.assert_same(MINE)).is_err());
}

/// Other processes' cgroups are no business of the test.
fn cgroups() {
    let before = Snapshot::take();
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let mut rows = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroup2 = rows.find(|fields| fields[2] == "cgroup2").unwrap();
    let name = format!("{MINE}-{}", std::process::id());
    let directory = format!("{}/{name}", cgroup2[1]);
    fs::create_dir(&directory).unwrap();
    let seen = catch_unwind(|| before.assert_same(&name)).is_err();
    before.assert_same("another's");
    fs::remove_dir(&directory).unwrap();
    assert!(seen);
    before.assert_same(MINE);
}
