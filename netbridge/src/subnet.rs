//! Subnets that nothing on the host uses.

use std::fmt;
use std::net::Ipv4Addr;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::answer::{AddressAnswer, Reach, RouteAnswer, parse_all};
use crate::error::{Error, ErrorKind, Result};
use crate::message;
use crate::socket::Socket;

/// A network to cut subnets of one size from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    base: Ipv4Network,
    prefix: u8,
}

impl Pool {
    /// All subnets of length `prefix` of `base`.
    ///
    /// # Errors
    /// `InvalidInput` where `prefix` is shorter than that of `base`, or above 30 and so without room for a gateway and
    /// a container; `Unsupported` for IPv6.
    pub fn new(base: IpNetwork, prefix: u8) -> Result<Self> {
        let what = format!("pool {base} of /{prefix}");
        let base = v4(base, &what)?;
        if prefix < base.prefix() {
            return Err(Error::invalid(what, "the subnets are larger than the pool"));
        }
        if prefix > SMALLEST {
            return Err(Error::invalid(
                what,
                "the subnets have no room for a gateway and a container",
            ));
        }
        Ok(Pool { base, prefix })
    }

    /// How many subnets it has: 2^30 at most.
    fn count(&self) -> u32 {
        1 << (self.prefix - self.base.prefix())
    }

    fn nth(&self, n: u32) -> Range {
        let size = 1u32 << (32 - u32::from(self.prefix));
        let start = u32::from(self.base.network()).wrapping_add(n.wrapping_mul(size));
        Range {
            start,
            end: start.wrapping_add(size - 1),
        }
    }
}

/// Networks to take the subnet of a new bridge from.
///
/// The default is `172.17.0.0/16` to `172.31.0.0/16`, as Docker's, but cut into `/24`s: 3840 networks of 253 containers
/// each, where Docker's `/16`s are used up by 15.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools(Vec<Pool>);

impl Pools {
    /// These pools, in this order.
    pub fn new(pools: impl IntoIterator<Item = Pool>) -> Self {
        Pools(pools.into_iter().collect())
    }

    /// A subnet that overlaps no address and no on-link route of the calling thread's network namespace.
    ///
    /// Subnets a router is known for (say, pushed by a VPN) are used only where no other is left. Default routes do not
    /// count, nor do the halves `0.0.0.0/1` and `128.0.0.0/1` that VPNs put over them.
    ///
    /// The search starts at a place derived from `name`: the same name gets the same subnet again where it is free, and
    /// two processes at work at once hardly get the same. [`Bridge::builder`](crate::Bridge::builder) without an address does this and looks again
    /// after the address is set.
    ///
    /// # Errors
    /// `Exhausted` where every subnet of the pools is in use.
    pub fn pick(&self, name: &str) -> Result<IpNetwork> {
        let occupied = Occupied::read(&mut Socket::open()?)?;
        self.free(&occupied, start_of(name, 0)).map(IpNetwork::V4)
    }

    /// The first subnet from `start` on, round the pools, that nothing occupies.
    pub(crate) fn free(&self, occupied: &Occupied, start: u64) -> Result<Ipv4Network> {
        let all = Ranges::new(occupied.on_link.iter().chain(&occupied.routed));
        let on_link = Ranges::new(&occupied.on_link);
        self.search(&all, start)
            .or_else(|| self.search(&on_link, start))
            .ok_or_else(|| {
                let why = "every subnet of the pools overlaps an address or a route";
                Error::plain(ErrorKind::Exhausted, "pick a subnet", why)
            })
    }

    fn search(&self, taken: &Ranges, start: u64) -> Option<Ipv4Network> {
        let total: u64 = self.0.iter().map(|pool| u64::from(pool.count())).sum();
        (0..total).find_map(|step| {
            let (pool, subnet) = self.nth((start % total + step) % total)?;
            (!taken.overlap(subnet)).then_some(())?;
            Ipv4Network::new(subnet.start.into(), pool.prefix).ok()
        })
    }

    fn nth(&self, mut n: u64) -> Option<(&Pool, Range)> {
        for pool in &self.0 {
            match u32::try_from(n) {
                Ok(at) if at < pool.count() => return Some((pool, pool.nth(at))),
                _ => n -= u64::from(pool.count()),
            }
        }
        None
    }
}

impl Default for Pools {
    fn default() -> Self {
        let pool = |second| {
            let base = Ipv4Addr::new(172, second, 0, 0);
            let base = Ipv4Network::new(base, 16).ok()?;
            Some(Pool { base, prefix: 24 })
        };
        Pools((17..32).filter_map(pool).collect())
    }
}

