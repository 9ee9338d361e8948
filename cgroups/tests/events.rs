//! What a cgroup tells by itself, in the real kernel: pressure, events, states; and freezing.
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

#[allow(
    unused_macros,
    unused_imports,
    reason = "not every test binary uses all of it"
)]
mod support;
#[path = "root/sys.rs"]
#[allow(dead_code, reason = "not every test binary uses all of it")]
mod sys;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_cgroups::{Cgroup, ErrorKind, Limits, Resource, Share};
use cofferdam_testkit::{Need, have};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use support::{Scene, eventually, have_controllers, is_unified};
use sys::{Child, End, Payload};

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(20);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// More than there are CPUs.
fn spinners(cgroup: &Cgroup) -> Vec<Child> {
    let cpus = thread::available_parallelism().unwrap().get();
    (0..cpus + 2)
        .map(|_| Child::inside(&cgroup.entry(), Payload::Spin))
        .collect()
}

fn capable_of_resources() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap() & (1 << 24) != 0
}

/// Whether this kernel counts pressure.
fn counted(cgroup: &Cgroup) -> bool {
    Path::new("/proc/pressure/cpu").exists() && cgroup.path().join("cpu.pressure").exists()
}

#[test]
fn pressure_rises_where_processes_wait_for_a_cpu() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    if !counted(&cgroup) {
        assert_eq!(cgroup.pressure(Resource::Cpu).unwrap(), None);
        return;
    }
    let total = || {
        cgroup
            .pressure(Resource::Cpu)
            .unwrap()
            .unwrap()
            .some
            .unwrap()
            .total
    };
    assert_eq!(total(), Duration::ZERO);
    let children = spinners(&cgroup);
    eventually("waited for 200 ms", || total() >= ms(200));
    let mut stats = cgroup.stats().unwrap();
    for resource in [Resource::Cpu, Resource::Memory, Resource::Io] {
        let pressure = stats.pressure(resource).unwrap().unwrap();
        assert!(pressure.some.is_some());
    }
    drop(children);
    cgroup.remove().unwrap();
}

#[test]
fn pressure_that_is_not_counted_is_none_and_can_be_switched() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    if !cgroup.path().join("cgroup.pressure").exists() {
        let error = cgroup.set_pressure_accounting(false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        return;
    }
    let mut stats = cgroup.stats().unwrap();
    assert!(stats.pressure(Resource::Memory).unwrap().is_some());
    for on in [false, true, true, false, false] {
        cgroup.set_pressure_accounting(on).unwrap();
        assert_eq!(cgroup.pressure(Resource::Memory).unwrap().is_some(), on);
        assert_eq!(stats.pressure(Resource::Memory).unwrap().is_some(), on);
    }
    let trigger = cgroup.pressure_trigger(Resource::Cpu, Share::Some, ms(100), ms(2000));
    let error = trigger.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("cgroup.pressure"), "{error}");
    cgroup.remove().unwrap();
}

#[test]
fn a_trigger_tells_of_pressure_and_of_nothing_else() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    if !counted(&cgroup) {
        return;
    }
    let trigger = cgroup.pressure_trigger(Resource::Cpu, Share::Some, ms(100), ms(2000));
    let trigger = trigger.unwrap();
    assert!(!trigger.wait(ms(300)).unwrap());
    assert!(!trigger.wait(Duration::ZERO).unwrap());
    let mut children = spinners(&cgroup);
    // Linux 6.1 was once seen to tell nothing of steady pressure for 20 s: let it change now and then.
    let mut until = |told: &dyn Fn() -> bool| {
        while !told() {
            assert!(children.len() < 20, "no event under pressure");
            children.push(Child::inside(&cgroup.entry(), Payload::Spin));
        }
    };
    until(&|| trigger.wait(ms(5000)).unwrap());
    until(&|| {
        let mut fds = [PollFd::new(&trigger, PollFlags::PRI)];
        let limit = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&limit)) == Ok(1)
    });
    drop(children);
    cgroup.remove().unwrap();
    let error = trigger.wait(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().ends_with("the cgroup is gone"), "{error}");
}

