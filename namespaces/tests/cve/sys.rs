//! Raw calls of the payload.
#![expect(unsafe_code, reason = "raw syscalls")]

use libc::{c_long, c_ulong};

/// A call by its number, which is only made to see whether it is let through. Its errno, or 0.
pub(crate) fn errno_of(number: c_long, args: [c_ulong; 3]) -> i32 {
    let [a, b, c] = args;
    // SAFETY: no argument is a pointer but null, so the kernel reads and writes nothing of this process.
    match unsafe { libc::syscall(number, a, b, c, 0, 0, 0) } {
        -1 => last_errno(),
        _ => 0,
    }
}

/// clone(2) with `flags`; a child ends at once. Its errno, or 0.
pub(crate) fn errno_of_clone(flags: c_ulong) -> i32 {
    let none = std::ptr::null::<u8>();
    // SAFETY: without CLONE_VM the child has a copy of this memory; it makes no call but exit_group(2).
    unsafe {
        let outcome = libc::syscall(libc::SYS_clone, flags, none, none, none, none);
        if outcome == 0 {
            libc::syscall(libc::SYS_exit_group, 0);
        }
        if outcome > 0 {
            return 0;
        }
    }
    last_errno()
}

/// ioctl(2) on the standard input with a byte to type or to obey. Its errno, or 0.
pub(crate) fn errno_of_ioctl(request: c_ulong, byte: u8) -> i32 {
    // SAFETY: the requests this is for read one byte, which outlives the call.
    match unsafe { libc::syscall(libc::SYS_ioctl, 0, request, &raw const byte) } {
        -1 => last_errno(),
        _ => 0,
    }
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
}
