//! What is asked for: plain data that renders to kernel text; pure.

use std::time::Duration;

use crate::controller::{Controller, Version};
use crate::devices::Devices;
use crate::error::{Error, Result};

/// What the processes of a cgroup may use together. The default is no limit at all.
///
/// ```
/// use cofferdam_cgroups::Limits;
///
/// let limits = Limits::new().memory_max(64 << 20).pids_max(64).cpus(0.5);
/// assert!(limits.validate().is_ok());
/// assert!(Limits::new().memory_max(0).validate().is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Limits {
    memory_max: Option<u64>,
    pids_max: Option<u32>,
    cpu: Option<Cpu>,
    devices: Option<Devices>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cpu {
    Max { quota: Duration, period: Duration },
    Cpus(f64),
}

/// One write into one kernel file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The name of the limit it comes from, for messages.
    pub(crate) limit: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
    pub(crate) if_absent: IfAbsent,
}

/// What the lack of the file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfAbsent {
    Fail,
    /// Swap files without swap accounting in the kernel.
    Skip,
}

/// The largest usual page: less than that rounds down to no memory at all.
const SMALLEST_MEMORY: u64 = 64 << 10;
/// `PID_MAX_LIMIT` of a 64-bit kernel.
const MOST_PIDS: u32 = 4 << 20;
/// The most CPUs a kernel can be built for.
const MOST_CPUS: f64 = 8192.0;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
const DEFAULT_PERIOD: Duration = Duration::from_millis(100);

impl Limits {
    /// No limits.
    pub fn new() -> Self {
        Limits::default()
    }

    /// Limits memory to `bytes`, with `memory.max`; beyond it the OOM killer ends a process of the cgroup.
    ///
    /// The cgroup gets no swap (`memory.swap.max` is 0; on v1 `memory.memsw.limit_in_bytes` is the same number), or
    /// the limit would only move memory to disk. A kernel without swap accounting has neither file: there the limit
    /// holds for RAM alone.
    #[doc(alias = "memory.max")]
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.memory_max = Some(bytes);
        self
    }

    /// Limits the number of processes and threads, with `pids.max`; beyond it fork(2) and clone(2) fail with `EAGAIN`.
    #[doc(alias = "pids.max")]
    pub fn pids_max(mut self, n: u32) -> Self {
        self.pids_max = Some(n);
        self
    }

    /// Limits CPU time to `quota` in every `period`, with `cpu.max`; beyond it the cgroup waits for the next period.
    ///
    /// Both in whole microseconds: what is finer is cut off. Replaces [`Limits::cpus`].
    #[doc(alias = "cpu.max")]
    pub fn cpu_max(mut self, quota: Duration, period: Duration) -> Self {
        self.cpu = Some(Cpu::Max { quota, period });
        self
    }

    /// Limits CPU time to that of `cpus` CPUs, as [`Limits::cpu_max`] with a period of 100 ms. Replaces it.
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpu = Some(Cpu::Cpus(cpus));
        self
    }

    /// Allows the devices of a policy only. It holds before any process can be in the cgroup, and fails closed: see
    /// [`Devices`].
    pub fn devices(mut self, devices: Devices) -> Self {
        self.devices = Some(devices);
        self
    }

    /// Checks every value. [`Hierarchy::create`](crate::Hierarchy::create) does it before its first change.
    ///
    /// # Errors
    /// `InvalidInput` naming the limit:
    /// memory below 64 KiB (a page, on some machines) or above `i64::MAX`; pids 0 or above 4194304; a CPU number that is
    /// not a number or not within 0.01..=8192; a quota below 1 ms or a period outside of 1 ms..=1 s; devices as [`Devices::validate`].
    pub fn validate(&self) -> Result<()> {
        if let Some(bytes) = self.memory_max {
            check_memory(bytes)?;
        }
        if let Some(n) = self.pids_max {
            check_pids(n)?;
        }
        if let Some(devices) = &self.devices {
            devices.validate()?;
        }
        match self.cpu {
            Some(Cpu::Max { quota, period }) => check_cpu_max(quota, period),
            Some(Cpu::Cpus(cpus)) => check_cpus(cpus),
            None => Ok(()),
        }
    }

    /// These are no controller's on v2.
    pub(crate) fn device_policy(&self) -> Option<&Devices> {
        self.devices.as_ref()
    }

    /// The controllers these limits need, each with the name of its limit.
    pub(crate) fn controllers(&self) -> Vec<(Controller, &'static str)> {
        let mut needed = Vec::new();
        if self.memory_max.is_some() {
            needed.push((Controller::Memory, "memory_max"));
        }
        if self.pids_max.is_some() {
            needed.push((Controller::Pids, "pids_max"));
        }
        match self.cpu {
            Some(Cpu::Max { .. }) => needed.push((Controller::Cpu, "cpu_max")),
            Some(Cpu::Cpus(_)) => needed.push((Controller::Cpu, "cpus")),
            None => {}
        }
        needed
    }

    /// What to write for one controller, in this order.
    pub(crate) fn settings(&self, controller: Controller, version: Version) -> Vec<Setting> {
        match controller {
            Controller::Memory => self.memory_settings(version),
            Controller::Pids => self.pids_settings(),
            Controller::Cpu => self.cpu_settings(version),
            Controller::Devices | Controller::Freezer => Vec::new(),
        }
    }

    fn memory_settings(&self, version: Version) -> Vec<Setting> {
        let Some(bytes) = self.memory_max else {
            return Vec::new();
        };
        let limit = "memory_max";
        let (max, swap, swap_max) = match version {
            Version::V2 => ("memory.max", "memory.swap.max", 0),
            // Of memory and swap together. It may not be the smaller one, so it comes second.
            Version::V1 => (
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                bytes,
            ),
        };
        let mut swap = Setting::new(limit, swap, swap_max);
        swap.if_absent = IfAbsent::Skip;
        vec![Setting::new(limit, max, bytes), swap]
    }

    fn pids_settings(&self) -> Vec<Setting> {
        self.pids_max
            .map(|n| Setting::new("pids_max", "pids.max", n))
            .into_iter()
            .collect()
    }

    fn cpu_settings(&self, version: Version) -> Vec<Setting> {
        let (limit, quota, period) = match self.cpu {
            Some(Cpu::Max { quota, period }) => ("cpu_max", quota, period),
            Some(Cpu::Cpus(cpus)) => ("cpus", DEFAULT_PERIOD.mul_f64(cpus), DEFAULT_PERIOD),
            None => return Vec::new(),
        };
        let (quota, period) = (quota.as_micros(), period.as_micros());
        match version {
            Version::V2 => vec![Setting::new(limit, "cpu.max", format!("{quota} {period}"))],
            Version::V1 => vec![
                Setting::new(limit, "cpu.cfs_period_us", period),
                Setting::new(limit, "cpu.cfs_quota_us", quota),
            ],
        }
    }
}

