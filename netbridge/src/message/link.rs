//! Links.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_ECHO};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use super::brport::flag_attributes;
use super::{CREATE, Mac, Request};
use crate::attachment::IPV6_MTU;
use crate::bridge_options::BridgeOptions;
use crate::ifname::IfName;
use crate::port_flags::PortFlags;

/// The kernel gives a link born with this name the first `ethN` that is free where it is born.
pub(crate) const BY_RULE: &str = "eth%d";

pub(crate) fn create_bridge(name: &IfName, options: &BridgeOptions) -> Request {
    let options = [BridgeOptions::fixed(), options.infos()].concat();
    let info = vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(options)),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::LinkInfo(info),
    ];
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("create bridge {name}"), CREATE, message)
}

/// A veth pair: one end up and a port of `bridge`, the other born in the container's network namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VethPair<'a> {
    /// Of the host's end.
    pub(crate) name: &'a IfName,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) netns: BorrowedFd<'a>,
    /// The name of the container's end: none for the first `ethN` that is free.
    pub(crate) inside: Option<&'a IfName>,
    /// Of the container's end.
    pub(crate) mac: Mac,
    /// Of the host's end: down, where the port is not to let anything through before it has its settings.
    pub(crate) state: HostEnd,
}

/// Whether the host's end of a pair is up from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostEnd {
    Up,
    Down,
}

/// Makes a veth pair. Since Linux 6.2 the host's end comes back with the ack, as an answer to [`link_named`] would.
///
/// With one queue each: the kernel's default of one for each CPU costs a sysfs directory a queue (150 us with two CPUs)
/// and only serves XDP and packet steering.
pub(crate) fn create_veth(pair: &VethPair<'_>) -> Request {
    let inside = pair.inside.map_or(BY_RULE, IfName::as_str);
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::NetNsFd(pair.netns.as_raw_fd()),
        LinkAttribute::IfName(inside.to_owned()),
        LinkAttribute::Address(pair.mac.to_vec()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    let info = vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ];
    let mut link = LinkMessage::default();
    if pair.state == HostEnd::Up {
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
    }
    link.attributes = vec![
        LinkAttribute::IfName(pair.name.to_string()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::Controller(pair.bridge),
        LinkAttribute::LinkInfo(info),
    ];
    let what = match pair.inside {
        Some(inside) => format!("create veth {} with peer {inside}", pair.name),
        None => format!("create veth {}", pair.name),
    };
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(what, CREATE | NLM_F_ECHO, message)
}

/// Whether the kernel gives a link IPv6 addresses by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkLocal {
    /// As the kernel's default says.
    Unchanged,
    /// None.
    Off,
}

/// Sets the flags of a port, and then the link up.
pub(crate) fn port_options(
    index: u32,
    name: &IfName,
    flags: PortFlags,
    link_local: LinkLocal,
) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(flag_attributes(flags))),
    ])];
    if link_local == LinkLocal::Off {
        link.attributes
            .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
            )]));
    }
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("set {flags} of port {name}"), 0, message)
}

/// What a link gets as it goes up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Up {
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: Option<u32>,
    pub(crate) addressing: Addressing,
}

/// Whether each address of a bridge's network has the hardware address that is derived of it, and always had. Then whoever
/// reuses an address reuses both, and no neighbour knows better.
///
/// The bridge has it written on itself, by `IFF_AUTOMEDIA`, which means nothing to the kernel: so every process knows it, and
/// of a bridge that somebody else made it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Addressing {
    Derived,
    #[default]
    Unknown,
}

const DERIVED: LinkFlags = LinkFlags::Automedia;

/// Of the flags of a bridge.
impl From<LinkFlags> for Addressing {
    fn from(flags: LinkFlags) -> Self {
        match flags.contains(DERIVED) {
            true => Addressing::Derived,
            false => Addressing::Unknown,
        }
    }
}

/// An address of the network will have another hardware address than that derived of it.
pub(crate) fn set_addressing_unknown(index: u32, name: &IfName) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.change_mask = DERIVED;
    let message = RouteNetlinkMessage::SetLink(link);
    Request::new(
        format!("note a hardware address given on {name}"),
        0,
        message,
    )
}

