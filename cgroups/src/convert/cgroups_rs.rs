//! The resources of the cgroups-rs crate.

use std::collections::HashMap;

use cgroups_rs::fs::devices::DeviceType;
use cgroups_rs::fs::{
    BlkIoDeviceThrottleResource, BlkIoResources, CpuResources, DeviceResource, MaxValue,
    MemoryResources, Resources,
};

use super::{Throttle, Throttles, cpu_time, cpuset, device, device_rule, device_weight};
use super::{max, max_u32, unsaid};
use crate::Limits;
use crate::devices::Devices;
use crate::error::{Error, Result};

impl TryFrom<&Resources> for Limits {
    type Error = Error;

    /// The limits as the fields of cgroups-rs document them, which is not always what it writes: `shares` are those of
    /// v1, 2 to 262144, converted for v2; `memory_swap_limit` is memory and swap together, on v2 too; weights of block
    /// devices are those of v1, 10 to 1000. Of devices all are allowed but for the rules. `attrs` are written last, as
    /// by [`Limits::raw`], and so not on v1.
    ///
    /// The weight of one device goes through the range of `io.weight`, so that on v1 it is within 10 % of what was given.
    ///
    /// # Errors
    /// `Unsupported` naming the field for what cannot be said: limits of kernel memory, swappiness, real-time CPU, leaf
    /// weights, network classes and priorities. `InvalidInput` as by [`Limits::validate`], for negative numbers that are
    /// not -1, and for a 0 that cgroups-rs would write or ignore.
    fn try_from(resources: &Resources) -> Result<Self> {
        let mut limits = memory(Limits::new(), &resources.memory)?;
        limits = match resources.pid.maximum_number_of_processes {
            None => limits,
            Some(MaxValue::Max) => limits.pids_max(crate::Max::Unlimited),
            Some(MaxValue::Value(number)) => limits.pids_max(max_u32("pids_max", number)?),
        };
        limits = cpu(limits, &resources.cpu)?;
        limits = blkio(limits, &resources.blkio)?;
        for huge in &resources.hugepages.limits {
            limits = limits.hugetlb_max(huge.size.parse()?, huge.limit);
        }
        let reason = "network classes and priorities are no limits of cgroup v2";
        unsaid("class_id", resources.network.class_id, reason)?;
        unsaid("priorities", resources.network.priorities.first(), reason)?;
        limits = devices(limits, &resources.devices.devices)?;
        limits.validate()?;
        Ok(limits)
    }
}

fn memory(mut limits: Limits, memory: &MemoryResources) -> Result<Limits> {
    if let Some(bytes) = memory.memory_hard_limit {
        limits = limits
            .memory_max(max("memory_hard_limit", bytes)?)
            .memory_swap_untouched();
    }
    limits = match memory.memory_swap_limit {
        None => limits,
        Some(0) => {
            let reason = "is less than the limit of memory, which it includes";
            return Err(Error::limit("memory_swap_limit", 0, reason));
        }
        Some(total) => limits.memory_swap_oci(total),
    };
    if let Some(bytes) = memory.memory_soft_limit {
        limits = limits.memory_low(max("memory_soft_limit", bytes)?);
    }
    let reason = "the kernel limits its own memory with that of the processes only";
    unsaid("kernel_memory_limit", memory.kernel_memory_limit, reason)?;
    unsaid(
        "kernel_tcp_memory_limit",
        memory.kernel_tcp_memory_limit,
        reason,
    )?;
    unsaid(
        "swappiness",
        memory.swappiness,
        "cgroup v2 has none of it for a cgroup",
    )?;
    Ok(attrs(limits, &memory.attrs))
}

fn cpu(mut limits: Limits, cpu: &CpuResources) -> Result<Limits> {
    limits = cpu_time(limits, cpu.quota, cpu.period)?;
    limits = match cpu.shares {
        None => limits,
        Some(0) => return Err(Error::limit("shares", 0, "is less than 2")),
        Some(shares) => limits.cpu_shares_oci(shares),
    };
    let reason = "this crate has no limits of real-time CPU";
    unsaid("realtime_runtime", cpu.realtime_runtime, reason)?;
    unsaid("realtime_period", cpu.realtime_period, reason)?;
    limits = cpuset(limits, cpu.cpus.as_deref(), cpu.mems.as_deref())?;
    Ok(attrs(limits, &cpu.attrs))
}

fn blkio(mut limits: Limits, io: &BlkIoResources) -> Result<Limits> {
    let reason = "the kernel has no leaf weights since Linux 5.0";
    unsaid("leaf_weight", io.leaf_weight, reason)?;
    limits = match io.weight {
        None => limits,
        Some(0) => return Err(Error::limit("weight", 0, "is not within 10 and 1000")),
        Some(weight) => limits.blkio_weight_oci(weight),
    };
    for of in &io.weight_device {
        unsaid("leaf_weight", of.leaf_weight, reason)?;
        if let Some(weight) = of.weight {
            let device = device("io_weight_of", of.major, of.minor)?;
            limits = device_weight(limits, device, weight)?;
        }
    }
    let mut throttles = Throttles::default();
    let mut add = |which, list: &[BlkIoDeviceThrottleResource]| {
        list.iter().try_for_each(|throttle| {
            let device = device("io_max", throttle.major, throttle.minor)?;
            throttles.add(which, device, throttle.rate)
        })
    };
    add(Throttle::ReadBytes, &io.throttle_read_bps_device)?;
    add(Throttle::WriteBytes, &io.throttle_write_bps_device)?;
    add(Throttle::ReadOperations, &io.throttle_read_iops_device)?;
    add(Throttle::WriteOperations, &io.throttle_write_iops_device)?;
    Ok(attrs(throttles.onto(limits), &io.attrs))
}

