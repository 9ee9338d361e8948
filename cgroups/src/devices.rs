//! Which device nodes the processes of a cgroup may use: plain data; pure.

mod apply;
mod program;
mod rule;
mod v1;

pub(crate) use apply::Filter;
pub(crate) use program::Insn;
pub use rule::{DeviceAccess, DeviceKind, DeviceRule};

use crate::error::{Error, Result};
use program::Program;

/// A device policy: a default, and rules that differ from it.
///
/// For each of reading, writing and mknod the last rule that matches the device and names that access decides; where
/// none does, the default. An open for reading and writing needs both. A rule that matches every device and access
/// replaces the default and all rules before it.
///
/// ```
/// use cofferdam_cgroups::{DeviceAccess, DeviceKind, Devices};
///
/// # fn main() -> cofferdam_cgroups::Result<()> {
/// let devices = Devices::docker_default().rule("allow c 10:229 rwm".parse()?);
/// assert!(devices.allows(DeviceKind::Char, 10, 229, DeviceAccess::READ));
/// assert!(!devices.allows(DeviceKind::Block, 8, 0, DeviceAccess::READ));
/// # Ok(())
/// # }
/// ```
///
/// On a machine with cgroup v2 it becomes an eBPF program attached to the v2 directory (Linux 4.15, with
/// `CONFIG_CGROUP_BPF`), which lives as long as the cgroup and needs `CAP_BPF` and `CAP_NET_ADMIN`, or `CAP_SYS_ADMIN`,
/// in the initial user namespace. Where that cannot be, it is written into `devices.deny` and `devices.allow` of a v1
/// directory. A file that is open already is not looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[doc(alias = "BPF_PROG_TYPE_CGROUP_DEVICE")]
#[must_use]
pub struct Devices {
    default: Action,
    #[cfg_attr(feature = "serde", serde(default))]
    rules: Vec<DeviceRule>,
}

/// What a rule, or the default, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub(crate) enum Action {
    Allow,
    Deny,
}

/// Nine instructions each keep the program below 4096, the most that kernels before 5.2 take.
const MOST_RULES: usize = 400;

/// Docker's list: nodes may be made, and those of every container's `/dev` used.
const DOCKER: [&str; 11] = [
    "allow c *:* m",
    "allow b *:* m",
    "allow c 1:3 rwm",   // null
    "allow c 1:5 rwm",   // zero
    "allow c 1:7 rwm",   // full
    "allow c 1:8 rwm",   // random
    "allow c 1:9 rwm",   // urandom
    "allow c 5:0 rwm",   // tty
    "allow c 5:1 rwm",   // console
    "allow c 5:2 rwm",   // ptmx
    "allow c 136:* rwm", // pts
];

impl Devices {
    /// Denies every device that no rule allows.
    pub fn deny_all() -> Self {
        Devices {
            default: Action::Deny,
            rules: Vec::new(),
        }
    }

    /// Allows every device that no rule denies.
    pub fn allow_all() -> Self {
        Devices {
            default: Action::Allow,
            rules: Vec::new(),
        }
    }

    /// What Docker gives a container that asks for no device: null, zero, full, random, urandom, tty, console, ptmx and
    /// pts, and to make nodes of any sort.
    pub fn docker_default() -> Self {
        let rules = DOCKER.iter().filter_map(|rule| rule.parse().ok());
        Devices::deny_all().rules(rules)
    }

    /// Adds a rule; it goes before those that are there.
    pub fn rule(mut self, rule: DeviceRule) -> Self {
        if rule.is_everything() {
            self.default = rule.action();
            self.rules.clear();
        } else {
            self.rules.push(rule);
        }
        self
    }

    /// Adds rules in turn, as [`Devices::rule`].
    pub fn rules(self, rules: impl IntoIterator<Item = DeviceRule>) -> Self {
        rules.into_iter().fold(self, Devices::rule)
    }

