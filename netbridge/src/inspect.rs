//! What a network namespace has, as the kernel tells it.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnetwork::IpNetwork;

use crate::answer::{
    AddressAnswer, LinkAnswer, RouteAnswer, address, attributes, byte_at, parse_all, u16_at, u32_at,
};
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::message;
use crate::route::RouteKind;
use crate::socket::Socket;

/// Reads what a network namespace has, and changes nothing. It holds one rtnetlink socket, in that namespace, and may be
/// used from any thread.
///
/// ```no_run
/// use cofferdam_netbridge::{Inspect, NetNs};
///
/// # let netns = NetNs::new()?;
/// let mut container = Inspect::of(&netns)?;
/// for link in container.links()? {
///     println!("{} received {} bytes", link.name, link.counters.rx_bytes);
/// }
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Debug)]
pub struct Inspect {
    socket: Socket,
}

/// A network link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// The index, unique in its network namespace.
    pub index: u32,
    /// The name, unique in its network namespace.
    pub name: String,
    /// `bridge`, `veth`, ...; none for `lo` and hardware.
    pub kind: Option<String>,
    /// The hardware address, where it has one of 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// In bytes.
    pub mtu: u32,
    /// Whether it was set up (`IFF_UP`).
    pub up: bool,
    /// Whether the kernel sends on it (`IF_OPER_UP`): it is up, and so is the far end.
    pub operational: bool,
    /// The index of the bridge it is a port of (`IFLA_MASTER`).
    pub controller: Option<u32>,
    /// What went through it.
    pub counters: Counters,
}

/// What went through a link since it was made, as by `rtnl_link_stats64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received that were bad.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets received and dropped, for want of memory, say.
    pub rx_dropped: u64,
    /// Packets dropped before they were sent.
    pub tx_dropped: u64,
    /// Multicast packets received.
    pub multicast: u64,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkAddress {
    /// The index of the link.
    pub index: u32,
    /// The address, with the prefix of its subnet.
    pub address: IpNetwork,
    /// Whether it is of use beyond the link (`RT_SCOPE_UNIVERSE`).
    pub global: bool,
    /// Whether the kernel still looks for it on the link, or found it there, and does not use it yet
    /// (`IFA_F_TENTATIVE`, `IFA_F_DADFAILED`).
    pub tentative: bool,
}

/// A route of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteEntry {
    /// Where it is for; of prefix length 0 for a default route.
    pub destination: IpNetwork,
    /// Where it leads. None for the kernel's own: of local, broadcast, anycast and multicast addresses.
    pub kind: Option<RouteKind>,
    /// The index of the link, or of that of the first hop.
    pub index: Option<u32>,
    /// The metric.
    pub metric: u32,
    /// The table: 254 is `main`.
    pub table: u32,
}

/// What a link knows of a neighbour, by ARP or neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// The index of the link.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address, where it is known.
    pub mac: Option<[u8; 6]>,
    /// How sure the kernel is: bits of `NUD_*`.
    pub state: u16,
}

impl Neighbour {
    /// Whether packets are sent to it without asking first (`NUD_REACHABLE`, `NUD_PERMANENT`, `NUD_NOARP` and others of
    /// `NUD_VALID`).
    #[must_use]
    pub fn is_valid(&self) -> bool {
        const NUD_VALID: u16 = 0xde;
        self.state & NUD_VALID != 0
    }
}

impl Inspect {
    /// The network namespace of the calling thread.
    ///
    /// # Errors
    /// `Os` where no socket can be opened.
    pub fn here() -> Result<Self> {
        let socket = Socket::open()?;
        Ok(Inspect { socket })
    }

    /// Another network namespace, which a thread enters that is thrown away.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN`; `InvalidInput` where the fd is not of a network namespace.
    pub fn of(netns: impl AsFd) -> Result<Self> {
        let socket = Socket::open_in(netns.as_fd())?;
        Ok(Inspect { socket })
    }

    /// Lists the links, as by `RTM_GETLINK`.
    ///
    /// # Errors
    /// `Busy` where links keep changing while they are listed; `Os` where the kernel refuses.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let payloads = self.socket.dump(&message::all_links_counted())?;
        payloads.iter().map(|payload| link(payload)).collect()
    }

    /// Reads one link, as by `RTM_GETLINK`.
    ///
    /// # Errors
    /// `NotFound` where there is none of the name.
    pub fn link(&mut self, name: &IfName) -> Result<Link> {
        let links = self.links()?;
        let mut named = links.into_iter().filter(|link| link.name == name.as_str());
        named.next().ok_or_else(|| {
            let what = format!("read link {name}");
            Error::plain(ErrorKind::NotFound, what, "there is none")
        })
    }

    /// Lists the addresses of all links, as by `RTM_GETADDR`.
    ///
    /// # Errors
    /// As [`links`](Self::links).
    pub fn addresses(&mut self) -> Result<Vec<LinkAddress>> {
        let payloads = self.socket.dump(&message::all_addresses(None))?;
        let parsed = parse_all(&payloads, AddressAnswer::parse)?;
        Ok(parsed.into_iter().map(link_address).collect())
    }

    /// Lists the routes of all tables, as by `RTM_GETROUTE`.
    ///
    /// # Errors
    /// As [`links`](Self::links).
    pub fn routes(&mut self) -> Result<Vec<RouteEntry>> {
        let payloads = self.socket.dump(&message::all_routes(None))?;
        let parsed = parse_all(&payloads, RouteAnswer::parse)?;
        Ok(parsed.into_iter().map(route_entry).collect())
    }

    /// Lists the neighbours of all links, as by `RTM_GETNEIGH`.
    ///
    /// # Errors
    /// As [`links`](Self::links).
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        parse_all(&self.socket.dump(&message::all_neighbours())?, neighbour)
    }
}

