//! Links, addresses and routes of a network namespace, by rtnetlink messages written in bytes: both families alike.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use cofferdam_testkit::NetNs;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE_EXCL: u16 = 0x400 | 0x200;

const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const UP: u32 = 1;

/// rtnetlink of one namespace.
pub(crate) struct Links<'a> {
    netns: &'a NetNs,
    socket: Socket,
}

/// The tables of routes that are used here.
#[derive(Clone, Copy)]
pub(crate) enum Table {
    Main = 254,
    Local = 255,
}

impl<'a> Links<'a> {
    pub(crate) fn of(netns: &'a NetNs) -> Self {
        let mut socket = netns.run(|| Socket::new(NETLINK_ROUTE)).unwrap();
        socket.bind(&SocketAddr::new(0, 0)).unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        Links { netns, socket }
    }

    pub(crate) fn bridge(&self, name: &str) {
        let info = attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"bridge"));
        self.new_link(name, &info);
    }

    /// A veth whose other end is `eth0` of `peer`.
    pub(crate) fn veth(&self, name: &str, peer: &NetNs) {
        let fd = peer.as_fd().as_raw_fd().to_ne_bytes();
        let inside = [
            interface(0, 0),
            text(IFLA_IFNAME, "eth0"),
            attribute(IFLA_NET_NS_FD, &fd),
        ];
        let info = [
            attribute(IFLA_INFO_KIND, b"veth"),
            attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &inside.concat())),
        ];
        self.new_link(name, &attribute(IFLA_LINKINFO, &info.concat()));
    }

    /// Makes a link a port of a bridge, that may send back where a packet came from.
    pub(crate) fn port(&self, name: &str, bridge: &str) {
        let master = attribute(IFLA_MASTER, &self.index(bridge).to_ne_bytes());
        self.change_link(name, 0, &master);
        let info = [
            attribute(IFLA_INFO_SLAVE_KIND, b"bridge"),
            attribute(IFLA_INFO_SLAVE_DATA, &attribute(IFLA_BRPORT_MODE, &[1])),
        ];
        self.change_link(name, 0, &attribute(IFLA_LINKINFO, &info.concat()));
    }

    pub(crate) fn up(&self, name: &str) {
        self.change_link(name, UP, &[]);
    }

    /// Without duplicate address detection: nobody waits for it.
    pub(crate) fn address(&self, name: &str, ip: IpAddr, prefix: u8) {
        const IFA_F_NODAD: u8 = 2;
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        let mut message = vec![family(ip), prefix, IFA_F_NODAD, 0];
        message.extend(self.index(name).to_ne_bytes());
        message.extend(attribute(IFA_LOCAL, &octets(ip)));
        message.extend(attribute(IFA_ADDRESS, &octets(ip)));
        self.ask(RTM_NEWADDR, CREATE_EXCL, &message);
    }

    pub(crate) fn route(&self, to: IpAddr, prefix: u8, gateway: IpAddr) {
        const RTA_GATEWAY: u16 = 5;
        const RTN_UNICAST: u8 = 1;
        let mut message = route(to, prefix, Table::Main, RTN_UNICAST, 0);
        message.extend(attribute(RTA_GATEWAY, &octets(gateway)));
        self.ask(RTM_NEWROUTE, CREATE_EXCL, &message);
    }

    /// Forgets that an address is local, so that packets for it leave.
    pub(crate) fn forget_local(&self, to: IpAddr, prefix: u8) {
        const RTN_LOCAL: u8 = 2;
        const RT_SCOPE_HOST: u8 = 254;
        let message = route(to, prefix, Table::Local, RTN_LOCAL, RT_SCOPE_HOST);
        self.ask(RTM_DELROUTE, 0, &message);
    }

    fn index(&self, name: &str) -> u32 {
        self.netns
            .run(|| {
                rustix::net::netdevice::name_to_index(
                    std::net::UdpSocket::bind("0.0.0.0:0").unwrap(),
                    name,
                )
            })
            .unwrap()
    }

    fn new_link(&self, name: &str, attributes: &[u8]) {
        let message = [&interface(0, UP), &text(IFLA_IFNAME, name), attributes].concat();
        self.ask(RTM_NEWLINK, CREATE_EXCL, &message);
    }

    fn change_link(&self, name: &str, flags: u32, attributes: &[u8]) {
        let message = [&interface(self.index(name), flags), attributes].concat();
        self.ask(RTM_NEWLINK, 0, &message);
    }

    /// Sends one message, and panics with the errno if the kernel refuses it.
    fn ask(&self, kind: u16, flags: u16, payload: &[u8]) {
        let mut message = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST_ACK | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        self.socket.send(&message, 0).unwrap();
        let mut answer = vec![0; 1 << 14];
        self.socket.recv(&mut &mut answer[..], 0).unwrap();
        let code = i32::from_ne_bytes(*answer[16..].first_chunk().unwrap());
        let error = std::io::Error::from_raw_os_error(-code);
        assert_eq!(code, 0, "rtnetlink message {kind}: {error}");
    }
}

/// An ifinfomsg.
fn interface(index: u32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes
}

/// An rtmsg and its destination.
fn route(to: IpAddr, prefix: u8, table: Table, kind: u8, scope: u8) -> Vec<u8> {
    const RTA_DST: u16 = 1;
    const RTPROT_STATIC: u8 = 4;
    let protocol = match table {
        Table::Main => RTPROT_STATIC,
        Table::Local => 0,
    };
    let mut bytes = vec![family(to), prefix, 0, 0, table as u8, protocol, scope, kind];
    bytes.extend([0; 4]);
    bytes.extend(attribute(RTA_DST, &octets(to)));
    bytes
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
