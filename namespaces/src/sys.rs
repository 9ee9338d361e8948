//! The raw calls of the parent.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::futex;

use crate::program::{Failure, Program};
use crate::stub::{CloneArgs, clone3};

const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// The interpreter uses no stack; this is what clone3(2) wants to see.
const STACK_WORDS: usize = 64;
/// In [`Cells::started`]: clone3(2) failed.
const FAILED: u32 = u32::MAX;

/// A child in its first stage: it runs on memory that lives here.
#[derive(Debug)]
pub(crate) struct FirstStage {
    pub(crate) memory: Memory,
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// Memory of the caller that a child runs on. Dropped while it does, it stays for ever rather than be freed.
#[derive(Debug)]
pub(crate) struct Memory(Option<Arc<Shared>>);

/// What the child uses of the caller's memory. Atomics, because the child writes to it too.
#[derive(Debug)]
struct Shared {
    cells: Box<Cells>,
    program: Box<[AtomicU64]>,
    stack: Box<[AtomicU64]>,
}

/// Words that kernel, child and caller tell each other something by.
#[derive(Debug)]
pub(crate) struct Cells {
    /// 1 until the child has left this memory, by execve(2) or by its end, when the kernel clears it.
    tid: AtomicU32,
    /// 0 until there is a child, then its pid, or [`FAILED`].
    started: AtomicU32,
    pidfd: AtomicI32,
    errno: AtomicI32,
}

impl Cells {
    pub(crate) fn new() -> Box<Self> {
        let (tid, started) = (AtomicU32::new(1), AtomicU32::new(0));
        Box::new(Cells {
            tid,
            started,
            pidfd: AtomicI32::new(-1),
            errno: AtomicI32::new(0),
        })
    }

    /// The address of the word that a child born on another thread wakes the caller by.
    pub(crate) fn started(&self) -> u64 {
        self.started.as_ptr() as u64
    }
}

impl FirstStage {
    /// clone3(2) with the namespaces in `flags` of a child that runs `program`.
    pub(crate) fn clone(cells: Box<Cells>, program: &Program, flags: u64) -> Result<Self, Errno> {
        let shared = Arc::new(Shared::new(cells, program));
        shared.clone3(flags, None);
        Self::of(shared)
    }

    /// The same, born into `cgroup`.
    ///
    /// There the child, which has the caller's memory, could be what the kernel's OOM killer picks, and with it everyone who
    /// has that memory: the caller. `CLONE_VFORK` exempts it, and blocks its thread until the child has left; so that is a
    /// thread of its own. The child's first op wakes the caller.
    pub(crate) fn clone_into(
        cells: Box<Cells>,
        program: &Program,
        flags: u64,
        cgroup: BorrowedFd<'_>,
    ) -> Result<Self, Errno> {
        let shared = Arc::new(Shared::new(cells, program));
        let (theirs, cgroup) = (Arc::clone(&shared), cgroup.as_raw_fd());
        let work = move || theirs.clone3(flags | libc::CLONE_VFORK as u64, Some(cgroup));
        let thread = std::thread::Builder::new().name("cofferdam-start".into());
        // The thread ends once the child has left this memory.
        drop(thread.spawn(work).map_err(|error| {
            Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EAGAIN))
        })?);
        // However long it takes: until there is a child with fds of its own, the caller's have to stay what they are.
        while !wait_while(
            &shared.cells.started,
            0,
            Instant::now() + Duration::from_secs(1),
        ) {}
        Self::of(shared)
    }

    fn of(shared: Arc<Shared>) -> Result<Self, Errno> {
        let pid = shared.cells.started.load(Ordering::Acquire);
        if pid == FAILED {
            let errno = shared.cells.errno.load(Ordering::Acquire);
            shared.cells.tid.store(0, Ordering::Release);
            return Err(Errno::from_raw_os_error(errno));
        }
        let pidfd = shared.cells.pidfd.load(Ordering::Acquire);
        // SAFETY: the kernel has just opened it for this child, with O_CLOEXEC, and nobody else has read the cell.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(FirstStage {
            memory: Memory(Some(shared)),
            pid,
            pidfd,
        })
    }
}

