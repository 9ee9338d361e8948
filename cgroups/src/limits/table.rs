//! What every limit renders to, and every value that is refused.

use std::time::Duration;

use super::*;
use crate::{Device, ErrorKind};

const MIB: u64 = 1 << 20;

fn new() -> Limits {
    Limits::new()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn disk() -> Device {
    Device::number(8, 0)
}

fn lines(settings: Vec<(String, String)>) -> String {
    let lines = settings.into_iter();
    let lines: Vec<_> = lines
        .map(|(file, value)| format!("{file}={}", value.trim_end()))
        .collect();
    lines.join("; ")
}

/// Limits, their v2 text, and their v1 text or the name of the limit that v1 cannot say.
type Row = (
    Limits,
    &'static str,
    std::result::Result<&'static str, &'static str>,
);

fn check(table: Vec<Row>) {
    for (limits, v2, v1) in table {
        assert!(limits.validate().is_ok(), "{limits:?}");
        assert_eq!(lines(limits.settings_v2()), v2);
        match (limits.settings_v1(), v1) {
            (Ok(settings), Ok(v1)) => assert_eq!(lines(settings), v1),
            (Err(error), Err(limit)) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                let text = error.to_string();
                assert!(text.starts_with(&format!("limit {limit}: ")), "{text}");
                assert!(text.contains("cgroup v1"), "{text}");
            }
            (got, _) => panic!("{limits:?}: {got:?} instead of {v1:?}"),
        }
    }
}

#[test]
fn cpu_limits_render() {
    let burst = new().cpu_max(ms(20), ms(50)).cpu_max_burst(ms(20));
    check(vec![
        (
            burst,
            "cpu.max=20000 50000; cpu.max.burst=20000",
            Ok("cpu.cfs_period_us=50000; cpu.cfs_quota_us=20000; cpu.cfs_burst_us=20000"),
        ),
        (
            new().cpu_max(Max::Unlimited, ms(50)),
            "cpu.max=max 50000",
            Ok("cpu.cfs_period_us=50000; cpu.cfs_quota_us=-1"),
        ),
        (
            new().cpu_weight(100),
            "cpu.weight=100",
            Ok("cpu.shares=1024"),
        ),
        (new().cpu_weight(1), "cpu.weight=1", Ok("cpu.shares=10")),
        (
            new().cpu_weight(5).cpu_weight_nice(-20),
            "cpu.weight.nice=-20",
            Err("cpu_weight_nice"),
        ),
        (
            new().cpu_shares_oci(1024),
            "cpu.weight=39",
            Ok("cpu.shares=1024"),
        ),
        (new().cpu_shares_oci(1), "cpu.weight=1", Ok("cpu.shares=2")),
        (
            new().cpu_shares_oci(u64::MAX),
            "cpu.weight=10000",
            Ok("cpu.shares=262144"),
        ),
        (new().cpu_shares_oci(0), "", Ok("")),
        (new().cpu_idle(true), "cpu.idle=1", Ok("cpu.idle=1")),
        (
            new().cpu_uclamp_min(12.345).cpu_uclamp_max(Max::Unlimited),
            "cpu.uclamp.min=12.35; cpu.uclamp.max=max",
            Ok("cpu.uclamp.min=12.35; cpu.uclamp.max=max"),
        ),
        (
            new().cpu_uclamp_max(0.0),
            "cpu.uclamp.max=0.00",
            Ok("cpu.uclamp.max=0.00"),
        ),
    ]);
}

#[test]
fn cpuset_limits_render() {
    check(vec![
        (
            new().cpuset_cpus(set("3,0-1")).cpuset_mems(set("0")),
            "cpuset.cpus=0-1,3; cpuset.mems=0",
            Ok("cpuset.cpus=0-1,3; cpuset.mems=0"),
        ),
        (
            new().cpuset_cpus(CpuSet::new()),
            "cpuset.cpus=",
            Err("cpuset_cpus"),
        ),
        (
            new()
                .cpuset_partition(Partition::Isolated)
                .cpuset_cpus_exclusive(set("2"))
                .cpuset_cpus(set("2")),
            "cpuset.cpus=2; cpuset.cpus.exclusive=2; cpuset.cpus.partition=isolated",
            Err("cpuset_cpus_exclusive"),
        ),
        (
            new().cpuset_partition(Partition::Member),
            "cpuset.cpus.partition=member",
            Err("cpuset_partition"),
        ),
    ]);
}

