//! Flows as conntrack tells of them, and which of them are meant. No system calls.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::answer::{attributes, value};
use crate::spec::Protocol;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: u8,
}

/// One entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
    status: u32,
    /// What tells the kernel which it is: the attributes of the original tuple, the id and the zone.
    pub(crate) handle: Vec<u8>,
}

/// A published port, as far as flows through it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Door {
    /// `None` is every address of the host.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) host_port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) target: SocketAddr,
}

/// Which flows through doors are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leading {
    /// To somewhere else than the door's target: they are older than the door.
    Elsewhere,
    /// To the door's target: the door is being closed.
    There,
}

/// What happens to flows in which both sides have spoken and that would miss them: TCP and SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Established {
    Keep,
    End,
}

/// What a flow has to be for its end.
pub(crate) struct Doors {
    by_port: HashMap<(u8, u16), Vec<Door>>,
    leading: Leading,
    established: Established,
}

/// What a flow is to some doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Other,
    Meant,
    /// It is if the address it was sent to is the host's.
    MeantIfLocal(IpAddr),
}

pub(crate) const CTA_TUPLE_ORIG: u16 = 1;
pub(crate) const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_DST_NAT: u32 = 1 << 5;
const NLA_F_NESTED: u16 = 1 << 15;

impl Flow {
    /// Reads the attributes of an entry. None if it has no ports, as ICMP has not, or is torn.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (mut handle, mut status) = (Vec::new(), 0);
        let (mut original, mut reply) = (None, None);
        for (kind, value) in attributes(bytes) {
            match kind {
                CTA_TUPLE_ORIG => {
                    original = Some(Tuple::read(value)?);
                    handle.extend(attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, value));
                }
                CTA_TUPLE_REPLY => reply = Some(Tuple::read(value)?),
                CTA_STATUS => status = u32::from_be_bytes(*value.first_chunk()?),
                CTA_ID | CTA_ZONE => handle.extend(attribute(kind, value)),
                _ => {}
            }
        }
        Some(Flow {
            original: original?,
            reply: reply?,
            status,
            handle,
        })
    }

    /// Whether both sides have spoken, in a protocol that has an end: such a flow is somebody's connection.
    fn is_established(&self) -> bool {
        self.original.protocol != Protocol::Udp.number() && self.status & IPS_SEEN_REPLY != 0
    }

    fn is_dnat(&self) -> bool {
        self.status & IPS_DST_NAT != 0
    }
}

impl Tuple {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (ip, ports) = (value(bytes, CTA_TUPLE_IP)?, value(bytes, CTA_TUPLE_PROTO)?);
        let (from, to) = match (address(ip, 1), address(ip, 2)) {
            (Some(from), Some(to)) => (from, to),
            _ => (address(ip, 3)?, address(ip, 4)?),
        };
        let port = |kind| Some(u16::from_be_bytes(*value(ports, kind)?.first_chunk()?));
        Some(Tuple {
            from: SocketAddr::new(from, port(CTA_PROTO_SRC_PORT)?),
            to: SocketAddr::new(to, port(CTA_PROTO_DST_PORT)?),
            protocol: *value(ports, CTA_PROTO_NUM)?.first()?,
        })
    }
}

/// `CTA_IP_V4_SRC`, `CTA_IP_V4_DST`, `CTA_IP_V6_SRC`, `CTA_IP_V6_DST`: 1 to 4.
fn address(bytes: &[u8], kind: u16) -> Option<IpAddr> {
    let address = value(bytes, kind)?;
    match kind {
        1 | 2 => Some(Ipv4Addr::from(*address.first_chunk::<4>()?).into()),
        _ => Some(Ipv6Addr::from(*address.first_chunk::<16>()?).into()),
    }
}

impl Doors {
    pub(crate) fn new(
        doors: impl IntoIterator<Item = Door>,
        leading: Leading,
        established: Established,
    ) -> Self {
        let mut by_port = HashMap::<_, Vec<_>>::new();
        for door in doors {
            let key = (door.protocol.number(), door.host_port);
            by_port.entry(key).or_default().push(door);
        }
        Doors {
            by_port,
            leading,
            established,
        }
    }

