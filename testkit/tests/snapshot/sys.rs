//! The one raw call of this test.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::ffi::CString;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// A bridge in this thread's network namespace, by `SIOCBRADDBR`; it goes with the namespace.
pub(crate) fn bridge(name: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let name = CString::new(name)?;
    // SAFETY: the request reads a string of at most 16 bytes with its NUL, which `name` outlives; it writes nothing.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), 0x89a0, name.as_ptr()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
