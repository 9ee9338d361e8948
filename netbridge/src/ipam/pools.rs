//! Pools of subnets, and the choice of one that nothing uses.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::hash::{hash, start_of};
use super::occupied::Occupied;
use super::span::{Family, Span, Spans, number};
use crate::error::{Error, ErrorKind, Result};

/// The prefix of an IPv6 network that addresses configure themselves in.
const LINK_PREFIX: u8 = 64;
/// The prefix of what RFC 4193 gives a site.
const SITE_PREFIX: u8 = 48;

const MACHINE_ID: &str = "/etc/machine-id";

/// A network to cut subnets of one size from, as an entry of Docker's `default-address-pools`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    base: IpNetwork,
    prefix: u8,
}

impl Pool {
    /// All subnets of length `prefix` of `base`.
    ///
    /// # Errors
    /// `InvalidInput` where `prefix` is shorter than that of `base`, or so long (above 30, of IPv6 above 126) that there
    /// is no room for a gateway and a container.
    pub fn new(base: IpNetwork, prefix: u8) -> Result<Self> {
        let what = || format!("pool {base} of /{prefix}");
        if prefix < base.prefix() {
            return Err(Error::invalid(
                what(),
                "the subnets are larger than the pool",
            ));
        }
        if prefix > Family::of(base.ip()).bits() - 2 {
            let why = "the subnets have no room for a gateway and a container";
            return Err(Error::invalid(what(), why));
        }
        Ok(Pool { base, prefix })
    }

    /// The 65536 `/64`s of a unique local (RFC 4193) `/48` that `host_id` alone decides: the same on every call, in every
    /// process and every version of this crate, and on another host another.
    ///
    /// The id can be anything that stays: 40 bits of a hash of it become part of every address, and no more of it.
    ///
    /// ```
    /// use cofferdam_netbridge::Pool;
    ///
    /// let pool = Pool::ula("8f7b6b5e0c8e4e3f9d1a2b3c4d5e6f70");
    /// assert_eq!(pool, Pool::ula("8f7b6b5e0c8e4e3f9d1a2b3c4d5e6f70"));
    /// assert!(pool.base().to_string().starts_with("fd"));
    /// ```
    #[must_use]
    pub fn ula(host_id: impl AsRef<[u8]>) -> Self {
        let salted = b"cofferdam ula 1\0".iter().chain(host_id.as_ref());
        let global_id = u128::from(hash(salted.copied()) >> 24);
        let address = Ipv6Addr::from((0xfd_u128 << 120) | (global_id << 80));
        let whole = Ipv6Network::from(Ipv6Addr::UNSPECIFIED);
        let base = Ipv6Network::new(address, SITE_PREFIX).unwrap_or(whole);
        Pool {
            base: IpNetwork::V6(base),
            prefix: LINK_PREFIX,
        }
    }

    /// [`Pool::ula`] of this host, by `/etc/machine-id`.
    ///
    /// # Errors
    /// `NotFound` where there is no such file; `Malformed` where it has no id, as while a system boots for the first time.
    /// Give an id of your own then, one that you keep: never a random one.
    pub fn ula_of_machine() -> Result<Self> {
        let id = std::fs::read_to_string(MACHINE_ID)
            .map_err(|error| Error::sys(format!("read {MACHINE_ID}"), error))?;
        let id = id.trim();
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let what = format!("read {MACHINE_ID}");
            let why = "it is not 32 hexadecimal digits";
            return Err(Error::plain(ErrorKind::Malformed, what, why));
        }
        Ok(Pool::ula(id))
    }

    /// The network that the subnets are cut from.
    #[must_use]
    pub fn base(&self) -> IpNetwork {
        self.base
    }

    /// The length of the subnets' prefixes.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many subnets it has.
    #[must_use]
    pub fn count(&self) -> u128 {
        1u128
            .checked_shl(u32::from(self.prefix - self.base.prefix()))
            .unwrap_or(u128::MAX)
    }

    fn family(&self) -> Family {
        Family::of(self.base.ip())
    }

    /// How many addresses a subnet has. A prefix of 0 can only be that of a pool of one subnet.
    fn size(&self) -> u128 {
        1u128
            .checked_shl(u32::from(self.family().bits() - self.prefix))
            .unwrap_or(u128::MAX)
    }

    fn nth(&self, n: u128) -> Span {
        let start = number(self.base.network()).saturating_add(n.saturating_mul(self.size()));
        Span {
            start,
            end: start.saturating_add(self.size() - 1),
        }
    }

    /// The first subnet that `taken` does not overlap, of those from `from` up to but not including `to`. What is taken is
    /// jumped over: the search is as long as there are spans of it, not subnets.
    fn free(&self, taken: &Spans, from: u128, to: u128) -> Option<IpNetwork> {
        let mut n = from;
        while n < to {
            let subnet = self.nth(n);
            let Some(obstacle) = taken.overlapped(subnet) else {
                let address = self.family().address(subnet.start);
                return IpNetwork::new(address, self.prefix).ok();
            };
            let base = number(self.base.network());
            n = (obstacle.end.max(subnet.end) - base) / self.size() + 1;
        }
        None
    }
}

