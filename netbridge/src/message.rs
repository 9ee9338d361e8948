//! What is said to the kernel: rtnetlink requests as plain values, made without a syscall.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnetwork::Ipv4Network;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::ifname::IfName;

pub(crate) mod lower;
pub(crate) mod probe;
pub(crate) mod vxlan;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The index of `lo` in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// One request, and what it is for, as an error will say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) what: String,
    flags: u16,
    message: RouteNetlinkMessage,
}

impl Request {
    fn new(what: String, flags: u16, message: RouteNetlinkMessage) -> Self {
        Request {
            what,
            flags: NLM_F_REQUEST | flags,
            message,
        }
    }

    /// The bytes to send, padded so that another may follow.
    pub(crate) fn render(&self, sequence: u32) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.flags = self.flags;
        header.sequence_number = sequence;
        let payload = NetlinkPayload::InnerMessage(self.message.clone());
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let length = message.buffer_len();
        let mut bytes = vec![0; length.next_multiple_of(4)];
        message.serialize(&mut bytes[..length]);
        bytes
    }
}

/// The address every link of ours gets: locally administered, and the same again for the same IP address, so that no
/// neighbour keeps a stale entry when the address is used again.
pub(crate) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

pub(crate) fn create_bridge(name: &IfName) -> Request {
    let info = vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::StpState(
            BridgeStpState::Disabled,
        )])),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::LinkInfo(info),
    ];
    new_link(format!("create bridge {name}"), CREATE, link)
}

/// The end of a veth pair that is born in the container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) name: &'a IfName,
    pub(crate) mac: Mac,
}

/// A veth pair: one end up and a port of `bridge`, the other born in the container's network namespace.
///
/// With one queue each: the kernel's default of one for each CPU costs a sysfs directory a queue (150 us with two CPUs)
/// and only serves XDP and packet steering.
pub(crate) fn create_veth(name: &IfName, bridge: u32, mtu: u32, peer: Peer<'_>) -> Request {
    let mut inside = LinkMessage::default();
    inside.attributes = vec![
        LinkAttribute::NetNsFd(peer.netns.as_raw_fd()),
        LinkAttribute::IfName(peer.name.to_string()),
        LinkAttribute::Address(peer.mac.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    let info = vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
    ];
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(info),
    ];
    let what = format!("create veth {name} with peer {}", peer.name);
    new_link(what, CREATE, link)
}

/// Whether the kernel gives a link IPv6 addresses by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkLocal {
    /// As the kernel's default says.
    Unchanged,
    /// None.
    Off,
}

/// Lets the bridge send frames back through the port they came from, as published ports need it.
pub(crate) fn port_options(index: u32, name: &IfName, link_local: LinkLocal) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(
            true,
        )])),
    ])];
    if link_local == LinkLocal::Off {
        link.attributes
            .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
            )]));
    }
    new_link(format!("set hairpin mode of {name}"), 0, link)
}

/// What a link gets as it goes up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Up {
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: Option<u32>,
}

pub(crate) fn set_up(index: u32, name: &str, with: Up) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mac = with.mac.map(|mac| LinkAttribute::Address(mac.to_vec()));
    let mtu = with.mtu.map(LinkAttribute::Mtu);
    link.attributes = mac.into_iter().chain(mtu).collect();
    let message = RouteNetlinkMessage::SetLink(link);
    Request::new(format!("set {name} up"), NLM_F_ACK, message)
}

/// By index, or by name where the index is 0.
pub(crate) fn delete_link(index: u32, name: &IfName) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    if index == 0 {
        link.attributes = vec![LinkAttribute::IfName(name.to_string())];
    }
    let message = RouteNetlinkMessage::DelLink(link);
    Request::new(format!("delete link {name}"), NLM_F_ACK, message)
}

pub(crate) fn link_named(name: &IfName) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    let message = RouteNetlinkMessage::GetLink(link);
    Request::new(format!("read link {name}"), NLM_F_ACK, message)
}

pub(crate) fn link_at(index: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let message = RouteNetlinkMessage::GetLink(link);
    Request::new(format!("read link {index}"), NLM_F_ACK, message)
}

pub(crate) fn all_links() -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let message = RouteNetlinkMessage::GetLink(link);
    Request::new("list links".to_owned(), NLM_F_DUMP, message)
}

pub(crate) fn add_address(index: u32, name: &IfName, address: Ipv4Network) -> Request {
    let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
    let what = format!("add address {address} to {name}");
    Request::new(what, CREATE | NLM_F_ACK, message)
}

pub(crate) fn delete_address(index: u32, name: &IfName, address: Ipv4Network) -> Request {
    let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
    let what = format!("delete address {address} of {name}");
    Request::new(what, NLM_F_ACK, message)
}

