//! Questions that change nothing.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;

use super::Request;

/// As [`all_links`](super::all_links), with their counters.
pub(crate) fn all_links_counted() -> Request {
    let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
    Request::dump("list links", message)
}

pub(crate) fn all_neighbours() -> Request {
    let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    Request::dump("list neighbours", message)
}
