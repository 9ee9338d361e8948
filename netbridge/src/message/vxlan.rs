//! VXLAN links, and what they know of other hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{CREATE, Mac, Request};
use crate::ifname::IfName;

const NUD_REACHABLE: u16 = 0x02;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// What a VXLAN link is told as it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VxlanLink<'a> {
    pub(crate) name: &'a IfName,
    pub(crate) vni: u32,
    pub(crate) port: u16,
    pub(crate) local: Option<IpAddr>,
    /// A group, or the one other host.
    pub(crate) remote: Option<IpAddr>,
    /// The index of the link it sends on.
    pub(crate) dev: Option<u32>,
    pub(crate) ttl: Option<u8>,
    pub(crate) learning: bool,
    pub(crate) proxy: bool,
    pub(crate) mtu: u32,
    /// The index of the bridge it is a port of.
    pub(crate) bridge: Option<u32>,
}

impl VxlanLink<'_> {
    fn data(&self) -> Vec<InfoVxlan> {
        let mut data = vec![
            InfoVxlan::Id(self.vni),
            InfoVxlan::Port(self.port),
            InfoVxlan::Learning(self.learning),
            InfoVxlan::Proxy(self.proxy),
        ];
        data.extend(self.local.map(|local| match local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        }));
        data.extend(self.remote.map(|remote| match remote {
            IpAddr::V4(remote) => InfoVxlan::Group(remote),
            IpAddr::V6(remote) => InfoVxlan::Group6(remote),
        }));
        data.extend(self.dev.map(InfoVxlan::Link));
        data.extend(self.ttl.map(InfoVxlan::Ttl));
        data
    }
}

pub(crate) fn create_vxlan(vxlan: VxlanLink<'_>) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(vxlan.name.to_string()),
        LinkAttribute::Mtu(vxlan.mtu),
    ];
    let bridge = vxlan.bridge.map(LinkAttribute::Controller);
    link.attributes.extend(bridge);
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(vxlan.data())),
    ]));
    let what = format!("create vxlan {} with VNI {}", vxlan.name, vxlan.vni);
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(what, CREATE, message)
}

/// No IPv6 address by itself.
pub(crate) fn no_link_local(index: u32, name: &IfName) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
        vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
    )])];
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("set addrgenmode of {name}"), 0, message)
}

/// How an entry comes to be beside one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Not at all.
    New,
    /// In its place.
    Replace,
    /// As one more destination.
    Append,
}

impl Put {
    fn flags(self) -> u16 {
        match self {
            Put::New => CREATE,
            Put::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Put::Append => NLM_F_CREATE | NLM_F_APPEND,
        }
    }
}

/// Where the frames for `mac` go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdbRoute {
    pub(crate) index: u32,
    pub(crate) mac: Mac,
    pub(crate) vtep: IpAddr,
    /// Whether the bridge of the link is told that they go to the link.
    pub(crate) by_bridge: bool,
}

/// `bridge fdb add|replace|append <mac> dev <name> dst <vtep> self [master] static`
pub(crate) fn put_fdb(route: FdbRoute, put: Put, what: String) -> Request {
    let message = RouteNetlinkMessage::NewNeighbour(fdb(route));
    Request::new(what, put.flags(), message)
}

/// `bridge fdb del <mac> dev <name> dst <vtep> self`
pub(crate) fn delete_fdb(route: FdbRoute, what: String) -> Request {
    delete_fdb_of(NeighbourFlags::Own, route, what)
}

/// `bridge fdb del <mac> dev <name> master`, a request of its own: where the bridge has none, the kernel looks no further.
pub(crate) fn delete_fdb_of_bridge(route: FdbRoute, what: String) -> Request {
    delete_fdb_of(NeighbourFlags::Controller, route, what)
}

fn delete_fdb_of(whose: NeighbourFlags, route: FdbRoute, what: String) -> Request {
    let mut message = fdb(route);
    message.header.flags = whose;
    Request::new(what, 0, RouteNetlinkMessage::DelNeighbour(message))
}

/// Has the bridge learn nothing from what comes in on its port.
pub(crate) fn no_learning_of_port(index: u32, name: &IfName) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let options = vec![InfoBridgePort::Learning(false)];
    link.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(options)),
    ])];
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("set learning of port {name}"), 0, message)
}

pub(crate) fn all_fdb(index: u32, name: &IfName) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    let message = RouteNetlinkMessage::GetNeighbour(message);
    Request::dump(format!("list the FDB of {name}"), message)
}

