//! Docker's default profile, as data.
//!
//! As of moby/profiles in mid-2026. What is allowed there from Linux 4.8 on is always allowed here, as nothing here runs
//! on an older kernel. Names that no architecture here has are left out.

use caps::Capability;
use caps::Capability::{
    CAP_BPF, CAP_DAC_READ_SEARCH, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_CHROOT,
    CAP_SYS_MODULE, CAP_SYS_NICE, CAP_SYS_PACCT, CAP_SYS_PTRACE, CAP_SYS_RAWIO, CAP_SYS_TIME,
    CAP_SYS_TTY_CONFIG, CAP_SYSLOG,
};

use crate::capabilities::Capabilities;

use super::filter::{Action, Condition, Machine, Rule, Test};
use super::syscalls::{ARM_PRIVATE, Arch};

/// For every program.
const ALWAYS: &str = "
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents
io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr
mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl
msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat
openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl
pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace
pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64
sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit
set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl
shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64
statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask
uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write
writev";

/// On machines that run programs of x86.
const ON_X86: &str = "arch_prctl modify_ldt";
/// On machines that run programs of ARM.
const ON_ARM: &str =
    "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// For programs that may ever have a capability.
const WITH: &[(Capability, &str)] = &[
    (CAP_DAC_READ_SEARCH, "open_by_handle_at"),
    (
        CAP_SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (CAP_SYS_BOOT, "reboot"),
    (CAP_SYS_CHROOT, "chroot"),
    (CAP_SYS_MODULE, "delete_module init_module finit_module"),
    (CAP_SYS_PACCT, "acct"),
    (CAP_SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (CAP_SYS_RAWIO, "iopl ioperm"),
    (
        CAP_SYS_TIME,
        "settimeofday stime clock_settime clock_settime64",
    ),
    (CAP_SYS_TTY_CONFIG, "vhangup"),
    (
        CAP_SYS_NICE,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (CAP_SYSLOG, "syslog"),
    (CAP_BPF, "bpf"),
    (CAP_PERFMON, "perf_event_open"),
];

/// Domains of socket(2), from the first to the last: without those that the kernel no longer has, without `AF_ALG` (38), which
/// has been a way into the kernel, and without `AF_VSOCK` (40), which no network namespace confines.
const DOMAINS: &[(u32, u32)] = &[
    (0, 11),
    (13, 18),
    (21, 22),
    (24, 24),
    (26, 33),
    (35, 36),
    (39, 39),
    (41, 45),
];

/// `PER_LINUX`, `PER_LINUX32`, either with `UNAME26`, and the question which it is.
const PERSONALITIES: &[(u32, u32)] = &[
    (0, 0),
    (8, 8),
    (0x2_0000, 0x2_0000),
    (0x2_0008, 0x2_0008),
    (u32::MAX, u32::MAX),
];

/// All `CLONE_NEW*` that clone(2) knows.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// What the profile says, for programs with these capabilities.
pub(super) fn rules(machine: Machine, capabilities: Capabilities) -> Vec<Rule> {
    let mut rules: Vec<_> = allow(ALWAYS).collect();
    rules.extend(allow(match machine {
        Machine::X86 => ON_X86,
        Machine::Arm => ON_ARM,
    }));
    // The kernel reads an `int` and an `unsigned int` of these.
    for (name, values) in [("socket", DOMAINS), ("personality", PERSONALITIES)] {
        let known = Condition::new(0, Test::Within(values)).low();
        rules.push(Rule::new(name, Action::Allow).when(known));
    }
    let none = Condition::masked_equal(0, NEW_NAMESPACES, 0);
    rules.push(Rule::new("clone", Action::Allow).when(none));
    // Its flags are behind a pointer; libc goes on with clone(2).
    rules.push(Rule::new("clone3", Action::Errno(libc::ENOSYS)));
    for (capability, names) in WITH {
        if capabilities.contains(*capability) {
            rules.extend(allow(names));
        }
    }
    for request in [TIOCSTI, TIOCLINUX] {
        let is_it = Condition::equal(1, request).low();
        rules.push(Rule::new("ioctl", Action::Errno(libc::EPERM)).when(is_it));
    }
    rules
}

/// The capabilities that [`rules`] asks for.
pub(super) fn capabilities_that_matter() -> u64 {
    WITH.iter()
        .fold(0, |all, (capability, _)| all | capability.bitmask())
}

/// The greatest number of a call that the profile names, whoever may make it.
pub(super) fn last_number(arch: Arch) -> Option<u32> {
    let all = WITH
        .iter()
        .map(|(_, names)| *names)
        .chain([ALWAYS, ON_X86, ON_ARM]);
    let numbers = all
        .flat_map(str::split_ascii_whitespace)
        .filter_map(|name| arch.number(name));
    numbers
        .filter(|number| number - arch.base() < ARM_PRIVATE)
        .max()
}

fn allow(names: &'static str) -> impl Iterator<Item = Rule> {
    names
        .split_ascii_whitespace()
        .map(|name| Rule::new(name, Action::Allow))
}