/// The longest prefix that has room for a gateway and a container beside its network and broadcast address.
pub(crate) const SMALLEST: u8 = 30;

/// What the host uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occupied {
    pub(crate) on_link: Vec<Ipv4Network>,
    pub(crate) routed: Vec<Ipv4Network>,
}

impl Occupied {
    /// Reads the addresses and routes of the socket's network namespace.
    pub(crate) fn read(socket: &mut Socket) -> Result<Self> {
        Ok(Occupied::of(&routes(socket)?, &addresses(socket)?))
    }

    /// Addresses count beside routes: a link that is down has no route for its subnet.
    pub(crate) fn of(routes: &[RouteAnswer], addresses: &[AddressAnswer]) -> Self {
        let mut occupied = Occupied::default();
        for route in routes {
            let IpNetwork::V4(destination) = route.destination else {
                continue;
            };
            // 0/0, and the halves that VPNs put over it.
            if destination.prefix() <= 1 {
                continue;
            }
            match route.reach {
                Reach::OnLink => occupied.on_link.push(destination),
                Reach::Routed => occupied.routed.push(destination),
            }
        }
        let subnets = addresses.iter().filter_map(|address| match address.subnet {
            IpNetwork::V4(subnet) => Some(subnet),
            IpNetwork::V6(_) => None,
        });
        occupied.on_link.extend(subnets);
        occupied
    }
}

pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<RouteAnswer>> {
    parse_all(
        &socket.dump(&message::all_routes(None))?,
        RouteAnswer::parse,
    )
}

pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<AddressAnswer>> {
    let payloads = socket.dump(&message::all_addresses(None))?;
    parse_all(&payloads, AddressAnswer::parse)
}

/// Where the search for a network of this name starts, the same in every version of this crate. Another attempt starts
/// elsewhere, so that two that met do not meet again.
pub(crate) fn start_of(name: &str, attempt: u8) -> u64 {
    hash(name.bytes().chain([attempt]))
}

/// FNV-1a, then mixed: its low bits alone depend on the low bits of each byte only.
pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let hash = bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// This crate is IPv4 only for now. `what` says what the network is for.
pub(crate) fn v4(network: IpNetwork, what: impl fmt::Display) -> Result<Ipv4Network> {
    match network {
        IpNetwork::V4(network) => Ok(network),
        IpNetwork::V6(_) => Err(Error::plain(
            ErrorKind::Unsupported,
            what,
            "IPv6 is not supported yet",
        )),
    }
}

/// Addresses from `start` to `end`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u32,
    end: u32,
}

/// Disjoint ranges in order.
#[derive(Debug)]
struct Ranges(Vec<Range>);

impl Ranges {
    fn new<'a>(networks: impl IntoIterator<Item = &'a Ipv4Network>) -> Self {
        let mut ranges: Vec<Range> = networks.into_iter().map(range).collect();
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Ranges(merged)
    }

    fn overlap(&self, range: Range) -> bool {
        let next = self.0.partition_point(|taken| taken.end < range.start);
        self.0
            .get(next)
            .is_some_and(|taken| taken.start <= range.end)
    }
}

