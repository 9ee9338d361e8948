//! Processes of the floor: a fork whose child makes the calls that are measured and no others.
#![allow(unsafe_code, reason = "raw syscalls")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A child that waits for ever, until this is dropped.
#[derive(Debug)]
pub(crate) struct Sleeper(libc::pid_t);

impl Sleeper {
    pub(crate) fn new() -> Self {
        // SAFETY: the child makes no call but prctl(2) and pause(2), so it needs no lock that another thread held.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            }
            pid
        };
        assert!(pid > 0, "fork: {}", io::Error::last_os_error());
        Sleeper(pid)
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.0).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // SAFETY: a child of ours that nobody else waits for, so the number is still its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        wait(self.0);
    }
}

/// The way of a new process into a cgroup.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Into<'a> {
    /// clone3(2) with `CLONE_INTO_CGROUP` and this directory.
    Clone(BorrowedFd<'a>),
    /// It writes itself to this open `cgroup.procs`.
    Write(BorrowedFd<'a>),
}

/// The arguments of clone3(2) as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// How long it takes until `program`, which has to end by itself, is executed inside.
pub(crate) fn start(into: Into<'_>, program: &CStr) -> Duration {
    let mut args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    let procs = match into {
        Into::Clone(dir) => {
            args.flags = CLONE_INTO_CGROUP;
            args.cgroup = dir.as_raw_fd() as u64;
            None
        }
        Into::Write(procs) => Some(procs.as_raw_fd()),
    };
    let argv = [program.as_ptr(), std::ptr::null()];
    let mut ends = [0; 2];
    let mut byte = 0u8;
    // SAFETY: `args` is as large as the size given says; without CLONE_VM the child has a copy of this memory and makes raw
    // calls with pointers into it only. The read is into one byte that is there.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let start = Instant::now();
        let pid = libc::syscall(libc::SYS_clone3, &args, size_of_val(&args));
        if pid == 0 {
            let entered = procs.is_none_or(|fd| libc::write(fd, c"0".as_ptr().cast(), 1) == 1);
            if entered {
                libc::execve(program.as_ptr(), argv.as_ptr(), argv[1..].as_ptr());
            }
            libc::write(ends[1], c"!".as_ptr().cast(), 1);
            libc::_exit(1);
        }
        assert!(pid > 0, "clone3: {}", io::Error::last_os_error());
        libc::close(ends[1]);
        // The end of the file: its other end was closed by execve(2).
        let read = libc::read(ends[0], (&raw mut byte).cast(), 1);
        let took = start.elapsed();
        assert_eq!(read, 0, "the child could not enter or execute");
        libc::close(ends[0]);
        wait(pid as libc::pid_t);
        took
    }
}

fn wait(pid: libc::pid_t) {
    // SAFETY: no status is asked for.
    let waited = unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    assert_eq!(waited, pid);
}
