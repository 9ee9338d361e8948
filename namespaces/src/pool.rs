//! Network namespaces made before they are needed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::sys;

/// A few network namespaces that are ready, for those who start many containers one after the other: to make one takes the
/// kernel 0.4 ms of a start's millisecond, to join one takes microseconds.
///
/// A thread of its own makes them, one at a time, whenever fewer are ready than the pool holds; each has its loopback up and is
/// otherwise empty. Dropping the pool ends the thread, and the namespaces that nobody took.
///
/// ```no_run
/// use cofferdam_namespaces::{Command, Namespace, Namespaces, NetPool};
///
/// let pool = NetPool::new(4)?;
/// let namespaces = Namespaces::default().join(Namespace::Net, pool.take()?);
/// let running = Command::new("/bin/true").namespaces(namespaces).spawn()?;
/// # drop(running);
/// # Ok::<(), cofferdam_namespaces::Error>(())
/// ```
#[derive(Debug)]
pub struct NetPool {
    ready: Mutex<Ready>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Ready {
    /// The one that showed that they can be made.
    first: Option<OwnedFd>,
    /// Gone only while the pool is dropped.
    others: Option<Receiver<Result<OwnedFd>>>,
}

impl NetPool {
    /// A pool that keeps `size` namespaces ready, two at least. Returns once the first is, by unshare(2).
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN`.
    pub fn new(size: usize) -> Result<Self> {
        // One is the first, and one waits in the thread's hands.
        let (give, others) = sync_channel(size.saturating_sub(2));
        let thread = std::thread::Builder::new().name("cofferdam-netns".into());
        let thread = thread
            .spawn(move || while give.send(make()).is_ok() {})
            .map_err(Error::sys("start a thread"))?;
        let (first, others) = (None, Some(others));
        let pool = NetPool {
            ready: Mutex::new(Ready { first, others }),
            thread: Some(thread),
        };
        let first = pool.take()?;
        pool.ready().first = Some(first);
        Ok(pool)
    }

    /// One that nobody else has, waited for if none is ready. It lives as long as this fd, or a process in it.
    ///
    /// # Errors
    /// `Os` (`ENOSPC`) and others, if the kernel gives no more of them.
    pub fn take(&self) -> Result<OwnedFd> {
        let mut ready = self.ready();
        if let Some(first) = ready.first.take() {
            return Ok(first);
        }
        match ready.others.as_ref().map(Receiver::recv) {
            Some(Ok(made)) => made,
            Some(Err(_)) | None => Err(gone()),
        }
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NetPool {
    fn drop(&mut self) {
        self.ready().others = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join().is_ok();
        }
    }
}

/// Leaves the calling thread in the new namespace.
fn make() -> Result<OwnedFd> {
    sys::unshare_net().map_err(Error::sys("unshare the network namespace"))?;
    let path = "/proc/thread-self/ns/net";
    let namespace = File::open(path).map_err(Error::path("open", path.as_ref()))?;
    sys::set_loopback_up().map_err(Error::sys("set the loopback up"))?;
    Ok(namespace.into())
}

fn gone() -> Error {
    let step = "take a network namespace from the thread that makes them";
    Error::sys(step)(rustix::io::Errno::CHILD)
}
