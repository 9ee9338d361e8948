//! Every limit in the real kernel: read back, hit, refused, changed and changed back.
#![expect(clippy::unwrap_used, reason = "helpers of tests unwrap as well")]

mod support;
#[path = "root/sys.rs"]
#[allow(dead_code, reason = "not every test binary uses all of it")]
mod sys;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_cgroups::{
    Cgroup, CpuSet, Device, ErrorKind, HugePage, IoCostModel, IoCostQos, IoMax, Limits, Max,
    Partition,
};
use cofferdam_testkit::{Need, have};
use support::{
    Scene, alone, argument, eventually, have_controllers, is_unified, this_test, unified,
};
use sys::{Child, End, Payload};

const MIB: u64 = 1 << 20;
const SIGKILL: i32 = 9;
const EAGAIN: i32 = 11;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ERANGE: i32 = 34;
const EOPNOTSUPP: i32 = 95;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

/// The text of a file, from the directory that has it.
fn text(cgroup: &Cgroup, file: &str) -> Option<String> {
    let mut texts = cgroup.paths().map(|dir| fs::read_to_string(dir.join(file)));
    let text = texts.find_map(Result::ok)?;
    Some(text.trim_end().to_owned())
}

fn is(cgroup: &Cgroup, file: &str, expected: &str) {
    assert_eq!(text(cgroup, file).as_deref(), Some(expected), "{file}");
}

/// Path of a cgroup from the top of the hierarchy, where it was made below the top.
fn in_hierarchy(cgroup: &Cgroup) -> PathBuf {
    let top = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = top.lines().filter(|line| line.contains(" - cgroup2 "));
    let below = mounts
        .filter_map(|line| cgroup.path().strip_prefix(line.split(' ').nth(4)?).ok())
        .min_by_key(|below| below.as_os_str().len())
        .unwrap();
    Path::new("/").join(below)
}

/// Makes it, reads it back, removes it. `false` if the kernel has no such file.
fn reads_back(scene: &Scene, limits: Limits, file: &str, expected: &str) -> bool {
    let cgroup = match scene.hierarchy.create(&scene.name(), &limits) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(scene.left().is_empty());
            return false;
        }
    };
    is(&cgroup, file, expected);
    cgroup.remove().unwrap();
    true
}

