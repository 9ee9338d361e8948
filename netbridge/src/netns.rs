//! Network namespaces, entered only by threads that are thrown away.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Error, Result};
use crate::link::loopback_up;
use crate::sys;

/// A network namespace, held by an fd.
///
/// It lives as long as an fd of it, a socket or a process in it. Dropping the last of them returns at once; the kernel
/// takes the namespace down a little later (tens of milliseconds), and with it every link inside, and the far end of
/// every veth pair.
///
/// ```no_run
/// use std::net::UdpSocket;
/// use cofferdam_netbridge::NetNs;
///
/// let netns = NetNs::new()?;
/// let socket = netns.run(|| UdpSocket::bind("127.0.0.1:53"))??;   // lives on in the namespace, used from any thread
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a NetNs nobody holds ends"]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// Makes one with its loopback up, by unshare(2) on a thread that ends here.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN`; `NotFound` without `/proc`.
    #[doc(alias = "CLONE_NEWNET")]
    #[doc(alias = "unshare")]
    pub fn new() -> Result<Self> {
        thrown_away(|| {
            sys::unshare_network()
                .map_err(|errno| Error::sys("unshare a network namespace", errno))?;
            loopback_up()?;
            NetNs::of_caller()
        })?
    }

    /// The one the calling thread is in, by opening `/proc/thread-self/ns/net`.
    ///
    /// # Errors
    /// `NotFound` without `/proc`.
    pub fn of_caller() -> Result<Self> {
        const PATH: &str = "/proc/thread-self/ns/net";
        let file = File::open(PATH).map_err(|error| Error::sys(format!("open {PATH}"), error))?;
        Ok(NetNs { fd: file.into() })
    }

    /// Runs `work` inside, by setns(2) on a thread that ends with the work.
    ///
    /// This is how to open sockets inside: a socket stays in the namespace it was made in and may be used from any
    /// thread. A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN`; `InvalidInput` where the fd is not of a network namespace.
    #[doc(alias = "setns")]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        run_in(self.fd.as_fd(), work)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for NetNs {
    /// Takes an fd of `/proc/<pid>/ns/net` or alike. A wrong fd shows in the first call that enters it.
    fn from(fd: OwnedFd) -> Self {
        NetNs { fd }
    }
}

impl From<NetNs> for OwnedFd {
    fn from(netns: NetNs) -> Self {
        netns.fd
    }
}

/// Runs `work` in the namespace of `netns`, on a thread that ends with the work.
pub(crate) fn run_in<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    thrown_away(|| {
        enter_for_good(netns)?;
        Ok(work())
    })?
}

/// Moves the calling thread, which is thrown away, by setns(2).
pub(crate) fn enter_for_good(netns: BorrowedFd<'_>) -> Result<()> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
        .map_err(|errno| Error::sys("enter a network namespace", errno))
}

/// Runs `work` on a thread named like the caller's, and passes its panic on.
fn thrown_away<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let builder = match thread::current().name() {
            Some(name) => thread::Builder::new().name(name.to_owned()),
            None => thread::Builder::new(),
        };
        let handle = builder
            .spawn_scoped(scope, work)
            .map_err(|error| Error::sys("start a thread", error))?;
        match handle.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
