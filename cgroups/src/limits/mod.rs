//! What is asked for: plain data that renders to kernel text; pure.

mod cpu;
mod cpuset;
mod dmem;
mod hugetlb;
mod io;
mod max;
mod memory;
mod misc;
mod pids;
mod rdma;
mod read;
#[cfg(feature = "serde")]
mod serial;
mod setting;
#[cfg(test)]
mod table;
mod unified;

pub use cpuset::{CpuSet, Partition};
pub use hugetlb::HugePage;
pub use io::IoMax;
pub use max::Max;
pub(crate) use read::Files;
pub(crate) use setting::{IfAbsent, Old, Rendering, Setting};

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
///
/// A limit is spelled as the v2 file it is written to. On a machine where v1 has the controller it is written to the v1
/// file that means the same; what v1 cannot say is [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming
/// the limit, before anything is changed. [`Limits::settings_v2`] and [`Limits::settings_v1`] tell what would be
/// written.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[must_use]
pub struct Limits {
    memory: memory::Memory,
    pids: pids::Pids,
    cpu: cpu::Cpu,
    cpuset: cpuset::Cpuset,
    io: io::Io,
    hugetlb: hugetlb::Hugetlb,
    rdma: rdma::Rdma,
    misc: misc::Misc,
    dmem: dmem::Dmem,
    unified: unified::Unified,
    devices: Option<Devices>,
    best_effort: bool,
}

impl Limits {
    /// No limits.
    pub fn new() -> Self {
        Limits::default()
    }

    /// Leaves out what the machine cannot apply, instead of failing: a controller or a file it has not, what v1 cannot
    /// say. What was left out is listed by [`Cgroup::skipped`](crate::Cgroup::skipped), or returned by
    /// [`Cgroup::update`](crate::Cgroup::update). Values that cannot be and missing permission stay errors.
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
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
    /// memory below 64 KiB (a page, on some machines), any number of bytes above `i64::MAX`; pids 0 or above 4194304; a
    /// CPU number that is not a number or not within 0.01..=8192; a quota below 1 ms or a period outside of 1 ms..=1 s; a
    /// burst above the quota; a weight outside of 1..=10000, a nice value outside of -20..=19, a percentage outside of
    /// 0..=100; an OCI total of memory and swap below the memory or without it; an OCI block weight outside of 10..=1000;
    /// an [`IoMax`] with a 0 or with nothing in it; names of devices and resources with a space in them; a raw file that
    /// is not one of a controller; devices as by [`Devices::validate`].
    pub fn validate(&self) -> Result<()> {
        self.memory.validate()?;
        self.pids.validate()?;
        self.cpu.validate()?;
        self.io.validate()?;
        self.hugetlb.validate()?;
        self.rdma.validate()?;
        self.misc.validate()?;
        self.dmem.validate()?;
        self.devices.as_ref().map_or(Ok(()), Devices::validate)?;
        self.unified.validate()
    }

    /// What would be written to a v2 cgroup: file and text, in this order. It does not check the values.
    #[must_use]
    pub fn settings_v2(&self) -> Vec<(String, String)> {
        pairs(self.all(Version::V2).settings)
    }

    /// What would be written to the v1 cgroups: file and text, in this order. It does not check the values.
    ///
    /// # Errors
    /// `Unsupported` naming the first limit that v1 cannot say.
    pub fn settings_v1(&self) -> Result<Vec<(String, String)>> {
        let rendering = self.all(Version::V1);
        match rendering.refused.first() {
            Some(refused) => Err(Error::unsayable(refused.limit, refused.reason)),
            None => Ok(pairs(rendering.settings)),
        }
    }

    /// These are no controller's on v2.
    pub(crate) fn device_policy(&self) -> Option<&Devices> {
        self.devices.as_ref()
    }

    pub(crate) fn is_best_effort(&self) -> bool {
        self.best_effort
    }

    /// The controllers these limits need.
    pub(crate) fn controllers(&self) -> Vec<Controller> {
        let mut needed = Controller::LIMITING.to_vec();
        // v2 can say all of it.
        needed.retain(|controller| !self.render(*controller, Version::V2).settings.is_empty());
        needed
    }

    /// The names of its limits of one controller, each once.
    pub(crate) fn names(&self, controller: Controller) -> Vec<&'static str> {
        let mut names = Vec::new();
        for setting in self.render(controller, Version::V2).settings {
            if !names.contains(&setting.limit) {
                names.push(setting.limit);
            }
        }
        names
    }

    /// What to write for one controller.
    pub(crate) fn render(&self, controller: Controller, version: Version) -> Rendering {
        let mut out = Rendering::default();
        match controller {
            Controller::Memory => self.memory.render(version, &mut out),
            Controller::Pids => self.pids.render(&mut out),
            Controller::Cpu => self.cpu.render(version, &mut out),
            Controller::Cpuset => self.cpuset.render(version, &mut out),
            Controller::Io => self.io.render(version, &mut out),
            Controller::Hugetlb => self.hugetlb.render(version, &mut out),
            Controller::Rdma => self.rdma.render(&mut out),
            Controller::Misc => self.misc.render(&mut out),
            Controller::Dmem => self.dmem.render(&mut out),
            Controller::Cpuacct | Controller::Devices | Controller::Freezer => {}
        }
        self.unified.render(controller, version, &mut out);
        out
    }

    fn all(&self, version: Version) -> Rendering {
        let mut all = Rendering::default();
        for controller in Controller::LIMITING {
            let one = self.render(controller, version);
            all.settings.extend(one.settings);
            all.refused.extend(one.refused);
        }
        all
    }
}

fn pairs(settings: Vec<Setting>) -> Vec<(String, String)> {
    settings
        .into_iter()
        .map(|setting| (setting.file.into_owned(), setting.value))
        .collect()
}

/// Puts in a value for a key; it replaces one that is there.
fn put<K: PartialEq, V>(entries: &mut Vec<(K, V)>, key: K, value: V) {
    entries.retain(|(known, _)| *known != key);
    entries.push((key, value));
}

/// Names in the kernel's lines: of devices, regions, resources.
fn check_word(limit: &'static str, word: &str) -> Result<()> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    if !word.is_empty() && word.len() <= 255 && word.chars().all(plain) {
        return Ok(());
    }
    let reason = "is not a name of 1 to 255 bytes without a space in it";
    Err(Error::limit(limit, format_args!("{word:?}"), reason))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ErrorKind;

    fn rendered(limits: &Limits, version: Version) -> Vec<(String, String)> {
        limits
            .controllers()
            .into_iter()
            .flat_map(|controller| limits.render(controller, version).settings)
            .map(|setting| (setting.file.into_owned(), setting.value))
            .collect()
    }

    fn pairs(table: &[(&str, &str)]) -> Vec<(String, String)> {
        table
            .iter()
            .map(|(f, v)| ((*f).to_owned(), (*v).to_owned()))
            .collect()
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
            ("memory.swap.max", "0"),
            ("memory.max", "67108864"),
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
            for controller in limits.controllers() {
                for setting in limits.render(controller, version).settings {
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
            // To render it is no panic all the same.
            assert!(!limits.settings_v2().is_empty());
            assert!(limits.settings_v1().is_ok());
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