pub(crate) fn all_addresses() -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let message = RouteNetlinkMessage::GetAddress(message);
    Request::new("list addresses".to_owned(), NLM_F_DUMP, message)
}

pub(crate) fn add_default_route(index: u32, name: &IfName, gateway: Ipv4Addr) -> Request {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Oif(index),
    ];
    let what = format!("add default route by {gateway} on {name}");
    let message = RouteNetlinkMessage::NewRoute(route);
    Request::new(what, CREATE | NLM_F_ACK, message)
}

pub(crate) fn all_routes() -> Request {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    let message = RouteNetlinkMessage::GetRoute(route);
    Request::new("list routes".to_owned(), NLM_F_DUMP, message)
}

fn new_link(what: String, flags: u16, link: LinkMessage) -> Request {
    Request::new(what, flags | NLM_F_ACK, RouteNetlinkMessage::NewLink(link))
}

fn address_message(index: u32, address: Ipv4Network) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.ip().into()),
        AddressAttribute::Address(address.ip().into()),
    ];
    if address.prefix() < 31 {
        message
            .attributes
            .push(AddressAttribute::Broadcast(address.broadcast()));
    }
    message
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    /// What is rendered is read back the same.
    pub(crate) fn round_trip(request: &Request) {
        let bytes = request.render(9);
        let read = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
        assert_eq!(read.header.flags, request.flags);
        let NetlinkPayload::InnerMessage(message) = read.payload else {
            panic!("{read:?}");
        };
        assert_eq!(message, request.message);
    }

    fn every_request(netns: BorrowedFd<'_>) -> Vec<Request> {
        let subnet = "10.0.0.2/24".parse().unwrap();
        let peer = Peer {
            netns,
            name: &name("eth0"),
            mac: [2, 66, 10, 0, 0, 2],
        };
        vec![
            create_bridge(&name("br0")),
            create_veth(&name("veth0"), 3, 1400, peer),
            port_options(4, &name("veth0"), LinkLocal::Off),
            set_up(
                3,
                "br0",
                Up {
                    mac: Some([2; 6]),
                    mtu: Some(1400),
                },
            ),
            delete_link(3, &name("br0")),
            delete_link(0, &name("br0")),
            link_named(&name("br0")),
            link_at(3),
            all_links(),
            add_address(3, &name("br0"), subnet),
            delete_address(3, &name("br0"), subnet),
            all_addresses(),
            add_default_route(3, &name("eth0"), [10, 0, 0, 1].into()),
            all_routes(),
        ]
    }

    #[test]
    fn the_bytes_of_a_request_are_the_request() {
        let file = File::open("/dev/null").unwrap();
        for request in every_request(file.as_fd()) {
            let bytes = request.render(9);
            assert_eq!(bytes.len() % 4, 0);
            let read = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
            assert_eq!(read.header.sequence_number, 9);
            assert_eq!(read.header.flags, request.flags);
            // Written for the kernel nested, read back from it flat: all but the options of a port are the same.
            if !request.what.contains("hairpin") {
                let NetlinkPayload::InnerMessage(message) = read.payload else {
                    panic!("{read:?}");
                };
                assert_eq!(message, request.message);
            }
        }
    }

    #[test]
    fn what_creates_never_changes_what_is_there() {
        let file = File::open("/dev/null").unwrap();
        for request in every_request(file.as_fd()) {
            let creates = request.what.starts_with("create") || request.what.starts_with("add");
            assert_eq!(request.flags & CREATE == CREATE, creates, "{request:?}");
            let dumps = request.flags & NLM_F_DUMP == NLM_F_DUMP;
            assert_eq!(request.flags & NLM_F_ACK == 0, dumps, "{request:?}");
        }
    }

    #[test]
    fn deleting_a_link_is_32_bytes() {
        let expected = [
            32, 0, 0, 0, 17, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, // the header
            0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // the index
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(delete_link(7, &name("br0")).render(1), expected);
        }
    }

    #[test]
    fn one_message_makes_the_pair() {
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let peer = Peer {
            netns: file.as_fd(),
            name: &name("eth0"),
            mac: mac_of([172, 20, 0, 2].into()),
        };
        let request = create_veth(&name("veth0"), 3, 1400, peer);
        let RouteNetlinkMessage::NewLink(link) = &request.message else {
            panic!("{request:?}");
        };
        assert_eq!(link.header.flags, LinkFlags::Up);
        assert!(link.attributes.contains(&LinkAttribute::Controller(3)));
        let text = format!("{:?}", link.attributes.last().unwrap());
        for part in [
            "Kind(Veth)",
            &format!("NetNsFd({fd})"),
            "IfName(\"eth0\")",
            "Address([2, 66, 172, 20, 0, 2])",
            "Mtu(1400)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
