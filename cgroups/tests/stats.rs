//! What cgroups use, in the real kernel: the numbers move with the work, and end with the cgroup.
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
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cofferdam_cgroups::{Cgroup, ErrorKind, Limits, Resource, Stats};
use cofferdam_testkit::{Need, have};
use support::{Scene, alone, argument, eventually, have_controllers, is_unified, this_test};
use sys::{Child, End, Payload};

const MIB: usize = 1 << 20;

/// Enables a controller for children of the place where `cgroup` is.
fn enable_beside(cgroup: &Cgroup, controller: &str) {
    let parent = cgroup.path().parent().unwrap();
    let control = parent.join("cgroup.subtree_control");
    fs::write(control, format!("+{controller}")).unwrap();
}

#[test]
fn what_v1_counts_in_hierarchies_of_their_own_is_sampled() {
    let needs = ["cpuacct", "blkio"].map(Need::Cgroup1Controller);
    if is_unified() || !have(&[Need::Root]) || !have(&needs) {
        return;
    }
    let scene = Scene::new();
    let name = scene.name();
    let paths = ["cpuacct", "blkio"].map(|of| mount_of(of).join(name.as_str()));
    paths.iter().for_each(|path| fs::create_dir(path).unwrap());
    assert_eq!(scene.left().len(), 2);
    let cgroup = scene.hierarchy.open(&paths).unwrap();
    let _child = Child::inside(&cgroup.entry(), Payload::Spin);
    let mut stats = cgroup.stats().unwrap();
    eventually("CPU time", || {
        let sample = stats.sample().unwrap();
        assert!(sample.io.is_some() && sample.memory.is_none());
        sample.cpu.unwrap().usage > Duration::from_millis(1)
    });
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

/// Where a v1 hierarchy is mounted.
fn mount_of(controller: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let of = |line: &&str| {
        let mut words = line.split(' ').skip(2);
        words.next() == Some("cgroup")
            && words
                .next()
                .is_some_and(|options| options.split(',').any(|one| one == controller))
    };
    let line = mounts.lines().find(of).unwrap();
    PathBuf::from(line.split(' ').nth(1).unwrap())
}

#[test]
fn memory_and_processes_are_counted() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20).pids_max(8));
    let mut stats = cgroup.stats().unwrap();
    let before = stats.sample().unwrap();
    assert_eq!(before.pids.unwrap().current, 0);
    assert!(before.memory.unwrap().current < 8 * MIB as u64);
    let child = Child::inside(&cgroup.entry(), Payload::Hold(8 * MIB));
    let memory = |stats: &mut Stats| stats.sample().unwrap().memory.unwrap();
    eventually("8 MiB", || memory(&mut stats).current >= 8 * MIB as u64);
    let during = stats.sample().unwrap();
    assert_eq!(during.pids.unwrap().current, 1);
    assert_eq!(during.pids.unwrap().max_events, Some(0));
    assert!(during.memory.unwrap().peak.unwrap() >= 8 * MIB as u64);
    // The kernel counts on each CPU for a while before it adds up.
    eventually("7 MiB in memory.stat", || {
        stats.memory_stat().unwrap().unwrap().anon >= Some(7 * MIB as u64)
    });
    let stat = stats.memory_stat().unwrap().unwrap();
    assert!(stat.pgfault.unwrap() > 0);
    let raw = if is_unified() { "anon" } else { "total_rss" };
    assert_eq!(stat.raw(raw), stat.anon);
    assert_eq!(stat.raw("no such key"), None);
    drop(child);
    eventually("empty", || {
        stats.sample().unwrap().pids.unwrap().current == 0
    });
    assert!(memory(&mut stats).peak.unwrap() >= 8 * MIB as u64);
    cgroup.remove().unwrap();
}

#[test]
fn swap_is_there_where_the_kernel_counts_it() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20));
    let counted = cgroup.paths().any(|dir| {
        ["memory.swap.current", "memory.memsw.usage_in_bytes"]
            .iter()
            .any(|file| dir.join(file).exists())
    });
    let swap = cgroup.stats().unwrap().sample().unwrap().swap;
    assert_eq!(swap.is_some(), counted);
    assert!(swap.is_none_or(|swap| swap.current < MIB as u64));
    cgroup.remove().unwrap();
}

