//! Routes.

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{CREATE, Request, family};
use crate::ifname::IfName;
use crate::route::{Route, RouteKind};

/// Adds a route of a link to table `main`.
pub(crate) fn add_route(index: u32, name: &IfName, route: &Route) -> Request {
    let what = format!("add {route} on {name}");
    let message = RouteNetlinkMessage::NewRoute(route_message(index, route));
    Request::new(what, CREATE, message)
}

/// Of one family, or of all.
pub(crate) fn all_routes(family: Option<AddressFamily>) -> Request {
    let mut route = RouteMessage::default();
    route.header.address_family = family.unwrap_or_default();
    Request::dump("list routes", RouteNetlinkMessage::GetRoute(route))
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.ip());
    message.header.destination_prefix_length = route.destination.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    if route.destination.prefix() > 0 {
        let destination = RouteAddress::from(route.destination.network());
        let destination = RouteAttribute::Destination(destination);
        message.attributes.push(destination);
    }
    match route.kind {
        RouteKind::Via(gateway) => {
            let gateway = RouteAttribute::Gateway(gateway.into());
            message.attributes.push(gateway);
        }
        RouteKind::Direct => message.header.scope = RouteScope::Link,
        RouteKind::Blackhole => message.header.kind = RouteType::BlackHole,
        RouteKind::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteKind::Prohibit => message.header.kind = RouteType::Prohibit,
    }
    if message.header.kind == RouteType::Unicast {
        message.attributes.push(RouteAttribute::Oif(index));
    }
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    if let Some(metric) = route.metric {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    message
}
