//! The network namespace a handle was opened in, and work in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::Failure;

/// A network namespace, held open.
#[derive(Debug)]
pub(crate) struct NetNs(File);

impl NetNs {
    const PATH: &str = "/proc/thread-self/ns/net";

    pub(crate) fn of_this_thread() -> Result<Self, Failure> {
        let open = |error: io::Error| Failure::call(format_args!("open {}", Self::PATH), &error);
        File::open(Self::PATH).map(NetNs).map_err(open)
    }

    pub(crate) fn of_fd(fd: impl AsFd) -> io::Result<Self> {
        let fd: OwnedFd = fd.as_fd().try_clone_to_owned()?;
        Ok(NetNs(File::from(fd)))
    }

    /// Runs `work` in it: here if this thread is in it already, else on a thread that enters it and ends.
    pub(crate) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        if self.is_here()? {
            return work();
        }
        thread::scope(|scope| {
            let entered = thread::Builder::new().spawn_scoped(scope, || {
                self.enter()?;
                work()
            })?;
            entered
                .join()
                .unwrap_or_else(|_panic| Err(io::Error::other("a thread panicked")))
        })
    }

    /// Moves the calling thread into it, by setns(2), unless it is there: for threads that are ours only.
    pub(crate) fn enter(&self) -> io::Result<()> {
        match self.is_here()? {
            true => Ok(()),
            false => Ok(move_into_link_name_space(
                self.0.as_fd(),
                Some(LinkNameSpaceType::Network),
            )?),
        }
    }

    fn is_here(&self) -> io::Result<bool> {
        let (here, there) = (fs::metadata(Self::PATH)?, self.0.metadata()?);
        Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
    }
}