impl Shared {
    fn new(cells: Box<Cells>, program: &Program) -> Self {
        let words = |count| {
            std::iter::repeat_with(AtomicU64::default)
                .take(count)
                .collect()
        };
        let memory: Box<[_]> = words(program.encoded_len().div_ceil(8));
        let image = program.encode(memory.as_ptr() as u64, -1);
        for (word, bytes) in memory.iter().zip(image.bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
        Shared {
            cells,
            program: memory,
            stack: words(STACK_WORDS),
        }
    }

    /// Leaves the outcome in the cells.
    fn clone3(&self, flags: u64, cgroup: Option<RawFd>) {
        let always = libc::CLONE_VM
            | libc::CLONE_PIDFD
            | libc::CLONE_CHILD_CLEARTID
            | libc::CLONE_PARENT_SETTID;
        let into_cgroup = if cgroup.is_some() {
            CLONE_INTO_CGROUP
        } else {
            0
        };
        let args = CloneArgs {
            flags: flags | always as u64 | CLONE_CLEAR_SIGHAND | into_cgroup,
            pidfd: self.cells.pidfd.as_ptr() as u64,
            child_tid: self.cells.tid.as_ptr() as u64,
            parent_tid: self.cells.started.as_ptr() as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: self.stack.as_ptr() as u64,
            stack_size: (self.stack.len() * 8) as u64,
            cgroup: cgroup.map_or(0, |fd| fd as u64),
            ..CloneArgs::default()
        };
        let blocked = BlockedSignals::new();
        // SAFETY: the flags ask for CLONE_VM with a stack of its own and nothing else shared; all signals are blocked;
        // program, stack and cells are owned by `self`, which is freed only once the child has left this memory (Drop of
        // Memory).
        let result = unsafe { clone3(&args, self.program.as_ptr().cast_mut().cast()) };
        drop(blocked);
        if result < 0 {
            self.cells.errno.store(-(result as i32), Ordering::Release);
            self.cells.started.store(FAILED, Ordering::Release);
            let _woken = futex::wake(&self.cells.started, futex::Flags::empty(), 1).is_ok();
        }
    }
}

impl Memory {
    /// Waits until the child runs in a memory of its own or is gone. False when `deadline` comes first.
    pub(crate) fn left(&self, deadline: Instant) -> bool {
        self.0
            .as_ref()
            .is_none_or(|shared| wait_while(&shared.cells.tid, 1, deadline))
    }

    /// What failed in the first stage. Asked once the child has left this memory.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let shared = self.0.as_ref()?;
        Failure::decode(
            shared.program[Failure::AT / 8]
                .load(Ordering::Acquire)
                .to_ne_bytes(),
        )
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.left(Instant::now()) {
            std::mem::forget(self.0.take());
        }
    }
}

/// Sleeps while the word is `value`. False when `deadline` comes first.
fn wait_while(word: &AtomicU32, value: u32, deadline: Instant) -> bool {
    while word.load(Ordering::Acquire) == value {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = rustix::fs::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        // Woken, interrupted, timed out or changed before: the loop looks again.
        let _again = futex::wait(word, futex::Flags::empty(), value, Some(&timeout)).is_ok();
    }
    true
}

/// All signals of this thread blocked, as long as it lives.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: sigset_t is plain data; both sets live here, and the calls only read and write them.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
            BlockedSignals(old)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: restores the mask that `new` found on this same thread: the guard does not leave its function.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// The signals this process ignores, the first in bit 0, by rt_sigaction(2): libc's sigaction(3) hides two of them.
pub(crate) fn ignored_signals() -> u64 {
    let ignored = |signal: i32| {
        // The kernel's struct: handler, flags, restorer, mask.
        let mut action = [0u64; 4];
        let old = action.as_mut_ptr();
        // SAFETY: without a new action the call only writes the old one, which is as large as the kernel's.
        let done = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                std::ptr::null::<u64>(),
                old,
                8,
            )
        };
        done == 0 && action[0] == libc::SIG_IGN as u64
    };
    (1..=64)
        .filter(|&signal| ignored(signal))
        .fold(0, |set, signal| set | 1 << (signal - 1))
}

/// pidfd_send_signal(2) of any number: real-time signals too, which rustix has no names for.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let (none, flags) = (std::ptr::null::<libc::siginfo_t>(), 0);
    // SAFETY: without a siginfo the call reads no memory.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            flags,
        )
    };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Makes the detached tree behind `fd` private, and read-only if asked to, by mount_setattr(2), recursively.
pub(crate) fn set_mount_attributes(fd: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    const AT_RECURSIVE: i32 = 0x8000;
    let attr = [attributes, 0, libc::MS_PRIVATE, 0u64];
    // SAFETY: the path is a NUL-terminated string, `attr` is a struct mount_attr of the size given and only read.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | AT_RECURSIVE,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(raw.unwrap_or(libc::EIO))
}
