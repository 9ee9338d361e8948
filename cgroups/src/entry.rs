//! The ways of a new process into a cgroup.

use std::os::fd::BorrowedFd;

/// What a new process needs to be in a [`Cgroup`](crate::Cgroup) from its first instruction on.
///
/// `dir` goes to clone3(2) with `CLONE_INTO_CGROUP`; into each of `tasks` the new process itself writes `0` before it
/// executes anything, which moves it there. Both, or it is not in all of the cgroup.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The v2 directory (`O_PATH`). `None` on a machine without cgroup v2.
    #[doc(alias = "CLONE_INTO_CGROUP")]
    pub dir: Option<BorrowedFd<'a>>,
    /// The `tasks` of the v1 directories, open for writing and close-on-exec. Empty on a unified machine.
    ///
    /// The permission to move was checked when they were opened: the new process may have dropped its own. It moves the
    /// thread that writes: a new process has no other, and so waits for nothing, where a write to `cgroup.procs` waits for an
    /// RCU grace period (about 10 ms; before Linux 5.5 both do).
    pub tasks: Vec<BorrowedFd<'a>>,
}