#[test]
fn every_limit_of_v2_is_what_the_kernel_reads_back() {
    if !unified(&["cpu", "cpuset", "io", "memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let new = Limits::new;
    let table = [
        (new().cpu_max(ms(20), ms(50)), "cpu.max", "20000 50000"),
        (
            new().cpu_max(Max::Unlimited, ms(50)),
            "cpu.max",
            "max 50000",
        ),
        (new().cpus(1.5), "cpu.max", "150000 100000"),
        (new().cpu_weight(1), "cpu.weight", "1"),
        (new().cpu_weight(10_000), "cpu.weight", "10000"),
        (new().cpu_weight_nice(-20), "cpu.weight.nice", "-20"),
        (new().cpu_weight_nice(19), "cpu.weight.nice", "19"),
        (new().cpu_shares_oci(1024), "cpu.weight", "39"),
        (
            new().cpu_max(ms(20), ms(50)).cpu_max_burst(ms(20)),
            "cpu.max.burst",
            "20000",
        ),
        (new().cpu_idle(true), "cpu.idle", "1"),
        (new().cpuset_cpus(set("0")), "cpuset.cpus", "0"),
        (new().cpuset_cpus(CpuSet::new()), "cpuset.cpus", ""),
        (new().cpuset_mems(set("0")), "cpuset.mems", "0"),
        (
            new().cpuset_partition(Partition::Member),
            "cpuset.cpus.partition",
            "member",
        ),
        (new().memory_max(64 * MIB), "memory.max", "67108864"),
        (new().memory_max(Max::Unlimited), "memory.max", "max"),
        (new().memory_high(4 * MIB), "memory.high", "4194304"),
        (new().memory_low(3 * MIB), "memory.low", "3145728"),
        (new().memory_min(2 * MIB), "memory.min", "2097152"),
        (new().memory_min(Max::Unlimited), "memory.min", "max"),
        (new().memory_oom_group(true), "memory.oom.group", "1"),
        (new().memory_max(64 * MIB), "memory.swap.max", "0"),
        (new().memory_max(Max::Unlimited), "memory.swap.max", "max"),
        (
            new().memory_max(64 * MIB).memory_swap_max(32 * MIB),
            "memory.swap.max",
            "33554432",
        ),
        (
            new().memory_max(64 * MIB).memory_swap_oci(80 << 20),
            "memory.swap.max",
            "16777216",
        ),
        (
            new().memory_max(64 * MIB).memory_swap_oci(-1),
            "memory.swap.max",
            "max",
        ),
        (new().memory_swap_high(MIB), "memory.swap.high", "1048576"),
        (new().pids_max(7), "pids.max", "7"),
        (new().pids_max(Max::Unlimited), "pids.max", "max"),
        (new().raw("memory.high", "8M"), "memory.high", "8388608"),
    ];
    for (limits, file, expected) in table {
        let asked = format!("{limits:?}");
        assert!(reads_back(&scene, limits, file, expected), "{asked}");
    }
}

#[test]
fn limits_that_not_every_kernel_has_are_read_back_or_unsupported() {
    if !unified(&["cpu", "cpuset", "io", "memory"]) {
        return;
    }
    let scene = Scene::new();
    let new = Limits::new;
    let table = [
        (new().cpu_uclamp_min(12.5), "cpu.uclamp.min", "12.50"),
        (
            new().cpu_uclamp_max(Max::Unlimited),
            "cpu.uclamp.max",
            "max",
        ),
        (
            new().cpuset_cpus_exclusive(set("0")),
            "cpuset.cpus.exclusive",
            "0",
        ),
        (new().memory_zswap_max(MIB), "memory.zswap.max", "1048576"),
        (
            new().memory_zswap_writeback(false),
            "memory.zswap.writeback",
            "0",
        ),
        (new().io_weight(500), "io.weight", "default 500"),
        (new().blkio_weight_oci(1000), "io.weight", "default 10000"),
        (
            new().hugetlb_max(HugePage::MB2, 4 * MIB),
            "hugetlb.2MB.max",
            "4194304",
        ),
        (
            new().hugetlb_rsvd_max(HugePage::MB2, Max::Unlimited),
            "hugetlb.2MB.rsvd.max",
            "max",
        ),
        (new().dmem_max("none", 1), "dmem.max", ""),
    ];
    let mut had = Vec::new();
    for (limits, file, expected) in table {
        if reads_back(&scene, limits, file, expected) {
            had.push(file);
        }
    }
    eprintln!("this kernel has {had:?}");
    let error = scene
        .hierarchy
        .create(&scene.name(), &new().dmem_max("none", 1));
    let text = error.unwrap_err().to_string();
    assert!(text.contains("dmem") && text.contains("6.14"), "{text}");
}

#[test]
fn what_the_kernel_refuses_is_told_with_file_value_and_errno() {
    if !unified(&["cpu", "cpuset", "memory", "io"]) {
        return;
    }
    let scene = Scene::new();
    let new = Limits::new;
    let table = [
        (new().raw("cpu.weight", "0"), ERANGE),
        (new().raw("cpu.weight", "10001"), ERANGE),
        (new().raw("cpu.idle", "2"), EINVAL),
        (new().raw("cpu.max", "999 100000"), EINVAL),
        (new().raw("cpu.max", "1000 999"), EINVAL),
        (new().raw("cpu.max", "1000 1000001"), EINVAL),
        (
            new().cpu_max(ms(5), ms(50)).raw("cpu.max.burst", "6000"),
            EINVAL,
        ),
        (new().raw("memory.max", "-1"), EINVAL),
        (new().raw("memory.max", "1.5G"), EINVAL),
        (new().cpuset_cpus(set("8191")), ERANGE),
        (new().cpuset_mems(set("900")), EINVAL),
        (
            new().io_max(Device::number(999, 9), IoMax::new().rbps(1_u64)),
            ENODEV,
        ),
    ];
    for (limits, errno) in table {
        let error = scene.hierarchy.create(&scene.name(), &limits).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno), "{error}");
        assert!(error.to_string().starts_with("write \""), "{error}");
        assert!(scene.left().is_empty(), "{error}");
    }
    // A page less one byte is no page: the kernel rounds down, and says nothing.
    let cgroup = scene.create(new().raw("memory.max", "4095"));
    is(&cgroup, "memory.max", "0");
    cgroup.remove().unwrap();
}