#[test]
fn a_window_that_needs_a_privilege_says_so() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    if !counted(&cgroup) {
        return;
    }
    let made = |window| cgroup.pressure_trigger(Resource::Io, Share::Full, ms(100), window);
    match made(ms(1000)) {
        Ok(_) => assert!(capable_of_resources()),
        Err(error) => {
            assert!(!capable_of_resources(), "{error}");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{error}");
        }
    }
    for window in [ms(499), ms(10_001)] {
        assert_eq!(made(window).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    cgroup.remove().unwrap();
}

#[test]
fn a_trigger_without_the_privilege_says_which() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    if !counted(&cgroup) {
        return;
    }
    let made = |window| cgroup.pressure_trigger(Resource::Memory, Share::Some, ms(100), window);
    // Privileges are of a thread, and this one ends.
    let without = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        set_capabilities(None, sets).unwrap();
        (made(ms(1000)), made(ms(2000)))
    };
    let (one, two) = thread::scope(|scope| scope.spawn(without).join().unwrap());
    let error = one.unwrap_err();
    assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{error}");
    match two {
        Ok(_) => assert_eq!(error.kind(), ErrorKind::InvalidInput),
        Err(two) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(two.kind(), ErrorKind::PermissionDenied);
            assert!(two.to_string().contains("Linux 6.4"), "{two}");
        }
    }
    cgroup.remove().unwrap();
}

#[test]
fn the_state_tells_of_the_first_process_and_of_the_last() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let mut watch = cgroup.watch_state().unwrap();
    assert!(!watch.last().populated && !watch.last().frozen);
    assert_eq!(watch.wait(ms(20)).unwrap(), None);
    let child = Child::inside(&cgroup.entry(), Payload::Sleep);
    assert!(watch.wait(LONG).unwrap().unwrap().populated);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(ms(100));
            child.kill();
        });
        assert!(!watch.wait(LONG).unwrap().unwrap().populated);
    });
    assert!(start.elapsed() >= ms(100));
    // A zombie by now: it neither counts nor keeps the cgroup from being removed.
    assert!(!cgroup.populated().unwrap());
    cgroup.remove_within(ms(1000)).unwrap();
    assert_eq!(child.wait().0, End::Signal(9));
}

#[test]
fn an_event_loop_is_told_through_the_fd() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let mut watch = cgroup.watch_state().unwrap();
    let poll = |fd: &dyn AsFd, ms: i64| {
        let fd = fd.as_fd();
        let limit = Timespec {
            tv_sec: ms / 1000,
            tv_nsec: ms % 1000 * 1_000_000,
        };
        let fds = &mut [PollFd::new(&fd, PollFlags::PRI)];
        rustix::event::poll(fds, Some(&limit)).unwrap();
        fds[0].revents().contains(PollFlags::PRI)
    };
    assert!(!poll(&watch, 20));
    let child = Child::inside(&cgroup.entry(), Payload::Sleep);
    assert!(poll(&watch, 20_000));
    assert!(watch.read().unwrap().populated);
    assert!(!poll(&watch, 20));
    drop(child);
    assert!(poll(&watch, 20_000));
    cgroup.remove().unwrap();
}

#[test]
fn an_oom_kill_is_told() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(32 << 20));
    if !is_unified() {
        let error = cgroup.watch_memory().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("v1"), "{error}");
        return;
    }
    let mut watches = [
        cgroup.watch_memory().unwrap(),
        cgroup.watch_memory_local().unwrap(),
    ];
    let child = Child::inside(&cgroup.entry(), Payload::Touch(128 * MIB));
    for watch in &mut watches {
        let killed = watch.wait_for(LONG, |events| events.oom_kill >= Some(1));
        let events = killed.unwrap().unwrap();
        assert!(events.oom >= Some(1) && events.max >= Some(1), "{events:?}");
    }
    assert_eq!(child.wait().0, End::Signal(9));
    cgroup.remove().unwrap();
}

#[test]
fn a_process_too_many_is_told() {
    if !have_controllers(&["pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().pids_max(8));
    let mut watch = cgroup.watch_pids().unwrap();
    assert_eq!(watch.last().max, 0);
    let child = Child::inside(&cgroup.entry(), Payload::ForkUntilEagain);
    let told = watch.wait(LONG).unwrap().unwrap();
    assert!(told.max >= 1);
    assert_eq!(child.wait().0, End::Exit(7));
    let sample = cgroup.stats().unwrap().sample().unwrap();
    assert!(sample.pids.unwrap().max_events >= Some(1));
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

#[test]
fn frozen_processes_use_no_time_until_they_are_thawed() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let children = spinners(&cgroup);
    freezes(&cgroup);
    let mut stats = cgroup.stats().unwrap();
    let mut usage = || stats.sample().unwrap().cpu.unwrap().usage;
    // The last of what they used before is added a little later.
    eventually("no CPU time in 50 ms", || {
        let before = usage();
        thread::sleep(ms(50));
        usage() == before
    });
    let before = usage();
    cgroup.thaw().unwrap();
    eventually("thawed", || !cgroup.is_frozen().unwrap());
    eventually("at work", || usage() > before);
    // One that is frozen is, and one that is thawed too.
    cgroup.freeze(LONG).unwrap();
    cgroup.freeze(Duration::ZERO).unwrap();
    cgroup.thaw().unwrap();
    cgroup.thaw().unwrap();
    drop(children);
    cgroup.remove().unwrap();
}

/// Freezes it and checks what the kernel says.
fn freezes(cgroup: &Cgroup) {
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze(LONG).unwrap();
    assert!(cgroup.is_frozen().unwrap());
}

#[test]
fn kill_reaches_frozen_processes_and_new_ones_start_frozen() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let child = Child::inside(&cgroup.entry(), Payload::Tree);
    eventually("13 processes", || cgroup.procs().unwrap().len() == 13);
    freezes(&cgroup);
    let late = Child::inside(&cgroup.entry(), Payload::Sleep);
    cgroup.freeze(LONG).unwrap();
    cgroup.kill().unwrap();
    assert_eq!(child.wait().0, End::Signal(9));
    assert_eq!(late.wait().0, End::Signal(9));
    cgroup.remove().unwrap();
}

#[test]
fn an_empty_cgroup_freezes_at_once() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    freezes(&cgroup);
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.remove().unwrap();
}

