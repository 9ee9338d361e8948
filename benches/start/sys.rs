//! The floor: a clone3(2) with `CLONE_VM` whose child makes each system call that a start takes, with arguments made before.
#![allow(unsafe_code, reason = "raw syscalls")]

use std::arch::asm;
use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use libc::{MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT};

/// Memory in use.
pub(crate) struct Ballast {
    start: *mut c_void,
    bytes: usize,
}

impl Ballast {
    /// So many bytes, in 4 KiB pages, every one touched.
    pub(crate) fn new(bytes: usize) -> Self {
        // SAFETY: a fresh mapping of the size given, written within its bounds.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let start = libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED, "no memory for the ballast");
            libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE);
            for page in (0..bytes).step_by(4096) {
                start.cast::<u8>().add(page).write_volatile(1);
            }
            Ballast { start, bytes }
        }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped; nobody else has the address.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

/// A static ELF64 whose only instructions are exit(0).
pub(crate) fn true_elf() -> Vec<u8> {
    let code = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]; // xor edi, edi; mov eax, 60; syscall
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    let (base, headers) = (0x40_0000u64, 64 + 56u64);
    let total = headers + code.len() as u64;
    for field in [base + headers, 64, 0, 64 << 32 | 56 << 48, 1] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    file.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
    for field in [0, base, base, total, total, 4096] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    file.extend_from_slice(&code);
    file
}

/// Everything the child's calls point to.
pub(crate) struct Floor {
    root: CString,
    stack: Vec<u64>,
}

impl Floor {
    pub(crate) fn new(root: &Path) -> Self {
        let root = CString::new(root.as_os_str().as_bytes()).unwrap();
        Floor {
            root,
            stack: vec![0; 2048],
        }
    }

    /// Starts the program and returns how long it took to its execve(2). It has ended when this returns.
    pub(crate) fn start(&self) -> Duration {
        let start = Instant::now();
        let mut pipe = [0; 2];
        let mut pidfd = -1i32;
        let flags = libc::CLONE_VM
            | libc::CLONE_PIDFD
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWNET;
        // SAFETY: the child runs on a stack of its own, makes raw system calls only, and has left this memory when the pipe
        // ends, before anything it uses is freed. All signals are blocked while it is there.
        unsafe {
            assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0);
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
            let args: [u64; 11] = [
                flags as u64 | 1 << 32, // CLONE_CLEAR_SIGHAND
                &raw mut pidfd as u64,
                0,
                0,
                libc::SIGCHLD as u64,
                self.stack.as_ptr() as u64,
                (self.stack.len() * 8) as u64,
                0,
                0,
                0,
                0,
            ];
            let pid = clone3(&args, self);
            libc::pthread_sigmask(libc::SIG_SETMASK, &old, std::ptr::null_mut());
            assert!(pid > 0, "clone3: {pid}");
            libc::close(pipe[1]);
            let mut byte = 0u8;
            assert_eq!(libc::read(pipe[0], (&raw mut byte).cast(), 1), 0);
            let took = start.elapsed();
            libc::close(pipe[0]);
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PIDFD, pidfd as u32, &mut info, libc::WEXITED);
            assert_eq!(
                (info.si_code, info.si_status()),
                (libc::CLD_EXITED, 0),
                "the floor's child failed"
            );
            libc::close(pidfd);
            took
        }
    }
}

unsafe fn clone3(args: &[u64; 11], floor: *const Floor) -> isize {
    let result: isize;
    // SAFETY: as the caller says; the child calls a function that never returns.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "and rsp, -16",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size_of_val(args),
            in("r12") child as *const (),
            in("r13") floor,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// A system call; ends the child when it fails with another errno than the one given.
unsafe fn call(nr: libc::c_long, args: [usize; 6], tolerated: i32) -> isize {
    let result: isize;
    // SAFETY: pointers among the arguments are of strings and structs that outlive the child's stay in this memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
        if result < 0 && -result as i32 != tolerated {
            call(libc::SYS_exit_group, [1, 0, 0, 0, 0, 0], 0);
        }
    }
    result
}