#[test]
fn a_partition_that_the_kernel_declares_invalid_is_an_error_with_its_reason() {
    if !unified(&["cpuset"]) {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new().cpuset_cpus(set("0")));
    let limits = Limits::new()
        .cpuset_cpus(set("0"))
        .cpuset_partition(Partition::Root);
    let parent = in_hierarchy(&outer);
    let error = scene.hierarchy.create_in(&parent, &scene.name(), &limits);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let reason = error.partition_reason().unwrap();
    // Since 6.7 the parent need not be a partition, if it has exclusive CPUs.
    let reasons = [
        "Parent is not a partition root",
        "Invalid cpu list in cpuset.cpus.exclusive",
    ];
    assert!(reasons.contains(&reason), "{error}");
    assert!(error.to_string().ends_with(reason), "{error}");
    // The same by an update: the partition is a member again.
    let inner =
        scene
            .hierarchy
            .create_in(parent, &scene.name(), &Limits::new().cpuset_cpus(set("0")));
    let inner = inner.unwrap();
    let error = inner.update(&limits).unwrap_err();
    assert!(error.partition_reason().is_some(), "{error}");
    is(&inner, "cpuset.cpus.partition", "member");
    inner.remove().unwrap();
    outer.remove().unwrap();
}

#[test]
fn a_partition_of_its_own_is_made_and_given_back() {
    if !unified(&["cpuset"]) {
        return;
    }
    let scene = Scene::new();
    if std::thread::available_parallelism().unwrap().get() < 2 {
        cofferdam_testkit::skip("two CPUs", cofferdam_testkit::is_emulated());
        return;
    }
    let limits = Limits::new().cpuset_cpus(set("1"));
    let cgroup = scene.create(limits.cpuset_partition(Partition::Root));
    is(&cgroup, "cpuset.cpus.partition", "root");
    let member = Limits::new().cpuset_partition(Partition::Member);
    cgroup.update(&member).unwrap();
    is(&cgroup, "cpuset.cpus.partition", "member");
    cgroup.remove().unwrap();
}

#[test]
fn limits_of_v1_are_what_the_kernel_reads_back() {
    if is_unified() {
        return;
    }
    let controllers = ["memory", "cpu", "cpuset", "blkio", "pids"];
    if !have(&[Need::Root]) || !have(&controllers.map(Need::Cgroup1Controller)) {
        return;
    }
    let scene = Scene::new();
    let new = Limits::new;
    let swap = new().memory_max(64 * MIB).memory_swap_max(32 * MIB);
    let memsw = "memory.memsw.limit_in_bytes";
    let table = [
        (new().cpu_max(ms(20), ms(50)), "cpu.cfs_quota_us", "20000"),
        (new().cpu_max(ms(20), ms(50)), "cpu.cfs_period_us", "50000"),
        (
            new().cpu_max(Max::Unlimited, ms(50)),
            "cpu.cfs_quota_us",
            "-1",
        ),
        (new().cpu_weight(100), "cpu.shares", "1024"),
        (new().cpu_shares_oci(512), "cpu.shares", "512"),
        (new().cpuset_cpus(set("0")), "cpuset.cpus", "0"),
        (swap.clone(), memsw, "100663296"),
        (swap.memory_swap_oci(65 << 20), memsw, "68157440"),
        (new().pids_max(7), "pids.max", "7"),
    ];
    for (limits, file, expected) in table {
        let asked = format!("{limits:?}");
        assert!(reads_back(&scene, limits, file, expected), "{asked}");
    }
    for limits in [
        new().memory_high(MIB),
        new().memory_low(MIB),
        new().memory_min(MIB),
        new().memory_oom_group(true),
        new().memory_swap_max(MIB),
        new().cpu_weight_nice(5),
        new().cpuset_partition(Partition::Root),
        new().pids_max(5).raw("memory.high", "1"),
    ] {
        let error = scene.hierarchy.create(&scene.name(), &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("cgroup v1"), "{error}");
        assert!(scene.left().is_empty());
    }
}

