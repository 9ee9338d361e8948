//! Killing without `cgroup.kill`: hold all still, signal each.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::controller::Version;
use crate::error::{Error, Result};
use crate::member::Member;

/// How long processes may go on to appear. Frozen ones cannot fork, so this is for kernels without a freezer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pidfds held at once.
const CHUNK: usize = 64;

/// Sends SIGKILL to every process of `member` and of the cgroups inside it, until no new one appears.
pub(crate) fn kill(member: &Member, freezer: Option<&Member>) -> Result<()> {
    let start = Instant::now();
    let _thaws = freezer.map(Frozen::new);
    let mut signalled = BTreeSet::new();
    loop {
        let mut new = member.all_procs()?;
        new.retain(|pid| signalled.insert(*pid));
        if new.is_empty() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(Error::unkilled(member.dir.path(), start.elapsed()));
        }
        for chunk in new.chunks(CHUNK) {
            kill_each(member, chunk)?;
        }
        thread::yield_now();
    }
}

/// Signals by pidfd those that are in the cgroup after the pidfd was opened: a number that was given to another process
/// in the meantime is not hit.
fn kill_each(member: &Member, pids: &[u32]) -> Result<()> {
    let denied = |errno| Error::sys("kill processes of", member.dir.path(), errno);
    let mut opened = Vec::with_capacity(pids.len());
    for pid in pids.iter().copied() {
        let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            continue;
        };
        match rustix::process::pidfd_open(target, PidfdFlags::empty()) {
            Ok(fd) => opened.push((pid, fd)),
            Err(Errno::SRCH) => {}
            Err(errno) => return Err(denied(errno)),
        }
    }
    let still = member.all_procs()?;
    for (pid, fd) in opened {
        if still.binary_search(&pid).is_err() {
            continue;
        }
        match rustix::process::pidfd_send_signal(&fd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(denied(errno)),
        }
    }
    Ok(())
}

/// A cgroup whose processes are held still until this is dropped. Kernels without a freezer do without: the loop above
/// then races with forks, and wins in the end.
struct Frozen<'a>(&'a Member);

impl<'a> Frozen<'a> {
    fn new(member: &'a Member) -> Self {
        let frozen = Frozen(member);
        frozen.set("1", "FROZEN");
        frozen
    }

    fn set(&self, v2: &str, v1: &str) {
        let _written = match self.0.version {
            Version::V2 => self.0.dir.write("cgroup.freeze", v2).is_ok(),
            Version::V1 => self.0.dir.write("freezer.state", v1).is_ok(),
        };
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.set("0", "THAWED");
    }
}
