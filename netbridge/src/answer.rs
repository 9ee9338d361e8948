//! What the kernel answers: just the attributes this crate needs, so that an attribute of a newer kernel cannot break
//! the rest.

pub(crate) mod tc;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NlaBuffer, NlasIterator};

use crate::error::{Error, ErrorKind, Result};

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
/// Without the flag that says that an attribute has attributes.
pub(crate) const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// One netlink message: the fields of its header that matter, and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// Splits a datagram into its messages.
pub(crate) fn messages(mut datagram: &[u8]) -> Result<Vec<Message<'_>>> {
    let mut found = Vec::new();
    while !datagram.is_empty() {
        let length = u32_at(datagram, 0)? as usize;
        if length < HEADER || length > datagram.len() {
            return Err(malformed("a message's length is wrong"));
        }
        found.push(Message {
            kind: u16_at(datagram, 4)?,
            flags: u16_at(datagram, 6)?,
            sequence: u32_at(datagram, 8)?,
            payload: &datagram[HEADER..length],
        });
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(found)
}

/// The end of one request: errno 0 for success, and the text of the extended ack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) errno: i32,
    pub(crate) text: Option<String>,
}

impl Ack {
    /// Reads an `NLMSG_ERROR`.
    pub(crate) fn of_error(message: &Message<'_>) -> Result<Self> {
        let errno = i32_at(message.payload, 0)?.wrapping_neg();
        // The request follows: only its header where the answer is capped, else all of it.
        let echoed = if message.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            let length = u32_at(message.payload, 4)? as usize;
            length.checked_next_multiple_of(4).unwrap_or(usize::MAX)
        };
        let text = match message.payload.get(echoed.saturating_add(4)..) {
            Some(attributes) if message.flags & NLM_F_ACK_TLVS != 0 => extended_text(attributes),
            _ => None,
        };
        Ok(Ack { errno, text })
    }

    /// Reads an `NLMSG_DONE`, which may carry the errno of a dump that failed.
    pub(crate) fn of_done(message: &Message<'_>) -> Self {
        let errno = i32_at(message.payload, 0).map_or(0, i32::wrapping_neg);
        let text = match message.payload.get(4..) {
            Some(attributes) if message.flags & NLM_F_ACK_TLVS != 0 => extended_text(attributes),
            _ => None,
        };
        Ack { errno, text }
    }
}

fn extended_text(attributes: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| text(attribute.value()).replace('\n', " "))
}

/// A link, as `RTM_NEWLINK` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkAnswer {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    pub(crate) mtu: u32,
    /// `IFF_UP`: whether somebody set it up, carrier or not.
    pub(crate) is_set_up: bool,
    /// `IFLA_LINK`: of a veth, the index of its peer, in the peer's namespace.
    pub(crate) link: Option<u32>,
    pub(crate) group: u32,
    /// `IFLA_MASTER`: the index of the bridge it is a port of.
    pub(crate) controller: Option<u32>,
    /// `IFLA_OPERSTATE`: unlike the carrier, it changes only once the kernel sends on the link.
    pub(crate) operstate: u8,
    /// `IFLA_BRPORT_STATE`, of a port of a bridge.
    pub(crate) port_state: Option<u8>,
}

const IFF_UP: u32 = 1;
const IF_OPER_UNKNOWN: u8 = 0;
const IF_OPER_UP: u8 = 6;
const BR_STATE_FORWARDING: u8 = 3;

impl LinkAnswer {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self> {
        const IFLA_IFNAME: u16 = 3;
        const IFLA_MTU: u16 = 4;
        const IFLA_LINK: u16 = 5;
        const IFLA_MASTER: u16 = 10;
        const IFLA_OPERSTATE: u16 = 16;
        const IFLA_GROUP: u16 = 27;
        let mut link = LinkAnswer {
            index: u32_at(payload, 4)?,
            is_set_up: u32_at(payload, 8)? & IFF_UP != 0,
            ..LinkAnswer::default()
        };
        for attribute in attributes(payload, 16)? {
            let attribute = attribute?;
            match attribute.kind() {
                IFLA_IFNAME => link.name = text(attribute.value()),
                IFLA_MTU => link.mtu = u32_at(attribute.value(), 0)?,
                IFLA_LINK => link.link = Some(u32_at(attribute.value(), 0)?),
                IFLA_MASTER => link.controller = Some(u32_at(attribute.value(), 0)?),
                IFLA_OPERSTATE => link.operstate = byte_at(attribute.value(), 0)?,
                IFLA_GROUP => link.group = u32_at(attribute.value(), 0)?,
                IFLA_LINKINFO => link.parse_info(attribute.value())?,
                _ => {}
            }
        }
        Ok(link)
    }

