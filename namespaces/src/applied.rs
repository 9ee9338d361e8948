//! Which of several ways a start took.

/// How a program came to be where it is. For most starts this is what [`Default`] gives; another kernel, or a sandbox around
/// the caller, has other ways taken, and what cannot be had in any way is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// The call that made the process.
    pub clone: CloneCall,
    /// Where the stub was executed from.
    pub stub: StubFile,
    /// How it came into its cgroup, where [`Command::cgroup`](crate::Command::cgroup) asked for one.
    pub cgroup: CgroupEntry,
    /// What its mount namespace was copied from.
    pub mounts: MountOrigin,
    /// What Landlock enforces, where it was asked for.
    #[cfg(feature = "landlock")]
    #[cfg_attr(docsrs, doc(cfg(feature = "landlock")))]
    pub landlock: Option<crate::landlock::Enforced>,
}

/// The call that makes a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloneCall {
    /// clone3(2).
    #[default]
    Clone3,
    /// clone(2), where clone3(2) is missing: Docker's seccomp profile around the caller is the usual reason.
    Clone,
}

/// Where the stub is executed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StubFile {
    /// A sealed memfd.
    #[default]
    Memfd,
    /// A file of a tmpfs that is mounted nowhere, where a memfd cannot be executed (`vm.memfd_noexec`).
    Tmpfs,
    /// A file without a name below `/tmp` or `/var/tmp`, for a caller that cannot mount a tmpfs either.
    Unnamed,
}

/// How a process comes into a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CgroupEntry {
    /// It stayed in its parent's, unless files were given by [`Command::cgroup_procs`](crate::Command::cgroup_procs).
    #[default]
    None,
    /// Born there, by `CLONE_INTO_CGROUP`.
    Born,
    /// By a write to `cgroup.procs` before anything else, where clone3(2) is missing.
    Written,
}

/// What a mount namespace is copied from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MountOrigin {
    /// There is none of its own.
    #[default]
    Shared,
    /// From the caller's, at a cost that grows with the number of its mounts.
    Caller,
    /// From one with a single mount, which the library keeps for this: the number of the caller's mounts does not matter.
    Minimal,
}
