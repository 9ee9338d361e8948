//! Links of the host's that others are made upon: VLANs and dummy links.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage,
};

use super::{CREATE, Request};
use crate::ifname::IfName;
use crate::vlan_id::VlanId;

/// A VLAN of the link `parent`, by IEEE 802.1Q. The MTU is the parent's where none is given.
pub(crate) fn create_vlan(name: &IfName, parent: u32, id: VlanId, mtu: Option<u32>) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Link(parent),
    ];
    link.attributes.extend(mtu.map(LinkAttribute::Mtu));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vlan),
        LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id.number())])),
    ]));
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("create VLAN {id} as {name}"), CREATE, message)
}

/// A link that leads nowhere.
pub(crate) fn create_dummy(name: &IfName, mtu: Option<u32>) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_string())];
    link.attributes.extend(mtu.map(LinkAttribute::Mtu));
    let kind = vec![LinkInfo::Kind(InfoKind::Dummy)];
    link.attributes.push(LinkAttribute::LinkInfo(kind));
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(format!("create dummy {name}"), CREATE, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::round_trip;

    #[test]
    fn the_bytes_of_a_request_are_the_request() {
        let name: IfName = "eth0.100".parse().unwrap();
        let id = |number| VlanId::new(number).unwrap();
        round_trip(&create_vlan(&name, 3, id(100), Some(1400)));
        round_trip(&create_vlan(&name, 3, id(4094), None));
        round_trip(&create_dummy(&name, Some(9000)));
        round_trip(&create_dummy(&name, None));
    }
}
