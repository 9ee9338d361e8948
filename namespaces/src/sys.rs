//! The raw calls of the parent.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustix::io::Errno;
use rustix::thread::futex;

use crate::program::{Failure, Program};
use crate::stub::{CloneArgs, clone3};

const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A child in its first stage: it runs on memory that lives here.
#[derive(Debug)]
pub(crate) struct FirstStage {
    pub(crate) memory: Memory,
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// Memory of the caller that a child runs on. Dropped while it does, it stays for ever rather than be freed.
#[derive(Debug)]
pub(crate) struct Memory(Option<Box<Shared>>);

/// What the child uses of the caller's memory.
#[derive(Debug)]
struct Shared {
    /// 1 until the child has left this memory, by execve(2) or by its end, when the kernel clears it.
    tid: AtomicU32,
    program: Vec<u64>,
    stack: Vec<u64>,
}

impl FirstStage {
    /// clone3(2) with the namespaces in `flags`, into `cgroup`, of a child that runs `program`.
    pub(crate) fn clone(
        program: &Program,
        flags: u64,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Errno> {
        let mut shared = Box::new(Shared {
            tid: AtomicU32::new(1),
            program: vec![0; program.encoded_len().div_ceil(8)],
            stack: vec![0; 512],
        });
        let base = shared.program.as_mut_ptr();
        let image = program.encode(base as u64, -1);
        for (word, bytes) in shared.program.iter_mut().zip(image.bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        let mut pidfd: i32 = -1;
        let shared_flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::CLONE_CHILD_CLEARTID;
        let into_cgroup = if cgroup.is_some() {
            CLONE_INTO_CGROUP
        } else {
            0
        };
        let args = CloneArgs {
            flags: flags | shared_flags as u64 | CLONE_CLEAR_SIGHAND | into_cgroup,
            pidfd: &raw mut pidfd as u64,
            child_tid: shared.tid.as_ptr() as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: shared.stack.as_mut_ptr() as u64,
            stack_size: (shared.stack.len() * 8) as u64,
            cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
            ..CloneArgs::default()
        };
        let blocked = BlockedSignals::new();
        // SAFETY: the flags ask for CLONE_VM with a stack of its own and nothing else shared; all signals are blocked;
        // program, stack and tid are owned by `shared`, which is freed only once the child has left this memory (Drop
        // of Memory); `pidfd` is written before the call returns.
        let pid = unsafe { clone3(&args, base.cast()) };
        drop(blocked);
        let pid = match u32::try_from(pid) {
            Ok(pid) => pid,
            Err(_negative) => return Err(Errno::from_raw_os_error(-(pid as i32))),
        };
        // SAFETY: the kernel has just opened it for this call, with O_CLOEXEC.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(FirstStage {
            memory: Memory(Some(shared)),
            pid,
            pidfd,
        })
    }
}

impl Memory {
    /// Waits until the child runs in a memory of its own or is gone. False when `deadline` comes first.
    pub(crate) fn left(&self, deadline: Instant) -> bool {
        let Some(shared) = &self.0 else { return true };
        while shared.tid.load(Ordering::Acquire) != 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let timeout = rustix::fs::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            // Woken, interrupted, timed out or changed before: the loop looks again.
            let _again = futex::wait(&shared.tid, futex::Flags::empty(), 1, Some(&timeout)).is_ok();
        }
        true
    }

    /// What failed in the first stage. Asked once the child has left this memory.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let shared = self.0.as_ref()?;
        let cell = &shared.program[Failure::AT / 8];
        // SAFETY: a reference is valid for reads. Volatile, because the child wrote it behind the compiler's back.
        Failure::decode(unsafe { std::ptr::read_volatile(cell) }.to_ne_bytes())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.left(Instant::now()) {
            std::mem::forget(self.0.take());
        }
    }
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