#[test]
fn a_weight_of_v1_is_written_to_the_file_the_kernel_has() {
    if is_unified() || !have(&[Need::Root, Need::Cgroup1Controller("blkio")]) {
        return;
    }
    let scene = Scene::new();
    let files = ["blkio.bfq.weight", "blkio.weight"];
    let probe = scene.create(Limits::new().blkio_weight_oci(500).best_effort());
    let found = files.into_iter().find_map(|file| text(&probe, file));
    match probe.skipped() {
        [] => assert_eq!(found.as_deref(), Some("500")),
        [one] => assert!(
            one.limit == "blkio_weight_oci" && found.is_none(),
            "{one:?}"
        ),
        more => panic!("{more:?}"),
    }
    probe.remove().unwrap();
}

#[test]
fn a_v1_cpuset_takes_a_process_whatever_was_given() {
    if is_unified() || !have(&[Need::Root, Need::Cgroup1Controller("cpuset")]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().cpuset_cpus(set("0")));
    assert!(text(&cgroup, "cpuset.mems").is_some_and(|nodes| !nodes.is_empty()));
    let child = Child::outside(Payload::Sleep);
    cgroup.add(child.pid()).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"));
    drop(child);
    cgroup.remove().unwrap();
}

/// On both kinds of machine, the file and the text.
fn pick<'a>(v2: (&'a str, &'a str), v1: (&'a str, &'a str)) -> (&'a str, &'a str) {
    if is_unified() { v2 } else { v1 }
}

#[test]
fn an_update_lowers_and_raises_what_depends_on_each_other() {
    if !have_controllers(&["cpu", "memory"]) {
        return;
    }
    let scene = Scene::new();
    let limits = |mib: u64, time| {
        let limits = Limits::new().memory_max(mib * MIB);
        limits.cpu_max(ms(time), ms(100)).cpu_max_burst(ms(time))
    };
    let cgroup = scene.create(limits(64, 50));
    for (mib, time) in [(16, 5), (128, 80), (32, 20)] {
        assert!(cgroup.update(&limits(mib, time)).unwrap().is_empty());
        let bytes = (mib * MIB).to_string();
        let (file, _) = pick(("memory.max", ""), ("memory.memsw.limit_in_bytes", ""));
        is(&cgroup, file, &bytes);
        let burst = (time * 1000).to_string();
        let (file, _) = pick(("cpu.max.burst", ""), ("cpu.cfs_burst_us", ""));
        is(&cgroup, file, &burst);
    }
    // What is not given stays.
    cgroup.update(&Limits::new().memory_max(8 * MIB)).unwrap();
    let (file, value) = pick(("cpu.max", "20000 100000"), ("cpu.cfs_quota_us", "20000"));
    is(&cgroup, file, value);
    cgroup.remove().unwrap();
}