/// `ip neighbour replace <address> lladdr <mac> dev <name> nud permanent`
pub(crate) fn put_neighbour(index: u32, address: IpAddr, mac: Mac, what: String) -> Request {
    let mut message = neighbour(index, address);
    let mac = NeighbourAttribute::LinkLayerAddress(mac.to_vec());
    message.attributes.push(mac);
    let message = RouteNetlinkMessage::NewNeighbour(message);
    Request::new(what, Put::Replace.flags(), message)
}

pub(crate) fn delete_neighbour(index: u32, address: IpAddr, what: String) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(neighbour(index, address));
    Request::new(what, 0, message)
}

fn fdb(route: FdbRoute) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = route.index;
    // To a bridge, a permanent one is its own address.
    message.header.state = NeighbourState::Other(NUD_NOARP | NUD_REACHABLE);
    message.header.flags = match route.by_bridge {
        true => NeighbourFlags::Own | NeighbourFlags::Controller,
        false => NeighbourFlags::Own,
    };
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(route.mac.to_vec()),
        NeighbourAttribute::Destination(destination(route.vtep)),
    ];
    message
}

fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination(destination(address))];
    message
}

fn destination(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }
}

/// One destination of a frame, as `RTM_NEWNEIGH` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdbAnswer {
    pub(crate) index: u32,
    pub(crate) mac: Mac,
    pub(crate) vtep: Option<IpAddr>,
    /// By somebody, not learnt.
    pub(crate) given: bool,
}

impl FdbAnswer {
    /// None for what is no entry of a VXLAN link's own table.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        const NDA_DST: u16 = 1;
        const NDA_LLADDR: u16 = 2;
        let index = u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
        let state = u16::from_ne_bytes(*payload.get(8..)?.first_chunk()?);
        let (mut mac, mut vtep) = (None, None);
        for attribute in netlink_packet_core::NlasIterator::new(payload.get(12..)?).flatten() {
            match attribute.kind() {
                NDA_LLADDR => mac = attribute.value().first_chunk::<6>().copied(),
                NDA_DST => vtep = address(attribute.value()),
                _ => {}
            }
        }
        Some(FdbAnswer {
            index,
            mac: mac?,
            vtep,
            given: state & (NUD_PERMANENT | NUD_NOARP) != 0,
        })
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(*octets.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*octets.first_chunk::<16>()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::round_trip;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn v4() -> IpAddr {
        "192.0.2.9".parse().unwrap()
    }

    fn v6() -> IpAddr {
        "2001:db8::9".parse().unwrap()
    }

    fn route(vtep: IpAddr) -> FdbRoute {
        FdbRoute {
            index: 3,
            mac: MAC,
            vtep,
            by_bridge: true,
        }
    }

    #[test]
    fn the_bytes_of_a_request_are_the_request() {
        let name: IfName = "vx0".parse().unwrap();
        for (local, remote) in [(v4(), "239.1.1.1".parse().unwrap()), (v6(), v6())] {
            round_trip(&create_vxlan(VxlanLink {
                name: &name,
                vni: 0xff_ffff,
                port: 4789,
                local: Some(local),
                remote: Some(remote),
                dev: Some(3),
                ttl: Some(4),
                learning: false,
                proxy: true,
                mtu: 1450,
                bridge: Some(9),
            }));
        }
        for vtep in [v4(), v6()] {
            round_trip(&put_neighbour(3, vtep, MAC, "add".to_owned()));
            round_trip(&delete_neighbour(3, vtep, "delete".to_owned()));
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        for vtep in [v4(), v6()] {
            let request = put_fdb(route(vtep), Put::New, "add".to_owned());
            let bytes = request.render(1);
            let expected = FdbAnswer {
                index: 3,
                mac: MAC,
                vtep: Some(vtep),
                given: true,
            };
            assert_eq!(FdbAnswer::parse(&bytes[16..]), Some(expected));
            for length in 16..bytes.len() {
                let _cut_off_anywhere = FdbAnswer::parse(&bytes[16..length]);
            }
        }
    }

    #[test]
    fn a_flooding_entry_is_appended_and_no_other_is() {
        let flags = |put| put_fdb(route(v4()), put, String::new()).flags;
        assert_eq!(flags(Put::New) & CREATE, CREATE);
        assert_eq!(flags(Put::Append) & CREATE, NLM_F_CREATE);
        assert_ne!(flags(Put::Append) & NLM_F_APPEND, 0);
        assert_ne!(flags(Put::Replace) & NLM_F_REPLACE, 0);
    }
}
