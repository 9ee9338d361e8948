//! The `linux.resources` of an OCI configuration.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources,
    LinuxThrottleDevice,
};

use super::{Throttle, Throttles, cpu_time, cpuset, device, device_rule, device_weight};
use super::{max, max_u32, unsaid};
use crate::devices::Devices;
use crate::error::{Error, Result};
use crate::{Limits, Max};

impl TryFrom<&LinuxResources> for Limits {
    type Error = Error;

    /// The limits of an OCI configuration, in its units: `cpu.shares` and `blockIO.weight` are converted as other
    /// runtimes do, `memory.swap` is memory and swap together, `memory.reservation` becomes `memory.low`, -1 is no
    /// limit. A memory limit without `swap` leaves swap as it is, other than [`Limits::memory_max`] alone. A list of
    /// devices that does not begin with a rule for all starts from none. The `unified` map is written last.
    ///
    /// The weight of one device goes through the range of `io.weight`, so that on v1 it is within 10 % of what was given.
    ///
    /// # Errors
    /// `Unsupported` naming the limit for what cannot be said: limits of kernel memory, swappiness, an OOM killer that
    /// is off, a hierarchy that is not used, a check before update, real-time CPU, leaf weights, network classes and
    /// priorities. `InvalidInput` as by [`Limits::validate`], and for negative numbers that are not -1.
    fn try_from(resources: &LinuxResources) -> Result<Self> {
        let mut limits = Limits::new();
        if let Some(given) = resources.memory() {
            limits = memory(limits, given)?;
        }
        if let Some(given) = resources.cpu() {
            limits = cpu(limits, given)?;
        }
        if let Some(given) = resources.pids() {
            limits = limits.pids_max(max_u32("pids_max", given.limit())?);
        }
        if let Some(given) = resources.block_io() {
            limits = block_io(limits, given)?;
        }
        for huge in resources.hugepage_limits().iter().flatten() {
            let bytes = max("hugetlb_max", huge.limit())?;
            limits = limits.hugetlb_max(huge.page_size().parse()?, bytes);
        }
        if let Some(network) = resources.network() {
            let reason = "network classes and priorities are no limits of cgroup v2";
            unsaid(
                "network.classID",
                network.class_id().filter(|id| *id != 0),
                reason,
            )?;
            let priorities = network.priorities().iter().flatten().next();
            unsaid("network.priorities", priorities, reason)?;
        }
        for (name, rdma) in resources.rdma().iter().flatten() {
            let max = |number: Option<u32>| number.map_or(Max::Unlimited, Max::Of);
            limits = limits.rdma_max(name, max(rdma.hca_handles()), max(rdma.hca_objects()));
        }
        limits = devices(limits, resources.devices().as_deref().unwrap_or_default())?;
        for (file, value) in resources.unified().iter().flatten() {
            limits = limits.raw(file, value);
        }
        limits.validate()?;
        Ok(limits)
    }
}

fn memory(mut limits: Limits, memory: &LinuxMemory) -> Result<Limits> {
    let given = |number: Option<i64>| number.filter(|number| *number != 0);
    if let Some(bytes) = given(memory.limit()) {
        limits = limits
            .memory_max(max("memory_max", bytes)?)
            .memory_swap_untouched();
    }
    if let Some(total) = given(memory.swap()) {
        limits = limits.memory_swap_oci(total);
    }
    if let Some(bytes) = given(memory.reservation()) {
        limits = limits.memory_low(max("memory_low", bytes)?);
    }
    let kernel = memory.kernel();
    let reason = "the kernel limits its own memory with that of the processes only";
    unsaid("memory.kernel", given(kernel), reason)?;
    unsaid("memory.kernelTCP", given(memory.kernel_tcp()), reason)?;
    let reason = "cgroup v2 has none of it for a cgroup";
    unsaid("memory.swappiness", memory.swappiness(), reason)?;
    let off = memory.disable_oom_killer().filter(|off| *off);
    unsaid("memory.disableOOMKiller", off, reason)?;
    let reason = "cgroup v2 always uses the hierarchy";
    let unused = memory.use_hierarchy().filter(|used| !used);
    unsaid("memory.useHierarchy", unused, reason)?;
    let check = memory.check_before_update().filter(|check| *check);
    unsaid(
        "memory.checkBeforeUpdate",
        check,
        "use is not compared with the limit",
    )?;
    Ok(limits)
}

