//! Raw calls of the payload.
#![expect(unsafe_code, reason = "raw syscalls")]

/// ioprio_get(2) of this thread.
pub(crate) fn io_priority() -> i64 {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: the call takes and writes no memory.
    unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) }
}

/// The machine that uname(2) tells of.
pub(crate) fn machine() -> String {
    // SAFETY: utsname is plain data, which the call fills with NUL-terminated strings.
    let name = unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&mut name);
        std::ffi::CStr::from_ptr(name.machine.as_ptr()).to_owned()
    };
    name.to_string_lossy().into_owned()
}

/// The session keyring of this thread, by keyctl(2).
pub(crate) fn session_keyring() -> i64 {
    const KEYCTL_GET_KEYRING_ID: libc::c_int = 0;
    const KEY_SPEC_SESSION_KEYRING: libc::c_int = -3;
    // SAFETY: the call takes and writes no memory.
    unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_GET_KEYRING_ID,
            KEY_SPEC_SESSION_KEYRING,
            0,
        )
    }
}

/// Gives this thread a session keyring of its own, by keyctl(2).
pub(crate) fn start_session_keyring() -> i64 {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let unnamed = std::ptr::null::<u8>();
    // SAFETY: without a name the call reads no memory; what changes are the credentials of this thread alone.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, unnamed) }
}