    /// Whether the kernel sends on the link.
    pub(crate) fn is_up(&self) -> bool {
        self.operstate == IF_OPER_UP
    }

    /// Whether the kernel sends on a bridge: one that never lost its carrier is in no state yet.
    pub(crate) fn is_bridge_up(&self) -> bool {
        self.is_up() || self.operstate == IF_OPER_UNKNOWN
    }

    /// Whether the bridge takes frames from this port, and the kernel sends those for it. Not the former alone: of a
    /// fresh port, whose operational state nobody found out yet, it holds too early.
    pub(crate) fn is_forwarding(&self) -> bool {
        self.is_up() && self.port_state == Some(BR_STATE_FORWARDING)
    }

    fn parse_info(&mut self, info: &[u8]) -> Result<()> {
        const IFLA_INFO_KIND: u16 = 1;
        const IFLA_INFO_SLAVE_KIND: u16 = 4;
        const IFLA_INFO_SLAVE_DATA: u16 = 5;
        const IFLA_BRPORT_STATE: u16 = 1;
        let mut port_of = String::new();
        for attribute in attributes(info, 0)? {
            let attribute = attribute?;
            match attribute.kind() {
                IFLA_INFO_KIND => self.kind = Some(text(attribute.value())),
                IFLA_INFO_SLAVE_KIND => port_of = text(attribute.value()),
                IFLA_INFO_SLAVE_DATA if port_of == "bridge" => {
                    self.port_state = attributes(attribute.value(), 0)?
                        .flatten()
                        .find(|option| option.kind() == IFLA_BRPORT_STATE)
                        .and_then(|option| option.value().first().copied());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// An address of a link, as `RTM_NEWADDR` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressAnswer {
    pub(crate) index: u32,
    /// The link's own address.
    pub(crate) local: IpNetwork,
    /// The subnet: of a point-to-point link, the far end's.
    pub(crate) subnet: IpNetwork,
    /// `RT_SCOPE_UNIVERSE` and so on.
    pub(crate) scope: u8,
    pub(crate) flags: u32,
}

impl AddressAnswer {
    /// `None` for another family than IPv4 and IPv6.
    pub(crate) fn parse(payload: &[u8]) -> Result<Option<Self>> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_FLAGS: u16 = 8;
        let (family, prefix) = (byte_at(payload, 0)?, byte_at(payload, 1)?);
        if any_address(family).is_none() {
            return Ok(None);
        }
        let (mut subnet, mut local) = (None, None);
        let mut flags = byte_at(payload, 2)?.into();
        for attribute in attributes(payload, 8)? {
            let attribute = attribute?;
            match attribute.kind() {
                IFA_ADDRESS => subnet = Some(network(attribute.value(), prefix)?),
                IFA_LOCAL => local = Some(network(attribute.value(), prefix)?),
                IFA_FLAGS => flags = u32_at(attribute.value(), 0)?,
                _ => {}
            }
        }
        let Some(subnet) = subnet.or(local) else {
            return Ok(None);
        };
        Ok(Some(AddressAnswer {
            index: u32_at(payload, 4)?,
            local: local.unwrap_or(subnet),
            subnet,
            scope: byte_at(payload, 3)?,
            flags,
        }))
    }
}

/// How a route leads to its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The destination is on the link, or the host itself.
    OnLink,
    /// By another router, or to nowhere.
    Routed,
}

/// A route, as `RTM_NEWROUTE` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteAnswer {
    pub(crate) destination: IpNetwork,
    /// `RTN_UNICAST` and so on.
    pub(crate) kind: u8,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) table: u32,
    pub(crate) reach: Reach,
    /// The link of the route, or of its first hop.
    pub(crate) link: Option<u32>,
    pub(crate) metric: u32,
}