/// Networks to take the subnet of a new network from, of both families.
///
/// The default is `172.17.0.0/16` to `172.31.0.0/16`, as Docker's, but cut into `/24`s: 3840 networks of 253 containers
/// each. Docker cuts the same space into 15 networks of 65533, and `192.168.0.0/16`, where home and office networks are,
/// into 16: 31 networks in all, and then every `network create` fails. For IPv6 nothing is a default:
/// [`Pool::ula`] has to know the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools(Vec<Pool>);

impl Pools {
    /// These pools, in this order.
    pub fn new(pools: impl IntoIterator<Item = Pool>) -> Self {
        Pools(pools.into_iter().collect())
    }

    /// These pools, and then this one.
    #[must_use]
    pub fn pool(mut self, pool: Pool) -> Self {
        self.0.push(pool);
        self
    }

    /// An IPv4 subnet that overlaps nothing of the calling thread's network namespace: [`Pools::find`] with
    /// [`Occupied::of_caller`].
    ///
    /// [`Bridge::builder`](crate::Bridge::builder) without an address does this and looks again after the address is set.
    ///
    /// # Errors
    /// `Exhausted` where every subnet of the pools is in use; else as [`Occupied::of_caller`].
    pub fn pick(&self, name: &str) -> Result<IpNetwork> {
        self.find(Family::V4, name, &Occupied::of_caller()?)
    }

    /// As [`pick`](Self::pick), an IPv6 subnet.
    ///
    /// # Errors
    /// As [`pick`](Self::pick).
    pub fn pick6(&self, name: &str) -> Result<IpNetwork> {
        self.find(Family::V6, name, &Occupied::of_caller()?)
    }

    /// The families that there are pools of, IPv4 first.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> + '_ {
        let has = |family: &Family| self.0.iter().any(|pool| pool.family() == *family);
        [Family::V4, Family::V6].into_iter().filter(has)
    }

    /// A subnet of this family that overlaps nothing of `occupied`. Subnets that are only
    /// [routed](Occupied::routed) somewhere are used where no other is left.
    ///
    /// The search starts at a place derived from `name`: the same name gets the same subnet again where it is free, and
    /// two processes at work at once hardly get the same.
    ///
    /// # Errors
    /// `Exhausted` where every subnet of the pools is in use.
    pub fn find(&self, family: Family, name: &str, occupied: &Occupied) -> Result<IpNetwork> {
        self.free_of(family, occupied, start_of(name, 0))
    }

    /// The first subnet from `start` on, round the pools, that nothing occupies.
    pub(crate) fn free_of(
        &self,
        family: Family,
        occupied: &Occupied,
        start: u64,
    ) -> Result<IpNetwork> {
        let pools: Vec<&Pool> = self.0.iter().filter(|p| p.family() == family).collect();
        search(&pools, &occupied.all(family), start)
            .or_else(|| search(&pools, &occupied.on_link(family), start))
            .ok_or_else(|| exhausted(family, &pools))
    }
}

impl Default for Pools {
    fn default() -> Self {
        let pool = |second| {
            let base = Ipv4Network::new(Ipv4Addr::new(172, second, 0, 0), 16).ok()?;
            Some(Pool {
                base: IpNetwork::V4(base),
                prefix: 24,
            })
        };
        Pools((17..32).filter_map(pool).collect())
    }
}

fn exhausted(family: Family, pools: &[&Pool]) -> Error {
    let what = format!("pick an {family} subnet");
    if pools.is_empty() {
        let why = format!("no pool has subnets of {family}");
        return Error::plain(ErrorKind::Exhausted, what, why);
    }
    let total = total(pools);
    let why = format!("each of the {total} subnets of the pools overlaps an address or a route");
    Error::plain(ErrorKind::Exhausted, what, why)
}

fn total(pools: &[&Pool]) -> u128 {
    pools
        .iter()
        .fold(0, |sum: u128, pool| sum.saturating_add(pool.count()))
}

