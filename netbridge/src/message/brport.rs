//! Requests about the ports of a bridge.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkExtentMask, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Mac, Request};
use crate::mac::Colons;
use crate::port_flags::PortFlags;
use crate::port_vlans::PortVlans;
use crate::vlan_id::VlanId;

/// The attributes of `flags` in `IFLA_INFO_SLAVE_DATA`.
pub(crate) fn flag_attributes(flags: PortFlags) -> Vec<InfoBridgePort> {
    flags
        .iter()
        .map(|(flag, on)| {
            InfoBridgePort::Other(DefaultNla::new(flag.attribute(), vec![u8::from(on)]))
        })
        .collect()
}

pub(crate) fn set_port_flags(index: u32, name: &str, flags: PortFlags) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(flag_attributes(flags))),
    ])];
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("set {flags} of port {name}"), 0, message)
}

/// Options of a bridge that is there.
pub(crate) fn set_bridge_options(index: u32, name: &str, options: Vec<InfoBridge>) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(options)),
    ])];
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("set options of bridge {name}"), 0, message)
}

/// Whose VLANs: those of a port, or those the host has on the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Port,
    Host,
}

pub(crate) fn add_vlans(index: u32, name: &str, whose: Whose, vlans: &PortVlans) -> Request {
    let message = RouteNetlinkMessage::SetLink(vlan_message(index, whose, vlans.infos()));
    Request::new(format!("set VLANs {vlans} of {name}"), 0, message)
}

pub(crate) fn delete_vlans(index: u32, name: &str, whose: Whose, vlans: &[VlanId]) -> Request {
    let infos = vlans.iter().map(|vlan| (vlan.number(), 0));
    let message = RouteNetlinkMessage::DelLink(vlan_message(index, whose, infos));
    Request::new(format!("delete VLANs of {name}"), 0, message)
}

/// The VLANs of all bridges and ports: the kernel has no question for one that older kernels understand.
pub(crate) fn all_vlans() -> Request {
    let mut link = LinkMessage::default();
    link.header.interface_family = AddressFamily::Bridge;
    link.attributes = vec![LinkAttribute::ExtMask(vec![
        LinkExtentMask::BrvlanCompressed,
        LinkExtentMask::SkipStats,
    ])];
    Request::dump("list VLANs", RouteNetlinkMessage::GetLink(link))
}

fn vlan_message(index: u32, whose: Whose, infos: impl Iterator<Item = (u16, u16)>) -> LinkMessage {
    let flags = match whose {
        Whose::Port => BridgeFlag::Controller,
        Whose::Host => BridgeFlag::LowerDev,
    };
    let infos = infos.map(|(vid, flags)| {
        AfSpecBridge::VlanInfo(BridgeVlanInfo {
            flags: BridgeVlanInfoFlags::from_bits_retain(flags),
            vid,
        })
    });
    let mut link = LinkMessage::default();
    link.header.interface_family = AddressFamily::Bridge;
    link.header.index = index;
    let specs = std::iter::once(AfSpecBridge::Flags(flags)).chain(infos);
    link.attributes = vec![LinkAttribute::AfSpecBridge(specs.collect())];
    link
}

/// The bridge has `mac` on this port for good, whatever comes in elsewhere. Where it filters VLANs, in all of the port.
pub(crate) fn add_fdb_entry(index: u32, name: &str, mac: Mac) -> Request {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Bridge;
    entry.header.ifindex = index;
    entry.header.flags = NeighbourFlags::Controller;
    // What bridge(8) calls static: neither aged nor moved, and not the host's own.
    entry.header.state = NeighbourState::Noarp;
    entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    let message = RouteNetlinkMessage::NewNeighbour(entry);
    let what = format!("bind {} to port {name}", Colons(mac));
    Request::new(what, NLM_F_CREATE | NLM_F_REPLACE, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port_flags::PortFlag;

    fn bytes(request: &Request) -> Vec<u8> {
        request.render(1)[16..].to_vec()
    }

    #[test]
    fn flags_are_one_byte_each_in_the_data_of_the_port() {
        let flags = PortFlags::new()
            .on(PortFlag::Isolated)
            .off(PortFlag::Hairpin);
        let request = set_port_flags(7, "veth0", flags);
        assert_eq!(request.what, "set isolated on hairpin off of port veth0");
        let bytes = bytes(&request);
        let options = [5, 0, 33, 0, 1, 0, 0, 0, 5, 0, 4, 0, 0, 0, 0, 0];
        if cfg!(target_endian = "little") {
            assert_eq!(bytes[bytes.len() - 16..], options);
        }
    }

    #[test]
    fn vlans_are_of_the_port_or_of_the_host() {
        let vlans = PortVlans::access(VlanId::new(10).unwrap());
        let request = add_vlans(7, "veth0", Whose::Port, &vlans);
        assert_eq!(request.what, "set VLANs 10 pvid untagged of veth0");
        let spec = |master| {
            let mut spec = vec![20, 0, 26, 0];
            spec.extend([6, 0, 0, 0, master, 0, 0, 0]);
            spec
        };
        if cfg!(target_endian = "little") {
            let mut port = spec(1);
            port.extend([8, 0, 2, 0, 6, 0, 10, 0]);
            assert_eq!(bytes(&request)[16..], port);
            let request = delete_vlans(7, "br0", Whose::Host, &[VlanId::new(1).unwrap()]);
            let mut host = spec(2);
            host.extend([8, 0, 2, 0, 0, 0, 1, 0]);
            assert_eq!(bytes(&request)[16..], host);
        }
    }

    #[test]
    fn an_entry_is_static_and_of_the_bridge() {
        let request = add_fdb_entry(7, "veth0", [2, 0, 0, 0, 0, 9]);
        assert_eq!(request.what, "bind 02:00:00:00:00:09 to port veth0");
        if cfg!(target_endian = "little") {
            let header = [7, 0, 0, 0, 7, 0, 0, 0, 0x40, 0, 4, 0];
            assert_eq!(bytes(&request)[..12], header);
            assert_eq!(bytes(&request)[12..22], [10, 0, 2, 0, 2, 0, 0, 0, 0, 9]);
        }
    }
}