unsafe fn mount(from: &CStr, to: &CStr, kind: &CStr, flags: u64, data: &CStr, tolerated: i32) {
    let args = [from, to, kind].map(|text| text.as_ptr() as usize);
    let data = if data.is_empty() {
        0
    } else {
        data.as_ptr() as usize
    };
    // SAFETY: as for `call`.
    unsafe {
        call(
            libc::SYS_mount,
            [args[0], args[1], args[2], flags as usize, data, 0],
            tolerated,
        )
    };
}

unsafe extern "C" fn child(floor: *const Floor) -> ! {
    // SAFETY: the parent waits for this child to leave its memory before it goes on; all below are raw system calls with
    // arguments that are constants or the parent's.
    unsafe {
        let root = &(*floor).root;
        let at = |text: &CStr| text.as_ptr() as usize;
        call(libc::SYS_umask, [0; 6], 0);
        call(
            libc::SYS_unshare,
            [libc::CLONE_NEWCGROUP as usize, 0, 0, 0, 0, 0],
            0,
        );
        let socket = call(
            libc::SYS_socket,
            [
                libc::AF_INET as usize,
                libc::SOCK_DGRAM as usize,
                0,
                0,
                0,
                0,
            ],
            0,
        );
        let ifreq = [u64::from_ne_bytes(*b"lo\0\0\0\0\0\0"), 0, 0x41, 0, 0];
        call(
            libc::SYS_ioctl,
            [
                socket as usize,
                libc::SIOCSIFFLAGS as usize,
                ifreq.as_ptr() as usize,
                0,
                0,
                0,
            ],
            0,
        );
        call(libc::SYS_setsid, [0; 6], 0);
        mount(c"", c"/", c"", MS_REC | MS_PRIVATE, c"", 0);
        mount(root, root, c"", MS_BIND | MS_REC, c"", 0);
        call(libc::SYS_chdir, [at(root), 0, 0, 0, 0, 0], 0);
        call(libc::SYS_pivot_root, [at(c"."), at(c"."), 0, 0, 0, 0], 0);
        devices(&at);
        mount(
            c"proc",
            c"/proc",
            c"proc",
            MS_NOSUID | MS_NODEV | MS_NOEXEC,
            c"",
            0,
        );
        mount(
            c"sysfs",
            c"/sys",
            c"sysfs",
            MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY,
            c"",
            0,
        );
        call(libc::SYS_chdir, [at(c"/"), 0, 0, 0, 0, 0], 0);
        call(
            libc::SYS_umount2,
            [at(c"/"), libc::MNT_DETACH as usize, 0, 0, 0, 0],
            0,
        );
        mask();
        call(libc::SYS_sethostname, [at(c"bench"), 5, 0, 0, 0, 0], 0);
        privileges();
        call(libc::SYS_chdir, [at(c"/"), 0, 0, 0, 0, 0], 0);
        let none = [0u64; 4];
        call(
            libc::SYS_rt_sigprocmask,
            [2, none.as_ptr() as usize, 0, 8, 0, 0],
            0,
        );
        call(libc::SYS_close_range, [3, u32::MAX as usize, 4, 0, 0, 0], 0);
        let argv = [at(c"/bin/true"), 0];
        let envp = [at(c"PATH=/bin"), 0];
        call(
            libc::SYS_execve,
            [
                argv[0],
                argv.as_ptr() as usize,
                envp.as_ptr() as usize,
                0,
                0,
                0,
            ],
            0,
        );
        loop {
            call(libc::SYS_exit_group, [126, 0, 0, 0, 0, 0], 0);
        }
    }
}