#[test]
fn memory_limits_render() {
    let max = || new().memory_max(64 * MIB);
    check(vec![
        (
            new().memory_max(Max::Unlimited),
            "memory.swap.max=max; memory.max=max",
            Ok("memory.limit_in_bytes=-1; memory.memsw.limit_in_bytes=-1"),
        ),
        (
            max().memory_swap_max(MIB),
            "memory.swap.max=1048576; memory.max=67108864",
            Ok("memory.limit_in_bytes=67108864; memory.memsw.limit_in_bytes=68157440"),
        ),
        (
            max().memory_swap_max(Max::Unlimited),
            "memory.swap.max=max; memory.max=67108864",
            Ok("memory.limit_in_bytes=67108864; memory.memsw.limit_in_bytes=-1"),
        ),
        (
            max().memory_swap_oci(65 << 20),
            "memory.swap.max=1048576; memory.max=67108864",
            Ok("memory.limit_in_bytes=67108864; memory.memsw.limit_in_bytes=68157440"),
        ),
        (
            max().memory_swap_oci(64 << 20),
            "memory.swap.max=0; memory.max=67108864",
            Ok("memory.limit_in_bytes=67108864; memory.memsw.limit_in_bytes=67108864"),
        ),
        (
            max().memory_swap_oci(-1),
            "memory.swap.max=max; memory.max=67108864",
            Ok("memory.limit_in_bytes=67108864; memory.memsw.limit_in_bytes=-1"),
        ),
        (
            max().memory_swap_oci(0),
            "memory.swap.max=0; memory.max=67108864",
            Ok("memory.limit_in_bytes=67108864; memory.memsw.limit_in_bytes=67108864"),
        ),
        (
            new().memory_swap_oci(-1),
            "memory.swap.max=max",
            Ok("memory.memsw.limit_in_bytes=-1"),
        ),
        (
            new().memory_swap_max(0),
            "memory.swap.max=0",
            Err("memory_swap_max"),
        ),
        (
            new().memory_high(2).memory_low(1).memory_min(0),
            "memory.min=0; memory.low=1; memory.high=2",
            Err("memory_high"),
        ),
        (
            new().memory_swap_high(1).memory_zswap_max(2),
            "memory.swap.high=1; memory.zswap.max=2",
            Err("memory_swap_high"),
        ),
        (
            new().memory_zswap_writeback(false),
            "memory.zswap.writeback=0",
            Err("memory_zswap_writeback"),
        ),
        (
            new().memory_oom_group(true),
            "memory.oom.group=1",
            Err("memory_oom_group"),
        ),
    ]);
}

#[test]
fn io_limits_render() {
    let two = IoMax::new().rbps(MIB).wiops(Max::Unlimited);
    check(vec![
        (
            new().io_max(disk(), two),
            "io.max=8:0 rbps=1048576 wiops=max",
            Ok("blkio.throttle.read_bps_device=8:0 1048576; \
                blkio.throttle.write_iops_device=8:0 0"),
        ),
        (
            // The last for a device holds.
            new()
                .io_max(disk(), two)
                .io_max(disk(), IoMax::new().wbps(7_u64)),
            "io.max=8:0 wbps=7",
            Ok("blkio.throttle.write_bps_device=8:0 7"),
        ),
        (
            new().io_weight(10_000),
            "io.weight=default 10000",
            Ok("blkio.bfq.weight=1000"),
        ),
        (
            new().blkio_weight_oci(500),
            "io.weight=default 4950",
            Ok("blkio.bfq.weight=500"),
        ),
        (new().io_weight(5).blkio_weight_oci(0), "", Ok("")),
        (
            new().io_weight_of(disk(), 50),
            "io.weight=8:0 50",
            Ok("blkio.bfq.weight_device=8:0 50"),
        ),
        (
            new().io_latency(disk(), ms(5)),
            "io.latency=8:0 target=5000",
            Err("io_latency"),
        ),
    ]);
}