fn devices(limits: Limits, rules: &[DeviceResource]) -> Result<Limits> {
    if rules.is_empty() {
        return Ok(limits);
    }
    let mut policy = Devices::allow_all();
    for rule in rules {
        let kind = match rule.devtype {
            DeviceType::All => 'a',
            DeviceType::Char => 'c',
            DeviceType::Block => 'b',
        };
        let access: String = rule.access.iter().map(|access| access.to_char()).collect();
        policy = policy.rule(device_rule(
            rule.allow, kind, rule.major, rule.minor, &access,
        )?);
    }
    Ok(limits.devices(policy))
}

fn attrs(limits: Limits, attrs: &HashMap<String, String>) -> Limits {
    attrs
        .iter()
        .fold(limits, |limits, (file, value)| limits.raw(file, value))
}

#[cfg(test)]
mod tests {
    use cgroups_rs::fs::devices::DevicePermissions;
    use cgroups_rs::fs::{BlkIoDeviceResource, HugePageResource, NetworkPriority};

    use super::*;
    use crate::ErrorKind;

    fn v2(change: impl FnOnce(&mut Resources)) -> Result<Vec<String>> {
        let mut resources = Resources::default();
        change(&mut resources);
        let settings = Limits::try_from(&resources)?.settings_v2().into_iter();
        Ok(settings
            .map(|(file, value)| format!("{file} {value}"))
            .collect())
    }

    #[test]
    fn every_field_has_its_file() {
        let found = v2(|all| {
            all.memory.memory_hard_limit = Some(64 << 20);
            all.memory.memory_swap_limit = Some(96 << 20);
            all.memory.memory_soft_limit = Some(32 << 20);
            all.memory
                .attrs
                .insert("memory.high".into(), "50331648".into());
            all.pid.maximum_number_of_processes = Some(MaxValue::Value(64));
            all.cpu.shares = Some(1024);
            all.cpu.quota = Some(50_000);
            all.cpu.cpus = Some("0-1".into());
            all.cpu.mems = Some("0".into());
            all.hugepages.limits = vec![HugePageResource {
                size: "2MB".into(),
                limit: 4 << 20,
            }];
            all.blkio.weight = Some(500);
            let (major, minor) = (8, 0);
            let weight = BlkIoDeviceResource {
                major,
                minor,
                weight: Some(100),
                leaf_weight: None,
            };
            all.blkio.weight_device = vec![weight];
            let rate = BlkIoDeviceThrottleResource {
                major,
                minor,
                rate: 1 << 20,
            };
            all.blkio.throttle_write_bps_device = vec![rate];
        });
        let expected = [
            "memory.low 33554432",
            "memory.swap.max 33554432",
            "memory.max 67108864",
            "memory.high 50331648",
            "pids.max 64",
            "cpu.max 50000 100000",
            "cpu.weight 39",
            "cpuset.cpus 0-1",
            "cpuset.mems 0",
            "io.max 8:0 wbps=1048576",
            "io.weight default 4950",
            "io.weight 8:0 910",
            "hugetlb.2MB.max 4194304",
        ];
        assert_eq!(found.unwrap(), expected);
        assert_eq!(v2(|_| {}).unwrap(), [""; 0]);
    }

    #[test]
    fn of_devices_all_are_allowed_but_for_the_rules() {
        let mut resources = Resources::default();
        resources.devices.devices.push(DeviceResource {
            allow: false,
            devtype: DeviceType::Char,
            major: 1,
            minor: -1,
            access: vec![DevicePermissions::Read, DevicePermissions::MkNod],
        });
        let expected = Devices::allow_all().rule("deny c 1:* rm".parse().unwrap());
        let found = Limits::try_from(&resources).unwrap();
        assert_eq!(found, Limits::new().devices(expected));
        resources.devices.devices[0].access.clear();
        let error = Limits::try_from(&resources).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_cannot_be_said_is_refused_by_name() {
        type Change = fn(&mut Resources);
        let table: [(&str, Change); 8] = [
            ("kernel_memory_limit", |all| {
                all.memory.kernel_memory_limit = Some(-1)
            }),
            ("kernel_tcp_memory_limit", |all| {
                all.memory.kernel_tcp_memory_limit = Some(1)
            }),
            ("swappiness", |all| all.memory.swappiness = Some(60)),
            ("realtime_runtime", |all| all.cpu.realtime_runtime = Some(1)),
            ("realtime_period", |all| all.cpu.realtime_period = Some(1)),
            ("leaf_weight", |all| all.blkio.leaf_weight = Some(10)),
            ("class_id", |all| all.network.class_id = Some(1)),
            ("priorities", |all| {
                let (name, priority) = ("eth0".into(), 1);
                all.network.priorities = vec![NetworkPriority { name, priority }];
            }),
        ];
        for (name, change) in table {
            let error = v2(change).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(
                error.to_string().starts_with(&format!("limit {name}: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn numbers_that_it_would_write_or_ignore_are_refused() {
        type Change = fn(&mut Resources);
        let table: [Change; 8] = [
            |all| all.memory.memory_hard_limit = Some(-7),
            |all| all.memory.memory_swap_limit = Some(0),
            |all| all.cpu.shares = Some(0),
            |all| all.cpu.cpus = Some("0-99999".into()),
            |all| all.blkio.weight = Some(0),
            |all| all.pid.maximum_number_of_processes = Some(MaxValue::Value(-7)),
            |all| {
                all.memory.attrs.insert("cgroup.procs".into(), "1".into());
            },
            |all| {
                all.cpu.attrs.insert("../x".into(), "1".into());
            },
        ];
        for (at, change) in table.into_iter().enumerate() {
            let error = v2(change).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{at}: {error}");
        }
    }
}
