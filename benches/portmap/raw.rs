//! Netlink in bytes: what links and rules cost when nothing stands between them and the kernel.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use cofferdam_testkit::NetNs;
use rustix::net::netlink::NETFILTER;
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

pub(crate) const CREATE: u16 = 0x400;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;

/// A socket of one network namespace.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn route(netns: &NetNs) -> Self {
        // NETLINK_ROUTE is 0.
        Self::open(netns, None)
    }

    pub(crate) fn netfilter(netns: &NetNs) -> Self {
        Self::open(netns, Some(NETFILTER))
    }

    fn open(netns: &NetNs, protocol: Option<Protocol>) -> Self {
        let socket = netns.run(|| {
            let flags = SocketFlags::CLOEXEC;
            let kind = SocketType::RAW;
            rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, protocol).unwrap()
        });
        set_socket_send_buffer_size_force(&socket, 16 << 20).unwrap();
        set_socket_recv_buffer_size_force(&socket, 16 << 20).unwrap();
        Netlink(socket)
    }

    /// Sends a datagram whose last message but an end of batch asks for an acknowledgement, and reads that.
    pub(crate) fn send(&self, datagram: &[u8]) {
        rustix::net::send(&self.0, datagram, SendFlags::empty()).unwrap();
        let mut answer = [0; 4096];
        let (length, _) = rustix::net::recv(&self.0, &mut answer, RecvFlags::empty()).unwrap();
        let code = answer[16..length]
            .first_chunk()
            .map(|code| i32::from_ne_bytes(*code));
        assert_eq!(
            code,
            Some(0),
            "netlink: {}",
            std::io::Error::from_raw_os_error(-code.unwrap_or(0))
        );
    }
}

impl Netlink {
    /// How many messages a dump has.
    pub(crate) fn count(&self, ask: &[u8]) -> usize {
        const NLMSG_DONE: u16 = 3;
        rustix::net::send(&self.0, ask, SendFlags::empty()).unwrap();
        let mut count = 0;
        let mut answer = vec![0; 1 << 16];
        loop {
            let (length, _) =
                rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty()).unwrap();
            let mut rest = &answer[..length];
            while let Some(length) = rest.first_chunk() {
                let length = u32::from_ne_bytes(*length).next_multiple_of(4) as usize;
                if u16::from_ne_bytes([rest[4], rest[5]]) == NLMSG_DONE {
                    return count;
                }
                count += 1;
                rest = &rest[length.min(rest.len())..];
            }
        }
    }
}

/// A message that is not acknowledged.
pub(crate) fn message(kind: u16, flags: u16, payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(crate) fn acknowledged(mut message: Vec<u8>) -> Vec<u8> {
    message[6] |= ACK as u8;
    message
}

pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(crate) fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 0x8000, &parts.concat())
}

pub(crate) fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

pub(crate) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// A link into another namespace, with an address at each end.
pub(crate) fn cable(host: &NetNs, name: &str, at: Ipv4Addr, peer: &NetNs, peer_at: Ipv4Addr) {
    const RTM_NEWLINK: u16 = 16;
    const UP: u32 = 1;
    let interface = |index: u32, flags: u32| {
        let mut bytes = vec![0; 4];
        bytes.extend(index.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes
    };
    let fd = peer.as_fd().as_raw_fd().to_ne_bytes();
    let inside = [interface(0, 0), text(3, "eth0"), attribute(28, &fd)];
    let info = [
        attribute(1, b"veth"),
        attribute(2, &attribute(1, &inside.concat())),
    ];
    let (outer, inner) = (Netlink::route(host), Netlink::route(peer));
    let make = [
        interface(0, 0),
        text(3, name),
        attribute(18, &info.concat()),
    ]
    .concat();
    outer.send(&acknowledged(message(RTM_NEWLINK, CREATE, &[&make])));
    for (netlink, netns, name, ip) in [(&outer, host, name, at), (&inner, peer, "eth0", peer_at)] {
        let index = netns.run(|| index(name));
        netlink.send(&acknowledged(message(
            RTM_NEWLINK,
            0,
            &[&interface(index, UP)],
        )));
        netlink.send(&acknowledged(address(index, ip)));
    }
}

fn index(name: &str) -> u32 {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    rustix::net::netdevice::name_to_index(socket, name).unwrap()
}

fn address(index: u32, ip: Ipv4Addr) -> Vec<u8> {
    const RTM_NEWADDR: u16 = 20;
    let mut payload = vec![libc::AF_INET as u8, 24, 0, 0];
    payload.extend(index.to_ne_bytes());
    payload.extend([attribute(2, &ip.octets()), attribute(1, &ip.octets())].concat());
    message(RTM_NEWADDR, CREATE, &[&payload])
}

pub(crate) fn default_route(netns: &NetNs, gateway: Ipv4Addr) {
    const RTM_NEWROUTE: u16 = 24;
    let mut payload = vec![libc::AF_INET as u8, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
    payload.extend(attribute(5, &gateway.octets()));
    let netlink = Netlink::route(netns);
    netlink.send(&acknowledged(message(RTM_NEWROUTE, CREATE, &[&payload])));
}