fn cpu(mut limits: Limits, cpu: &LinuxCpu) -> Result<Limits> {
    limits = cpu_time(limits, cpu.quota(), cpu.period())?;
    if let Some(burst) = cpu.burst() {
        limits = limits.cpu_max_burst(std::time::Duration::from_micros(burst));
    }
    if let Some(shares) = cpu.shares() {
        limits = limits.cpu_shares_oci(shares);
    }
    limits = match cpu.idle() {
        None => limits,
        Some(idle @ (0 | 1)) => limits.cpu_idle(idle == 1),
        Some(idle) => return Err(Error::limit("cpu_idle", idle, "is neither 0 nor 1")),
    };
    let reason = "this crate has no limits of real-time CPU";
    let runtime = cpu.realtime_runtime().filter(|time| *time != 0);
    unsaid("cpu.realtimeRuntime", runtime, reason)?;
    let period = cpu.realtime_period().filter(|time| *time != 0);
    unsaid("cpu.realtimePeriod", period, reason)?;
    cpuset(limits, cpu.cpus().as_deref(), cpu.mems().as_deref())
}

fn block_io(mut limits: Limits, io: &LinuxBlockIo) -> Result<Limits> {
    let leaf = |weight: Option<u16>| {
        let reason = "the kernel has no leaf weights since Linux 5.0";
        unsaid(
            "blockIO.leafWeight",
            weight.filter(|weight| *weight != 0),
            reason,
        )
    };
    leaf(io.leaf_weight())?;
    if let Some(weight) = io.weight() {
        limits = limits.blkio_weight_oci(weight);
    }
    for of in io.weight_device().iter().flatten() {
        leaf(of.leaf_weight())?;
        if let Some(weight) = of.weight().filter(|weight| *weight != 0) {
            let device = device("io_weight_of", of.major(), of.minor())?;
            limits = device_weight(limits, device, weight)?;
        }
    }
    let mut throttles = Throttles::default();
    let mut add = |which, list: &Option<Vec<LinuxThrottleDevice>>| {
        list.iter().flatten().try_for_each(|throttle| {
            let device = device("io_max", throttle.major(), throttle.minor())?;
            throttles.add(which, device, throttle.rate())
        })
    };
    add(Throttle::ReadBytes, io.throttle_read_bps_device())?;
    add(Throttle::WriteBytes, io.throttle_write_bps_device())?;
    add(Throttle::ReadOperations, io.throttle_read_iops_device())?;
    add(Throttle::WriteOperations, io.throttle_write_iops_device())?;
    Ok(throttles.onto(limits))
}