#[test]
fn the_other_limits_render() {
    check(vec![
        (new().pids_max(5), "pids.max=5", Ok("pids.max=5")),
        (
            new().pids_max(Max::Unlimited),
            "pids.max=max",
            Ok("pids.max=max"),
        ),
        (
            new()
                .hugetlb_max(HugePage::MB2, 4 * MIB)
                .hugetlb_rsvd_max(HugePage::GB1, Max::Unlimited),
            "hugetlb.2MB.max=4194304; hugetlb.1GB.rsvd.max=max",
            Ok("hugetlb.2MB.limit_in_bytes=4194304; hugetlb.1GB.rsvd.limit_in_bytes=-1"),
        ),
        (
            new().rdma_max("mlx5_0", 2, Max::Unlimited),
            "rdma.max=mlx5_0 hca_handle=2 hca_object=max",
            Ok("rdma.max=mlx5_0 hca_handle=2 hca_object=max"),
        ),
        (
            new().misc_max("sev", 3),
            "misc.max=sev 3",
            Ok("misc.max=sev 3"),
        ),
        (
            new()
                .dmem_max("a/b", 3)
                .dmem_low("a/b", 2)
                .dmem_min("a/b", 1),
            "dmem.min=a/b 1; dmem.low=a/b 2; dmem.max=a/b 3",
            Ok("dmem.min=a/b 1; dmem.low=a/b 2; dmem.max=a/b 3"),
        ),
        (
            new().raw("memory.high", "1M").memory_low(1),
            "memory.low=1; memory.high=1M",
            Err("memory_low"),
        ),
        (new().raw("pids.max", "3"), "pids.max=3", Err("raw")),
    ]);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let max = || new().memory_max(64 * MIB);
    let burst = new().cpu_max(ms(20), ms(50));
    let table = [
        ("cpu_weight", new().cpu_weight(0)),
        ("cpu_weight", new().cpu_weight(10_001)),
        ("cpu_weight_nice", new().cpu_weight_nice(-21)),
        ("cpu_weight_nice", new().cpu_weight_nice(20)),
        ("cpu_max_burst", burst.cpu_max_burst(ms(21))),
        ("cpu_max_burst", new().cpus(0.5).cpu_max_burst(ms(51))),
        ("cpu_max_burst", new().cpu_max_burst(Duration::MAX)),
        ("cpu_max", new().cpu_max(Max::Unlimited, ms(1001))),
        ("cpu_uclamp_min", new().cpu_uclamp_min(-0.01)),
        ("cpu_uclamp_min", new().cpu_uclamp_min(f64::NAN)),
        ("cpu_uclamp_max", new().cpu_uclamp_max(100.01)),
        ("memory_high", new().memory_high(u64::MAX)),
        ("memory_low", new().memory_low(u64::MAX)),
        ("memory_min", new().memory_min(u64::MAX)),
        ("memory_swap_max", new().memory_swap_max(u64::MAX)),
        ("memory_swap_high", new().memory_swap_high(u64::MAX)),
        ("memory_zswap_max", new().memory_zswap_max(u64::MAX)),
        ("memory_swap_oci", max().memory_swap_oci((64 << 20) - 1)),
        ("memory_swap_oci", max().memory_swap_oci(-2)),
        ("memory_swap_oci", new().memory_swap_oci(1)),
        (
            "memory_swap_oci",
            new().memory_max(Max::Unlimited).memory_swap_oci(1),
        ),
        ("io_max", new().io_max(disk(), IoMax::new())),
        ("io_max", new().io_max(disk(), IoMax::new().rbps(0_u64))),
        (
            "io_max",
            new().io_max(disk(), IoMax::new().rbps(1_u64).wiops(0_u32)),
        ),
        ("io_weight", new().io_weight(0)),
        ("io_weight_of", new().io_weight_of(disk(), 10_001)),
        ("blkio_weight_oci", new().blkio_weight_oci(9)),
        ("blkio_weight_oci", new().blkio_weight_oci(1001)),
        ("io_latency", new().io_latency(disk(), Duration::MAX)),
        ("hugetlb_max", new().hugetlb_max(HugePage::MB2, u64::MAX)),
        (
            "hugetlb_rsvd_max",
            new().hugetlb_rsvd_max(HugePage::MB2, u64::MAX),
        ),
        ("rdma_max", new().rdma_max("a b", 1, 1)),
        ("rdma_max", new().rdma_max("", 1, 1)),
        ("misc_max", new().misc_max("a\nb", 1)),
        ("dmem_max", new().dmem_max("a\tb", 1)),
        ("dmem_low", new().dmem_low("x".repeat(256), 1)),
        ("raw", new().raw("cgroup.procs", "1")),
        ("raw", new().raw("../memory.max", "1")),
        ("raw", new().raw("memory.max/..", "1")),
        ("raw", new().raw("memory", "1")),
        ("raw", new().raw("memory.", "1")),
        ("raw", new().raw("nothing.max", "1")),
        ("raw", new().raw("freezer.state", "FROZEN")),
        ("raw", new().raw("memory.max", "")),
        ("raw", new().raw("memory.max", "1\0")),
        ("raw", new().raw("", "1")),
    ];
    for (limit, limits) in table {
        // Best effort is no leave for nonsense.
        for limits in [limits.clone(), limits.best_effort()] {
            // To render it is no panic all the same.
            let _rendered = (limits.settings_v2(), limits.settings_v1().is_ok());
            let error = limits.validate().expect_err(limit);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let text = error.to_string();
            assert!(text.starts_with(&format!("limit {limit} ")), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}

#[test]
fn only_what_has_limits_needs_its_controller() {
    let limits = new().raw("io.max", "8:0 rbps=1").cpu_idle(true);
    let limits = limits.cpuset_mems(set("0")).dmem_max("a", 1);
    let needed = [
        Controller::Cpu,
        Controller::Cpuset,
        Controller::Io,
        Controller::Dmem,
    ];
    assert_eq!(limits.controllers(), needed);
    assert_eq!(limits.names(Controller::Io), ["raw"]);
    assert_eq!(limits.names(Controller::Memory), [""; 0]);
    let limits = new().memory_max(MIB).memory_high(MIB);
    let names = limits.names(Controller::Memory);
    assert_eq!(names, ["memory_max", "memory_high"]);
}