    /// Whether all of `access` to a device is allowed. [`DeviceKind::All`] asks for both kinds.
    #[must_use]
    pub fn allows(&self, kind: DeviceKind, major: u32, minor: u32, access: DeviceAccess) -> bool {
        kind.each().iter().all(|kind| {
            access
                .each()
                .all(|one| self.decide(*kind, major, minor, one))
        })
    }

    /// Checks it. [`Hierarchy::create`](crate::Hierarchy::create) does it before its first change.
    ///
    /// # Errors
    /// `InvalidInput` for more than 400 rules, a rule without any access, or a number that no device has: a major above
    /// 4095, a minor above 1048575.
    pub fn validate(&self) -> Result<()> {
        if self.rules.len() > MOST_RULES {
            let n = self.rules.len();
            return Err(Error::limit("devices", n, "is more than 400 rules"));
        }
        self.rules.iter().try_for_each(DeviceRule::validate)
    }

    /// The eBPF program that applies it in v2, an instruction a line.
    #[must_use]
    pub fn program_text(&self) -> String {
        Program::new(self).to_string()
    }

    fn decide(&self, kind: DeviceKind, major: u32, minor: u32, one: DeviceAccess) -> bool {
        let last = self.rules.iter().rev();
        let action = last
            .filter(|rule| rule.matches(kind, major, minor))
            .find(|rule| rule.access().contains(one))
            .map_or(self.default, |rule| rule.action());
        action == Action::Allow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_names_the_access_decides() {
        let devices = Devices::deny_all()
            .rule("c *:* rm".parse().unwrap())
            .rule("deny c 1:3 r".parse().unwrap())
            .rule("allow c 1:3 w".parse().unwrap());
        let allows = |minor, access| devices.allows(DeviceKind::Char, 1, minor, access);
        assert!(allows(5, DeviceAccess::READ));
        assert!(!allows(5, DeviceAccess::WRITE));
        assert!(!allows(3, DeviceAccess::READ));
        assert!(allows(3, DeviceAccess::WRITE | DeviceAccess::MKNOD));
        assert!(!allows(3, DeviceAccess::ALL));
        assert!(!devices.allows(DeviceKind::Block, 1, 5, DeviceAccess::READ));
        assert!(!devices.allows(DeviceKind::All, 1, 5, DeviceAccess::READ));
    }

    #[test]
    fn a_rule_for_everything_replaces_what_is_before_it() {
        let devices = Devices::deny_all()
            .rule("c 1:3 rwm".parse().unwrap())
            .rule("allow a *:* rwm".parse().unwrap())
            .rule("deny b *:* w".parse().unwrap());
        assert_eq!(devices.rules.len(), 1);
        assert!(devices.allows(DeviceKind::Char, 9, 9, DeviceAccess::ALL));
        assert!(!devices.allows(DeviceKind::Block, 8, 0, DeviceAccess::ALL));
    }

    #[test]
    fn docker_s_list_is_whole() {
        let devices = Devices::docker_default();
        assert_eq!(devices.rules.len(), DOCKER.len());
        assert!(devices.validate().is_ok());
        assert!(devices.allows(DeviceKind::Char, 136, 77, DeviceAccess::ALL));
        assert!(devices.allows(DeviceKind::Block, 8, 0, DeviceAccess::MKNOD));
        assert!(!devices.allows(DeviceKind::Block, 8, 0, DeviceAccess::READ));
        assert!(!devices.allows(DeviceKind::Char, 10, 229, DeviceAccess::READ));
        assert!(!devices.allows(DeviceKind::Char, 1, 1, DeviceAccess::READ));
    }

    #[test]
    fn too_many_rules_are_refused() {
        let rule: DeviceRule = "c 1:3 rwm".parse().unwrap();
        let most = Devices::deny_all().rules(vec![rule.clone(); MOST_RULES]);
        assert!(most.validate().is_ok());
        let error = most.rule(rule).validate().unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
    }
}
