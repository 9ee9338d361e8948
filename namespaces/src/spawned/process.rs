//! A process of the caller's, and what stands in the way of its end.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::{exit_status, lost};
use crate::error::{Error, Result};

#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    status: Mutex<Option<ExitStatus>>,
    /// It is reaped when nobody has a handle of it any more.
    pub(super) reaped_later: AtomicBool,
}

/// Processes in pid namespaces of others, whose first process is gone only once these are reaped, by whom they are children of.
static ENTERED: Mutex<Vec<Weak<Process>>> = Mutex::new(Vec::new());

/// Those of them, and of others that were killed or left, which nobody has a handle of any more.
static LEFT: Mutex<Vec<Arc<Process>>> = Mutex::new(Vec::new());

impl Process {
    pub(super) fn new(pid: u32, pidfd: OwnedFd) -> Arc<Self> {
        Arc::new(Process {
            pid,
            pidfd,
            status: Mutex::new(None),
            reaped_later: AtomicBool::new(false),
        })
    }

    /// Has it reaped also while the caller waits for another: it is in a pid namespace that was there before.
    pub(super) fn is_in_another(self: &Arc<Self>) {
        reap_left();
        self.reaped_later.store(true, Ordering::Relaxed);
        let mut entered = lock(&ENTERED);
        entered.retain(|one| one.strong_count() > 0);
        entered.push(Arc::downgrade(self));
    }

    /// Its last handle goes. Where somebody waits for it to be gone, or it was killed and takes long to end, it is reaped all the
    /// same: when others are started or waited for.
    pub(super) fn leave(self: &Arc<Self>, killed: bool) {
        reap_left();
        if self.known().is_some() || !(killed || self.reaped_later.load(Ordering::Relaxed)) {
            return;
        }
        let mut left = lock(&LEFT);
        if !left.iter().any(|other| Arc::ptr_eq(other, self)) {
            left.push(self.clone());
        }
    }

    /// The one with this pid among those that were left. Whoever reaps it, all its handles know the status.
    pub(super) fn left(pid: u32) -> Option<Arc<Self>> {
        let left = lock(&LEFT);
        // One that was reaped may have lost the number to another.
        let it = |left: &&Arc<Self>| left.pid == pid && left.known().is_none();
        left.iter().find(it).cloned()
    }

    /// Takes the status if there is one. Other threads that wait find it here.
    pub(super) fn reap(&self) -> Result<Option<ExitStatus>> {
        let mut known = self.known();
        if known.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            *known = match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Ok(ended) => ended.as_ref().map(exit_status),
                Err(Errno::CHILD) => lost::status(self.pid, self.pidfd.as_fd())?,
                Err(errno) => return Err(Error::sys("waitid")(errno)),
            };
        }
        Ok(*known)
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        lock(&self.status)
    }

    /// Takes out of the way what keeps it from being gone though it has ended.
    pub(super) fn clear_the_way(&self) {
        self.reap_traced_threads();
        reap_left();
        let entered = lock(&ENTERED);
        let entered: Vec<_> = entered.iter().filter_map(Weak::upgrade).collect();
        for process in entered {
            if process.pid != self.pid {
                let _taken = process.reap().is_ok();
            }
        }
    }

    /// A thread that has called ptrace(2) with `PTRACE_TRACEME` is its parent's to reap: the caller's.
    fn reap_traced_threads(&self) {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return;
        };
        let ids = threads.flatten().filter_map(|thread| {
            let id: i32 = thread.file_name().to_str()?.parse().ok()?;
            (u32::try_from(id) != Ok(self.pid)).then_some(id)
        });
        for thread in ids.filter_map(Pid::from_raw) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _gone = crate::sys::wait_for_thread(thread, options).is_ok();
        }
    }
}

fn reap_left() {
    lock(&LEFT).retain(|process| matches!(process.reap(), Ok(None)));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