#[test]
fn cpu_time_is_counted_and_so_is_what_a_limit_held_back() {
    if !have_controllers(&["cpu"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().cpus(0.2));
    let mut stats = cgroup.stats().unwrap();
    let before = stats.sample().unwrap();
    assert!(before.cpu.unwrap().usage < Duration::from_millis(50));
    let child = Child::inside(&cgroup.entry(), Payload::Spin);
    eventually("throttled five times", || {
        stats
            .sample()
            .unwrap()
            .throttling
            .unwrap()
            .throttled_periods
            >= 5
    });
    child.kill();
    let (_, used) = child.wait();
    let after = stats.sample().unwrap();
    let throttling = after.throttling.unwrap();
    assert!(throttling.periods >= throttling.throttled_periods);
    assert!(
        throttling.throttled >= Duration::from_millis(50),
        "{throttling:?}"
    );
    let cpu = after.cpu.unwrap();
    // The kernel's own count of the child, which differs by how it came and went.
    let difference = cpu.usage.abs_diff(used);
    assert!(difference < Duration::from_millis(60), "{cpu:?}, {used:?}");
    assert!(cpu.user > cpu.system);
    assert!(cpu.usage.abs_diff(cpu.user + cpu.system) < Duration::from_millis(1));
    cgroup.remove().unwrap();
}

#[test]
fn what_the_cgroup_does_not_count_is_none() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new());
    let parent = Path::new("/").join(outer.path().file_name().unwrap());
    let inner = scene
        .hierarchy
        .create_in(parent, &scene.name(), &Limits::new());
    let inner = inner.unwrap();
    let mut stats = inner.stats().unwrap();
    let sample = stats.sample().unwrap();
    assert!(sample.cpu.is_some());
    assert_eq!(sample.throttling, None);
    assert_eq!(
        (sample.memory, sample.swap, sample.pids),
        (None, None, None)
    );
    assert_eq!(sample.io, None);
    assert_eq!(stats.memory_stat().unwrap(), None);
    assert_eq!(stats.io_stat().unwrap(), None);
    assert!(stats.hugetlb().unwrap().is_empty());
    for error in [inner.memory_peak(), inner.swap_peak(), inner.pids_peak()] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert_eq!(
        inner.watch_memory().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        inner.watch_pids().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    inner.remove().unwrap();
    outer.remove().unwrap();
}

#[test]
fn an_oom_kill_is_counted() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(32 << 20));
    let mut stats = cgroup.stats().unwrap();
    let mut events = || stats.sample().unwrap().memory.unwrap().events;
    assert_eq!(events().oom_kill, Some(0));
    let child = Child::inside(&cgroup.entry(), Payload::Touch(128 * MIB));
    assert_eq!(child.wait().0, End::Signal(9));
    let after = events();
    assert!(after.oom_kill.unwrap() >= 1, "{after:?}");
    // Newer kernels do not count on v1 where the limit of memory and swap together is in the way.
    let max = after.max.unwrap();
    assert!(max >= 1 || !is_unified(), "{after:?}");
    assert_eq!(after.oom.is_some(), is_unified());
    cgroup.remove().unwrap();
}

#[test]
fn stats_of_a_cgroup_that_is_gone_say_so_even_if_there_is_another_of_its_name() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let name = scene.name();
    let limits = Limits::new().memory_max(64 << 20).pids_max(8);
    let first = scene.hierarchy.create(&name, &limits).unwrap();
    let mut stats = first.stats().unwrap();
    stats.sample().unwrap();
    let (mut watch, peak) = (first.watch_state().unwrap(), first.memory_peak().unwrap());
    first.remove().unwrap();
    for again in [false, true] {
        let second = again.then(|| scene.hierarchy.create(&name, &limits).unwrap());
        let errors = [
            stats.sample().unwrap_err(),
            // Of files that were not open yet.
            stats.memory_stat().unwrap_err(),
            stats.io_stat().unwrap_err(),
            stats.hugetlb().unwrap_err(),
            stats.pressure(Resource::Cpu).unwrap_err(),
            watch.read().unwrap_err(),
            watch.wait(Duration::from_secs(20)).unwrap_err(),
            peak.read().unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(error.to_string().ends_with("the cgroup is gone"), "{error}");
        }
        if let Some(second) = second {
            second.stats().unwrap().sample().unwrap();
            second.remove().unwrap();
        }
    }
}

