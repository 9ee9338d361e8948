//! Filesystems by which the kernel tells about itself.

/// Options of the procfs on `/proc`, as in proc(5).
///
/// ```
/// use cofferdam_namespaces::{HidePid, Proc, RootFs};
///
/// let proc = Proc::new().hidepid(HidePid::Invisible).subset_pid();
/// let root = RootFs::directory("/srv/debian").proc(proc);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Proc {
    hidepid: Option<HidePid>,
    gid: Option<u32>,
    subset_pid: bool,
}

/// Whose processes a user sees in `/proc`: the mount option `hidepid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HidePid {
    /// Everybody's: `hidepid=0`.
    Off,
    /// Everybody's, but nothing in the directories of others': `hidepid=1`.
    NoAccess,
    /// One's own: `hidepid=2`.
    Invisible,
    /// Those one may ptrace(2): `hidepid=4`. Linux 5.8; an error before.
    Ptraceable,
}

impl Proc {
    /// As the kernel has it without options.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a user sees of others' processes.
    pub fn hidepid(mut self, hidepid: HidePid) -> Self {
        self.hidepid = Some(hidepid);
        self
    }

    /// The group, as its user namespace counts, to whose members [`hidepid`](Self::hidepid) hides nothing.
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// Only the directories of processes: `subset=pid`. No `/proc/sys`, `/proc/meminfo` and the like. Linux 5.8; an error
    /// before.
    pub fn subset_pid(mut self) -> Self {
        self.subset_pid = true;
        self
    }

    pub(crate) fn has_sys(&self) -> bool {
        !self.subset_pid
    }

    /// For fsconfig(2).
    pub(crate) fn options(&self) -> Vec<(&'static str, String)> {
        let hidepid = self.hidepid.map(|hidepid| match hidepid {
            HidePid::Off => "0",
            HidePid::NoAccess => "1",
            HidePid::Invisible => "2",
            HidePid::Ptraceable => "4",
        });
        let hidepid = hidepid.map(|value| ("hidepid", value.to_owned()));
        let gid = self.gid.map(|gid| ("gid", gid.to_string()));
        let subset = self.subset_pid.then(|| ("subset", "pid".to_owned()));
        [hidepid, gid, subset].into_iter().flatten().collect()
    }
}

/// A filesystem of the kernel's that is mounted as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Cgroup2,
    Devpts,
    Mqueue,
}

impl Kernel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kernel::Cgroup2 => "cgroup2",
            Kernel::Devpts => "devpts",
            Kernel::Mqueue => "mqueue",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_what_was_set() {
        assert_eq!(Proc::new().options(), []);
        let all = Proc::new().hidepid(HidePid::Ptraceable).gid(7).subset_pid();
        let expected = [("hidepid", "4"), ("gid", "7"), ("subset", "pid")];
        let expected = expected.map(|(key, value)| (key, value.to_owned()));
        assert_eq!(all.options(), expected);
    }
}
