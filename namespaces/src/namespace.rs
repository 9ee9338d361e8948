//! Which namespaces a program gets of its own.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A kind of namespace, as in namespaces(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Namespace {
    /// Process ids: the program is pid 1 of its own tree, which ends with it.
    #[doc(alias = "CLONE_NEWPID")]
    Pid,
    /// Mounts. Needed for a root of one's own.
    #[doc(alias = "CLONE_NEWNS")]
    Mount,
    /// Host name and domain name.
    #[doc(alias = "CLONE_NEWUTS")]
    Uts,
    /// System V IPC and POSIX message queues.
    #[doc(alias = "CLONE_NEWIPC")]
    Ipc,
    /// Network devices, addresses, routes, ports, abstract sockets.
    #[doc(alias = "CLONE_NEWNET")]
    Net,
    /// User and group ids and capabilities; see [`IdMap`](crate::IdMap).
    #[doc(alias = "CLONE_NEWUSER")]
    User,
    /// The root of the cgroup tree as the program sees it: the cgroup it starts in.
    #[doc(alias = "CLONE_NEWCGROUP")]
    Cgroup,
}

impl Namespace {
    pub(crate) fn clone_flag(self) -> i32 {
        match self {
            Namespace::Pid => libc::CLONE_NEWPID,
            Namespace::Mount => libc::CLONE_NEWNS,
            Namespace::Uts => libc::CLONE_NEWUTS,
            Namespace::Ipc => libc::CLONE_NEWIPC,
            Namespace::Net => libc::CLONE_NEWNET,
            Namespace::User => libc::CLONE_NEWUSER,
            Namespace::Cgroup => libc::CLONE_NEWCGROUP,
        }
    }
}

/// The namespaces a program gets of its own. [`Default`] is a container's: all but the user namespace.
#[derive(Clone, Debug)]
pub struct Namespaces {
    own: i32,
    net: Option<Arc<OwnedFd>>,
}

impl Namespaces {
    /// None: the program shares all with the caller.
    #[must_use]
    pub fn none() -> Self {
        Namespaces { own: 0, net: None }
    }

    /// Also this one.
    #[must_use]
    pub fn with(mut self, namespace: Namespace) -> Self {
        self.own |= namespace.clone_flag();
        self
    }

    /// Not this one: the program shares it with the caller.
    #[must_use]
    pub fn without(mut self, namespace: Namespace) -> Self {
        self.own &= !namespace.clone_flag();
        self
    }

    /// The network namespace behind `fd` instead of a new one, entered by setns(2).
    #[must_use]
    pub fn join_net(mut self, fd: OwnedFd) -> Self {
        self.net = Some(Arc::new(fd));
        self.without(Namespace::Net)
    }

    pub(crate) fn has(&self, namespace: Namespace) -> bool {
        self.own & namespace.clone_flag() != 0
    }

    pub(crate) fn net(&self) -> Option<&OwnedFd> {
        self.net.as_deref()
    }

    /// The flags for clone3(2). The cgroup namespace is not among them: it is made once the process is in its cgroup.
    pub(crate) fn clone_flags(&self) -> i32 {
        self.own & !libc::CLONE_NEWCGROUP
    }
}

impl Default for Namespaces {
    fn default() -> Self {
        use Namespace::{Cgroup, Ipc, Mount, Net, Pid, Uts};
        [Pid, Mount, Uts, Ipc, Net, Cgroup]
            .into_iter()
            .fold(Self::none(), Self::with)
    }
}