fn range(network: &Ipv4Network) -> Range {
    Range {
        start: network.network().into(),
        end: network.broadcast().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<Ipv4Network> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn occupied(on_link: &[&str], routed: &[&str]) -> Occupied {
        Occupied {
            on_link: nets(on_link),
            routed: nets(routed),
        }
    }

    fn pools(list: &[(&str, u8)]) -> Pools {
        Pools::new(
            list.iter()
                .map(|(base, prefix)| Pool::new(base.parse().unwrap(), *prefix).unwrap()),
        )
    }

    #[test]
    fn a_subnet_that_overlaps_what_the_host_uses_is_skipped() {
        let small = [("10.0.0.0/22", 24)];
        let two = [("10.0.0.0/24", 24), ("10.9.0.0/16", 16)];
        type Row<'a> = (
            &'a [(&'a str, u8)],
            &'a [&'a str],
            &'a [&'a str],
            u64,
            Option<&'a str>,
        );
        let table: &[Row<'_>] = &[
            (&small, &[], &[], 0, Some("10.0.0.0/24")),
            (&small, &[], &[], 2, Some("10.0.2.0/24")),
            (&small, &[], &[], 6, Some("10.0.2.0/24")),
            (&small, &["10.0.0.0/24"], &[], 0, Some("10.0.1.0/24")),
            // one address inside, a larger network around, neighbours on both sides
            (&small, &["10.0.0.77/32"], &[], 0, Some("10.0.1.0/24")),
            (&small, &["10.0.0.0/23"], &[], 0, Some("10.0.2.0/24")),
            (
                &small,
                &["9.255.255.0/24", "10.0.1.0/24"],
                &[],
                0,
                Some("10.0.0.0/24"),
            ),
            // round the end of the pool
            (&small, &["10.0.3.0/24"], &[], 3, Some("10.0.0.0/24")),
            (&small, &["10.0.0.0/8"], &[], 1, None),
            (&small, &["10.0.0.0/23", "10.0.2.0/23"], &[], 1, None),
            // routed subnets only where nothing else is left
            (&small, &[], &["10.0.0.0/23"], 0, Some("10.0.2.0/24")),
            (&small, &[], &["10.0.0.0/8"], 1, Some("10.0.1.0/24")),
            (
                &small,
                &["10.0.2.0/23"],
                &["10.0.0.0/23"],
                2,
                Some("10.0.0.0/24"),
            ),
            // pools in order
            (&two, &["10.0.0.0/24"], &[], 0, Some("10.9.0.0/16")),
            (&two, &["10.9.7.0/24"], &[], 1, Some("10.0.0.0/24")),
            (&[], &[], &[], 5, None),
        ];
        for (pool, on_link, routed, start, expected) in table {
            let found = pools(pool).free(&occupied(on_link, routed), *start);
            let found = found.ok().map(|subnet| subnet.to_string());
            assert_eq!(
                found.as_deref(),
                *expected,
                "{pool:?} {on_link:?} {routed:?} {start}"
            );
        }
    }

    #[test]
    fn no_subnet_left_is_an_error_of_its_own() {
        let error = pools(&[("10.0.0.0/24", 24)])
            .free(&occupied(&["10.0.0.0/8"], &[]), 0)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn default_routes_and_their_halves_do_not_count() {
        let route = |destination: &str, reach| RouteAnswer {
            destination: destination.parse().unwrap(),
            reach,
            kind: 1,
            gateway: None,
            table: 254,
            link: Some(2),
            metric: 0,
        };
        let routes = [
            route("0.0.0.0/0", Reach::Routed),
            route("0.0.0.0/1", Reach::OnLink),
            route("128.0.0.0/1", Reach::OnLink),
            route("10.8.0.0/24", Reach::OnLink),
            route("172.16.0.0/12", Reach::Routed),
        ];
        let subnet = "192.168.7.1/24".parse().unwrap();
        let address = AddressAnswer {
            index: 3,
            local: subnet,
            subnet,
            scope: 0,
            flags: 0,
        };
        assert_eq!(
            Occupied::of(&routes, &[address]),
            occupied(&["10.8.0.0/24", "192.168.7.1/24"], &["172.16.0.0/12"])
        );
    }

    #[test]
    fn three_hundred_networks_fit_beside_dockers() {
        let pools = Pools::default();
        let mut occupied = occupied(&["172.17.0.0/16", "172.18.0.0/16"], &[]);
        for n in 0..300 {
            let subnet = pools.free(&occupied, start_of(&n.to_string(), 0)).unwrap();
            assert_eq!(subnet.prefix(), 24);
            assert!(!occupied.on_link.iter().any(|taken| taken.overlaps(subnet)));
            occupied.on_link.push(subnet);
        }
        let total: u32 = pools.0.iter().map(Pool::count).sum();
        assert_eq!(total, 3840);
    }

    #[test]
    fn a_name_keeps_its_subnet() {
        let pick = |name| {
            Pools::default()
                .free(&Occupied::default(), start_of(name, 0))
                .unwrap()
        };
        assert_eq!(pick("app"), pick("app"));
        assert_ne!(pick("app"), pick("db"));
        assert_ne!(start_of("app", 0), start_of("app", 1));
    }

    #[test]
    fn pools_without_room_are_refused() {
        let kind =
            |base: &str, prefix| Pool::new(base.parse().unwrap(), prefix).unwrap_err().kind();
        assert_eq!(kind("10.0.0.0/24", 16), ErrorKind::InvalidInput);
        assert_eq!(kind("10.0.0.0/24", 31), ErrorKind::InvalidInput);
        assert_eq!(kind("fd00::/48", 64), ErrorKind::Unsupported);
    }

    #[test]
    fn a_pool_of_everything_does_not_overflow() {
        let all = pools(&[("0.0.0.0/0", 30)]);
        let last = all.free(&Occupied::default(), (1 << 30) - 1).unwrap();
        assert_eq!(last.to_string(), "255.255.255.252/30");
    }
}
