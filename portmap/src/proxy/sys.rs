//! Datagrams with the address they were sent to: rustix has no `IP_PKTINFO`.
#![expect(unsafe_code, reason = "raw syscalls")]

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// A datagram's place in a buffer, who sent it, and to which address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) length: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: Option<IpAddr>,
}

/// Room for the control message of either family, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

const CONTROL: usize = 64;

/// Has the kernel tell of each datagram to which address it came.
pub(crate) fn tell_destination(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (level, name) = match ipv6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
    };
    // SAFETY: the value is a c_int that outlives the call, and its length is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Blocks every signal on the calling thread: writing to a connection that is gone raises SIGPIPE there, and the program's own
/// handlers have nothing to do there.
pub(crate) fn block_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises `all`, which outlives both calls; no old mask is asked for. Both fail for wrong arguments only.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut());
    }
}

/// Receives one datagram of a socket that does not block.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all of msghdr's fields may be zero.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of_val(&name) as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    // SAFETY: `message` points to the name, the part and the control buffer, which all outlive the call, with their lengths.
    let length = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &raw mut message,
            libc::MSG_DONTWAIT,
        )
    };
    let Ok(length) = usize::try_from(length) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: it was zeroed, which is a sockaddr_storage, and the kernel has written a name of its family into it.
    let from = address(&unsafe { name.assume_init() })
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    let to = destination(&message);
    Ok(Datagram { length, from, to })
}

/// Sends one datagram, from this address of ours if one is given.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let (name, name_length) = storage(to);
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all of msghdr's fields may be zero.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw const name).cast_mut().cast();
    message.msg_namelen = name_length;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(from) = from {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL as _;
        message.msg_controllen = put_source(&message, from) as _;
    }
    // SAFETY: `message` points to the name, the part and the control buffer, which all outlive the call, with their lengths; the
    // kernel only reads them.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_fd().as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    match sent {
        ..=-1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Writes the one control message, and returns the length of all.
fn put_source(message: &libc::msghdr, from: IpAddr) -> usize {
    match from {
        IpAddr::V4(ip) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            put(message, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(ip) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: ip.octets(),
                },
                ipi6_ifindex: 0,
            };
            put(message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn put<T>(message: &libc::msghdr, level: i32, kind: i32, value: T) -> usize {
    const { assert!(size_of::<T>() + size_of::<libc::cmsghdr>() <= CONTROL - 16) }
    // SAFETY: the control buffer of `message` is CONTROL bytes and aligned for a cmsghdr, so that there is a first header; the
    // assertion leaves room for the value behind it, which is written unaligned.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast::<T>(), value);
        libc::CMSG_SPACE(size_of::<T>() as u32) as usize
    }
}

fn destination(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel has written control messages into the buffer of `message` and their length into it; the macros stay
    // within that length, and what is read is as long as the kernel's value of that kind.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = ptr::read_unaligned(data.cast());
                    return Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = ptr::read_unaligned(data.cast());
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => header = libc::CMSG_NXTHDR(message, header),
            }
        }
        None
    }
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: of this family it is a sockaddr_in, which is shorter and no stricter aligned.
            let name = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family it is a sockaddr_in6, which is shorter and no stricter aligned.
            let name = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn storage(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all of sockaddr_storage's fields may be zero.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    storage.ss_family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    } as libc::sa_family_t;
    let length = match address {
        SocketAddr::V4(address) => {
            // SAFETY: a sockaddr_in is shorter than the storage and no stricter aligned; nothing else refers to it.
            let name = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
            name.sin_port = address.port().to_be();
            name.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            // SAFETY: a sockaddr_in6 is shorter than the storage and no stricter aligned; nothing else refers to it.
            let name = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
            name.sin6_port = address.port().to_be();
            name.sin6_addr.s6_addr = address.ip().octets();
            name.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_testkit::{Need, NetNs, have};
    use std::net::UdpSocket;

    #[test]
    fn a_datagram_tells_where_it_went_and_is_answered_from_there() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        for (any, at) in [
            ("0.0.0.0:0", "127.7.8.9"),
            ("[::]:0", "127.7.8.9"),
            ("[::]:0", "::1"),
        ] {
            NetNs::new().run(|| answered(any, at.parse().unwrap()));
        }
    }

    fn answered(any: &str, at: IpAddr) {
        let server = UdpSocket::bind(any).unwrap();
        tell_destination(&server, any.starts_with('[')).unwrap();
        let client = UdpSocket::bind(if at.is_ipv4() { "127.0.0.1:0" } else { any }).unwrap();
        client
            .connect((at, server.local_addr().unwrap().port()))
            .unwrap();
        client.send(b"hello?").unwrap();
        let mut buffer = [0; 16];
        let got = loop {
            match receive(&server, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                got => break got.unwrap(),
            }
        };
        assert_eq!(&buffer[..got.length], b"hello?");
        assert_eq!(got.to.map(|ip| ip.to_canonical()), Some(at), "{any}");
        send(&server, b"hello", got.from, got.to).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 5);
    }
}
