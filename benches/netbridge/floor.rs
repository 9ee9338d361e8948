//! The requests of an attach, put together beforehand, and nothing else: no names chosen, nothing checked or waited for.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};

use cofferdam::netbridge::NetNs;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

const NAME: &str = "floor0";
/// The first link of a fresh network namespace beside `lo`.
const INSIDE: u32 = 2;

pub(crate) struct Floor {
    socket: Socket,
    create: Vec<u8>,
    options: Vec<u8>,
    inside: Vec<u8>,
}

impl Floor {
    pub(crate) fn new(bridge: u32, netns: &NetNs) -> Self {
        Floor {
            socket: socket(),
            create: render([create(bridge, netns)]),
            options: render([options()]),
            inside: render([address(), up(), route()]),
        }
    }

    pub(crate) fn attach(&mut self, netns: &NetNs) {
        ask(&self.socket, &self.create, 1);
        ask(&self.socket, &self.options, 1);
        let inside = || {
            for (key, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
                fs::write(format!("/proc/sys/net/ipv6/conf/eth0/{key}"), value).unwrap();
            }
            ask(&socket(), &self.inside, 3);
        };
        netns.run(inside).unwrap();
    }

    pub(crate) fn detach(&self) {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(NAME.to_owned())];
        let delete = render([(RouteNetlinkMessage::DelLink(link), 0)]);
        ask(&self.socket, &delete, 1);
    }
}

fn socket() -> Socket {
    let socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    socket.set_cap_ack(true).unwrap();
    socket
}

/// Sends, and reads as many acks.
fn ask(socket: &Socket, bytes: &[u8], mut acks: usize) {
    socket.send(bytes, 0).unwrap();
    let mut buffer = Vec::with_capacity(4096);
    while acks > 0 {
        buffer.clear();
        let length = socket.recv(&mut buffer, 0).unwrap();
        assert!(length >= 20);
        assert_eq!(buffer[16..20], [0; 4], "refused");
        acks -= 1;
    }
}

type Request = (RouteNetlinkMessage, u16);

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

fn render<const N: usize>(requests: [Request; N]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (message, flags) in requests {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let at = bytes.len();
        bytes.resize(at + message.buffer_len(), 0);
        message.serialize(&mut bytes[at..]);
    }
    bytes
}

fn create(bridge: u32, netns: &NetNs) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()),
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Address(vec![2, 66, 10, 200, 250, 250]),
        LinkAttribute::Mtu(1500),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::IfName(NAME.to_owned()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    (RouteNetlinkMessage::NewLink(link), CREATE)
}

fn options() -> Request {
    let hairpin = vec![InfoBridgePort::HairpinMode(true)];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(NAME.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(hairpin)),
        ]),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])]),
    ];
    (RouteNetlinkMessage::NewLink(link), 0)
}

fn address() -> Request {
    let ip = [10, 200, 250, 250].into();
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = 16;
    address.header.index = INSIDE;
    address.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    (RouteNetlinkMessage::NewAddress(address), CREATE)
}

fn up() -> Request {
    let mut link = LinkMessage::default();
    link.header.index = INSIDE;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    (RouteNetlinkMessage::SetLink(link), 0)
}

fn route() -> Request {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet([10, 200, 0, 1].into())),
        RouteAttribute::Oif(INSIDE),
    ];
    (RouteNetlinkMessage::NewRoute(route), CREATE)
}