    /// The only port and protocol, if it is only one: then the kernel can look for it.
    pub(crate) fn only(&self) -> Option<(u8, u16)> {
        match self.by_port.len() {
            1 => self.by_port.keys().next().copied(),
            _ => None,
        }
    }

    /// Whether a family has doors: NAT does not lead from one into the other.
    pub(crate) fn has_family(&self, ipv6: bool) -> bool {
        let mut doors = self.by_port.values().flatten();
        doors.any(|door| door.target.is_ipv6() == ipv6)
    }

    pub(crate) fn judge(&self, flow: &Flow) -> Verdict {
        let key = (flow.original.protocol, flow.original.to.port());
        let Some(doors) = self.by_port.get(&key) else {
            return Verdict::Other;
        };
        if self.established == Established::Keep && flow.is_established() {
            return Verdict::Other;
        }
        let verdicts = doors.iter().map(|door| self.judge_by(door, flow));
        verdicts
            .into_iter()
            .find(|verdict| *verdict != Verdict::Other)
            .unwrap_or(Verdict::Other)
    }

    fn judge_by(&self, door: &Door, flow: &Flow) -> Verdict {
        let to = flow.original.to.ip();
        let is_through = door.host_ip.is_none_or(|ip| ip == to);
        if !is_through || to.is_ipv6() != door.target.is_ipv6() {
            return Verdict::Other;
        }
        let leads_there = flow.is_dnat() && flow.reply.from == door.target;
        match (self.leading, leads_there) {
            (Leading::There, true) => Verdict::Meant,
            (Leading::There, false) | (Leading::Elsewhere, true) => Verdict::Other,
            (Leading::Elsewhere, false) if door.host_ip.is_some() => Verdict::Meant,
            (Leading::Elsewhere, false) => Verdict::MeantIfLocal(to),
        }
    }
}

/// An attribute, padded.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    const HEADER: u16 = 4;
    let length = HEADER.saturating_add(u16::try_from(value.len()).unwrap_or(u16::MAX));
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(crate) fn nested(kind: u16, values: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &values.concat())
}

/// What has the kernel tell only of flows that were sent to this port. One older than 5.8 tells of all: what comes is judged anyway.
pub(crate) fn to_port(protocol: u8, port: u16) -> Vec<u8> {
    const CTA_FILTER: u16 = 25;
    const CTA_FILTER_ORIG_FLAGS: u16 = 1;
    const PROTO_NUM: u32 = 1 << 3;
    const PROTO_DST_PORT: u32 = 1 << 5;
    let proto = nested(
        CTA_TUPLE_PROTO,
        &[
            attribute(CTA_PROTO_NUM, &[protocol]),
            attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes()),
        ],
    );
    let flags = (PROTO_NUM | PROTO_DST_PORT).to_ne_bytes();
    [
        nested(CTA_TUPLE_ORIG, &[proto]),
        nested(CTA_FILTER, &[attribute(CTA_FILTER_ORIG_FLAGS, &flags)]),
    ]
    .concat()
}