/// From the pool that `start` falls into on, in it from there, and round to what was left out.
fn search(pools: &[&Pool], taken: &Spans, start: u64) -> Option<IpNetwork> {
    let mut within = u128::from(start).checked_rem(total(pools))?;
    let first = pools.iter().position(|pool| {
        let here = within < pool.count();
        within -= if here { 0 } else { pool.count() };
        here
    })?;
    let (before, from) = pools.split_at(first);
    let (started, after) = from.split_first()?;
    started
        .free(taken, within, started.count())
        .or_else(|| {
            let others = after.iter().chain(before);
            others
                .into_iter()
                .find_map(|pool| pool.free(taken, 0, pool.count()))
        })
        .or_else(|| started.free(taken, 0, within))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupied(on_link: &[&str], routed: &[&str]) -> Occupied {
        let mut occupied = Occupied::default();
        for network in on_link {
            occupied = occupied.on_link_network(network.parse().unwrap());
        }
        for network in routed {
            occupied = occupied.routed(network.parse().unwrap());
        }
        occupied
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
            (&[("fd00::/48", 64)], &[], &[], 5, None),
        ];
        for (pool, on_link, routed, start, expected) in table {
            let found = pools(pool).free_of(Family::V4, &occupied(on_link, routed), *start);
            let found = found.ok().map(|subnet| subnet.to_string());
            assert_eq!(
                found.as_deref(),
                *expected,
                "{pool:?} {on_link:?} {routed:?} {start}"
            );
        }
    }

    #[test]
    fn no_subnet_left_is_an_error_that_says_how_many_there_are() {
        let error = pools(&[("10.0.0.0/22", 24)])
            .free_of(Family::V4, &occupied(&["10.0.0.0/8"], &[]), 0)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(
            error.to_string(),
            "pick an IPv4 subnet: each of the 4 subnets of the pools overlaps an address or a route"
        );
    }

    #[test]
    fn three_hundred_networks_fit_beside_dockers() {
        let pools = Pools::default();
        let mut occupied = occupied(&["172.17.0.0/16", "172.18.0.0/16"], &[]);
        for n in 0..300 {
            let subnet = pools.find(Family::V4, &n.to_string(), &occupied).unwrap();
            assert_eq!(subnet.prefix(), 24);
            assert!(!occupied.overlaps(subnet));
            occupied = occupied.on_link_network(subnet);
        }
        let total: u128 = pools.0.iter().map(Pool::count).sum();
        assert_eq!(total, 3840);
    }

    #[test]
    fn a_name_keeps_its_subnet_and_another_host_has_others() {
        let pick = |name, host| {
            let pools = Pools::default().pool(Pool::ula(host));
            let find = |family| pools.find(family, name, &Occupied::default()).unwrap();
            (find(Family::V4), find(Family::V6))
        };
        assert_eq!(pick("app", "host a"), pick("app", "host a"));
        assert_ne!(pick("app", "host a").0, pick("db", "host a").0);
        let (one, other) = (pick("app", "host a").1, pick("app", "host b").1);
        assert_ne!(one, other);
        for subnet in [one, other] {
            assert!(subnet.to_string().starts_with("fd"));
        }
        // Written down: a new version of this crate must not move what containers and firewalls know.
        assert_eq!(Pool::ula("host a").base().to_string(), HOST_A);
        assert_ne!(start_of("app", 0), start_of("app", 1));
    }

    const HOST_A: &str = "fd8b:ea73:9d19::/48";

    #[test]
    fn pools_without_room_are_refused() {
        let kind =
            |base: &str, prefix| Pool::new(base.parse().unwrap(), prefix).unwrap_err().kind();
        assert_eq!(kind("10.0.0.0/24", 16), ErrorKind::InvalidInput);
        assert_eq!(kind("10.0.0.0/24", 31), ErrorKind::InvalidInput);
        assert_eq!(kind("fd00::/48", 127), ErrorKind::InvalidInput);
        assert_eq!(kind("fd00::/48", 255), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_pool_of_everything_neither_overflows_nor_takes_long() {
        let all = pools(&[("0.0.0.0/0", 30), ("::/0", 126), ("fd00::/16", 64)]);
        let last = all.free_of(Family::V4, &Occupied::default(), (1 << 30) - 1);
        assert_eq!(last.unwrap().to_string(), "255.255.255.252/30");
        let taken = (0..0xe0).fold(occupied(&["fd00::/17"], &[]), |occupied, byte| {
            occupied.on_link_network(format!("{byte:02x}00::/8").parse().unwrap())
        });
        let next = all.free_of(Family::V6, &taken, 7).unwrap();
        assert_eq!(next.to_string(), "e000::/126");
        let taken = (0xe0..=0xff).fold(taken, |occupied, byte| {
            occupied.on_link_network(format!("{byte:02x}00::/8").parse().unwrap())
        });
        assert!(all.free_of(Family::V6, &taken, 7).is_err());
    }
}
