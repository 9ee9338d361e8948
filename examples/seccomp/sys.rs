//! The raw system calls of the example.
#![allow(unsafe_code, reason = "raw syscalls")]

use std::io;
use std::time::{Duration, Instant};

use cofferdam_namespaces::Instruction;

/// A system call that does no harm whether it is made or not.
pub(crate) fn call(number: i64, args: [u64; 4]) -> io::Result<i64> {
    let [a, b, c, d] = args;
    // SAFETY: the example passes no address at which there is anything, and what the calls would change is this process's,
    // which ends at once.
    match unsafe { libc::syscall(number, a, b, c, d) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// How long the kernel takes to load a filter, on a thread that ends right after it.
pub(crate) fn load(filter: &[Instruction]) -> io::Result<Duration> {
    // The kernel's struct sock_fprog: how many, and where.
    #[repr(C)]
    struct Program {
        length: u16,
        first: *const Instruction,
    }
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let first = filter.as_ptr();
    let program = Program { length, first };
    // SAFETY: no_new_privs is this thread's alone. `program` points to as many instructions as it says, laid out as the kernel
    // reads them; they outlive the call, which copies them.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let start = Instant::now();
        match libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &program,
        ) {
            0 => Ok(start.elapsed()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