unsafe fn devices(at: &impl Fn(&CStr) -> usize) {
    // SAFETY: as for `child`.
    unsafe {
        mount(
            c"tmpfs",
            c"/dev",
            c"tmpfs",
            MS_NOSUID,
            c"mode=755,size=65536k",
            0,
        );
        call(libc::SYS_chdir, [at(c"/dev"), 0, 0, 0, 0, 0], 0);
        let nodes = [
            (c"null", 1, 3),
            (c"zero", 1, 5),
            (c"full", 1, 7),
            (c"random", 1, 8),
            (c"urandom", 1, 9),
            (c"tty", 5, 0),
        ];
        for (name, major, minor) in nodes {
            let device = libc::makedev(major, minor) as usize;
            call(
                libc::SYS_mknod,
                [at(name), (libc::S_IFCHR | 0o666) as usize, device, 0, 0, 0],
                0,
            );
        }
        let links = [
            (c"/proc/self/fd", c"fd"),
            (c"/proc/self/fd/0", c"stdin"),
            (c"/proc/self/fd/1", c"stdout"),
            (c"/proc/self/fd/2", c"stderr"),
            (c"pts/ptmx", c"ptmx"),
        ];
        for (target, name) in links {
            call(libc::SYS_symlink, [at(target), at(name), 0, 0, 0, 0], 0);
        }
        for name in [c"pts", c"shm", c"mqueue"] {
            call(libc::SYS_mkdir, [at(name), 0o755, 0, 0, 0, 0], 0);
        }
        let flags = MS_NOSUID | MS_NOEXEC;
        mount(
            c"devpts",
            c"pts",
            c"devpts",
            flags,
            c"newinstance,ptmxmode=0666,mode=0620,gid=5",
            0,
        );
        mount(
            c"tmpfs",
            c"shm",
            c"tmpfs",
            flags | MS_NODEV,
            c"mode=1777,size=65536k",
            0,
        );
        mount(c"mqueue", c"mqueue", c"mqueue", flags | MS_NODEV, c"", 0);
    }
}

unsafe fn mask() {
    let files = [
        c"/proc/interrupts",
        c"/proc/kcore",
        c"/proc/keys",
        c"/proc/latency_stats",
        c"/proc/sched_debug",
        c"/proc/timer_list",
        c"/proc/timer_stats",
    ];
    let directories = [
        c"/proc/acpi",
        c"/proc/asound",
        c"/proc/scsi",
        c"/sys/devices/virtual/powercap",
        c"/sys/firmware",
    ];
    let read_only = [
        c"/proc/bus",
        c"/proc/fs",
        c"/proc/irq",
        c"/proc/sys",
        c"/proc/sysrq-trigger",
    ];
    let flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    // SAFETY: as for `child`.
    unsafe {
        for path in files {
            mount(c"/dev/null", path, c"", MS_BIND, c"", libc::ENOENT);
        }
        for path in directories {
            mount(
                c"tmpfs",
                path,
                c"tmpfs",
                flags | MS_RDONLY,
                c"size=4k,nr_inodes=1",
                libc::ENOENT,
            );
        }
        for path in read_only {
            mount(path, path, c"", MS_BIND | MS_REC, c"", libc::ENOENT);
            mount(
                c"",
                path,
                c"",
                flags | MS_BIND | MS_REMOUNT | MS_RDONLY,
                c"",
                libc::ENOENT,
            );
        }
    }
}

unsafe fn privileges() {
    // SAFETY: as for `child`.
    unsafe {
        call(
            libc::SYS_prctl,
            [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0],
            0,
        );
        let kept = 0xa804_25fbusize;
        for capability in (0..41usize).filter(|capability| kept & 1 << capability == 0) {
            call(
                libc::SYS_prctl,
                [libc::PR_CAPBSET_DROP as usize, capability, 0, 0, 0, 0],
                0,
            );
        }
        call(libc::SYS_setgroups, [0; 6], 0);
        let header = [0x2008_0522u32, 0];
        let sets = [kept as u32, kept as u32, 0, 0, 0, 0];
        call(
            libc::SYS_capset,
            [header.as_ptr() as usize, sets.as_ptr() as usize, 0, 0, 0, 0],
            0,
        );
    }
}
