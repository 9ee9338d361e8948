//! What starting programs does to the process that does it: nothing. Alone in its binary, for its allocator and because it looks at
//! the whole process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;
mod sys;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cofferdam_namespaces::{Clock, Command, IdMap, Mount, Namespace, Namespaces, User};
use cofferdam_testkit::{Need, Snapshot, have};
use support::{Done, answer, common, inside, own_state, rooted, turns};

#[global_allocator]
static ALLOCATOR: sys::DiesInTheChild = sys::DiesInTheChild;

#[test]
fn payload() {
    answer(common);
}

/// All of this process and thread that a start could change.
fn state() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let namespaces = [
        "pid",
        "pid_for_children",
        "mnt",
        "uts",
        "ipc",
        "net",
        "user",
        "cgroup",
        "time",
    ]
    .map(|name| fs::read_link(format!("/proc/thread-self/ns/{name}")).ok());
    let environment: Vec<_> = std::env::vars_os().collect();
    let mut state = own_state();
    state.extend([
        ("namespaces", format!("{namespaces:?}")),
        ("coredump_filter", read("/proc/self/coredump_filter")),
        ("cgroup", read("/proc/self/cgroup")),
        ("THP", sys::thp_disable().to_string()),
        ("root", format!("{:?}", fs::read_link("/proc/self/root"))),
        ("dispositions", format!("{:?}", sys::dispositions())),
        ("environment", format!("{environment:?}")),
        ("mounts", read("/proc/thread-self/mounts")),
    ]);
    state
}

/// A start of every kind, by name.
fn kinds(target: &OwnedFd) -> Vec<(&'static str, Command)> {
    let fd = || target.try_clone().unwrap();
    let shifted = Namespaces::default().clock_offset(Clock::Boottime, 5, 0);
    let joined = |namespace| Namespaces::default().join(namespace, fd());
    let ids = || IdMap::current_user();
    let mut kinds = vec![
        ("bare", inside("exit 3").namespaces(Namespaces::none())),
        ("without a root", inside("exit 3")),
        (
            "with a root",
            rooted("exit 3").mount(Mount::tmpfs("/mnt", 4096)),
        ),
        ("with an init", rooted("exit 3").init(true)),
        ("with a terminal", rooted("exit 3").terminal(24, 80)),
        ("in a user namespace", rooted("exit 3").id_map(ids())),
        ("in a time namespace", rooted("exit 3").namespaces(shifted)),
        (
            "in a network",
            rooted("exit 3").namespaces(joined(Namespace::Net)),
        ),
        (
            "in a network, with a user namespace",
            rooted("exit 3")
                .namespaces(joined(Namespace::Net))
                .id_map(ids()),
        ),
        (
            "beside a process",
            rooted("exit 3").namespaces(joined(Namespace::Pid)),
        ),
        (
            "in a container",
            inside("exit 3").namespaces(Namespaces::of(fd()).unwrap()),
        ),
        ("of no program", rooted("").program("/nowhere")),
        (
            "without a workdir",
            rooted("").id_map(ids()).workdir("/nowhere"),
        ),
    ];
    if have(&[Need::Root]) {
        kinds.push(("as a user", rooted("exit 3").user(User::id(1234, 1234))));
        kinds.push((
            "with ids",
            rooted("exit 3").id_map(IdMap::range(200_000, 9999)),
        ));
    }
    kinds
}

fn start(command: &Command) {
    match command.spawn() {
        Err(error) => assert_eq!(error.raw_os_error(), Some(2), "{error}"),
        Ok(child) => {
            let status = child.wait_timeout(Duration::from_secs(30)).unwrap();
            assert_eq!(status.and_then(|status| status.code()), Some(3));
        }
    }
}

#[test]
fn nothing_of_the_callers_process_changes_by_starts_of_any_kind() {
    if std::env::var_os(support::PAYLOAD).is_some() || !have(&[Need::Namespaces]) {
        return;
    }
    sys::arm();
    let target = rooted("sleep").spawn().unwrap();
    let pidfd = target.as_fd().try_clone_to_owned().unwrap();
    let kinds = kinds(&pidfd);
    let (before, things) = (state(), Snapshot::take());
    let (done, samples) = (AtomicBool::new(false), AtomicUsize::new(0));
    let cwd = std::env::current_dir().unwrap();
    std::thread::scope(|scope| {
        // Also where a check fails: the sampler has to end.
        let _done = Done(&done);
        let sampler = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(std::env::current_dir().unwrap(), cwd);
                let dumpable = rustix::process::dumpable_behavior().unwrap();
                assert_eq!(format!("{dumpable:?}"), "Dumpable");
                samples.fetch_add(1, Ordering::Relaxed);
            }
        });
        for (name, command) in &kinds {
            for _ in 0..turns(100, 10) {
                start(command);
            }
            for ((what, was), (_, is)) in before.iter().zip(state()) {
                assert_eq!(*was, is, "{what} after starts {name}");
            }
        }
        done.store(true, Ordering::Relaxed);
        sampler.join().unwrap();
    });
    assert!(samples.load(Ordering::Relaxed) > 100, "the sampler ran");
    assert!(sys::allocations() > 1000, "the allocator was asked");
    things.assert_same("cofferdam-namespaces-unchanged");
}