/// Lists the links of the calling thread's network namespace, as [`Inspect::links`] does.
///
/// # Errors
/// `Busy` where links keep changing while they are listed; `Os` where the kernel refuses.
pub fn links() -> Result<Vec<Link>> {
    Inspect::here()?.links()
}

pub(crate) fn link(payload: &[u8]) -> Result<Link> {
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_STATS64: u16 = 23;
    let answer = LinkAnswer::parse(payload)?;
    let mut link = Link {
        index: answer.index,
        operational: answer.is_up(),
        mtu: answer.mtu,
        name: answer.name,
        kind: answer.kind,
        mac: None,
        up: answer.is_set_up,
        controller: answer.controller,
        counters: Counters::default(),
    };
    for attribute in attributes(payload, 16)? {
        let attribute = attribute?;
        match attribute.kind() {
            IFLA_ADDRESS => link.mac = attribute.value().try_into().ok(),
            IFLA_STATS64 => link.counters = counters(attribute.value()),
            _ => {}
        }
    }
    Ok(link)
}

/// Fields a kernel does not tell are 0.
fn counters(stats: &[u8]) -> Counters {
    let field = |n: usize| {
        let bytes = stats.get(n * 8..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    Counters {
        rx_packets: field(0),
        tx_packets: field(1),
        rx_bytes: field(2),
        tx_bytes: field(3),
        rx_errors: field(4),
        tx_errors: field(5),
        rx_dropped: field(6),
        tx_dropped: field(7),
        multicast: field(8),
    }
}

fn link_address(answer: AddressAnswer) -> LinkAddress {
    LinkAddress {
        index: answer.index,
        address: answer.local,
        global: answer.scope == libc::RT_SCOPE_UNIVERSE,
        tentative: answer.flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) != 0,
    }
}

fn route_entry(answer: RouteAnswer) -> RouteEntry {
    let kind = match answer.kind {
        libc::RTN_UNICAST => Some(answer.gateway.map_or(RouteKind::Direct, RouteKind::Via)),
        libc::RTN_BLACKHOLE => Some(RouteKind::Blackhole),
        libc::RTN_UNREACHABLE => Some(RouteKind::Unreachable),
        libc::RTN_PROHIBIT => Some(RouteKind::Prohibit),
        _ => None,
    };
    RouteEntry {
        destination: answer.destination,
        kind,
        index: answer.link,
        metric: answer.metric,
        table: answer.table,
    }
}

/// `None` for what is no IP address.
pub(crate) fn neighbour(payload: &[u8]) -> Result<Option<Neighbour>> {
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    let (index, state) = (u32_at(payload, 4)?, u16_at(payload, 8)?);
    let (mut ip, mut mac) = (None, None);
    let family = i32::from(byte_at(payload, 0)?);
    for attribute in attributes(payload, 12)? {
        let attribute = attribute?;
        match attribute.kind() {
            NDA_DST => ip = Some(address(attribute.value())?),
            NDA_LLADDR => mac = attribute.value().try_into().ok(),
            _ => {}
        }
    }
    let known = [libc::AF_INET, libc::AF_INET6].contains(&family);
    Ok(ip.filter(|_| known).map(|address| Neighbour {
        index,
        address,
        mac,
        state,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_answer_is_malformed_and_no_panic() {
        let mut payload = vec![0; 16];
        for (kind, length) in [(1u16, 6u16), (10, 4), (23, 96)] {
            payload.extend((length + 4).to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.resize((payload.len() + usize::from(length)).next_multiple_of(4), 1);
        }
        for length in 0..payload.len() {
            for parsed in [
                link(&payload[..length]).map(drop),
                neighbour(&payload[..length]).map(drop),
            ] {
                assert!(parsed.map_or_else(|e| e.kind() == ErrorKind::Malformed, |()| true));
            }
        }
        let whole = link(&payload).unwrap();
        assert_eq!(whole.mac, Some([1; 6]));
        assert_eq!(whole.counters.multicast, 0x0101_0101_0101_0101);
    }
}