impl Setting {
    fn new(limit: &'static str, file: &'static str, value: impl ToString) -> Self {
        Setting {
            limit,
            file,
            value: value.to_string(),
            if_absent: IfAbsent::Fail,
        }
    }
}

fn check_memory(bytes: u64) -> Result<()> {
    if bytes < SMALLEST_MEMORY {
        return Err(Error::limit("memory_max", bytes, "is less than 64 KiB"));
    }
    if i64::try_from(bytes).is_err() {
        return Err(Error::limit("memory_max", bytes, "is more than i64::MAX"));
    }
    Ok(())
}

fn check_pids(n: u32) -> Result<()> {
    match n {
        0 => Err(Error::limit("pids_max", n, "leaves no room for a process")),
        1..=MOST_PIDS => Ok(()),
        _ => Err(Error::limit("pids_max", n, "is more than 4194304")),
    }
}

fn check_cpu_max(quota: Duration, period: Duration) -> Result<()> {
    let value = || format!("{} {}", quota.as_micros(), period.as_micros());
    if !(SHORTEST..=LONGEST_PERIOD).contains(&period) {
        return Err(Error::limit(
            "cpu_max",
            value(),
            "its period is not within 1 ms and 1 s",
        ));
    }
    if quota < SHORTEST {
        return Err(Error::limit("cpu_max", value(), "its quota is below 1 ms"));
    }
    if quota.as_secs_f64() / period.as_secs_f64() > MOST_CPUS {
        return Err(Error::limit("cpu_max", value(), "is more than 8192 CPUs"));
    }
    Ok(())
}

