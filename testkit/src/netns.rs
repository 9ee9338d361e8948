//! Namespaces for tests, entered only by threads that are thrown away.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::sys;

/// A network namespace with its loopback up. It ends with the last fd, socket or process in it.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// Makes one, by unshare(2) on a thread that ends here.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "it makes something in the kernel"
    )]
    pub fn new() -> Self {
        let fd = thrown_away(|| {
            sys::unshare(UnshareFlags::NEWNET).expect("unshare(CLONE_NEWNET)");
            sys::loopback_up().expect("lo up");
            OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("/proc/thread-self/ns/net"))
        });
        NetNs { fd }
    }

    /// Runs `work` inside it, on a thread that ends with the work.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thrown_away(|| {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("setns");
            work()
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `work` in a mount namespace of its own whose changes reach no other, on a thread that ends with the work.
pub fn in_mount_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thrown_away(|| {
        sys::unshare(UnshareFlags::NEWNS).expect("unshare(CLONE_NEWNS)");
        sys::make_private().expect("mount --make-rprivate /");
        work()
    })
}

/// Runs `work` on a thread named like the test, so that a message of it names the test, and passes its panic on.
fn thrown_away<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let name = thread::current().name().unwrap_or("main").to_owned();
    thread::scope(|scope| {
        let handle = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, work)
            .expect("spawn a thread");
        handle
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