impl RouteAnswer {
    pub(crate) fn parse(payload: &[u8]) -> Result<Option<Self>> {
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RTA_PRIORITY: u16 = 6;
        const RTA_MULTIPATH: u16 = 9;
        const RTA_TABLE: u16 = 15;
        const RTA_VIA: u16 = 18;
        let Some(any) = any_address(byte_at(payload, 0)?) else {
            return Ok(None);
        };
        let prefix = byte_at(payload, 1)?;
        let mut route = RouteAnswer {
            destination: with_prefix(any, prefix)?,
            kind: byte_at(payload, 7)?,
            gateway: None,
            table: byte_at(payload, 4)?.into(),
            reach: reach_of_type(byte_at(payload, 7)?),
            link: None,
            metric: 0,
        };
        for attribute in attributes(payload, 12)? {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                RTA_DST => route.destination = network(value, prefix)?,
                RTA_OIF => route.link = Some(u32_at(value, 0)?),
                RTA_PRIORITY => route.metric = u32_at(value, 0)?,
                RTA_TABLE => route.table = u32_at(value, 0)?,
                RTA_GATEWAY => {
                    route.gateway = Some(address(value)?);
                    route.reach = Reach::Routed;
                }
                // struct rtvia: the family, then the address.
                RTA_VIA => {
                    route.gateway = address(value.get(2..).unwrap_or_default()).ok();
                    route.reach = Reach::Routed;
                }
                RTA_MULTIPATH => {
                    // struct rtnexthop: its length, flags and hops, then the link.
                    route.link = Some(u32_at(value, 4)?);
                    route.reach = Reach::Routed;
                }
                _ => {}
            }
        }
        Ok(Some(route))
    }

    /// Whether it is of table `main`.
    pub(crate) fn is_main(&self) -> bool {
        self.table == u32::from(libc::RT_TABLE_MAIN)
    }
}

/// Parses what a dump gave, without what is of another family.
pub(crate) fn parse_all<T>(
    payloads: &[Vec<u8>],
    parse: fn(&[u8]) -> Result<Option<T>>,
) -> Result<Vec<T>> {
    payloads
        .iter()
        .filter_map(|payload| parse(payload).transpose())
        .collect()
}

fn reach_of_type(kind: u8) -> Reach {
    match kind {
        libc::RTN_UNICAST | libc::RTN_LOCAL | libc::RTN_BROADCAST | libc::RTN_ANYCAST => {
            Reach::OnLink
        }
        _ => Reach::Routed,
    }
}

pub(crate) type Attributes<'a> = Box<dyn Iterator<Item = Result<NlaBuffer<&'a [u8]>>> + 'a>;

pub(crate) fn attributes(payload: &[u8], after: usize) -> Result<Attributes<'_>> {
    let rest = payload
        .get(after..)
        .ok_or_else(|| malformed("a message is too short"))?;
    Ok(Box::new(NlasIterator::new(rest).map(|attribute| {
        attribute.map_err(|error| malformed(&error.to_string()))
    })))
}

/// The value of the first attribute of this kind, among those that follow after so many bytes.
pub(crate) fn attribute(payload: &[u8], after: usize, kind: u16) -> Result<Option<&[u8]>> {
    for attribute in attributes(payload, after)? {
        let attribute = attribute?;
        if attribute.kind() & NLA_TYPE_MASK == kind {
            let end = 4 + attribute.value_length();
            return Ok(attribute.into_inner().get(4..end));
        }
    }
    Ok(None)
}

/// The unspecified address of a family.
fn any_address(family: u8) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::UNSPECIFIED.into()),
        libc::AF_INET6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

pub(crate) fn address(octets: &[u8]) -> Result<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Ok(octets.into());
    }
    <[u8; 16]>::try_from(octets)
        .map(IpAddr::from)
        .map_err(|_error| malformed("an address is neither 4 nor 16 bytes"))
}

fn network(octets: &[u8], prefix: u8) -> Result<IpNetwork> {
    with_prefix(address(octets)?, prefix)
}

fn with_prefix(address: IpAddr, prefix: u8) -> Result<IpNetwork> {
    IpNetwork::new(address, prefix).map_err(|error| malformed(&error.to_string()))
}

pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