fn devices(limits: Limits, rules: &[LinuxDeviceCgroup]) -> Result<Limits> {
    if rules.is_empty() {
        return Ok(limits);
    }
    let mut policy = Devices::deny_all();
    for rule in rules {
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => 'a',
            Some(LinuxDeviceType::B) => 'b',
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
            Some(LinuxDeviceType::P) => {
                return Err(Error::unsayable("devices", "a FIFO is no device"));
            }
        };
        let (major, minor) = (rule.major().unwrap_or(-1), rule.minor().unwrap_or(-1));
        let access = rule.access().as_deref().unwrap_or("rwm");
        policy = policy.rule(device_rule(rule.allow(), kind, major, minor, access)?);
    }
    Ok(limits.devices(policy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn limits(json: &str) -> Result<Limits> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        Limits::try_from(&resources)
    }

    fn v2(json: &str) -> Vec<String> {
        let settings = limits(json).unwrap().settings_v2().into_iter();
        settings
            .map(|(file, value)| format!("{file} {value}"))
            .collect()
    }

    #[test]
    fn every_limit_has_its_file() {
        let json = r#"{
            "memory": {"limit": 67108864, "swap": 100663296, "reservation": 33554432, "useHierarchy": true},
            "cpu": {"shares": 1024, "quota": 50000, "period": 200000, "burst": 1000, "idle": 0, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 64},
            "blockIO": {"weight": 500,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 8589934592}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "rdma": {"mlx5_0": {"hcaHandles": 3}},
            "unified": {"memory.high": "50331648"}
        }"#;
        let expected = [
            "memory.low 33554432",
            "memory.swap.max 33554432",
            "memory.max 67108864",
            "memory.high 50331648",
            "pids.max 64",
            "cpu.max 50000 200000",
            "cpu.max.burst 1000",
            "cpu.weight 39",
            "cpu.idle 0",
            "cpuset.cpus 0-1",
            "cpuset.mems 0",
            "io.max 8:0 rbps=8589934592 wiops=max",
            "io.weight default 4950",
            "io.weight 8:0 10000",
            "hugetlb.2MB.max 4194304",
            "rdma.max mlx5_0 hca_handle=3 hca_object=max",
        ];
        let mut found = v2(json);
        let mut expected = expected.map(str::to_owned).to_vec();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn swap_is_told_from_the_total_and_left_alone_unless_asked_for() {
        let memory = |rest: &str| v2(&format!(r#"{{"memory": {{"limit": 67108864{rest}}}}}"#));
        assert_eq!(memory(""), ["memory.max 67108864"]);
        assert_eq!(memory(r#", "swap": 67108864"#)[0], "memory.swap.max 0");
        assert_eq!(memory(r#", "swap": -1"#)[0], "memory.swap.max max");
        let v1 = limits(r#"{"memory": {"limit": 67108864}}"#).unwrap();
        let v1 = v1.settings_v1().unwrap();
        assert_eq!(
            v1,
            [("memory.limit_in_bytes".to_owned(), "67108864".to_owned())]
        );
        let all = v2(
            r#"{"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}"#,
        );
        assert_eq!(
            all,
            [
                "memory.swap.max max",
                "memory.max max",
                "pids.max max",
                "cpu.max max 100000"
            ]
        );
        assert_eq!(v2("{}"), [""; 0]);
    }

    #[test]
    fn rules_of_devices_start_from_none() {
        let json = r#"{"devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            {"allow": true, "type": "b", "major": 8, "access": "r"}]}"#;
        let expected = Devices::deny_all()
            .rule("allow c 1:3 rw".parse().unwrap())
            .rule("allow b 8:* r".parse().unwrap());
        assert_eq!(limits(json).unwrap(), Limits::new().devices(expected));
        let json = r#"{"devices": [{"allow": true}]}"#;
        assert_eq!(
            limits(json).unwrap(),
            Limits::new().devices(Devices::allow_all())
        );
    }

    #[test]
    fn what_cannot_be_said_is_refused_by_name() {
        for (name, json) in [
            ("memory.kernel", r#"{"memory": {"kernel": 1}}"#),
            ("memory.kernelTCP", r#"{"memory": {"kernelTCP": 1}}"#),
            ("memory.swappiness", r#"{"memory": {"swappiness": 0}}"#),
            (
                "memory.disableOOMKiller",
                r#"{"memory": {"disableOOMKiller": true}}"#,
            ),
            (
                "memory.useHierarchy",
                r#"{"memory": {"useHierarchy": false}}"#,
            ),
            (
                "memory.checkBeforeUpdate",
                r#"{"memory": {"checkBeforeUpdate": true}}"#,
            ),
            ("cpu.realtimeRuntime", r#"{"cpu": {"realtimeRuntime": 1}}"#),
            ("cpu.realtimePeriod", r#"{"cpu": {"realtimePeriod": 1}}"#),
            ("blockIO.leafWeight", r#"{"blockIO": {"leafWeight": 10}}"#),
            ("network.classID", r#"{"network": {"classID": 1}}"#),
            (
                "network.priorities",
                r#"{"network": {"priorities": [{"name": "eth0", "priority": 1}]}}"#,
            ),
            ("devices", r#"{"devices": [{"allow": true, "type": "p"}]}"#),
        ] {
            let error = limits(json).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(
                error.to_string().starts_with(&format!("limit {name}: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        for json in [
            r#"{"memory": {"limit": -2}}"#,
            r#"{"memory": {"limit": 67108864, "swap": 1}}"#,
            r#"{"cpu": {"quota": -2}}"#,
            r#"{"cpu": {"idle": 2}}"#,
            r#"{"cpu": {"cpus": "x"}}"#,
            r#"{"pids": {"limit": 4294967296}}"#,
            r#"{"pids": {"limit": 0}}"#,
            r#"{"blockIO": {"weight": 9}}"#,
            r#"{"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 1001}]}}"#,
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}"#,
            r#"{"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 4294967296}]}}"#,
            r#"{"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}"#,
            r#"{"unified": {"cgroup.freeze": "1"}}"#,
            r#"{"devices": [{"allow": true, "access": "x"}]}"#,
            r#"{"devices": [{"allow": true, "major": -2}]}"#,
        ] {
            assert_eq!(
                limits(json).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{json}"
            );
        }
    }
}