#[test]
fn a_handle_to_a_cgroup_that_is_gone_gives_no_stats() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let other = scene.hierarchy.open([cgroup.path()]).unwrap();
    cgroup.remove().unwrap();
    let errors = [
        other.stats().unwrap_err(),
        other.pressure(Resource::Cpu).unwrap_err(),
        other.set_pressure_accounting(true).unwrap_err(),
        other.watch_state().unwrap_err(),
        other.memory_peak().unwrap_err(),
        other.freeze(Duration::from_secs(1)).unwrap_err(),
        other.thaw().unwrap_err(),
        other.is_frozen().unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().ends_with("the cgroup is gone"), "{error}");
    }
}

#[test]
fn peaks_stay_and_are_reset_where_the_kernel_can() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(64 << 20).pids_max(8));
    let (ours, other) = (cgroup.memory_peak().unwrap(), cgroup.memory_peak().unwrap());
    let child = Child::inside(&cgroup.entry(), Payload::Touch(16 * MIB));
    assert_eq!(child.wait().0, End::Exit(0));
    let most = 16 * MIB as u64;
    assert!(ours.read().unwrap() >= most);
    match ours.reset() {
        Ok(()) => {
            assert!(ours.read().unwrap() < most);
            // v2 resets for one fd, v1 for all.
            assert_eq!(other.read().unwrap() >= most, is_unified());
        }
        Err(error) => {
            assert!(is_unified(), "{error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("Linux 6.12"), "{error}");
            assert!(ours.read().unwrap() >= most);
        }
    }
    let pids = cgroup.pids_peak().unwrap();
    assert_eq!(pids.read().unwrap(), 1);
    assert_eq!(pids.reset().unwrap_err().kind(), ErrorKind::Unsupported);
    cgroup.remove().unwrap();
}

#[test]
fn huge_pages_are_told_by_size() {
    if !have(&[Need::Root, Need::Cgroup2Controller("hugetlb")]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    enable_beside(&cgroup, "hugetlb");
    let mut stats = cgroup.stats().unwrap();
    let sizes = stats.hugetlb().unwrap();
    let (mut known, mut told) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let kilobytes = name.strip_prefix("hugepages-").unwrap();
        known.push(
            kilobytes
                .strip_suffix("kB")
                .unwrap()
                .parse::<u64>()
                .unwrap()
                << 10,
        );
    }
    known.sort_unstable();
    for size in &sizes {
        told.push(size.page_size);
        assert_eq!((size.current, size.max_events), (0, 0));
    }
    assert_eq!(told, known);
    assert_eq!(stats.hugetlb().unwrap(), sizes);
    cgroup.remove().unwrap();
}

/// In the VM, where there is a block device to write to that keeps nothing.
#[test]
fn what_is_written_to_a_device_is_counted() {
    if let Some(dir) = argument() {
        fs::write(format!("{dir}/cgroup.procs"), "0").unwrap();
        let device = fs::OpenOptions::new().write(true).open("/dev/nullb0");
        let mut device = device.unwrap();
        device.write_all(&vec![7; MIB]).unwrap();
        device.sync_all().unwrap();
        return;
    }
    if !have(&[Need::Root, Need::Cgroup2Controller("io")]) {
        return;
    }
    let mut modprobe = Command::new("/sbin/modprobe");
    modprobe.args(["null_blk", "nr_devices=1", "queue_mode=2"]);
    assert!(modprobe.status().unwrap().success());
    eventually("/dev/nullb0", || Path::new("/dev/nullb0").exists());
    let scene = Scene::new();
    // With the memory controller the write-back is charged to who wrote.
    let cgroup = scene.create(Limits::new().memory_max(64 << 20));
    enable_beside(&cgroup, "io");
    let mut stats = cgroup.stats().unwrap();
    assert_eq!(stats.sample().unwrap().io, Some(Default::default()));
    let mut child = alone(this_test!(), cgroup.path().to_str().unwrap());
    assert!(child.stdout(Stdio::null()).status().unwrap().success());
    let io = stats.sample().unwrap().io.unwrap();
    assert!(io.wbytes >= MIB as u64 && io.wios >= 1, "{io:?}");
    let devices = stats.io_stat().unwrap().unwrap();
    let text = fs::read_to_string("/sys/block/nullb0/dev").unwrap();
    let written = devices
        .iter()
        .find(|device| device.count.wbytes > 0)
        .unwrap();
    assert_eq!(format!("{}:{}", written.major, written.minor), text.trim());
    assert_eq!(written.count, io);
    cgroup.remove().unwrap();
}