#[test]
fn a_freeze_that_takes_too_long_is_busy_and_taken_back() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let children: Vec<_> = (0..60)
        .map(|_| Child::inside(&cgroup.entry(), Payload::Spin))
        .collect();
    // It can be done at once. Not every time.
    let error = (0..1000).find_map(|_| {
        cgroup.thaw().unwrap();
        cgroup.freeze(Duration::ZERO).err()
    });
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("thawed again"), "{error}");
    let asked = fs::read_to_string(cgroup.path().join("cgroup.freeze"));
    assert_eq!(asked.unwrap(), "0\n");
    // Who asked before is not undone.
    fs::write(cgroup.path().join("cgroup.freeze"), "1").unwrap();
    if let Err(error) = cgroup.freeze(Duration::ZERO) {
        let text = error.to_string();
        assert!(text.contains("asked before"), "{text}");
    }
    let asked = fs::read_to_string(cgroup.path().join("cgroup.freeze"));
    assert_eq!(asked.unwrap(), "1\n");
    cgroup.kill().unwrap();
    drop(children);
    cgroup.remove().unwrap();
}

#[test]
fn v1_freezes_by_freezer_state() {
    if !have(&[Need::Root, Need::Cgroup1Controller("freezer")]) {
        return;
    }
    let scene = Scene::new();
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.contains(",freezer"));
    let mount = mount.and_then(|line| line.split(' ').nth(1)).unwrap();
    let dir = Path::new(mount).join(scene.name().as_str());
    fs::create_dir(&dir).unwrap();
    let cgroup = scene.hierarchy.open([&dir]).unwrap();
    let children: Vec<_> = (0..8).map(|_| Child::outside(Payload::Spin)).collect();
    for child in &children {
        cgroup.add(child.pid()).unwrap();
    }
    freezes(&cgroup);
    let state = || fs::read_to_string(dir.join("freezer.state")).unwrap();
    assert_eq!(state(), "FROZEN\n");
    assert_eq!(
        cgroup.watch_state().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(cgroup.pressure(Resource::Cpu).unwrap(), None);
    cgroup.thaw().unwrap();
    assert_eq!(state(), "THAWED\n");
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze(LONG).unwrap();
    cgroup.kill().unwrap();
    drop(children);
    cgroup.remove().unwrap();
}

#[test]
fn two_hundred_processes_are_killed_and_told_to_be_gone() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let children: Vec<_> = (0..200)
        .map(|_| Child::inside(&cgroup.entry(), Payload::Sleep))
        .collect();
    let mut watch = cgroup.watch_state().unwrap();
    assert!(watch.last().populated);
    cgroup.kill().unwrap();
    let state = watch.wait_for(LONG, |state| !state.populated);
    assert!(state.unwrap().is_some());
    cgroup.remove_within(ms(1000)).unwrap();
    for child in children {
        assert_eq!(child.wait().0, End::Signal(9));
    }
}

#[test]
fn remove_within_waits_as_long_as_it_is_told_and_no_longer() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    for (time, most) in [(Duration::ZERO, ms(400)), (ms(500), ms(2000))] {
        let cgroup = scene.create(Limits::new());
        let path = cgroup.path().to_owned();
        let child = Child::inside(&cgroup.entry(), Payload::Sleep);
        let start = Instant::now();
        let error = cgroup.remove_within(time).unwrap_err();
        let elapsed = start.elapsed();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(time <= elapsed && elapsed < most, "{elapsed:?}");
        drop(child);
        let cgroup = scene.hierarchy.open([path]).unwrap();
        // Longer than any clock.
        cgroup.remove_within(Duration::MAX).unwrap();
    }
}
