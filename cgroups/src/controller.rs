//! The controllers this crate sets limits through.

use std::fmt;

/// A kernel controller, by the name it has in `cgroup.controllers` and in v1 mount options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Cpu,
    /// Of v1 only, and without limits: it counts.
    Cpuacct,
    Cpuset,
    /// Of v1 only: in v2 devices are filtered by eBPF.
    Devices,
    Dmem,
    /// Of v1 only, and without limits: it holds processes still while they are killed.
    Freezer,
    Hugetlb,
    /// `blkio` in v1.
    Io,
    Memory,
    Misc,
    Pids,
    Rdma,
}

impl Controller {
    const ALL: [Controller; 12] = [
        Controller::Cpu,
        Controller::Cpuacct,
        Controller::Cpuset,
        Controller::Devices,
        Controller::Dmem,
        Controller::Freezer,
        Controller::Hugetlb,
        Controller::Io,
        Controller::Memory,
        Controller::Misc,
        Controller::Pids,
        Controller::Rdma,
    ];

    /// Those that have limits, in the order in which these are written.
    pub(crate) const LIMITING: [Controller; 9] = [
        Controller::Memory,
        Controller::Pids,
        Controller::Cpu,
        Controller::Cpuset,
        Controller::Io,
        Controller::Hugetlb,
        Controller::Rdma,
        Controller::Misc,
        Controller::Dmem,
    ];

    /// By its name of v2 or of v1.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.name() == name || known.v1_name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Cpuset => "cpuset",
            Controller::Devices => "devices",
            Controller::Dmem => "dmem",
            Controller::Freezer => "freezer",
            Controller::Hugetlb => "hugetlb",
            Controller::Io => "io",
            Controller::Memory => "memory",
            Controller::Misc => "misc",
            Controller::Pids => "pids",
            Controller::Rdma => "rdma",
        }
    }

    /// Its name in v1 mount options and `/proc/<pid>/cgroup`.
    pub(crate) fn v1_name(self) -> &'static str {
        match self {
            Controller::Io => "blkio",
            other => other.name(),
        }
    }

    /// A file that every v1 cgroup below the root has with this controller.
    pub(crate) fn v1_file(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu.shares",
            Controller::Cpuacct => "cpuacct.usage",
            Controller::Cpuset => "cpuset.cpus",
            Controller::Devices => "devices.list",
            Controller::Dmem => "dmem.max",
            Controller::Freezer => "freezer.state",
            Controller::Hugetlb => "hugetlb.2MB.limit_in_bytes",
            Controller::Io => "blkio.reset_stats",
            Controller::Memory => "memory.limit_in_bytes",
            Controller::Misc => "misc.max",
            Controller::Pids => "pids.max",
            Controller::Rdma => "rdma.max",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which interface a hierarchy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_controller_and_io_has_two() {
        for controller in Controller::ALL {
            assert_eq!(Controller::from_name(controller.name()), Some(controller));
        }
        assert_eq!(Controller::from_name("blkio"), Some(Controller::Io));
        assert_eq!(Controller::Io.v1_name(), "blkio");
        assert_eq!(Controller::from_name("perf_event"), None);
    }
}
