//! Processes that somebody else started, told from others that have their number now.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::process::Process;
use super::{Spawned, lost};
use crate::applied::Applied;
use crate::error::{Error, Result};
use crate::sys;

impl Spawned {
    /// When it was started, in clock ticks since boot: with its pid, and the boot, what tells it from every other process.
    ///
    /// # Errors
    /// `NotFound` if it has ended and was waited for.
    pub fn start_time(&self) -> Result<u64> {
        let started = start_time(self.pid())?;
        // As long as it is there, the number has meant it all the time.
        sys::send_signal(self.process.pidfd.as_fd(), 0)
            .map_err(Error::sys("look for a process"))?;
        Ok(started)
    }

    /// A handle of a process that runs, whoever started it: the one with this pid that was started then, as
    /// [`start_time`](Self::start_time) said. Dropping it kills, as it does with others; [`persist`](Self::persist) does not.
    ///
    /// How a process ended that is no child of the caller's is known since Linux 6.15; before, [`wait`](Self::wait) says
    /// `StatusLost` once it has.
    ///
    /// # Errors
    /// `NotFound` if it has ended, also if another has its pid now.
    pub fn adopt(pid: u32, start_time: u64) -> Result<Self> {
        let gone = || Error::sys("look for a process")(Errno::SRCH);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let process = match Process::left(pid) {
            Some(process) => process,
            None => {
                let pidfd = pidfd_open(number.ok_or_else(gone)?, PidfdFlags::empty());
                Process::new(pid, pidfd.map_err(Error::sys("pidfd_open"))?)
            }
        };
        let mut spawned = Spawned::of(process, [None, None, None], Applied::default());
        // Until it is known to be the one it is not ours to kill.
        spawned.armed = false;
        let ended = lost::has_ended(spawned.as_fd())?;
        if ended || spawned.start_time()? != start_time {
            return Err(gone());
        }
        spawned.armed = true;
        Ok(spawned)
    }
}

/// The 22nd field of `/proc/<pid>/stat`, counted from behind the name, in which anything can be.
fn start_time(pid: u32) -> Result<u64> {
    const AFTER_NAME: usize = 22 - 3;
    let path = format!("/proc/{pid}/stat");
    let path = Path::new(&path);
    let text = fs::read(path).map_err(Error::path("read", path))?;
    let text = String::from_utf8_lossy(&text);
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let field = fields.split_ascii_whitespace().nth(AFTER_NAME);
    field
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Error::path("read", path)(Errno::INVAL))
}
