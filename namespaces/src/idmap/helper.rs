//! `newuidmap` and `newgidmap`: set-user-ID programs, and the only ones that this crate executes by itself.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Range;
use crate::command::Command;
use crate::error::{Error, Result};
use crate::sys;

/// Not `PATH`: what it names has the caller's trust for other things than this.
const DIRECTORIES: [&str; 5] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"];
/// As much of what it says as an error repeats.
const SAID: usize = 1024;

/// Has `program` write `ranges` for the process `pid`, and returns what it said, once it is done. An error if it failed,
/// as far as that can be known: whoever ignores `SIGCHLD`, or reaps all children, takes its status away.
pub(super) fn run(
    command: &Command,
    program: &'static str,
    pid: u32,
    ranges: &[Range],
    deadline: Instant,
) -> Result<String> {
    let path = find(program)?;
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.inside, range.outside, range.count])
        .map(|number| number.to_string());
    let child = std::process::Command::new(&path)
        .arg(pid.to_string())
        .args(numbers)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::path("execute", &path))?;
    let mut running = Running::new(child)?;
    let said = running.said_until_its_end(deadline);
    if said.is_none() {
        running.kill();
    }
    let ended = running.child.try_wait();
    let said = said.ok_or_else(|| Error::timed_out(command.name(), command.deadline))?;
    match ended {
        Ok(Some(status)) if !status.success() => {
            let said = format!("{said} ({status})");
            Err(Error::helper(command.name(), program, said))
        }
        _ => Ok(said),
    }
}

fn find(program: &str) -> Result<PathBuf> {
    let all = DIRECTORIES.map(|directory| Path::new(directory).join(program));
    let found = all.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        let what = format!(
            "not in {}; Debian has it in the package uidmap, others in shadow-utils or shadow",
            DIRECTORIES.join(", ")
        );
        Error::missing(program.to_owned(), what)
    })
}

struct Running {
    child: Child,
    stderr: Option<ChildStderr>,
    /// `None`: it is gone already.
    pidfd: Option<OwnedFd>,
}

impl Running {
    fn new(mut child: Child) -> Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(pidfd)) => Some(pidfd),
            None | Some(Err(Errno::SRCH)) => None,
            Some(Err(errno)) => return Err(Error::sys("pidfd_open")(errno)),
        };
        let stderr = child.stderr.take();
        if let Some(stderr) = &stderr {
            // A fork of the caller can hold the other end: its end of file is not waited for.
            rustix::io::ioctl_fionbio(stderr, true).map_err(Error::sys("set O_NONBLOCK"))?;
        }
        Ok(Running {
            child,
            stderr,
            pidfd,
        })
    }

    /// What it wrote, in one line. `None`: it still runs at the deadline.
    fn said_until_its_end(&mut self, deadline: Instant) -> Option<String> {
        let mut said = Vec::new();
        loop {
            // In this order: what it wrote before its end is there by now.
            let ended = self.ended(deadline)?;
            self.read(&mut said);
            if ended {
                return Some(one_line(&said));
            }
        }
    }

    /// Waits until it has ended or written something. `None`: neither before the deadline.
    fn ended(&self, deadline: Instant) -> Option<bool> {
        let Some(pidfd) = &self.pidfd else {
            return Some(true);
        };
        let left = deadline.checked_duration_since(Instant::now())?;
        let timeout = Timespec::try_from(left).ok();
        let mut fds = vec![PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        let stderr = self.stderr.as_ref();
        fds.extend(stderr.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let _again = poll(&mut fds, timeout.as_ref()).is_ok();
        Some(!fds[0].revents().is_empty())
    }

    /// All that is there. No more is asked for after its end or a failure.
    fn read(&mut self, said: &mut Vec<u8>) {
        let mut bytes = [0; SAID];
        // Not for ever, should it never stop: the deadline is looked at again.
        for _ in 0..64 {
            let Some(stderr) = &mut self.stderr else {
                return;
            };
            match stderr.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => self.stderr = None,
                Ok(count) => {
                    said.extend_from_slice(&bytes[..count]);
                    said.truncate(SAID);
                }
            }
        }
    }

    fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            let _gone = sys::send_signal(pidfd.as_fd(), libc::SIGKILL).is_ok();
            let second = Timespec::try_from(Duration::from_secs(1)).ok();
            let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
            let _ended = poll(&mut fds, second.as_ref()).is_ok();
        }
    }
}

/// Whatever bytes it wrote, as a line of a log can have them.
fn one_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join("; ");
    let seen = |one: char| if one.is_control() { '?' } else { one };
    text.chars().map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running::new(child).unwrap()
    }

    #[test]
    fn what_it_says_is_one_line_of_bounded_length() {
        let soon = Instant::now() + Duration::from_secs(10);
        let mut talks = shell("echo a >&2; echo; printf 'b\\033[1m\\n\\n c' >&2");
        assert_eq!(
            talks.said_until_its_end(soon).as_deref(),
            Some("a; b?[1m; c")
        );
        assert!(talks.child.try_wait().unwrap().is_some());
        let mut floods =
            shell("i=0; while [ $i -lt 20000 ]; do echo aaaaaaaa >&2; i=$((i+1)); done");
        let said = floods.said_until_its_end(soon).unwrap();
        assert!(
            said.starts_with("aaaaaaaa; aaaaaaaa; ") && said.len() < 2 * SAID,
            "{said}"
        );
        assert!(floods.child.try_wait().unwrap().is_some());
    }

    #[test]
    fn one_that_hangs_is_killed_and_reaped_and_one_that_leaves_its_stream_open_is_not_waited_for() {
        let start = Instant::now();
        let mut hangs = shell("exec sleep 60");
        assert_eq!(
            hangs.said_until_its_end(start + Duration::from_millis(100)),
            None
        );
        hangs.kill();
        assert!(hangs.child.try_wait().unwrap().is_some());
        let mut leaves = shell("sleep 3 & exit 0");
        assert!(
            leaves
                .said_until_its_end(start + Duration::from_secs(10))
                .is_some()
        );
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        assert!(leaves.child.try_wait().unwrap().is_some());
    }
}
