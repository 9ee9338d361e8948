//! Every step of a start made to fail in turn.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsFd;

use cofferdam_testkit::{Need, Snapshot, have};

use crate::command::Command;
use crate::idmap::IdMap;
use crate::mount::{Mount, RootFs};
use crate::namespace::{Clock, Namespace, Namespaces};
use crate::program::Program;
use crate::user::User;

/// Which program of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    First,
    Stub,
}

/// What fails next on this thread, and what it was for once it has been made to.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    At(Stage, usize),
    Beyond,
    NoCall,
    Made,
    /// It may be passed over.
    Perhaps,
}

thread_local! {
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
    static STEP: Cell<String> = const { Cell::new(String::new()) };
}

pub(super) fn inject(stage: Stage, program: &mut Program) {
    match FAULT.get() {
        Fault::At(at, index) if at == stage => {
            let outcome = if index >= program.len() {
                Fault::Beyond
            } else if program.break_op(index) {
                STEP.set(program.step(u32::try_from(index).unwrap()).to_owned());
                if program.can_be_passed_over(index) {
                    Fault::Perhaps
                } else {
                    Fault::Made
                }
            } else {
                Fault::NoCall
            };
            FAULT.set(outcome);
        }
        _ => {}
    }
}

/// An emulated machine takes a hundred times as long for a start, and all of its tests together have a few minutes: it breaks every
/// third op. Which ops there are, and what comes of it, is the same there.
fn stride() -> usize {
    if cofferdam_testkit::is_emulated() {
        3
    } else {
        1
    }
}

/// Every op of both programs fails once. Returns how many there are, of those that can.
fn break_each(start: impl Fn() -> crate::error::Result<crate::Spawned>) -> usize {
    drop(start().unwrap_or_else(|error| panic!("unbroken: {error}")));
    let before = Snapshot::take();
    let mut broken = 0;
    for stage in [Stage::First, Stage::Stub] {
        for index in (0..).step_by(stride()) {
            FAULT.set(Fault::At(stage, index));
            let outcome = start();
            match FAULT.replace(Fault::None) {
                Fault::Beyond => break,
                Fault::NoCall => {
                    drop(outcome);
                    continue;
                }
                Fault::Perhaps if outcome.is_ok() => continue,
                Fault::Made | Fault::Perhaps => {}
                other => panic!("{stage:?} {index}: {other:?}"),
            }
            let step = STEP.take();
            let error = match outcome {
                Ok(child) => panic!("{stage:?} {index}, {step}: started {}", child.pid()),
                Err(error) => error,
            };
            // Once a filter is in force it is that which does not know the call.
            let errnos = [Some(libc::ENOSYS), Some(libc::EPERM)];
            assert!(errnos.contains(&error.raw_os_error()), "{step}: {error}");
            let line = error.to_string();
            assert!(!step.is_empty() && line.contains(&step), "{step}: {line}");
            broken += 1;
        }
    }
    before.assert_same("cofferdam-namespaces-faults");
    broken * stride()
}

fn full() -> Command {
    Command::new("/bin/true")
        .root(
            RootFs::directory("/")
                .mask("/dev/shm")
                .read_only_path("/mnt"),
        )
        .sysctl("net.ipv4.ip_unprivileged_port_start", "1")
        .domainname("example")
        .mount(Mount::cgroup2().read_only())
        .mount(Mount::tmpfs("/mnt", 1 << 20))
        .mount(Mount::file("/mnt/file", "content").owner(7, 8).noexec())
        .mount(Mount::bind("/bin/sh", "/mnt/sh").read_only())
        .hostname("box")
        .init(true)
        .die_with_caller(true)
        .terminal(24, 80)
        .fd(9, File::open("/").unwrap())
}

/// Alone in its process, because it counts the fds, children and mounts of it: every case one after the other.
#[test]
fn every_step_that_fails_is_named_and_leaves_nothing() {
    if !have(&[Need::Root]) {
        return;
    }
    // Other tests of this binary run at the same time: this one is a process of its own.
    if std::env::var_os("COFFERDAM_FAULTS").is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "spawn::faults::every_step_that_fails_is_named_and_leaves_nothing",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env("COFFERDAM_FAULTS", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let more = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}{more}");
        return;
    }
    let shifted = Namespaces::default().clock_offset(Clock::Boottime, 5, 0);
    let commands = [
        full().user(User::id(1000, 1000)),
        full().id_map(IdMap::range(200_000, 5000)),
        full().namespaces(shifted),
    ];
    for command in commands {
        let broken = break_each(|| command.spawn());
        assert!(broken > 100, "{broken}");
    }
    let mut target = full().id_map(IdMap::range(200_000, 5000));
    (target.program, target.args) = ("sleep".into(), vec!["1000".into()]);
    let target = target.spawn().unwrap();
    let entering = Command::new("/bin/true").terminal(24, 80);
    let broken = break_each(|| entering.enter(&target));
    assert!(broken > 50, "{broken}");
    let net = || target.as_fd().try_clone_to_owned().unwrap();
    let beside = full().id_map(IdMap::range(200_000, 5000));
    let broken = break_each(|| {
        let joined = Namespaces::default().join(Namespace::Ipc, net());
        beside.clone().namespaces(joined).spawn()
    });
    assert!(broken > 100, "{broken}");
}
