//! A kernel without a system call.

use crate::sys;

/// Takes a system call away from this thread and those it starts: it says `ENOSYS` from now on.
///
/// # Panics
/// If the filter cannot be installed: it needs `CAP_SYS_ADMIN`, or sets no_new_privs for it.
pub fn refuse_syscall(number: i64) {
    let number = u32::try_from(number).expect("a syscall number");
    let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, enosys),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    sys::install_filter(&filter).expect("seccomp");
}

fn statement(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).expect("a BPF code"),
        jt,
        jf,
        k,
    }
}
