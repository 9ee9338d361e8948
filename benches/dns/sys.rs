//! The floor: datagrams taken and sent back in batches, by recvmmsg(2) and sendmmsg(2) and nothing else.
#![allow(unsafe_code, reason = "raw syscalls")]

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const AT_ONCE: usize = 32;
const ROOM: usize = 4097;

/// Sends back what comes, its first bytes made those of an answer, until a datagram of one byte comes.
pub(crate) fn echo(socket: &UdpSocket) {
    let mut bytes = vec![0_u8; AT_ONCE * ROOM];
    // SAFETY: structs of integers and pointers, for which all bits zero is a value.
    let mut names: [libc::sockaddr_storage; AT_ONCE] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut parts: [libc::iovec; AT_ONCE] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut headers: [libc::mmsghdr; AT_ONCE] = unsafe { std::mem::zeroed() };
    let start = bytes.as_mut_ptr();
    for index in 0..AT_ONCE {
        parts[index].iov_base = start.wrapping_add(index * ROOM).cast();
        headers[index].msg_hdr.msg_name = (&raw mut names[index]).cast();
        headers[index].msg_hdr.msg_iov = &raw mut parts[index];
        headers[index].msg_hdr.msg_iovlen = 1;
    }
    let mut spent = 0;
    loop {
        for index in 0..AT_ONCE {
            parts[index].iov_len = ROOM;
            headers[index].msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
        }
        // SAFETY: every header has a part of ROOM bytes of `bytes` and an address of `names`, which outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                AT_ONCE as u32,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).unwrap();
        for index in 0..count {
            let length = headers[index].msg_len as usize;
            spent += usize::from(length == 1);
            parts[index].iov_len = length;
            if length > 3 {
                // SAFETY: within the part of this header, which the kernel has written and nobody else refers to.
                unsafe { *start.add(index * ROOM + 2) |= 0x80 };
            }
        }
        // SAFETY: as above; the first `count` have come from the kernel, with their addresses.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, 0) };
        if sent < 0 || spent > 0 {
            return;
        }
    }
}
