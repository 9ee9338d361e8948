//! Requests about default routes that move from one network to another.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::{Request, family};

/// A default route: by this router, on the link at this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Default {
    pub(crate) gateway: IpAddr,
    pub(crate) index: u32,
}

/// Refused where there is one already.
pub(crate) fn add_default(route: Default) -> Request {
    let message = RouteNetlinkMessage::NewRoute(message(route));
    let what = format!("add default route by {}", route.gateway);
    Request::new(what, NLM_F_CREATE | NLM_F_EXCL, message)
}

/// In the place of the one there is: no packet sees neither or both.
pub(crate) fn move_default(to: Default) -> Request {
    let message = RouteNetlinkMessage::NewRoute(message(to));
    let what = format!("move default route to {}", to.gateway);
    Request::new(what, NLM_F_CREATE | NLM_F_REPLACE, message)
}

/// Exactly this one.
pub(crate) fn delete_default(route: Default) -> Request {
    let message = RouteNetlinkMessage::DelRoute(message(route));
    let what = format!("delete default route by {}", route.gateway);
    Request::new(what, 0, message)
}

/// Those of one family and the protocol that `add_default` gives them.
pub(crate) fn static_routes(of: IpAddr) -> Request {
    let mut route = RouteMessage::default();
    route.header.address_family = family(of);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    Request::dump("list default routes", RouteNetlinkMessage::GetRoute(route))
}

fn message(route: Default) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::from(route.gateway)),
        RouteAttribute::Oif(route.index),
    ];
    message
}
