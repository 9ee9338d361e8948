//! The raw calls of the parent.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitIdOptions, WaitOptions};
use rustix::thread::futex;

use crate::applied::CloneCall;
use crate::error::{Error, Result as OurResult};
use crate::mount::{Change, Depth};
use crate::program::{Failure, Program};
use crate::stub::{CloneArgs, clone};

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
    /// Clones a child with the namespaces in `flags` that runs `program`.
    pub(crate) fn clone(
        call: CloneCall,
        cells: Box<Cells>,
        program: &Program,
        flags: u64,
    ) -> Result<Self, Errno> {
        let shared = Arc::new(Shared::new(cells, program));
        shared.make_child(call, flags, None);
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
        let work = move || {
            let flags = flags | libc::CLONE_VFORK as u64;
            theirs.make_child(CloneCall::Clone3, flags, Some(cgroup));
        };
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
    fn make_child(&self, call: CloneCall, flags: u64, cgroup: Option<RawFd>) {
        let always = libc::CLONE_VM | libc::CLONE_PIDFD | libc::CLONE_CHILD_CLEARTID;
        let flags = flags | always as u64;
        let blocked = BlockedSignals::new();
        let result = match call {
            CloneCall::Clone3 => self.clone3(flags, cgroup),
            CloneCall::Clone => self.clone2(flags),
        };
        drop(blocked);
        if result < 0 {
            self.cells.errno.store(-(result as i32), Ordering::Release);
            self.cells.started.store(FAILED, Ordering::Release);
            let _woken = futex::wake(&self.cells.started, futex::Flags::empty(), 1).is_ok();
        } else {
            self.cells.started.store(result as u32, Ordering::Release);
        }
    }

    fn clone3(&self, flags: u64, cgroup: Option<RawFd>) -> isize {
        let into_cgroup = if cgroup.is_some() {
            CLONE_INTO_CGROUP
        } else {
            0
        };
        let args = CloneArgs {
            flags: flags | libc::CLONE_PARENT_SETTID as u64 | CLONE_CLEAR_SIGHAND | into_cgroup,
            pidfd: self.cells.pidfd.as_ptr() as u64,
            child_tid: self.cells.tid.as_ptr() as u64,
            parent_tid: self.cells.started.as_ptr() as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: self.stack.as_ptr() as u64,
            stack_size: (self.stack.len() * 8) as u64,
            cgroup: cgroup.map_or(0, |fd| fd as u64),
            ..CloneArgs::default()
        };
        let size = size_of_val(&args) as u64;
        let args = [&raw const args as u64, size, 0, 0, 0];
        // SAFETY: the flags ask for CLONE_VM with a stack of its own and nothing else shared; all signals are blocked;
        // program, stack and cells are owned by `self`, which is freed only once the child has left this memory (Drop of
        // Memory); the kernel reads the struct before it returns.
        unsafe { clone(libc::SYS_clone3, args, self.program()) }
    }

    /// Signal handlers stay until the child's execve(2), which comes before any signal is unblocked.
    fn clone2(&self, flags: u64) -> isize {
        // The stack's upper end; and for the pid the place that the pidfd goes to here.
        let stack = self.stack.as_ptr() as usize + self.stack.len() * 8;
        let (pidfd, tid) = (self.cells.pidfd.as_ptr(), self.cells.tid.as_ptr());
        // The place for tls, which is not asked for, is the fifth on x86_64 and the fourth elsewhere.
        let (fourth, fifth) = if cfg!(target_arch = "x86_64") {
            (tid as u64, 0)
        } else {
            (0, tid as u64)
        };
        let flags = flags | libc::SIGCHLD as u64;
        let args = [flags, stack as u64, pidfd as u64, fourth, fifth];
        // SAFETY: as for clone3.
        unsafe { clone(libc::SYS_clone, args, self.program()) }
    }

    fn program(&self) -> *mut std::ffi::c_void {
        self.program.as_ptr().cast_mut().cast()
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

/// How the process behind `pidfd` ended, as wait(2) says it, by `PIDFD_GET_INFO`. `None`: that is not known yet.
///
/// # Errors
/// `NOTTY` or `SRCH` from kernels before 6.15, which do not keep it.
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let info = pidfd_info(pidfd, PIDFD_INFO_EXIT)?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

/// `struct pidfd_info` in its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    others: [u32; 10],
    exit_code: i32,
}

/// What the kernel says of a process, where it is 6.13 or later; which parts of it are there, `mask` says in the answer.
fn pidfd_info(pidfd: BorrowedFd<'_>, mask: u64) -> Result<PidfdInfo, Errno> {
    // _IOWR(0xff, 11, struct pidfd_info)
    const PIDFD_GET_INFO: u64 = 3 << 30 | (size_of::<PidfdInfo>() as u64) << 16 | 0xff << 8 | 11;
    let mut info = PidfdInfo {
        mask,
        ..PidfdInfo::default()
    };
    // SAFETY: `info` outlives the call, and the request has its size: the kernel writes no more than that.
    let done = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            pidfd.as_raw_fd(),
            PIDFD_GET_INFO,
            &raw mut info,
        )
    };
    if done == 0 {
        Ok(info)
    } else {
        Err(last_errno())
    }
}

/// Whether `/proc` counts processes as this one does.
fn proc_is_ours() -> bool {
    let mut text = [0; 16];
    let own = rustix::process::getpid().as_raw_nonzero().get();
    rustix::fs::readlinkat_raw(rustix::fs::CWD, "/proc/self", &mut text[..])
        .is_ok_and(|length| text[..length] == *own.to_string().as_bytes())
}

