//! From a zone and a query to a reply, with nothing in between.

use std::ops::Deref;

use crate::Zone;
use crate::wire::{Fault, NAME_MAX, Query, Rcode, Response, Transport, rtype};
use crate::zone::Node;

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// This goes back to who asked.
    Answer(Vec<u8>),
    /// The name is none of the zone's: an upstream may know it.
    Forward,
    /// No reply at all: not a query, or too broken to say so.
    Drop,
}

/// Answers one query from `zone`. Nothing is asked of anyone and nothing changes but whose turn it is to be first.
///
/// - A name of the zone is answered whatever the type: `A`, `AAAA`, `ANY`, and `PTR` of its addresses with records,
///   every other type with none (NODATA). Such a query never leaves the host.
/// - Several addresses take turns in being first.
/// - Any other name is [`Reply::Forward`].
/// - What is not a plain query in class IN is answered with FORMERR, NOTIMP, REFUSED or BADVERS.
///
/// ```
/// use cofferdam_dns::{Reply, Transport, Zone, answer};
///
/// let mut zone = Zone::new();
/// zone.insert("db".parse()?, "10.89.0.2".parse()?);
/// let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";
/// let Reply::Answer(reply) = answer(&zone, query, Transport::Udp) else { panic!() };
/// assert!(reply.ends_with(&[10, 89, 0, 2]));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn answer(zone: &Zone, query: &[u8], transport: Transport) -> Reply {
    let mut out = Vec::new();
    match respond([zone], query, transport, &mut out) {
        Outcome::Answered => Reply::Answer(out),
        Outcome::Forward(_) => Reply::Forward,
        Outcome::Drop => Reply::Drop,
    }
}

/// What [`respond`] did.
#[derive(Debug)]
pub(crate) enum Outcome<'q> {
    /// The reply is in the buffer.
    Answered,
    Forward(Query<'q>),
    Drop,
}

/// Answers one query into `out` from the first of `zones` that has the name.
pub(crate) fn respond<'q, Z: Deref<Target = Zone>>(
    zones: impl IntoIterator<Item = Z>,
    query: &'q [u8],
    transport: Transport,
    out: &mut Vec<u8>,
) -> Outcome<'q> {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(Fault::Drop) => return Outcome::Drop,
        Err(Fault::Reply(rcode, envelope)) => {
            Response::new(envelope, transport, out).finish(rcode);
            return Outcome::Answered;
        }
    };
    let mut buffer = [0; NAME_MAX];
    let key = query.key(&mut buffer);
    for zone in zones {
        if let Some(node) = zone.node(key) {
            let response = Response::new(query.envelope, transport, out).authoritative();
            write_node(node, zone.ttl(), query.qtype, response);
            return Outcome::Answered;
        }
    }
    Outcome::Forward(query)
}

fn write_node(node: &Node, ttl: u32, qtype: u16, mut response: Response<'_, '_>) {
    let asked = |rtype| qtype == rtype || qtype == rtype::ANY;
    if asked(rtype::A) {
        for address in from(&node.v4, node.turn_v4.next(node.v4.len())) {
            response.record(rtype::A, ttl, |out| out.extend(address.octets()));
        }
    }
    if asked(rtype::AAAA) {
        for address in from(&node.v6, node.turn_v6.next(node.v6.len())) {
            response.record(rtype::AAAA, ttl, |out| out.extend(address.octets()));
        }
    }
    if asked(rtype::PTR) {
        for name in &node.names {
            response.record(rtype::PTR, ttl, |out| name.write(out));
        }
    }
    response.finish(Rcode::NoError);
}

/// All of `list`, beginning at `first` and around.
fn from<T>(list: &[T], first: usize) -> impl Iterator<Item = &T> {
    let (tail, head) = list.split_at(first);
    head.iter().chain(tail)
}
