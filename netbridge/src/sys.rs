//! The raw calls.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io;
use rustix::ioctl::{Ioctl, Opcode, opcode};
use rustix::thread::UnshareFlags;

/// unshare(2) with `CLONE_NEWNET`: the calling thread, and only it, moves to a fresh network namespace.
///
/// For threads that are thrown away.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: only CLONE_FILES breaks an invariant of safe code (fds shared between threads); it is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}

/// A packet socket that receives nothing: for sending frames from the network namespace of the calling thread.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
}

/// sendto(2) of a whole frame on the link at `index`.
pub(crate) fn send_frame(socket: BorrowedFd<'_>, index: u32, frame: &[u8]) -> io::Result<()> {
    let index = i32::try_from(index).map_err(|_error| io::Errno::NODEV)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    // SAFETY: `frame` and `address` outlive the call, which reads as many bytes of them as it is told they have.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 {
        let error = std::io::Error::last_os_error();
        return Err(io::Errno::from_io_error(&error).unwrap_or(io::Errno::IO));
    }
    Ok(())
}

/// ioctl(2) with `SIOCGIFFLAGS`: the lower 16 of the flags of a link of the network namespace of `socket`.
pub(crate) fn flags(socket: BorrowedFd<'_>, name: &str) -> io::Result<u16> {
    let mut request = libc::ifreq {
        ifr_name: ifr_name(name)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // SAFETY: the kernel reads the name, which has its NUL, and writes the flags, all within the struct, which outlives the
    // call.
    let done = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        )
    };
    if done < 0 {
        let error = std::io::Error::last_os_error();
        return Err(io::Errno::from_io_error(&error).unwrap_or(io::Errno::IO));
    }
    // SAFETY: the field was initialised as this variant, and the kernel wrote the same one.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(flags as u16)
}

fn ifr_name(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.len() >= ifr_name.len() {
        return Err(io::Errno::NODEV);
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(ifr_name)
}

/// ioctl(2) with `SIOCSIFHWADDR` for a link of the network namespace of `socket`.
pub(crate) fn set_hardware_address(
    socket: BorrowedFd<'_>,
    name: &str,
    mac: [u8; 6],
) -> io::Result<()> {
    let mut sa_data = [0; 14];
    for (to, from) in sa_data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    let request = libc::ifreq {
        ifr_name: ifr_name(name)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_hwaddr: libc::sockaddr {
                sa_family: libc::ARPHRD_ETHER,
                sa_data,
            },
        },
    };
    // SAFETY: the kernel only reads the struct for this request, of which name and address are set; the name has its NUL.
    let done = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFHWADDR as _,
            &raw const request,
        )
    };
    if done < 0 {
        let error = std::io::Error::last_os_error();
        return Err(io::Errno::from_io_error(&error).unwrap_or(io::Errno::IO));
    }
    Ok(())
}

/// ioctl(2) `NS_GET_NSTYPE`: the `CLONE_NEW*` flag of a namespace's file, which the caller knows to be of nsfs.
pub(crate) fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: the request takes no argument and writes to no memory of ours.
    unsafe { rustix::ioctl::ioctl(fd, NsGetNsType) }
}

/// A request whose answer is what the call returns.
struct NsGetNsType;

// SAFETY: the opcode is that of the request, which takes no pointer and writes nothing; its answer is the return value.
unsafe impl Ioctl for NsGetNsType {
    type Output = i32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xb7, 0x3)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        answer: rustix::ioctl::IoctlOutput,
        _argument: *mut std::ffi::c_void,
    ) -> io::Result<i32> {
        Ok(answer)
    }
}

/// Hands a socket to Tokio. Only inside a runtime with I/O enabled.
#[cfg(feature = "tokio")]
pub(crate) fn tokio_socket(socket: netlink_sys::Socket) -> rtnetlink::sys::TokioSocket {
    use std::os::fd::{FromRawFd as _, IntoRawFd as _};
    // SAFETY: `into_raw_fd` gives up the only owner of the fd, which is a netlink socket.
    unsafe { rtnetlink::sys::TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}