fn check_cpus(cpus: f64) -> Result<()> {
    // Written so that NaN fails.
    if (0.01..=MOST_CPUS).contains(&cpus) {
        return Ok(());
    }
    Err(Error::limit("cpus", cpus, "is not within 0.01 and 8192"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn rendered(limits: &Limits, version: Version) -> Vec<(&'static str, String)> {
        limits
            .controllers()
            .into_iter()
            .flat_map(|(controller, _)| limits.settings(controller, version))
            .map(|setting| (setting.file, setting.value))
            .collect()
    }

    fn pairs(table: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        table.iter().map(|(f, v)| (*f, (*v).to_owned())).collect()
    }

    #[test]
    fn no_limits_write_nothing_and_need_no_controller() {
        assert!(Limits::new().controllers().is_empty());
        assert!(Limits::default().validate().is_ok());
    }

    #[test]
    fn limits_render_for_v2() {
        let limits = Limits::new().memory_max(67_108_864).pids_max(32).cpus(0.5);
        let expected = [
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("pids.max", "32"),
            ("cpu.max", "50000 100000"),
        ];
        assert_eq!(rendered(&limits, Version::V2), pairs(&expected));
    }

    #[test]
    fn limits_render_for_v1() {
        let limits = Limits::new().memory_max(67_108_864).pids_max(32).cpus(0.5);
        let expected = [
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "67108864"),
            ("pids.max", "32"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
        ];
        assert_eq!(rendered(&limits, Version::V1), pairs(&expected));
    }

    #[test]
    fn only_the_swap_files_may_be_absent() {
        let limits = Limits::new().memory_max(1 << 20).pids_max(1).cpus(1.0);
        for version in [Version::V1, Version::V2] {
            for (controller, _) in limits.controllers() {
                for setting in limits.settings(controller, version) {
                    let swap = setting.file.contains("sw");
                    assert_eq!(setting.if_absent == IfAbsent::Skip, swap, "{setting:?}");
                }
            }
        }
    }

    #[test]
    fn the_last_cpu_limit_holds() {
        let (quota, period) = (Duration::from_millis(5), Duration::from_millis(20));
        let limits = Limits::new().cpus(3.0).cpu_max(quota, period);
        assert_eq!(
            rendered(&limits, Version::V2),
            pairs(&[("cpu.max", "5000 20000")])
        );
        let limits = limits.cpus(0.01);
        assert_eq!(
            rendered(&limits, Version::V2),
            pairs(&[("cpu.max", "1000 100000")])
        );
    }

    #[test]
    fn absurd_limits_are_refused_by_name() {
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        let table = [
            ("memory_max", Limits::new().memory_max(0)),
            ("memory_max", Limits::new().memory_max(65_535)),
            ("memory_max", Limits::new().memory_max(u64::MAX)),
            ("pids_max", Limits::new().pids_max(0)),
            ("pids_max", Limits::new().pids_max(4_194_305)),
            ("cpus", Limits::new().cpus(0.0)),
            ("cpus", Limits::new().cpus(-1.0)),
            ("cpus", Limits::new().cpus(0.009)),
            ("cpus", Limits::new().cpus(f64::NAN)),
            ("cpus", Limits::new().cpus(f64::INFINITY)),
            ("cpu_max", Limits::new().cpu_max(us(999), ms(100))),
            ("cpu_max", Limits::new().cpu_max(ms(1), us(999))),
            ("cpu_max", Limits::new().cpu_max(ms(1), ms(1001))),
            ("cpu_max", Limits::new().cpu_max(Duration::MAX, ms(100))),
        ];
        for (limit, limits) in table {
            let error = limits.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let text = error.to_string();
            assert!(text.starts_with(&format!("limit {limit} ")), "{text}");
        }
    }

    #[test]
    fn the_edges_are_allowed() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let table = [
            Limits::new().memory_max(65_536),
            Limits::new().memory_max(i64::MAX as u64),
            Limits::new().pids_max(1),
            Limits::new().pids_max(4_194_304),
            Limits::new().cpus(0.01),
            Limits::new().cpus(8192.0),
            Limits::new().cpu_max(ms(1), ms(1)),
            Limits::new().cpu_max(s(8192), s(1)),
        ];
        for limits in table {
            assert!(limits.validate().is_ok(), "{limits:?}");
        }
    }
}