#[test]
fn an_update_that_fails_half_way_is_undone() {
    if !have_controllers(&["cpu", "memory", "pids", "cpuset"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().memory_max(64 * MIB).cpus(0.5).pids_max(9);
    let cgroup = scene.create(limits.cpuset_cpus(set("0")));
    let limits = Limits::new().memory_max(128 * MIB).cpus(0.75).pids_max(90);
    let error = cgroup.update(&limits.cpuset_cpus(set("8191"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.to_string();
    assert!(
        text.contains("8191") && text.contains("; written back: "),
        "{text}"
    );
    assert!(!text.contains("not written back"), "{text}");
    let (undone, stuck) = error.undone();
    assert!(undone.len() >= 4 && stuck.is_empty(), "{undone:?}");
    is(&cgroup, "pids.max", "9");
    is(&cgroup, "cpuset.cpus", "0");
    let (file, value) = pick(
        ("memory.max", "67108864"),
        ("memory.limit_in_bytes", "67108864"),
    );
    is(&cgroup, file, value);
    let (file, value) = pick(("cpu.max", "50000 100000"), ("cpu.cfs_quota_us", "50000"));
    is(&cgroup, file, value);
    if is_unified() {
        is(&cgroup, "memory.swap.max", "0");
    }
    cgroup.remove().unwrap();
}

#[test]
fn an_update_that_is_undone_leaves_the_weight_as_it_was() {
    if !have_controllers(&["cpu", "cpuset"]) {
        return;
    }
    let scene = Scene::new();
    let (file, value) = pick(("cpu.weight", "150"), ("cpu.shares", "1536"));
    let impossible = || Limits::new().cpuset_cpus(set("8191"));
    let mut updates = vec![
        impossible().cpu_idle(true),
        impossible().cpu_weight(7).cpu_idle(true),
    ];
    if is_unified() {
        updates.push(impossible().cpu_weight_nice(5));
    }
    for limits in updates {
        let cgroup = scene.create(Limits::new().cpu_weight(150).cpuset_cpus(set("0")));
        let error = cgroup.update(&limits).unwrap_err();
        assert!(error.to_string().contains("written back"), "{error}");
        is(&cgroup, file, value);
        is(&cgroup, "cpu.idle", "0");
        cgroup.remove().unwrap();
    }
}

#[test]
fn an_update_of_what_the_cgroup_was_made_without_changes_nothing() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().pids_max(9));
    // Below a cgroup that passes nothing on there is no other controller.
    let inner = scene
        .hierarchy
        .create_in(in_hierarchy(&cgroup), &scene.name(), &Limits::new());
    if let Ok(inner) = inner {
        let limits = Limits::new().pids_max(5).memory_max(MIB);
        let error = inner.update(&limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(
            error.to_string().starts_with("limit memory_max: "),
            "{error}"
        );
        let skipped = inner.update(&limits.best_effort()).unwrap();
        let names: Vec<_> = skipped.iter().map(|skipped| skipped.limit).collect();
        assert_eq!(names, ["memory_max", "pids_max"]);
        inner.remove().unwrap();
    }
    is(&cgroup, "pids.max", "9");
    let error = cgroup.update(&Limits::new().pids_max(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    cgroup.remove().unwrap();
}

#[test]
fn best_effort_tells_what_it_left_out() {
    if !have_controllers(&["memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().pids_max(9).memory_max(64 * MIB);
    let limits = limits.raw("dmem.max", "none 1").memory_high(32 * MIB);
    assert!(scene.hierarchy.create(&scene.name(), &limits).is_err());
    let cgroup = scene.create(limits.clone().best_effort());
    let names: Vec<_> = cgroup.skipped().iter().map(|one| one.limit).collect();
    let (_, left_out) = pick(("", "raw"), ("", "memory_high raw"));
    assert_eq!(names.join(" "), left_out, "{:?}", cgroup.skipped());
    assert!(cgroup.skipped().iter().all(|one| !one.reason.is_empty()));
    is(&cgroup, "pids.max", "9");
    cgroup.remove().unwrap();
    let error = scene
        .hierarchy
        .create(&scene.name(), &limits.best_effort().pids_max(0));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_v1_cpuset_without_cpus_says_why_it_takes_no_process() {
    if is_unified() || !have(&[Need::Root, Need::Cgroup1Controller("cpuset")]) {
        return;
    }
    let scene = Scene::new();
    let made = scene.create(Limits::new().cpuset_cpus(set("0")));
    let with_set = made.paths().find(|path| path.join("cpuset.cpus").exists());
    let bare = with_set.unwrap().join(scene.name().as_str());
    fs::create_dir(&bare).unwrap();
    let bare = scene.hierarchy.open([bare]).unwrap();
    let child = Child::outside(Payload::Sleep);
    let text = bare.add(child.pid()).unwrap_err().to_string();
    assert!(
        text.contains("ENOSPC") && text.contains("is empty"),
        "{text}"
    );
    bare.remove().unwrap();
    made.remove().unwrap();
}

#[test]
fn a_v1_set_that_the_cgroup_above_has_not_is_no_matter_of_permission() {
    if is_unified() || !have(&[Need::Root, Need::Cgroup1Controller("cpuset")]) {
        return;
    }
    let scene = Scene::new();
    let outer = scene.create(Limits::new().cpuset_cpus(set("0")));
    let limits = Limits::new().cpuset_cpus(set("1"));
    let parent = in_hierarchy(&outer);
    let made = scene.hierarchy.create_in(parent, &scene.name(), &limits);
    let error = made.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let text = error.to_string();
    assert!(text.contains("in the set of the cgroup above"), "{text}");
    assert!(!text.contains("needs root"), "{text}");
    outer.remove().unwrap();
}

#[test]
fn best_effort_lists_every_limit_of_a_controller_that_is_not_there() {
    if !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().dmem_max("a", 2_u64).dmem_low("a", 1_u64);
    if scene.hierarchy.create(&scene.name(), &limits).is_ok() {
        return; // This machine has the controller.
    }
    let cgroup = scene.create(limits.clone().best_effort());
    let names: Vec<_> = cgroup.skipped().iter().map(|one| one.limit).collect();
    assert_eq!(names, ["dmem_low", "dmem_max"]);
    let skipped = cgroup.update(&limits.best_effort()).unwrap();
    let names: Vec<_> = skipped.iter().map(|one| one.limit).collect();
    assert_eq!(names, ["dmem_low", "dmem_max"]);
    for one in &skipped {
        assert!(one.reason.contains(one.limit), "{one:?}");
    }
    cgroup.remove().unwrap();
}

#[test]
fn limits_read_back_are_those_given_and_can_be_given_again() {
    if !have_controllers(&["cpu", "memory", "pids"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().memory_max(64 * MIB).memory_swap_max(MIB);
    let limits = limits.pids_max(9).cpu_max(ms(20), ms(50));
    let cgroup = scene.create(limits.clone());
    let read = cgroup.limits().unwrap();
    let written = read.settings_v2();
    for setting in limits.settings_v2() {
        assert!(written.contains(&setting), "{setting:?} in {written:?}");
    }
    assert!(cgroup.update(&read).unwrap().is_empty());
    assert_eq!(cgroup.limits().unwrap(), read);
    let paths: Vec<_> = cgroup.paths().map(Path::to_owned).collect();
    let again = scene.hierarchy.open(&paths).unwrap();
    cgroup.remove().unwrap();
    let error = again.limits().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn a_limit_below_what_is_in_use_kills() {
    if !unified(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(256 * MIB));
    let child = Child::inside(&cgroup.entry(), Payload::Hold(64 << 20));
    eventually("64 MiB in use", || {
        cgroup.memory_current().unwrap() >= 64 * MIB
    });
    cgroup.update(&Limits::new().memory_max(8 * MIB)).unwrap();
    assert_eq!(child.wait().0, End::Signal(SIGKILL));
    cgroup.remove().unwrap();
}

#[test]
fn an_oom_group_dies_together() {
    if !unified(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().memory_max(32 * MIB);
    let cgroup = scene.create(limits.memory_oom_group(true));
    let bystander = Child::inside(&cgroup.entry(), Payload::Sleep);
    let glutton = Child::inside(&cgroup.entry(), Payload::Touch(128 << 20));
    assert_eq!(glutton.wait().0, End::Signal(SIGKILL));
    assert_eq!(bystander.wait().0, End::Signal(SIGKILL));
    cgroup.remove().unwrap();
}

#[test]
fn reclaim_says_how_much_and_when_there_is_no_more() {
    if !have_controllers(&["memory"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().memory_max(256 * MIB));
    if !is_unified() {
        let error = cgroup.memory_reclaim(MIB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        cgroup.remove().unwrap();
        return;
    }
    // Anonymous memory without swap: none of it can be had.
    let child = Child::inside(&cgroup.entry(), Payload::Hold(32 << 20));
    eventually("32 MiB in use", || {
        cgroup.memory_current().unwrap() >= 32 * MIB
    });
    let reclaimed = cgroup.memory_reclaim(16 * MIB).unwrap();
    assert!(!reclaimed.complete, "{reclaimed:?}");
    assert!(reclaimed.bytes < 16 * MIB, "{reclaimed:?}");
    drop(child);
    cgroup.remove().unwrap();
}

#[test]
fn beyond_the_pids_limit_nothing_is_born_but_a_process_can_move_in() {
    if !unified(&["pids"]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new().pids_max(1));
    let first = Child::inside(&cgroup.entry(), Payload::Sleep);
    let second = Child::try_inside(&cgroup.entry(), Payload::Sleep);
    assert_eq!(second.unwrap_err().raw_os_error(), Some(EAGAIN));
    let moved = Child::outside(Payload::Sleep);
    cgroup.add(moved.pid()).unwrap();
    assert_eq!(cgroup.procs().unwrap().len(), 2);
    drop((first, moved));
    cgroup.remove().unwrap();
}

#[test]
fn a_kernel_thread_is_refused_at_once() {
    let name = fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if name != "kthreadd\n" || !have(&[Need::Root]) {
        return;
    }
    let scene = Scene::new();
    let cgroup = scene.create(Limits::new());
    let start = Instant::now();
    let error = cgroup.add(2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("kernel thread"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1));
    cgroup.remove().unwrap();
}

#[test]
fn threads_are_moved_within_their_domain_and_nowhere_else() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let (limits, inner_limits) = if is_unified() {
        (Limits::new().cpu_weight(100), Limits::new().cpu_weight(50))
    } else {
        (Limits::new(), Limits::new())
    };
    let outer = scene.create(limits);
    let child = Child::inside(&outer.entry(), Payload::Sleep);
    let parent = in_hierarchy(&outer);
    let create = |limits| {
        let name = scene.name();
        scene.hierarchy.create_threaded_in(&parent, &name, limits)
    };
    let inner = create(&inner_limits).unwrap();
    is(&inner, "cgroup.type", "threaded");
    inner.add_thread(child.pid()).unwrap();
    is(&inner, "cgroup.threads", &child.pid().to_string());
    if is_unified() {
        is(&inner, "cpu.weight", "50");
        let error = create(&Limits::new().memory_max(MIB)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    let stranger = Child::outside(Payload::Sleep);
    let error = inner.add_thread(stranger.pid()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EOPNOTSUPP), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("\"threaded\""), "{error}");
    // A child of a threaded domain that is not threaded itself can hold nothing.
    let path = outer.path().join(scene.name().as_str());
    fs::create_dir(&path).unwrap();
    let invalid = scene.hierarchy.open([&path]).unwrap();
    let error = invalid.add(stranger.pid()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("\"domain invalid\""), "{error}");
    invalid.set_threaded().unwrap();
    is(&invalid, "cgroup.type", "threaded");
    invalid.remove().unwrap();
    assert_eq!(
        inner.add_thread(0).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    drop((child, stranger));
    inner.remove().unwrap();
    outer.remove().unwrap();
}

/// A block device to limit: null_blk in the VM, what `/` is on elsewhere.
fn device() -> Option<(Device, Option<&'static str>)> {
    if cofferdam_testkit::is_emulated() {
        let loaded = Command::new("/sbin/modprobe")
            .args(["null_blk", "nr_devices=1", "queue_mode=2"])
            .status();
        assert!(loaded.unwrap().success());
        eventually("/dev/nullb0", || Path::new("/dev/nullb0").exists());
        let node = "/dev/nullb0";
        return Some((Device::of_path(node).unwrap(), Some(node)));
    }
    Some((Device::of_path("/").ok()?, None))
}

#[test]
fn io_limits_of_a_device_are_read_back_changed_and_taken_away() {
    let io = if is_unified() { "io" } else { "blkio" };
    if !have_controllers(&[io]) {
        return;
    }
    let Some((device, _)) = device() else { return };
    let scene = Scene::new();
    let all = IoMax::new().rbps(MIB).wbps(2 * MIB).riops(30_u32);
    let cgroup = scene.create(Limits::new().io_max(device, all.wiops(Max::Unlimited)));
    let read = |file| text(&cgroup, file).unwrap();
    let (file, line) = pick(
        ("io.max", "rbps=1048576 wbps=2097152 riops=30 wiops=max"),
        ("blkio.throttle.write_bps_device", "2097152"),
    );
    assert_eq!(read(file), format!("{device} {line}"));
    // A second device that is not there undoes the first.
    let other = Limits::new().io_max(device, IoMax::new().wbps(9 * MIB));
    let other = other.io_max(Device::number(999, 9), IoMax::new().wbps(MIB));
    let error = cgroup.update(&other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(read(file), format!("{device} {line}"));
    let free = IoMax::new().rbps(Max::Unlimited).wbps(Max::Unlimited);
    let free = free.riops(Max::Unlimited).wiops(Max::Unlimited);
    cgroup.update(&Limits::new().io_max(device, free)).unwrap();
    assert_eq!(read(file), "");
    cgroup.remove().unwrap();
}

#[test]
fn a_device_has_weights_when_its_costs_are_counted() {
    if !have(&[Need::Root, Need::Cgroup2]) {
        return;
    }
    let scene = Scene::new();
    let hierarchy = &scene.hierarchy;
    let absent = Device::number(999, 9);
    let error = hierarchy.io_cost_qos(absent, &IoCostQos::new().enable(true));
    let error = error.unwrap_err();
    if error.kind() == ErrorKind::Unsupported {
        // No such file, as on a hybrid machine.
        assert!(error.to_string().contains("io.cost.qos"), "{error}");
        return;
    }
    assert_eq!(error.raw_os_error(), Some(ENODEV), "{error}");
    let Some((device, Some(_))) = device() else {
        return;
    };
    let qos = IoCostQos::new().enable(true).read(95.0, ms(5));
    hierarchy.io_cost_qos(device, &qos).unwrap();
    hierarchy
        .io_cost_model(device, &IoCostModel::new().read(1 << 30, 90_000, 80_000))
        .unwrap();
    let cgroup = scene.create(Limits::new().io_weight_of(device, 300));
    is(&cgroup, "io.weight", &format!("default 100\n{device} 300"));
    cgroup.remove().unwrap();
    let off = IoCostQos::new().enable(false);
    hierarchy.io_cost_qos(device, &off).unwrap();
}

#[test]
fn on_a_hybrid_machine_each_limit_goes_where_its_controller_is() {
    if is_unified() || !have(&[Need::Root, Need::Cgroup1Controller("memory")]) {
        return;
    }
    if !unified(&["hugetlb"]) {
        return;
    }
    let scene = Scene::new();
    let limits = Limits::new().memory_max(64 * MIB);
    let cgroup = scene.create(limits.hugetlb_max(HugePage::MB2, 4 * MIB));
    assert_eq!(cgroup.paths().count(), 2);
    is(&cgroup, "hugetlb.2MB.max", "4194304");
    is(&cgroup, "memory.limit_in_bytes", "67108864");
    let other = Limits::new().hugetlb_max(HugePage::MB2, 2 * MIB);
    cgroup.update(&other.memory_max(32 * MIB)).unwrap();
    is(&cgroup, "hugetlb.2MB.max", "2097152");
    is(&cgroup, "memory.limit_in_bytes", "33554432");
    cgroup.remove().unwrap();
}

#[test]
fn four_megabytes_a_second_are_no_more() {
    if let Some(node) = argument() {
        return write_eight(&node);
    }
    if !unified(&["io"]) {
        return;
    }
    let Some((device, Some(node))) = device() else {
        cofferdam_testkit::skip(
            "a block device to write to",
            cofferdam_testkit::is_emulated(),
        );
        return;
    };
    let scene = Scene::new();
    let limits = Limits::new().io_max(device, IoMax::new().wbps(4 * MIB));
    let cgroup = scene.create(limits);
    let mut command = alone(this_test!(), node);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    cgroup.add(child.id()).unwrap();
    let start = Instant::now();
    child.stdin.take().unwrap().write_all(b"!").unwrap();
    assert!(child.wait().unwrap().success());
    let took = start.elapsed();
    // 8 MiB at 4 MiB a second; the first of it is free.
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    cgroup.remove().unwrap();
}

/// Writes 8 MiB past the page cache, when told to.
fn write_eight(node: &str) {
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_DIRECT);
    let mut file = options.open(node).unwrap();
    let buffer = vec![0; (1 << 20) + 4096];
    let at = buffer.as_ptr().align_offset(4096);
    for _ in 0..8 {
        file.write_all(&buffer[at..at + (1 << 20)]).unwrap();
    }
}
