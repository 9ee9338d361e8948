//! A process that has the kernel reap its children, so that nobody learns how they ended.

use crate::sys;

/// Ignores `SIGCHLD`, for the whole process and what it executes.
///
/// # Panics
/// If the kernel refuses it.
pub fn ignore_children() {
    sys::set_sigchld(libc::SIG_IGN, 0).expect("sigaction");
}

/// Leaves `SIGCHLD` at its default with `SA_NOCLDWAIT`, for the whole process.
///
/// # Panics
/// If the kernel refuses it.
pub fn leave_no_zombies() {
    sys::set_sigchld(libc::SIG_DFL, libc::SA_NOCLDWAIT).expect("sigaction");
}
