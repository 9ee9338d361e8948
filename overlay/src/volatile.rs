//! The mark that a volatile mount leaves in its workdir: what is in the upper may never have reached the disk.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, openat, syncfs, unlinkat};
use rustix::io::Errno;

use crate::error::{Error, Inner, Result};
use crate::lock::{self, UpperLock};
use crate::upper::Directories;
use crate::{beneath, directory};

const MARK: &str = "work/incompat/volatile";

/// overlayfs refuses such a workdir with EINVAL, whether volatile again or not.
pub(crate) fn check(opened: &Directories, upper: &Path, work: &Path) -> Result<()> {
    if !is_marked(opened.work.as_fd()) {
        return Ok(());
    }
    let (upper, work) = (upper.to_owned(), work.to_owned());
    Err(Inner::Unsynced { upper, work }.into())
}

fn is_marked(work: BorrowedFd<'_>) -> bool {
    beneath::open(work, MARK, OFlags::PATH | OFlags::DIRECTORY).is_ok()
}

/// Syncs the filesystem of `upper`, then takes the mark away.
pub(crate) fn clean(upper: &Path, work: &Path) -> Result<()> {
    let opened = Directories::open(upper, work)?;
    let _lock = lock::patiently(|| {
        let lock = UpperLock::take(&opened, upper, work)?;
        if !directory::in_user_namespace()? {
            lock::ask_kernel(&opened, upper)?;
        }
        Ok(lock)
    })?;
    if !is_marked(opened.work.as_fd()) {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let real = openat(&opened.upper, c".", flags, Mode::empty())
        .map_err(Error::sys("open upperdir", upper))?;
    syncfs(&real).map_err(Error::sys("syncfs", upper))?;
    remove(opened.work.as_fd()).map_err(Error::sys("remove work/incompat/volatile of", work))
}

/// From the inside out, without following what else may be of these names.
fn remove(work: BorrowedFd<'_>) -> Result<(), Errno> {
    let open = |path: &str| beneath::open(work, path, OFlags::PATH | OFlags::DIRECTORY);
    match unlinkat(open(MARK)?, "dirty", AtFlags::empty()) {
        Err(Errno::NOENT) => {}
        done => done?,
    }
    unlinkat(open("work/incompat")?, "volatile", AtFlags::REMOVEDIR)?;
    let base = open("work")?;
    match unlinkat(&base, "incompat", AtFlags::REMOVEDIR) {
        // Something a kernel we do not know left: it stays, and the mount will tell.
        Err(Errno::NOTEMPTY) => Ok(()),
        done => done,
    }
}
