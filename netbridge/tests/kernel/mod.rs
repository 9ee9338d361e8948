//! What the kernel says, read by netlink-packet-route's own parsers: not by the code under test.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use cofferdam_netbridge::IpNetwork;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// By a dump: unlike the question for one link, it does not have the kernel catch up first.
pub(crate) fn operstate(name: &str) -> State {
    let attributes = link(name).unwrap().attributes;
    let state = attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::OperState(state) => Some(*state),
        _ => None,
    });
    state.unwrap()
}

pub(crate) fn link(name: &str) -> Option<LinkMessage> {
    let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
    ask(message, NLM_F_DUMP).into_iter().find_map(|answer| {
        let RouteNetlinkMessage::NewLink(link) = answer else {
            return None;
        };
        let named = LinkAttribute::IfName(name.to_owned());
        link.attributes.contains(&named).then_some(link)
    })
}

pub(crate) fn bridge_port(link: &LinkMessage) -> Vec<InfoBridgePort> {
    let infos = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
    infos
        .into_iter()
        .flatten()
        .find_map(|info| match info {
            LinkInfo::PortData(InfoPortData::BridgePort(options)) => Some(options.clone()),
            _ => None,
        })
        .unwrap_or_default()
}

/// The IPv4 addresses of a link.
pub(crate) fn addresses(name: &str) -> Vec<IpNetwork> {
    let index = link(name).unwrap().header.index;
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let message = RouteNetlinkMessage::GetAddress(message);
    let mut found = Vec::new();
    for answer in ask(message, NLM_F_DUMP) {
        let RouteNetlinkMessage::NewAddress(address) = answer else {
            continue;
        };
        let local = address
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(local) => Some(*local),
                _ => None,
            });
        if address.header.index == index {
            found.push(IpNetwork::new(local.unwrap(), address.header.prefix_len).unwrap());
        }
    }
    found
}

pub(crate) fn default_gateways() -> Vec<IpAddr> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let mut found = Vec::new();
    for answer in ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP) {
        let RouteNetlinkMessage::NewRoute(route) = answer else {
            continue;
        };
        if route.header.destination_prefix_length != 0 {
            continue;
        }
        for attribute in route.attributes {
            if let RouteAttribute::Gateway(RouteAddress::Inet(gateway)) = attribute {
                found.push(gateway.into());
            }
        }
    }
    found
}

/// The links with an IPv6 address.
pub(crate) fn ipv6_links() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
        .collect()
}

pub(crate) fn add_route(destination: &str, index: u32, gateway: Option<[u8; 4]>) {
    let destination: IpNetwork = destination.parse().unwrap();
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = destination.prefix();
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = match gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Oif(index)];
    if destination.prefix() > 0 {
        let address = RouteAddress::from(destination.ip());
        route.attributes.push(RouteAttribute::Destination(address));
    }
    if let Some(gateway) = gateway {
        let address = RouteAddress::Inet(gateway.into());
        route.attributes.push(RouteAttribute::Gateway(address));
    }
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
    ask(RouteNetlinkMessage::NewRoute(route), flags);
}

/// Whether the bridge sends frames back by the port at `index`.
pub(crate) fn set_hairpin(index: u32, on: bool) {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let options = vec![InfoBridgePort::HairpinMode(on)];
    link.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(options)),
    ])];
    ask(RouteNetlinkMessage::NewLink(link), NLM_F_ACK);
}

pub(crate) fn set_down(index: u32) {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.change_mask = LinkFlags::Up;
    ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK);
}

pub(crate) fn delete_link(index: u32) {
    let mut link = LinkMessage::default();
    link.header.index = index;
    ask(RouteNetlinkMessage::DelLink(link), NLM_F_ACK);
}

/// What tells a namespace from another.
pub(crate) fn identity(netns: BorrowedFd<'_>) -> (u64, u64) {
    let stat = rustix::fs::fstat(netns).unwrap();
    (stat.st_dev, stat.st_ino)
}

/// Asks and returns the answers.
fn ask(message: RouteNetlinkMessage, flags: u16) -> Vec<RouteNetlinkMessage> {
    let socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).unwrap();
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().unwrap();
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).unwrap();
            let length = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message),
                NetlinkPayload::Error(error) => {
                    assert_eq!(error.code, None, "{error}");
                    return found;
                }
                NetlinkPayload::Done(_) => return found,
                other => panic!("{other:?}"),
            }
        }
    }
}

pub(crate) fn mac(name: &str) -> Vec<u8> {
    let attributes = link(name).unwrap().attributes;
    let mac = attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => Some(mac),
            _ => None,
        });
    mac.unwrap()
}
