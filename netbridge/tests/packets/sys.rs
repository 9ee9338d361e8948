//! The raw calls of the tests with packets.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The index of a link of the calling thread's network namespace.
pub(crate) fn index(name: &str) -> u32 {
    let name = CString::new(name).unwrap();
    // SAFETY: `name` is a string with its NUL, which outlives the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// Makes a bridge as brctl(8) does, by ioctl(2), and sets it up.
pub(crate) fn foreign_bridge(name: &str) {
    const SIOCBRADDBR: libc::c_ulong = 0x89a0;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::IFF_UP as libc::c_short,
        },
    };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(name.bytes())
    {
        *to = from as libc::c_char;
    }
    // SAFETY: the first reads the name with its NUL, the second that and the flags; the struct outlives both calls.
    let done = unsafe {
        let fd = socket.as_raw_fd();
        libc::ioctl(fd, SIOCBRADDBR as _, request.ifr_name.as_ptr())
            | libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw const request)
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn address(index: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    }
}

const LENGTH: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// A packet socket on the link at `index`: all that comes in and goes out.
pub(crate) fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    // SAFETY: the fd is fresh, and nobody else's. It is bound by an address of the length that is said.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let address = address(index);
        if libc::bind(fd.as_raw_fd(), (&raw const address).cast(), LENGTH) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }
}

/// The hardware address of the link that the socket is bound to.
pub(crate) fn mac(socket: BorrowedFd<'_>) -> [u8; 6] {
    let mut address = address(0);
    let mut length = LENGTH;
    // SAFETY: the kernel writes at most `length` bytes to `address`, which has as many.
    let done = unsafe {
        let to = (&raw mut address).cast();
        libc::getsockname(socket.as_raw_fd(), to, &raw mut length)
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    address.sll_addr[..6].try_into().unwrap()
}

/// The next frame within `time`, and whether it goes out.
pub(crate) fn receive(socket: BorrowedFd<'_>, time: Duration) -> Option<(bool, Vec<u8>)> {
    let mut buffer = vec![0; 4096];
    let mut address = address(0);
    let mut length = LENGTH;
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd; the kernel writes at most as many bytes as `buffer` and `address` are said to have.
    let received = unsafe {
        if libc::poll(&raw mut poll, 1, time.as_millis() as i32) < 1 {
            return None;
        }
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    buffer.truncate(usize::try_from(received).ok()?);
    Some((address.sll_pkttype == libc::PACKET_OUTGOING, buffer))
}

pub(crate) fn send(socket: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
    // SAFETY: `frame` outlives the call, which reads as many bytes of it as it has.
    let sent = unsafe {
        let fd = socket.as_raw_fd();
        libc::send(fd, frame.as_ptr().cast(), frame.len(), 0)
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `IP_PMTUDISC_DO`: packets are not fragmented.
pub(crate) fn do_not_fragment(socket: impl AsFd) {
    let value = libc::IP_PMTUDISC_DO;
    // SAFETY: the kernel reads an int, which `value` is.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Makes `/proc/sys` of the calling thread's mount namespace read-only.
pub(crate) fn make_proc_sys_read_only() {
    let path = c"/proc/sys".as_ptr();
    let none: *const libc::c_char = std::ptr::null();
    let bind = libc::MS_BIND;
    let read_only = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
    // SAFETY: `path` is a string with its NUL that lives for ever; null is allowed for what these mounts do not need.
    let done = unsafe {
        [
            libc::mount(path, path, none, bind, none.cast()),
            libc::mount(path, path, none, read_only, none.cast()),
        ]
    };
    assert_eq!(done, [0, 0], "{}", io::Error::last_os_error());
}
