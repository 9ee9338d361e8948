//! What a hostile program does to who waits for it.
#![allow(unsafe_code, reason = "raw system calls")]

/// Asks this thread's parent to trace it, by `PTRACE_TRACEME`.
pub(crate) fn ask_to_be_traced() {
    // SAFETY: the request takes no arguments and touches no memory.
    let done = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
