//! An upper belongs to one mount at a time: overlayfs leaves what happens otherwise undefined, and mounts all the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, fgetxattr, flock, openat};
use rustix::io::Errno;

use crate::context::{Context, Refusal};
use crate::error::{Error, ErrorKind, Inner, Result};
use crate::scratch;
use crate::upper::Directories;

/// Holds an upper and its workdir for one mount, by flock(2) of both directories, against every process that asks too.
/// Dropping it gives them away; that of a killed process ends with it, and with those it forked without execve(2).
///
/// Keep it as long as the mount. As root the crate also asks the kernel whether an overlay uses the directories, which
/// it knows with and without this lock; in a user namespace the kernel does not tell.
#[derive(Debug)]
#[must_use = "dropping the UpperLock gives the upper away"]
pub struct UpperLock {
    upper: Locked,
    #[expect(dead_code, reason = "held, not read")]
    work: Locked,
}

/// An open file or directory with a flock(2) that ends with this value.
#[derive(Debug)]
pub(crate) struct Locked(pub(crate) OwnedFd);

impl Drop for Locked {
    /// Closing it would not do where a process that was forked, or is just being started, has a copy.
    fn drop(&mut self) {
        let _unused = flock(&self.0, FlockOperation::NonBlockingUnlock).is_ok();
    }
}

impl UpperLock {
    /// Takes both or none, and does not wait.
    pub(crate) fn take(opened: &Directories, upper: &Path, work: &Path) -> Result<Self> {
        Ok(UpperLock {
            upper: locked(opened.upper.as_fd(), upper, upper)?,
            work: locked(opened.work.as_fd(), work, upper)?,
        })
    }

    /// The upper, opened for reading.
    pub(crate) fn upper(&self) -> BorrowedFd<'_> {
        self.upper.0.as_fd()
    }

    /// Since 6.6 overlayfs gives an upper an id when it is first mounted, and marks it before the first copy up: an upper
    /// with neither is in no overlay, and asking the kernel takes as long as mounting. Unless someone mounted it with
    /// `uuid=off`.
    pub(crate) fn was_mounted(&self) -> bool {
        [
            c"trusted.overlay.uuid",
            c"trusted.overlay.impure",
            c"user.overlay.uuid",
            c"user.overlay.impure",
        ]
        .into_iter()
        .any(|name| {
            let found = fgetxattr(&self.upper.0, name, &mut [0; 64]);
            !matches!(found, Err(Errno::NODATA | Errno::OPNOTSUPP))
        })
    }
}

/// Tries again for an eighth of a second where an upper is in use: a process that another thread is just starting has
/// copies of all fds, detached mounts among them, from fork to execve(2).
pub(crate) fn patiently<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    for pause in [1, 2, 4, 8, 16, 32, 64] {
        match work() {
            Err(error) if error.kind() == ErrorKind::Busy => {
                thread::sleep(Duration::from_millis(pause));
            }
            done => return done,
        }
    }
    work()
}

fn locked(directory: BorrowedFd<'_>, path: &Path, upper: &Path) -> Result<Locked> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd =
        openat(directory, c".", flags, Mode::empty()).map_err(Error::sys("open to lock", path))?;
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Locked(fd)),
        Err(errno @ Errno::WOULDBLOCK) => Err(busy(upper, errno)),
        Err(errno) => Err(Error::sys("flock", path)(errno)),
    }
}

pub(crate) fn busy(upper: &Path, errno: Errno) -> Error {
    Error::from(Inner::UpperInUse {
        upper: upper.to_owned(),
        errno: errno.into(),
    })
}

/// Refuses an upper that the kernel has in an overlay, whoever mounted it and wherever it is: detached, in another mount
/// namespace, or taken out of the mount table while files are open.
///
/// overlayfs tells only a mount with `index=on`, which would leave traces in an upper. So the directories are the layers
/// of an overlay on a throw-away upper, which is gone at once. What else it minds is for the real mount to say.
pub(crate) fn ask_kernel(opened: &Directories, upper: &Path) -> Result<()> {
    match trial(opened) {
        Err(refusal) if refusal.errno == Errno::BUSY => Err(busy(upper, refusal.errno)),
        _ => Ok(()),
    }
}

fn trial(opened: &Directories) -> Result<OwnedFd, Refusal> {
    let (tmpfs, own) = scratch::bare()?;
    let context = Context::open("overlay")?;
    context.fd("lowerdir+", opened.upper.as_fd())?;
    context.fd("lowerdir+", opened.work.as_fd())?;
    context.fd("upperdir", own.upper.as_fd())?;
    context.fd("workdir", own.work.as_fd())?;
    context.flag("volatile")?;
    context.string("index", "on")?;
    context.create()?;
    Ok(tmpfs)
}
