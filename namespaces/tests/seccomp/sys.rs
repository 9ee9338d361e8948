//! The raw system calls of the payload.
#![expect(unsafe_code, reason = "raw syscalls")]

/// A system call that does no harm whether it is made or not, and its result: negative errnos as the kernel gives them.
pub(crate) fn call(number: i64, args: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the tests pass numbers, and addresses that nothing is at; what the calls would change is this process's, which
    // ends soon.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result >= 0 {
        return result;
    }
    let errno = std::io::Error::last_os_error().raw_os_error();
    -i64::from(errno.unwrap_or(libc::EIO))
}

/// clone(2) as a fork with these flags; the child ends at once.
pub(crate) fn fork(flags: i32) -> i64 {
    let flags = u64::from((flags | libc::SIGCHLD).unsigned_abs());
    let result = call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]);
    if result == 0 {
        // SAFETY: the child of a fork, which ends without touching anything that other threads may have held.
        unsafe { libc::_exit(0) };
    }
    result
}

/// The call that a 32-bit program makes, by its number there. On a kernel that has none it ends the process.
#[cfg(target_arch = "x86_64")]
pub(crate) fn call_of_x86(number: u32, args: [u32; 3]) -> i64 {
    let result: i32;
    // SAFETY: as for `call`; rbx, which the compiler may use, is put back. The kernel clobbers r8 to r11.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first:r}",
            "int 0x80",
            "xchg rbx, {first:r}",
            first = inout(reg) u64::from(args[0]) => _,
            inlateout("eax") number => result,
            in("ecx") args[1],
            in("edx") args[2],
            in("esi") 0,
            in("edi") 0,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    result.into()
}
