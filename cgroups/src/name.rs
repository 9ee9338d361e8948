//! The name of a cgroup, parsed once.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The name of one cgroup: a directory name that cannot leave its parent and cannot be one of the kernel's files.
///
/// At most 255 bytes, no `/`, no control character, not `.` or `..`, not `tasks` and the like, and not beginning
/// with a controller's name and a dot (`memory.`, `cgroup.`): the kernel puts its files beside the child cgroups, and
/// a later kernel may have a file that today's has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupName(String);

/// What the kernel's own files begin with.
const RESERVED_PREFIXES: [&str; 18] = [
    "blkio.",
    "cgroup.",
    "cpu.",
    "cpuacct.",
    "cpuset.",
    "debug.",
    "devices.",
    "dmem.",
    "freezer.",
    "hugetlb.",
    "io.",
    "irq.",
    "memory.",
    "misc.",
    "net_cls.",
    "net_prio.",
    "pids.",
    "rdma.",
];

/// Files of v1 without a prefix.
const RESERVED: [&str; 3] = ["tasks", "notify_on_release", "release_agent"];

impl CgroupName {
    /// Parses a name.
    ///
    /// # Errors
    /// `InvalidInput` if it breaks one of the rules above.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        match fault(&name) {
            Some(reason) => Err(Error::name(&name, reason)),
            None => Ok(CgroupName(name)),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CgroupName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        CgroupName::new(name)
    }
}

impl AsRef<str> for CgroupName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CgroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.len() > 255 {
        return Some("is longer than 255 bytes");
    }
    if name == "." || name == ".." {
        return Some("means another directory");
    }
    if name.contains('/') {
        return Some("contains '/'");
    }
    if name.contains(|c: char| c.is_ascii_control()) {
        return Some("contains a control character");
    }
    let reserved = RESERVED.contains(&name)
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix));
    reserved.then_some("is kept for the kernel's own files")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names_that_could_leave_the_parent_or_hide_a_kernel_file_are_refused() {
        let long = "x".repeat(256);
        let bad = [
            "",
            ".",
            "..",
            "/",
            "a/b",
            "../../tmp/x",
            "/foo",
            "a\nb",
            "a\0b",
            "tasks",
            "memory.max",
            "cgroup.procs",
            "cpu.x",
            "misc.",
            &long,
        ];
        for name in bad {
            let error = CgroupName::new(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}");
            assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn ordinary_names_are_kept_as_they_are() {
        let long = "x".repeat(255);
        for name in [
            "a",
            "web-1",
            "memory",
            "app.slice",
            "...",
            ".hidden",
            "gr\u{fc}n x",
            &long,
        ] {
            assert_eq!(name.parse::<CgroupName>().unwrap().as_str(), name);
        }
    }
}