/// The same of flows that one end of which has this address: where a direction comes from.
pub(crate) fn from_address(direction: u16, ip: IpAddr) -> Vec<u8> {
    const CTA_FILTER: u16 = 25;
    const IP_SRC: u32 = 1;
    let source = match ip {
        IpAddr::V4(ip) => attribute(1, &ip.octets()),
        IpAddr::V6(ip) => attribute(3, &ip.octets()),
    };
    // CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS are numbered as the tuples are; both have to be there.
    let flags = |of: u16| {
        let flags = if of == direction { IP_SRC } else { 0 };
        attribute(of, &flags.to_ne_bytes())
    };
    [
        nested(direction, &[nested(CTA_TUPLE_IP, &[source])]),
        nested(CTA_FILTER, &[flags(CTA_TUPLE_ORIG), flags(CTA_TUPLE_REPLY)]),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(kind: u16, from: &str, to: &str, protocol: u8) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let ip = |kinds: [u16; 2], ip| match ip {
            IpAddr::V4(ip) => attribute(kinds[0], &ip.octets()),
            IpAddr::V6(ip) => attribute(kinds[1], &ip.octets()),
        };
        nested(
            kind,
            &[
                nested(CTA_TUPLE_IP, &[ip([1, 3], from.ip()), ip([2, 4], to.ip())]),
                nested(
                    CTA_TUPLE_PROTO,
                    &[
                        attribute(CTA_PROTO_NUM, &[protocol]),
                        attribute(CTA_PROTO_SRC_PORT, &from.port().to_be_bytes()),
                        attribute(CTA_PROTO_DST_PORT, &to.port().to_be_bytes()),
                    ],
                ),
            ],
        )
    }

    /// From a client to `to`, answered from `by`.
    fn flow(to: &str, by: &str, protocol: Protocol, status: u32) -> Flow {
        let client = match to.starts_with('[') {
            true => "[2001:db8::9]:4000",
            false => "192.0.2.9:4000",
        };
        let bytes = [
            tuple(CTA_TUPLE_ORIG, client, to, protocol.number()),
            tuple(CTA_TUPLE_REPLY, by, client, protocol.number()),
            attribute(CTA_STATUS, &status.to_be_bytes()),
            attribute(CTA_ID, &[1, 2, 3, 4]),
        ]
        .concat();
        for length in 0..bytes.len() {
            let _torn = Flow::read(&bytes[..length]);
        }
        Flow::read(&bytes).unwrap()
    }

    fn door(host_ip: Option<&str>, target: &str, protocol: Protocol) -> Door {
        Door {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 53,
            protocol,
            target: target.parse().unwrap(),
        }
    }

    #[test]
    fn a_flow_is_judged_by_host_port_and_never_by_container_port() {
        use {Leading::*, Protocol::*, Verdict::*};
        let (host, dead) = ("192.0.2.1:53", "10.1.0.2:5353");
        let local = MeantIfLocal("192.0.2.1".parse().unwrap());
        let specific = Some("192.0.2.1");
        for (what, leading, host_ip, flow, verdict) in [
            (
                "on",
                Elsewhere,
                None,
                flow(host, dead, Udp, IPS_DST_NAT),
                local,
            ),
            (
                "on one",
                Elsewhere,
                specific,
                flow(host, dead, Udp, IPS_DST_NAT),
                Meant,
            ),
            ("not dnat", Elsewhere, None, flow(host, host, Udp, 0), local),
            (
                "new",
                Elsewhere,
                None,
                flow(host, "10.1.0.3:53", Udp, IPS_DST_NAT),
                Other,
            ),
            (
                "elsewhere",
                Elsewhere,
                specific,
                flow("192.0.2.7:53", dead, Udp, 0),
                Other,
            ),
            (
                "other port",
                Elsewhere,
                None,
                flow("192.0.2.1:54", "10.1.0.2:53", Udp, 0),
                Other,
            ),
            (
                "tcp",
                Elsewhere,
                None,
                flow(host, dead, Tcp, IPS_DST_NAT),
                Other,
            ),
            (
                "v6",
                Elsewhere,
                None,
                flow("[2001:db8::1]:53", "[fd00::2]:53", Udp, 0),
                Other,
            ),
            (
                "off",
                There,
                None,
                flow(host, "10.1.0.3:53", Udp, IPS_DST_NAT),
                Meant,
            ),
            (
                "off, direct",
                There,
                None,
                flow("10.1.0.3:53", "10.1.0.3:53", Udp, 0),
                Other,
            ),
            (
                "off, other",
                There,
                None,
                flow(host, dead, Udp, IPS_DST_NAT),
                Other,
            ),
        ] {
            let doors = [door(host_ip, "10.1.0.3:53", Udp)];
            let doors = Doors::new(doors, leading, Established::Keep);
            assert_eq!(doors.judge(&flow), verdict, "{what}");
        }
    }

    #[test]
    fn established_connections_are_kept_unless_asked_for() {
        let seen = IPS_DST_NAT | IPS_SEEN_REPLY;
        let to = |status| flow("[2001:db8::1]:53", "[fd00::2]:80", Protocol::Tcp, status);
        let doors = |established| {
            let doors = [door(Some("2001:db8::1"), "[fd00::3]:80", Protocol::Tcp)];
            Doors::new(doors, Leading::Elsewhere, established)
        };
        assert_eq!(doors(Established::Keep).judge(&to(seen)), Verdict::Other);
        assert_eq!(doors(Established::Keep).judge(&to(0)), Verdict::Meant);
        assert_eq!(doors(Established::End).judge(&to(seen)), Verdict::Meant);
    }
}
