//! The raw calls of the fixtures.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::io;

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
