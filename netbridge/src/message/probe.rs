//! Whether the kernel has a kind of link: asked in a way that never makes one.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::{CREATE, Request};

/// A link the kernel finds a fault with after it has found, or loaded, its kind: it has no parent, no data, and a
/// hardware address none may have.
///
/// `EOPNOTSUPP` is the answer where there is no such kind.
pub(crate) fn probe(kind: InfoKind) -> Request {
    let what = format!("look for links of kind {kind}");
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::Address(vec![0; 6]),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
    ];
    let message = RouteNetlinkMessage::NewLink(link);
    Request::new(what, CREATE, message)
}
