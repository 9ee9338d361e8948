//! recvmmsg(2) and sendmmsg(2): many datagrams a call.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::fmt;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Datagrams a call takes or sends at most.
pub(crate) const AT_ONCE: usize = 32;

/// Where a datagram came from, as the kernel wrote it: a reply needs no other form.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    address: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Peer {
    pub(crate) const NONE: Peer = Peer {
        // SAFETY: a struct of integers, for which all bits zero is a value: AF_UNSPEC.
        address: unsafe { mem::zeroed() },
        length: 0,
    };

    /// The address, if it is one of IP.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let storage = &raw const self.address;
        match libc::c_int::from(self.address.ss_family) {
            libc::AF_INET => {
                // SAFETY: sockaddr_storage is larger than sockaddr_in and aligned for it, and its bytes are all written.
                let of_four = unsafe { &*storage.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(of_four.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(of_four.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for sockaddr_in6.
                let of_six = unsafe { &*storage.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(of_six.sin6_addr.s6_addr);
                let port = u16::from_be(of_six.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, of_six.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

/// Takes the datagrams that wait, without waiting for any: each into its own `room` bytes of `bytes`, its whole length
/// noted in `lengths` although it may have been cut. Returns how many there were.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    room: usize,
    peers: &mut [Peer; AT_ONCE],
    lengths: &mut [usize; AT_ONCE],
) -> io::Result<usize> {
    // SAFETY: structs of integers and pointers, for which all bits zero is a value.
    let mut headers: [libc::mmsghdr; AT_ONCE] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut parts: [libc::iovec; AT_ONCE] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (index, (chunk, peer)) in bytes.chunks_exact_mut(room).zip(&mut *peers).enumerate() {
        if index == AT_ONCE {
            break;
        }
        parts[index].iov_base = chunk.as_mut_ptr().cast();
        parts[index].iov_len = room;
        let header = &mut headers[index].msg_hdr;
        header.msg_name = (&raw mut peer.address).cast();
        header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = &raw mut parts[index];
        header.msg_iovlen = 1;
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: `count` headers are set, each with one part and one address, all of which outlive the call; the kernel
    // writes no more than `room` bytes to a part and `msg_namelen` to an address. No timeout is given.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            flags as _,
            std::ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_negative| io::Error::last_os_error())?;
    for index in 0..received {
        lengths[index] = headers[index].msg_len as usize;
        peers[index].length = headers[index].msg_hdr.msg_namelen;
    }
    Ok(received)
}

/// Sends datagrams, without waiting for room. Returns how many the kernel took: where that is not all, the first of the
/// others failed.
pub(crate) fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a [u8], &'a Peer)>,
) -> io::Result<usize> {
    // SAFETY: structs of integers and pointers, for which all bits zero is a value.
    let mut headers: [libc::mmsghdr; AT_ONCE] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut parts: [libc::iovec; AT_ONCE] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (index, (bytes, peer)) in datagrams.take(AT_ONCE).enumerate() {
        parts[index].iov_base = bytes.as_ptr().cast_mut().cast();
        parts[index].iov_len = bytes.len();
        let header = &mut headers[index].msg_hdr;
        header.msg_name = (&raw const peer.address).cast_mut().cast();
        header.msg_namelen = peer.length;
        header.msg_iov = &raw mut parts[index];
        header.msg_iovlen = 1;
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `count` headers are set, each with one part and one address that outlive the call. The kernel only reads
    // both: the casts to mutable pointers are for the type.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags as _) };
    usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
}
