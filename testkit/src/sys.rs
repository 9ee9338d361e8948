//! The raw calls of the fixtures.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

/// unshare(2), for threads that end soon. Refuses `CLONE_FILES`, which would end the sharing of fds.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(
        !flags.contains(UnshareFlags::FILES),
        "CLONE_FILES breaks fds of other threads"
    );
    // SAFETY: without CLONE_FILES (checked above) the thread keeps sharing its fds with the others.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Makes every mount of this namespace private, as by mount(2).
pub(crate) fn make_private() -> io::Result<()> {
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Sets the loopback of this thread's network namespace up, by `SIOCSIFFLAGS`.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is valid; the name fits its field; the kernel only reads the struct for this request.
    let done = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SIOCSIFFLAGS as _,
            &request,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Installs a seccomp filter for this thread and those it starts, with no_new_privs.
pub(crate) fn install_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the filter it points to outlive the calls, which only read them.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What this process does with `SIGCHLD`, which is to ignore it or the default: no handler.
pub(crate) fn set_sigchld(handler: libc::sighandler_t, flags: libc::c_int) -> io::Result<()> {
    assert!([libc::SIG_IGN, libc::SIG_DFL].contains(&handler));
    // SAFETY: an all-zero sigaction is valid, and the call only reads it; no code is installed that a signal could run.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut())
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Has `command` enter a user namespace with this map of ids, and a mount namespace, before it executes.
pub(crate) fn enter_user_namespace(command: &mut Command, map: String) -> &mut Command {
    let write_file = |path: &CStr, text: &str| -> io::Result<()> {
        let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only: no allocation, no lock. The child has one thread.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)?;
            write_file(c"/proc/self/setgroups", "deny")?;
            write_file(c"/proc/self/uid_map", &map)?;
            write_file(c"/proc/self/gid_map", &map)
        })
    }
}