pub(crate) fn set_up(index: u32, name: &str, with: Up) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let flags = match with.addressing {
        Addressing::Derived => LinkFlags::Up | DERIVED,
        Addressing::Unknown => LinkFlags::Up,
    };
    link.header.flags = flags;
    link.header.change_mask = flags;
    let mac = with.mac.map(|mac| LinkAttribute::Address(mac.to_vec()));
    let mtu = with.mtu.map(LinkAttribute::Mtu);
    link.attributes = mac.into_iter().chain(mtu).collect();
    let message = RouteNetlinkMessage::SetLink(link);
    Request::new(format!("set {name} up"), 0, message)
}

/// Has the host take nothing from a link that was a port of a bridge, and answer nothing on it: it has no address, so with
/// `rp_filter` no IPv4 sender is believed, and with such an MTU it has no IPv6.
pub(crate) fn quarantine(index: u32, name: &str) -> Request {
    const IFLA_INET_CONF: u16 = 1;
    const IPV4_DEVCONF_RP_FILTER: u16 = 8;
    const IPV4_DEVCONF_ARP_IGNORE: u16 = 19;
    let settings = [
        (IPV4_DEVCONF_RP_FILTER, 1_u32),
        (IPV4_DEVCONF_ARP_IGNORE, 8),
    ];
    let settings = settings.into_iter().flat_map(|(kind, value)| {
        let header = [8_u16, kind].into_iter().flat_map(u16::to_ne_bytes);
        header.chain(value.to_ne_bytes())
    });
    let settings = DefaultNla::new(IFLA_INET_CONF, settings.collect());
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![
        LinkAttribute::Mtu(IPV6_MTU - 1),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::Other(settings)])]),
    ];
    let message = RouteNetlinkMessage::SetLink(link);
    Request::new(format!("let go of {name}"), 0, message)
}

/// The ports of a bridge.
pub(crate) fn all_ports(bridge: u32) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::Controller(bridge),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    Request::dump("list ports", RouteNetlinkMessage::GetLink(link))
}

/// Makes the link one of a group, which [`delete_group`] deletes at once.
pub(crate) fn set_group(index: u32, name: &IfName, group: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::Group(group)];
    let message = RouteNetlinkMessage::SetLink(link);
    Request::new(format!("set the group of {name}"), 0, message)
}

/// Deletes every link of a group: the kernel waits for its readers once, not once for each.
pub(crate) fn delete_group(group: u32) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::Group(group)];
    let message = RouteNetlinkMessage::DelLink(link);
    Request::new(format!("delete links of group {group}"), 0, message)
}

/// By index, or by name where the index is 0.
pub(crate) fn delete_link(index: u32, name: &IfName) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    if index == 0 {
        link.attributes = vec![LinkAttribute::IfName(name.to_string())];
    }
    let message = RouteNetlinkMessage::DelLink(link);
    Request::new(format!("delete link {name}"), 0, message)
}

pub(crate) fn link_named(name: &IfName) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    let message = RouteNetlinkMessage::GetLink(link);
    Request::new(format!("read link {name}"), 0, message)
}

pub(crate) fn link_at(index: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let message = RouteNetlinkMessage::GetLink(link);
    Request::new(format!("read link {index}"), 0, message)
}

pub(crate) fn all_links() -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Request::dump("list links", RouteNetlinkMessage::GetLink(link))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::message::mac_of;

    #[test]
    fn deleting_a_link_is_32_bytes() {
        let expected = [
            32, 0, 0, 0, 17, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, // the header
            0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // the index
        ];
        if cfg!(target_endian = "little") {
            let name = IfName::derived("br0".to_owned());
            assert_eq!(delete_link(7, &name).render(1), expected);
        }
    }

    #[test]
    fn one_message_makes_the_pair() {
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let eth0 = IfName::derived("eth0".to_owned());
        let pair = VethPair {
            name: &IfName::derived("veth0".to_owned()),
            bridge: 3,
            mtu: 1400,
            netns: file.as_fd(),
            inside: Some(&eth0),
            mac: mac_of([172, 20, 0, 2].into()),
            state: HostEnd::Up,
        };
        let request = create_veth(&pair);
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
        let by_rule = create_veth(&VethPair {
            inside: None,
            ..pair
        });
        assert!(format!("{by_rule:?}").contains("IfName(\"eth%d\")"));
    }
}
