//! The status of a program that waitid(2) knows nothing of: it was reaped by the kernel, because the caller ignores
//! `SIGCHLD`, or by something else in the caller's process.

use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};
use crate::sys;

/// Its status from the kernel's memory of the pidfd. `None`: it still runs.
///
/// The kernel keeps what the first thread ended with, so that of a program with threads it may lack the flag of a core dump.
pub(super) fn status(pid: u32, pidfd: BorrowedFd<'_>) -> Result<Option<ExitStatus>> {
    if !has_ended(pidfd)? {
        return Ok(None);
    }
    // The end is told before the last of the process is gone, and the status kept: microseconds lie between.
    for _ in 0..100 {
        match sys::exit_status(pidfd) {
            Ok(Some(raw)) => return Ok(Some(ExitStatus::from_raw(raw))),
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            // A kernel that does not keep it.
            Err(_) => break,
        }
    }
    Err(Error::status_lost(pid))
}

/// Whether all its threads have, be it waited for or not.
pub(super) fn has_ended(pidfd: BorrowedFd<'_>) -> Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).map_err(Error::sys("poll"))?;
    Ok(!fds[0].revents().is_empty())
}
