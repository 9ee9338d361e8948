//! Scopes of a real systemd, as root and as an ordinary user with a manager of its own: `cargo xtask vm --systemd -- cgroups`.
#![cfg(feature = "systemd")]
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

#[path = "root/sys.rs"]
#[allow(dead_code, reason = "not every test binary uses all of it")]
mod sys;

mod support;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use cofferdam_cgroups::systemd::{Bus, Scope, ScopeOptions};
use cofferdam_cgroups::{CgroupName, ErrorKind, Limits, Others};
use support::{argument, eventually, succeeds_alone, this_test};
use sys::{Child, Payload};

const WITHIN: Duration = Duration::from_secs(30);

/// Only where systemd is process 1, with D-Bus and a user manager: a machine made for it.
fn have_systemd() -> bool {
    let have = env::var_os("COFFERDAM_SYSTEMD").is_some();
    if !have {
        eprintln!("SKIP: COFFERDAM_SYSTEMD is not set");
    }
    have
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The message bus of this user.
fn message_bus() -> Bus {
    let uid = rustix::process::geteuid().as_raw();
    let path = match is_root() {
        true => "/run/dbus/system_bus_socket".to_owned(),
        false => format!("/run/user/{uid}/bus"),
    };
    Bus::address(&format!("unix:path={path}")).unwrap()
}

/// What a program does that wants containers: takes a scope for itself, divides it, has cgroups with limits in it.
fn use_a_scope(bus: &Bus, unit: &str) {
    let options = ScopeOptions::new(unit)
        .pid(process::id())
        .description("a test");
    let scope = Scope::start(bus, &options, WITHIN).unwrap();
    assert_eq!(scope.name(), unit);
    let group = scope.control_group().to_str().unwrap().to_owned();
    let below = if is_root() { "/" } else { "/user.slice/" };
    assert!(group.starts_with(below) && group.ends_with(unit), "{group}");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(own.contains(&group), "{own}");

    let limits = Limits::new().memory_max(64 << 20).pids_max(8);
    let supervisor = CgroupName::new("supervisor").unwrap();
    let hierarchy = scope.hierarchy().unwrap();
    let own = hierarchy
        .own_subtree(&supervisor, &limits, Others::Refuse)
        .unwrap();
    let name = CgroupName::new("limited").unwrap();
    let cgroup = own.hierarchy().create(&name, &limits).unwrap();
    assert_eq!(cgroup.path().parent(), Some(own.path()));
    let read = |file| fs::read_to_string(cgroup.path().join(file)).unwrap();
    assert_eq!(
        [read("memory.max"), read("pids.max")],
        ["67108864\n", "8\n"]
    );
    let child = Child::inside(&cgroup.entry(), Payload::Sleep);
    assert_eq!(cgroup.procs().unwrap(), [child.pid()]);
    cgroup.kill().unwrap();
    child.wait();
    cgroup.remove().unwrap();
    own.undo().unwrap();
    // It has this process in it, so it is not stopped: it ends with it.
    drop(scope);
}

/// In a process of its own, after which systemd has removed the scope.
fn alone_in_a_scope(test: &str, unit: &str) {
    succeeds_alone(test, unit);
    eventually("the scope is gone", || find(unit).is_none());
}

fn find(unit: &str) -> Option<PathBuf> {
    let mut left = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name() == unit {
                return Some(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    None
}

fn unit(what: &str) -> String {
    format!("cofferdam-test-{what}-{}.scope", process::id())
}

#[test]
fn a_scope_of_systemds_own_socket_takes_limited_cgroups() {
    if !have_systemd() {
        return;
    }
    match argument() {
        Some(unit) => use_a_scope(&Bus::find().unwrap(), &unit),
        None => alone_in_a_scope(this_test!(), &unit("private")),
    }
}

#[test]
fn a_scope_of_the_message_bus_takes_limited_cgroups() {
    if !have_systemd() {
        return;
    }
    match argument() {
        Some(unit) => use_a_scope(&message_bus(), &unit),
        None => alone_in_a_scope(this_test!(), &unit("bus")),
    }
}

#[test]
fn stopping_a_scope_kills_what_is_in_it() {
    if !have_systemd() {
        return;
    }
    let child = Child::outside(Payload::Sleep);
    let options = ScopeOptions::new(unit("stop")).pid(child.pid());
    let scope = Scope::start(&message_bus(), &options, WITHIN).unwrap();
    let path = find(scope.name()).unwrap();
    let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap();
    assert_eq!(procs, format!("{}\n", child.pid()));
    scope.stop(WITHIN).unwrap();
    child.wait();
    eventually("the scope is gone", || !path.exists());
}

#[test]
fn a_name_that_is_taken_and_a_process_that_is_not_there_are_told() {
    if !have_systemd() {
        return;
    }
    let child = Child::outside(Payload::Sleep);
    let options = ScopeOptions::new(unit("taken")).pid(child.pid());
    let scope = Scope::start(&message_bus(), &options, WITHIN).unwrap();
    let error = Scope::start(&message_bus(), &options, WITHIN).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    scope.stop(WITHIN).unwrap();
    let pid = child.pid();
    child.wait();
    let options = ScopeOptions::new(unit("gone")).pid(pid);
    let error = Scope::start(&message_bus(), &options, WITHIN).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains(&pid.to_string()), "{error}");
}
