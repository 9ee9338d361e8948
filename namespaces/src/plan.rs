//! In which steps a program gets its namespaces.

use crate::command::Command;
use crate::namespace::Namespace;

/// Most namespaces are made by clone3(2) at once. What is made after others were joined, and what only a process's children
/// get, needs more steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Flags for the clone3(2) of the first stage.
    pub(crate) at_clone: i32,
    /// Flags for unshare(2) in the stub.
    pub(crate) unshare: i32,
    /// A user namespace is among those, so its id map comes late.
    pub(crate) late_user: bool,
    /// Flags of a second process that is in namespaces which the first only made or joined.
    pub(crate) second: Option<i32>,
    /// That comes once it has no more rights than the program: those whose pid namespace it joins may be hostile, and can
    /// trace it, if they have `CAP_SYS_PTRACE`. With mounts of its own it cannot be: a procfs belongs to who makes it.
    pub(crate) second_is_late: bool,
    /// The number of a mount namespace with next to nothing in it, to be copied instead of the caller's.
    pub(crate) minimal_mounts: Option<i32>,
}

impl Plan {
    pub(crate) fn new(command: &Command) -> Self {
        let namespaces = &command.namespaces;
        let mut own = namespaces.own();
        if command.owns_user_namespace() {
            own |= libc::CLONE_NEWUSER;
        }
        let joins = !namespaces.joined().is_empty();
        // A new user namespace has no rights over those that are joined; a joined one owns what is made in it.
        let late_user = joins && own & libc::CLONE_NEWUSER != 0;
        let late = late_user || namespaces.joins(Namespace::User);
        // The cgroup namespace is made once the process is in its cgroup.
        let always_later = libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME;
        let mut at_clone = if late { 0 } else { own & !always_later };
        let mut unshare = own & !at_clone;
        let second = namespaces.joins(Namespace::Pid)
            || unshare & (libc::CLONE_NEWPID | libc::CLONE_NEWTIME) != 0;
        let mut flags = 0;
        if second {
            // Its first process is the second one here.
            flags = own & libc::CLONE_NEWPID;
            at_clone &= !libc::CLONE_NEWPID;
            unshare &= !libc::CLONE_NEWPID;
        }
        Plan {
            at_clone,
            unshare,
            late_user,
            second: second.then_some(flags),
            second_is_late: namespaces.joins(Namespace::Pid) && command.root.is_none(),
            minimal_mounts: None,
        }
    }

    /// Has the mount namespace made from the one at this number instead of the caller's.
    pub(crate) fn copy_minimal(&mut self, number: i32) {
        self.at_clone &= !libc::CLONE_NEWNS;
        self.unshare |= libc::CLONE_NEWNS;
        self.minimal_mounts = Some(number);
    }

    /// Whether the stub has something to say to the caller beside its errors.
    pub(crate) fn talks(&self) -> bool {
        self.late_user || self.second.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::IdMap;
    use crate::namespace::{Clock, Namespaces};
    use std::os::fd::OwnedFd;

    fn plan(namespaces: Namespaces) -> Plan {
        Plan::new(&Command::new("a").namespaces(namespaces))
    }

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("null").into()
    }

    const CLONED: i32 = libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET;

    #[test]
    fn a_container_is_one_clone_and_its_cgroup_namespace() {
        let plan = plan(Namespaces::default());
        assert_eq!(plan.at_clone, CLONED);
        assert_eq!(plan.unshare, libc::CLONE_NEWCGROUP);
        assert_eq!(plan.second, None);
        assert!(!plan.talks());
    }

    #[test]
    fn who_joins_a_pid_namespace_needs_a_second_process() {
        let plan = plan(Namespaces::none().join(Namespace::Pid, fd()));
        assert_eq!((plan.at_clone, plan.second), (0, Some(0)));
        assert!(plan.talks());
    }

    #[test]
    fn the_second_process_is_the_first_of_a_pid_namespace_whose_clocks_are_shifted() {
        let plan = plan(Namespaces::default().clock_offset(Clock::Boottime, 1, 0));
        assert_eq!(plan.at_clone, CLONED & !libc::CLONE_NEWPID);
        assert_eq!(plan.unshare, libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME);
        assert_eq!(plan.second, Some(libc::CLONE_NEWPID));
    }

    #[test]
    fn a_user_namespace_comes_after_what_is_joined() {
        let namespaces = Namespaces::default().join(Namespace::Net, fd());
        let plan = Plan::new(
            &Command::new("a")
                .namespaces(namespaces)
                .id_map(IdMap::current_user()),
        );
        assert_eq!(plan.at_clone, 0);
        assert!(plan.late_user && plan.unshare & libc::CLONE_NEWUSER != 0);
        assert_eq!(plan.second, Some(libc::CLONE_NEWPID));
    }
}