/// mount_setattr(2) of the detached tree behind `fd`.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, change: &Change) -> Result<(), Errno> {
    let attributes = change.attributes;
    let attr = [
        attributes.to_set(),
        attributes.to_clear(),
        change.propagation.to_set(),
        0,
    ];
    raw_mount_setattr(fd, change.depth, attr)
}

/// Gives the detached tree behind `fd` the ids of a user namespace.
pub(crate) fn idmap(fd: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    const IDMAP: u64 = 0x10_0000; // MOUNT_ATTR_IDMAP
    let namespace = u64::from(namespace.as_raw_fd().unsigned_abs());
    raw_mount_setattr(fd, Depth::Recursive, [IDMAP, 0, 0, namespace])
}

fn raw_mount_setattr(fd: BorrowedFd<'_>, depth: Depth, attr: [u64; 4]) -> Result<(), Errno> {
    const AT_RECURSIVE: i32 = 0x8000;
    let recursive = match depth {
        Depth::Top => 0,
        Depth::Recursive => AT_RECURSIVE,
    };
    // SAFETY: the path is a NUL-terminated string, `attr` is a struct mount_attr of the size given and only read.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// A mount namespace, root and working directory of this thread alone, by unshare(2). For a thread that is about to end.
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: the flags take away no fd and no memory; what the thread shares no more are its mounts and directories.
    let done = unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// A network namespace of this thread alone, by unshare(2). For a thread that is the library's.
pub(crate) fn unshare_net() -> Result<(), Errno> {
    // SAFETY: the flag takes away neither fds nor memory.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Sets the loopback of this thread's network namespace up, by `SIOCSIFFLAGS`.
pub(crate) fn set_loopback_up() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // A struct ifreq: 16 bytes of name, then the flags.
    let name = u64::from_ne_bytes(*b"lo\0\0\0\0\0\0");
    let flags = u64::from((libc::IFF_UP | libc::IFF_RUNNING).unsigned_abs());
    let request = [name, 0, flags, 0, 0u64];
    let set = libc::SIOCSIFFLAGS as libc::Ioctl;
    // SAFETY: the call reads a struct ifreq, which is as long as the array.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), set, request.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The user namespace that owns the namespace behind `fd`, by `NS_GET_USERNS`.
pub(crate) fn owner_of_namespace(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: the ioctl has no argument and returns a new fd, which nobody else has.
    unsafe {
        let owner = libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS as libc::Ioctl);
        if owner < 0 {
            return Err(last_errno());
        }
        Ok(OwnedFd::from_raw_fd(owner))
    }
}

/// waitid(2) for a thread that is this process's only by tracing it, which needs `__WALL`.
pub(crate) fn wait_for_thread(thread: Pid, options: WaitIdOptions) -> Result<(), Errno> {
    let options = i32::try_from(options.bits()).unwrap_or(0) | libc::__WALL;
    let id = libc::id_t::try_from(thread.as_raw_nonzero().get()).unwrap_or(0);
    // SAFETY: a siginfo_t is plain data, and the call writes only this one.
    let done = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, id, &mut info, options)
    };
    if done == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Reaps the children in the process group that child `leader`, which is reaped, has made, until there are no more of them.
pub(crate) fn reap_group(leader: u32, deadline: Instant) {
    let leader = i32::try_from(leader).ok();
    let Some(group) = leader.and_then(rustix::process::Pid::from_raw) else {
        return;
    };
    while Instant::now() < deadline {
        match rustix::process::waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(Duration::from_micros(200)),
            Err(_) => return,
        }
    }
}

/// The caller's process group. None if it is led from outside of the caller's pid namespace, where it has no number.
pub(crate) fn process_group() -> Option<Pid> {
    // SAFETY: getpgrp(2) takes nothing and writes nothing.
    Pid::from_raw(unsafe { libc::getpgrp() })
}

/// The pid of the process behind a pidfd, as `/proc` counts.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> OurResult<u32> {
    const PIDFD_INFO_PID: u64 = 1;
    if let Ok(info) = pidfd_info(pidfd, PIDFD_INFO_PID) {
        if info.pid != 0 && proc_is_ours() {
            return Ok(info.pid);
        }
    }
    let path = format!("/proc/thread-self/fdinfo/{}", pidfd.as_raw_fd());
    let path = std::path::Path::new(&path);
    let text = std::fs::read_to_string(path).map_err(Error::path("read", path))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid.ok_or_else(|| Error::invalid("process", pidfd, "is no pidfd"))?;
    // -1 if it has ended, 0 if it is not to be seen from here.
    match pid.trim().parse() {
        Ok(0) | Err(_) => Err(Error::sys("look for the process of a pidfd")(Errno::SRCH)),
        Ok(pid) => Ok(pid),
    }
}

/// Opens what an `O_PATH` fd is of to be read and written, as no controlling terminal.
pub(crate) fn reopen(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    reopen_with(fd, OFlags::RDWR | OFlags::NOCTTY)
}

/// Opens the file behind `fd` again, to be read only.
pub(crate) fn reopen_to_read(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    reopen_with(fd, OFlags::RDONLY)
}

fn reopen_with(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// The version of Landlock's ABI that the kernel has, from 1, by landlock_create_ruleset(2).
#[cfg(feature = "landlock")]
pub(crate) fn landlock_abi() -> Result<i32, Errno> {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u64>();
    // SAFETY: asked for the version, the call reads no memory and makes nothing.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) };
    if version < 0 {
        return Err(last_errno());
    }
    Ok(i32::try_from(version).unwrap_or(i32::MAX))
}

fn last_errno() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(raw.unwrap_or(libc::EIO))
}
