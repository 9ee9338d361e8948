//! Child processes for the tests: forked by clone3(2), straight into a cgroup, and from then on only raw calls.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use cofferdam_cgroups::Entry;

/// What a child does. None of it allocates or locks: the test process has threads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload {
    Sleep,
    /// Touches that many bytes, then exits with 0.
    Touch(usize),
    /// Touches that many bytes, then sleeps.
    Hold(usize),
    /// Forks sleepers until it fails with `EAGAIN`; exits with their number, or with 200 after another error or 100.
    ForkUntilEagain,
    /// Uses a CPU for ever.
    Spin,
    /// Three children with three children each, all asleep.
    Tree,
    /// Every process forks for ever.
    Bomb,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
}

/// A child of this process; killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    reaped: bool,
}

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

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

impl Child {
    /// Starts one where the test is.
    pub(crate) fn outside(payload: Payload) -> Self {
        Self::start(None, &[], payload).expect("clone3")
    }

    /// Starts one by way of an entry: by `CLONE_INTO_CGROUP`, then by its own writes.
    pub(crate) fn inside(entry: &Entry<'_>, payload: Payload) -> Self {
        Self::try_inside(entry, payload).expect("clone3")
    }

    pub(crate) fn try_inside(entry: &Entry<'_>, payload: Payload) -> io::Result<Self> {
        Self::start(entry.dir, &entry.tasks, payload)
    }

    fn start(
        dir: Option<BorrowedFd<'_>>,
        procs: &[BorrowedFd<'_>],
        payload: Payload,
    ) -> io::Result<Self> {
        match fork_into(dir)? {
            0 => enter_and_run(procs, payload),
            pid => Ok(Child { pid, reaped: false }),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    pub(crate) fn kill(&self) {
        assert!(!self.reaped, "the pid may be another's by now");
        // SAFETY: no memory is involved; the child is not reaped, so the number is still its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Waits for its end, and says how much CPU time it had.
    pub(crate) fn wait(mut self) -> (End, Duration) {
        self.reap()
    }

    fn reap(&mut self) -> (End, Duration) {
        let mut status = 0;
        // SAFETY: an all-zero rusage is valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both out-pointers are to locals that outlive the call.
        let pid = unsafe { libc::wait4(self.pid, &mut status, 0, &mut usage) };
        assert_eq!(pid, self.pid, "wait4: {}", io::Error::last_os_error());
        self.reaped = true;
        let time = |t: libc::timeval| {
            Duration::from_secs(t.tv_sec.unsigned_abs())
                + Duration::from_micros(t.tv_usec.unsigned_abs())
        };
        let end = if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Exit(libc::WEXITSTATUS(status))
        };
        (end, time(usage.ru_utime) + time(usage.ru_stime))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            self.reap();
        }
    }
}

/// Whether execve(2) closes the fd.
pub(crate) fn closes_on_exec(fd: i32) -> bool {
    // SAFETY: no memory is involved.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags & libc::FD_CLOEXEC != 0
}

/// A cgroup namespace for the calling thread, whose root is the cgroup it is in.
#[allow(dead_code, reason = "not every test binary uses it")]
pub(crate) fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: no memory is involved, and fds stay shared: the flag is not CLONE_FILES.
    match unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn fork_into(dir: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    let mut args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(dir) = dir {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: `args` outlives the call and its size is given; memory is not shared, as in fork(2), and the child only
    // makes raw calls until it exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<CloneArgs>()) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pid as i32)
}

fn enter_and_run(procs: &[BorrowedFd<'_>], payload: Payload) -> ! {
    for procs in procs {
        // SAFETY: the buffer is one byte long, as said.
        if unsafe { libc::write(procs.as_raw_fd(), b"0".as_ptr().cast(), 1) } != 1 {
            exit(120);
        }
    }
    exit(run(payload))
}

fn run(payload: Payload) -> i32 {
    match payload {
        Payload::Sleep => sleep(),
        Payload::Touch(bytes) => touch(bytes),
        Payload::Hold(bytes) => match touch(bytes) {
            0 => sleep(),
            code => code,
        },
        Payload::ForkUntilEagain => fork_until_eagain(),
        Payload::Spin => loop {
            std::hint::spin_loop();
        },
        Payload::Tree => {
            for _ in 0..3 {
                if matches!(fork_into(None), Ok(0)) {
                    for _ in 0..3 {
                        if matches!(fork_into(None), Ok(0)) {
                            sleep();
                        }
                    }
                    sleep();
                }
            }
            sleep()
        }
        Payload::Bomb => loop {
            if fork_into(None).is_err() {
                // SAFETY: no memory is involved.
                unsafe { libc::sched_yield() };
            }
        },
    }
}

fn fork_until_eagain() -> i32 {
    for made in 0..100 {
        match fork_into(None) {
            Ok(0) => {
                sleep();
            }
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return made,
            Err(_) => return 200,
        }
    }
    200
}

fn touch(bytes: usize) -> i32 {
    // SAFETY: a private anonymous mapping at an address of the kernel's choice touches nothing else.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return 121;
    }
    for at in (0..bytes).step_by(4096) {
        // SAFETY: `at` is within the mapping just made.
        unsafe { memory.cast::<u8>().add(at).write_volatile(1) };
    }
    0
}

fn sleep() -> i32 {
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends this forked child at once, without the parent's exit handlers.
    unsafe { libc::_exit(code) }
}