pub(crate) fn byte_at(bytes: &[u8], at: usize) -> Result<u8> {
    array_at::<1>(bytes, at).map(|[byte]| byte)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Result<i32> {
    array_at(bytes, at).map(i32::from_ne_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or_else(|| malformed("a message is too short"))
}

pub(crate) fn malformed(why: &str) -> Error {
    Error::plain(
        ErrorKind::Malformed,
        "read the kernel's rtnetlink answer",
        why,
    )
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn refusal(flags: u16, echoed: &[u8], attributes: &[u8]) -> Ack {
        let payload = [&(-libc::EINVAL).to_ne_bytes(), echoed, attributes].concat();
        Ack::of_error(&Message {
            kind: NLMSG_ERROR,
            flags,
            sequence: 1,
            payload: &payload,
        })
        .unwrap()
    }

    #[test]
    fn the_text_of_an_extended_ack_is_found_behind_what_is_echoed() {
        let mut whole = 24u32.to_ne_bytes().to_vec();
        whole.resize(24, 0xff);
        let text = attribute(1, b"Invalid gateway\0");
        let found = |flags, echoed: &[u8]| refusal(flags, echoed, &text);
        for ack in [
            found(NLM_F_CAPPED | NLM_F_ACK_TLVS, &whole[..16]),
            found(NLM_F_ACK_TLVS, &whole),
        ] {
            assert_eq!(ack.errno, libc::EINVAL);
            assert_eq!(ack.text.unwrap(), "Invalid gateway");
        }
        assert_eq!(found(NLM_F_CAPPED, &whole[..16]).text, None);
    }

    #[test]
    fn a_route_says_where_it_leads_and_how() {
        let header = |prefix, kind| vec![2, prefix, 0, 0, 254, 0, 0, kind, 0, 0, 0, 0];
        let parse = |header: Vec<u8>, attributes: &[Vec<u8>]| {
            let payload = [header, attributes.concat()].concat();
            RouteAnswer::parse(&payload).unwrap().unwrap()
        };
        let destination = attribute(1, &[10, 0, 0, 0]);
        let oif = attribute(4, &3u32.to_ne_bytes());
        let gateway = attribute(5, &[10, 0, 0, 1]);

        let route = parse(header(24, 1), &[destination.clone(), oif.clone()]);
        assert_eq!(route.destination.to_string(), "10.0.0.0/24");
        assert_eq!(
            (route.reach, route.link, route.is_main()),
            (Reach::OnLink, Some(3), true)
        );

        let route = parse(header(0, 1), &[oif, gateway]);
        assert_eq!(route.destination.prefix(), 0);
        assert_eq!(route.reach, Reach::Routed);

        let blackhole = parse(header(24, 6), &[destination]);
        assert_eq!(blackhole.reach, Reach::Routed);

        let hops = attribute(9, &[8, 0, 0, 0, 5, 0, 0, 0]);
        let route = parse(header(0, 1), &[hops]);
        assert_eq!(route.link, Some(u32::from_ne_bytes([5, 0, 0, 0])));
        // AF_BRIDGE.
        assert_eq!(
            RouteAnswer::parse(&[7, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).unwrap(),
            None
        );
        let header = vec![10, 64, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
        let octets = "fd00::".parse::<Ipv6Addr>().unwrap().octets();
        let route = parse(header, &[attribute(1, &octets)]);
        assert_eq!(route.destination.to_string(), "fd00::/64");
    }

    #[test]
    fn a_port_forwards_only_when_the_kernel_sends_on_it() {
        let parse = |operstate, state| {
            let data = attribute(5, &attribute(1, &[state]));
            let info = [attribute(4, b"bridge\0"), data].concat();
            let payload = [
                vec![0; 16],
                attribute(16, &[operstate]),
                attribute(18, &info),
            ];
            LinkAnswer::parse(&payload.concat()).unwrap()
        };
        let (unknown, lower_layer_down, up) = (0, 3, 6);
        let (disabled, forwarding) = (0, 3);
        assert!(parse(up, forwarding).is_forwarding());
        assert!(!parse(up, disabled).is_forwarding());
        assert!(!parse(unknown, forwarding).is_forwarding());
        assert!(!parse(lower_layer_down, forwarding).is_forwarding());
        assert!(parse(unknown, disabled).is_bridge_up());
        assert!(!parse(lower_layer_down, disabled).is_bridge_up());
    }

    #[test]
    fn a_broken_answer_is_malformed_and_no_panic() {
        let mut link = vec![0; 16];
        link.extend(attribute(18, &attribute(5, &attribute(1, &[3]))));
        link.extend(attribute(4, &1500u32.to_ne_bytes()));
        for length in 0..link.len() {
            for parsed in [
                LinkAnswer::parse(&link[..length]).map(drop),
                AddressAnswer::parse(&link[..length]).map(drop),
                RouteAnswer::parse(&link[..length]).map(drop),
                messages(&link[..length]).map(drop),
            ] {
                assert!(parsed.map_or_else(|e| e.kind() == ErrorKind::Malformed, |()| true));
            }
        }
        assert!(LinkAnswer::parse(&link[..8]).is_err());
        assert_eq!(LinkAnswer::parse(&link).unwrap().mtu, 1500);
        assert!(messages(&[255; 16]).is_err());
        assert!(messages(&[0; 16]).is_err());
    }

    #[test]
    fn an_attribute_is_found_or_not_or_broken() {
        let bytes = [5, 0, 1, 0, 9, 0, 0, 0, 5, 0, 2, 0x80, 8, 0, 0, 0];
        if cfg!(target_endian = "little") {
            assert_eq!(super::attribute(&bytes, 0, 2).unwrap(), Some(&[8][..]));
            assert_eq!(super::attribute(&bytes, 0, 3).unwrap(), None);
            assert!(super::attribute(&bytes[..11], 0, 3).is_err());
        }
        assert_eq!(super::attribute(&[], 0, 1).unwrap(), None);
    }
}
