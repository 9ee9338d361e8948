//! Addresses.

use ipnetwork::IpNetwork;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{CREATE, Request, family};
use crate::ifname::IfName;

/// Gives the link an address. One of IPv6 works at once: it is not first looked for on the link (`IFA_F_NODAD`).
pub(crate) fn add_address(index: u32, name: &IfName, address: IpNetwork) -> Request {
    let mut message = address_message(index, address);
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    let what = format!("add address {address} to {name}");
    Request::new(what, CREATE, RouteNetlinkMessage::NewAddress(message))
}

pub(crate) fn delete_address(index: u32, name: &IfName, address: IpNetwork) -> Request {
    let message = address_message(index, address);
    let what = format!("delete address {address} of {name}");
    Request::new(what, 0, RouteNetlinkMessage::DelAddress(message))
}

/// Of one family, or of all.
pub(crate) fn all_addresses(family: Option<AddressFamily>) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family.unwrap_or_default();
    let message = RouteNetlinkMessage::GetAddress(message);
    Request::dump("list addresses", message)
}

fn address_message(index: u32, address: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip());
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.ip()),
        AddressAttribute::Address(address.ip()),
    ];
    match address {
        IpNetwork::V4(address) if address.prefix() < 31 => {
            let broadcast = AddressAttribute::Broadcast(address.broadcast());
            message.attributes.push(broadcast);
        }
        _ => {}
    }
    message
}
