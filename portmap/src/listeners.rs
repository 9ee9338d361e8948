//! Which ports sockets of the host have, by one look at them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::answer::value;
use crate::conntrack::{Answer, Link};
use crate::reservation::Claim;
use crate::spec::Protocol;

/// A socket that has a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    ip: IpAddr,
    port: u16,
    is_v6only: bool,
}

/// The first of the claims that a socket of this thread's network namespace stands in the way of. SCTP is left out.
///
/// What sockets there are may change in between, so that this promises nothing for later.
pub(crate) fn among(claims: &[Claim]) -> io::Result<Option<Claim>> {
    let mut by_port: Vec<_> = claims
        .iter()
        .enumerate()
        .map(|(at, claim)| (claim.protocol, claim.port, at))
        .collect();
    by_port.sort_unstable();
    let mut link = Link::open(NETLINK_SOCK_DIAG)?;
    let mut first: Option<usize> = None;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        if !claims.iter().any(|claim| claim.protocol == protocol) {
            continue;
        }
        for family in [libc::AF_INET, libc::AF_INET6] {
            look(&mut link, family, protocol, |listener| {
                let port = (protocol, listener.port);
                let start = by_port.partition_point(|(of, number, _)| (*of, *number) < port);
                let same_port = by_port[start..].iter();
                let hit = same_port
                    .take_while(|(of, number, _)| (*of, *number) == port)
                    .map(|(_, _, at)| *at);
                let hit = hit.filter(|at| listener.has(claims[*at].ip)).min();
                first = hit.into_iter().chain(first).min();
            })?;
        }
    }
    Ok(first.map(|at| claims[at]))
}

impl Listener {
    /// `None` is every address of both families.
    fn has(&self, ip: Option<IpAddr>) -> bool {
        let Some(ip) = ip else { return true };
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                own.is_unspecified() || ip.is_unspecified() || own == ip
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                own.is_unspecified() || ip.is_unspecified() || own == ip
            }
            (IpAddr::V6(own), IpAddr::V4(_)) => own.is_unspecified() && !self.is_v6only,
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }

    /// Reads struct inet_diag_msg and the attributes behind it.
    fn read(bytes: &[u8]) -> Option<Self> {
        const MESSAGE: usize = 72;
        const INET_DIAG_SKV6ONLY: u16 = 11;
        let (port, source) = (bytes.get(4..6)?, bytes.get(8..24)?);
        let ip = match i32::from(*bytes.first()?) {
            libc::AF_INET => Ipv4Addr::from(*source.first_chunk::<4>()?).into(),
            // An address of IPv4 in IPv6 is one of IPv4.
            _ => Ipv6Addr::from(*source.first_chunk::<16>()?).to_canonical(),
        };
        let v6only = bytes.get(MESSAGE..).unwrap_or_default();
        let v6only = value(v6only, INET_DIAG_SKV6ONLY).and_then(<[u8]>::first);
        Some(Listener {
            ip,
            port: u16::from_be_bytes(*port.first_chunk()?),
            is_v6only: v6only.is_some_and(|value| *value != 0),
        })
    }
}

fn look(
    link: &mut Link,
    family: i32,
    protocol: Protocol,
    mut each: impl FnMut(Listener),
) -> io::Result<()> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_DUMP: u16 = 0x300;
    const TCP_CLOSE: u32 = 7;
    const TCP_LISTEN: u32 = 10;
    const TCP_BOUND_INACTIVE: u32 = 13;
    let states: u32 = match protocol {
        Protocol::Tcp => 1 << TCP_LISTEN | 1 << TCP_BOUND_INACTIVE,
        _ => 1 << TCP_CLOSE,
    };
    // struct inet_diag_req_v2: an empty struct inet_diag_sockid means all.
    let mut header = [0; 56];
    header[0] = family as u8;
    header[1] = protocol.number();
    header[4..8].copy_from_slice(&states.to_ne_bytes());
    let request = link.message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &header, &[]);
    let mut outcome = Ok(());
    link.exchange_raw(&request, |answer| match answer {
        Answer::Message(bytes) => Listener::read(bytes).into_iter().for_each(&mut each),
        Answer::Error(errno) => outcome = Err(io::Error::from_raw_os_error(errno)),
    })?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reservation::{Purpose, bound};
    use cofferdam_testkit::{Need, NetNs, have, load_module};
    use std::net::UdpSocket;

    fn claim(protocol: Protocol, ip: Option<&str>) -> Claim {
        Claim {
            ip: ip.map(|ip| ip.parse().unwrap()),
            port: 8080,
            protocol,
        }
    }

    const ADDRESSES: [Option<&str>; 6] = [
        None,
        Some("0.0.0.0"),
        Some("::"),
        Some("127.0.0.1"),
        Some("127.0.0.2"),
        Some("::1"),
    ];

    /// Built in, or modules.
    fn load_modules() {
        load_module("tcp_diag");
        load_module("udp_diag");
    }

    /// Each of them against each, by the kernel's own judgement.
    #[test]
    fn sockets_are_in_the_way_where_bind_says_so() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        load_modules();
        NetNs::new().run(|| {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for there in ADDRESSES {
                    let held = bound(&claim(protocol, there), Purpose::Reserve).unwrap();
                    for wanted in ADDRESSES {
                        let wanted = claim(protocol, wanted);
                        let refused = bound(&wanted, Purpose::Reserve).is_err();
                        let found = among(&[wanted]).unwrap();
                        assert_eq!(found.is_some(), refused, "{there:?} {wanted:?}");
                    }
                    drop(held);
                }
            }
        });
    }

    #[test]
    fn other_ports_other_protocols_and_clients_are_not_in_the_way() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        load_modules();
        NetNs::new().run(|| {
            let (tcp, udp) = (claim(Protocol::Tcp, None), claim(Protocol::Udp, None));
            let _tcp = bound(&tcp, Purpose::Reserve).unwrap();
            assert_eq!(among(&[udp]).unwrap(), None);
            assert_eq!(among(&[Claim { port: 8081, ..tcp }]).unwrap(), None);
            let both = [Claim { port: 8081, ..tcp }, tcp, udp];
            assert_eq!(among(&both).unwrap(), Some(tcp));
            let client = UdpSocket::bind("127.0.0.1:8080").unwrap();
            assert_eq!(among(&[udp]).unwrap(), Some(udp));
            client.connect("127.0.0.1:9").unwrap();
            assert_eq!(among(&[udp]).unwrap(), None);
            let mapped = UdpSocket::bind("[::ffff:127.0.0.1]:8080").is_err();
            assert!(mapped);
        });
    }
}
