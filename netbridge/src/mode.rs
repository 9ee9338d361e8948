//! Which network namespace a container lives in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::fstatfs;

use crate::error::{Error, Result};
use crate::netns::NetNs;
use crate::sys;

/// Which network namespace a container lives in, for whoever lets a user choose. [`NetworkMode::open`] gives it.
///
/// Only the namespace: what a container of [`NetworkMode::None`] is attached to afterwards, if anything, is up to
/// [`Bridge::attach`](crate::Bridge::attach), [`Macvlan::attach`](crate::Macvlan::attach) and
/// [`Ipvlan::attach`](crate::Ipvlan::attach), and may be several of them.
///
/// ```no_run
/// use cofferdam_netbridge::NetworkMode;
///
/// match NetworkMode::None.open()? {
///     Some(netns) => { /* give its fd to the container, attach networks to it */ drop(netns) }
///     None => { /* the container stays where the caller is */ }
/// }
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum NetworkMode {
    /// The caller's own: no namespace is made, and nothing is attached.
    ///
    /// The container has the host's addresses and ports, sees its traffic where it has `CAP_NET_RAW`, and reaches what
    /// listens on the host's loopback, and the abstract Unix sockets of the host. It is for programs that one trusts as
    /// one does the host's.
    Host,
    /// One of its own with nothing but a loopback, which is up.
    #[default]
    None,
    /// That of another container, by an fd of it: both have the same links, addresses, ports and loopback. It lives as
    /// long as any of them.
    Container(OwnedFd),
}

impl NetworkMode {
    /// Makes the namespace, or takes the one given; none is of the [host](NetworkMode::Host).
    ///
    /// # Errors
    /// `InvalidInput` for an fd that is not of a network namespace; else as [`NetNs::new`].
    pub fn open(self) -> Result<Option<NetNs>> {
        match self {
            NetworkMode::Host => Ok(None),
            NetworkMode::None => NetNs::new().map(Some),
            NetworkMode::Container(fd) => {
                check(fd.as_fd())?;
                Ok(Some(NetNs::from(fd)))
            }
        }
    }
}

/// Whether an fd is of a network namespace: a file of nsfs for which the ioctl `NS_GET_NSTYPE` says `CLONE_NEWNET`.
pub(crate) fn check(fd: BorrowedFd<'_>) -> Result<()> {
    /// `include/uapi/linux/magic.h`
    const NSFS_MAGIC: u32 = 0x6e73_6673;
    const WHAT: &str = "take the network namespace of a container";
    let filesystem = fstatfs(fd).map_err(|errno| Error::sys(WHAT, errno))?.f_type;
    // Before the ioctl, whose number may mean anything to another file.
    if filesystem as u64 != u64::from(NSFS_MAGIC) {
        return Err(Error::invalid(WHAT, "the fd is not of a namespace"));
    }
    let kind = sys::namespace_type(fd).map_err(|errno| Error::sys(WHAT, errno))?;
    if kind != libc::CLONE_NEWNET {
        return Err(Error::invalid(
            WHAT,
            "the fd is of a namespace of another type",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn only_a_network_namespace_is_taken() {
        let take = |path: &str| {
            let fd = OwnedFd::from(File::open(path).unwrap());
            NetworkMode::Container(fd).open()
        };
        assert!(take("/proc/thread-self/ns/net").unwrap().is_some());
        for (path, why) in [
            ("/dev/null", "not of a namespace"),
            ("/proc/self/status", "not of a namespace"),
            ("/proc/self/ns/uts", "of another type"),
            ("/proc/self/ns/user", "of another type"),
        ] {
            let error = take(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path}");
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn the_fd_given_is_the_one_taken() {
        let fd = OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap());
        let raw = fd.as_raw_fd();
        let netns = NetworkMode::Container(fd).open().unwrap().unwrap();
        assert_eq!(netns.as_fd().as_raw_fd(), raw);
        assert!(NetworkMode::Host.open().unwrap().is_none());
    }
}
