//! The addresses of one subnet, handed out in memory.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::span::{Span, Spans, number};
use super::subnet::Subnet;
use crate::error::{Error, ErrorKind, Result};

/// Hands out the host addresses of a subnet: each once, and always the next after the last one given, round to the
/// beginning. One that was given back comes when its turn is: neighbours and conntrack entries have forgotten it by then.
///
/// The gateway, the [aux](Subnet::aux) addresses, and the network and broadcast address are never handed out. A plain
/// value: it asks the kernel nothing and is gone with the process; [`Ipam`](super::Ipam) keeps addresses for longer, and
/// for more than one process. The size of the subnet costs nothing; a call takes as long as the logarithm of the number of
/// addresses handed out.
///
/// ```
/// use cofferdam_netbridge::Addresses;
///
/// let mut addresses = Addresses::new("172.20.0.0/24".parse().unwrap())?;
/// assert_eq!(addresses.gateway().unwrap().to_string(), "172.20.0.1/24");
/// let first = addresses.allocate()?;
/// assert_eq!(first.to_string(), "172.20.0.2/24");
/// addresses.release(first.ip())?;
/// assert_eq!(addresses.allocate()?.to_string(), "172.20.0.3/24");   // .2 when all others had their turn
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug)]
#[doc(alias = "IPAM")]
pub struct Addresses {
    subnet: Subnet,
    reserved: Spans,
    /// What is handed out and what is reserved.
    busy: Spans,
    taken: BTreeSet<u128>,
    last: Option<u128>,
}

impl Addresses {
    /// All host addresses of the subnet of `network` but the gateway's, which is `network`'s own address, or the first
    /// where that is the network's: [`Subnet::new`].
    ///
    /// # Errors
    /// `InvalidInput` where the address is the broadcast address.
    pub fn new(network: IpNetwork) -> Result<Self> {
        Addresses::of(Subnet::new(network))
    }

    /// As `subnet` says.
    ///
    /// # Errors
    /// `InvalidInput` where range, gateway or an aux address is not in the subnet, or two of them are the same.
    pub fn of(subnet: Subnet) -> Result<Self> {
        subnet.check()?;
        let reserved = subnet.reserved();
        Ok(Addresses {
            subnet,
            busy: reserved.clone(),
            reserved,
            taken: BTreeSet::new(),
            last: None,
        })
    }

    /// The gateway, with the prefix.
    #[must_use]
    pub fn gateway(&self) -> Option<IpNetwork> {
        let address = self.subnet.gateway_address()?;
        Some(self.with_prefix(number(address)))
    }

    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> IpNetwork {
        self.subnet.network()
    }

    /// What was asked for.
    pub fn config(&self) -> &Subnet {
        &self.subnet
    }

    /// How many addresses are handed out.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.taken.len()
    }

    /// Whether this address is handed out.
    #[must_use]
    pub fn is_in_use(&self, address: IpAddr) -> bool {
        self.subnet.is_host(address) && self.taken.contains(&number(address))
    }

    /// Hands out the next address, with the prefix of the subnet.
    ///
    /// # Errors
    /// `Exhausted` where every address is handed out, with the subnet, the range and how many there are.
    pub fn allocate(&mut self) -> Result<IpNetwork> {
        let address = self.next().ok_or_else(|| self.exhausted())?;
        self.take(address);
        self.last = Some(address);
        Ok(self.with_prefix(address))
    }

    /// Hands out this address, of the range or not.
    ///
    /// # Errors
    /// `AlreadyExists` where it is handed out, the gateway or an aux address; `InvalidInput` where it is not a host's
    /// address in the subnet.
    pub fn reserve(&mut self, address: IpAddr) -> Result<IpNetwork> {
        let wanted = self.host(address)?;
        let holder = match self.taken.contains(&wanted) {
            true => Some("it is handed out".to_owned()),
            false => self.subnet.holder(address),
        };
        if let Some(why) = holder {
            let what = format!("take {address} of {}", self.subnet);
            return Err(Error::plain(ErrorKind::AlreadyExists, what, why));
        }
        self.take(wanted);
        Ok(self.with_prefix(wanted))
    }

    /// Takes an address back.
    ///
    /// # Errors
    /// `NotFound` where it is not handed out; `InvalidInput` as in [`reserve`](Self::reserve).
    pub fn release(&mut self, address: IpAddr) -> Result<()> {
        let returned = self.host(address)?;
        if self.taken.remove(&returned) {
            self.busy.remove(returned);
            return Ok(());
        }
        let what = format!("give {address} back to {}", self.subnet);
        let why = "it is not handed out";
        Err(Error::plain(ErrorKind::NotFound, what, why))
    }

    /// The address that was handed out last, by [`allocate`](Self::allocate).
    pub(super) fn last(&self) -> Option<IpAddr> {
        let family = self.subnet.family();
        self.last.map(|last| family.address(last))
    }

    /// Goes on after this one.
    pub(super) fn set_last(&mut self, last: IpAddr) -> Result<()> {
        self.last = Some(self.host(last)?);
        Ok(())
    }

    fn take(&mut self, address: u128) {
        self.taken.insert(address);
        self.busy.insert_one(address);
    }

    fn next(&self) -> Option<u128> {
        let all = self.subnet.span();
        let after = match self.last {
            Some(last) if last >= all.start && last < all.end => last + 1,
            _ => all.start,
        };
        let rest = Span {
            start: after,
            ..all
        };
        // The second look is at the whole: what is before `after`, and then what was seen to be busy.
        (all.start <= all.end)
            .then(|| {
                self.busy
                    .first_gap(rest)
                    .or_else(|| self.busy.first_gap(all))
            })
            .flatten()
    }

    fn exhausted(&self) -> Error {
        let span = self.subnet.span();
        let (all, reserved) = match span.start <= span.end {
            true => (span.len(), self.reserved.count(span)),
            false => (0, 0),
        };
        let usable = all - reserved;
        let why = match reserved {
            0 => format!("all {usable} are handed out"),
            _ => format!("all {usable} are handed out, and {reserved} reserved"),
        };
        let what = format!("take an address of {}", self.subnet);
        Error::plain(ErrorKind::Exhausted, what, why)
    }

    fn host(&self, address: IpAddr) -> Result<u128> {
        if self.subnet.is_host(address) {
            return Ok(number(address));
        }
        let why = format!("it is no address of a host in {}", self.subnet.network());
        Err(Error::invalid(format_args!("address {address}"), why))
    }

    fn with_prefix(&self, address: u128) -> IpNetwork {
        let network = self.subnet.network();
        let address = self.subnet.family().address(address);
        IpNetwork::new(address, network.prefix()).unwrap_or(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::random::Random;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of(subnet: &str) -> Addresses {
        Addresses::new(subnet.parse().unwrap()).unwrap()
    }

    fn take(addresses: &mut Addresses, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| addresses.allocate().unwrap().ip().to_string())
            .collect()
    }

    fn all(addresses: &mut Addresses) -> Vec<String> {
        let addresses = std::iter::from_fn(|| addresses.allocate().ok());
        addresses.map(|address| address.ip().to_string()).collect()
    }

    #[test]
    fn the_last_address_is_before_the_broadcast_address() {
        let mut addresses = of("10.0.0.9/29");
        assert_eq!(addresses.subnet().to_string(), "10.0.0.8/29");
        assert_eq!(addresses.gateway().unwrap().to_string(), "10.0.0.9/29");
        let all = all(&mut addresses);
        assert_eq!(all.len(), 5);
        assert_eq!(all.first().unwrap(), "10.0.0.10");
        assert_eq!(all.last().unwrap(), "10.0.0.14");
        assert_eq!(addresses.in_use(), 5);
    }

    #[test]
    fn a_released_address_waits_until_all_others_had_their_turn() {
        let mut addresses = of("10.0.0.0/29");
        take(&mut addresses, 3);
        addresses.release(ip("10.0.0.3")).unwrap();
        addresses.release(ip("10.0.0.4")).unwrap();
        let next = take(&mut addresses, 4);
        assert_eq!(next, ["10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.4"]);
        addresses.release(ip("10.0.0.2")).unwrap();
        addresses.release(ip("10.0.0.5")).unwrap();
        assert_eq!(take(&mut addresses, 2), ["10.0.0.5", "10.0.0.2"]);
    }

    #[test]
    fn a_reserved_address_is_skipped_and_does_not_move_the_turn() {
        let mut addresses = of("10.0.0.0/29");
        addresses.reserve(ip("10.0.0.3")).unwrap();
        addresses.reserve(ip("10.0.0.5")).unwrap();
        addresses.release(ip("10.0.0.3")).unwrap();
        assert_eq!(
            take(&mut addresses, 3),
            ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
        );
        assert_eq!(take(&mut addresses, 1), ["10.0.0.6"]);
        assert!(addresses.allocate().is_err());
    }

    #[test]
    fn what_another_has_is_refused() {
        let subnet = Subnet::new("10.0.0.0/29".parse().unwrap()).aux("dns", ip("10.0.0.4"));
        let mut addresses = Addresses::of(subnet).unwrap();
        let address = addresses.allocate().unwrap().ip();
        for (taken, why) in [
            (address, "it is handed out"),
            (ip("10.0.0.1"), "it is the gateway"),
            (ip("10.0.0.4"), "it is reserved for dns"),
        ] {
            let error = addresses.reserve(taken).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            let line = format!("take {taken} of 10.0.0.0/29: {why}");
            assert_eq!(error.to_string(), line);
        }
        assert_eq!(all(&mut addresses), ["10.0.0.3", "10.0.0.5", "10.0.0.6"]);
        addresses.release(address).unwrap();
        let again = addresses.release(address).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::NotFound);
        let gateway = addresses.release(ip("10.0.0.1")).unwrap_err();
        assert_eq!(gateway.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn addresses_of_no_host_are_refused() {
        for (subnet, refused) in [
            (
                "10.0.0.0/29",
                &["10.0.0.0", "10.0.0.7", "10.0.0.8", "9.255.255.255", "::1"][..],
            ),
            (
                "fd00::/64",
                &["fd00::", "fd00:0:0:1::1", "10.0.0.2", "::ffff:10.0.0.2"],
            ),
            ("fd00::/127", &["fd00::2"]),
            ("10.0.0.4/31", &["10.0.0.3", "10.0.0.6"]),
        ] {
            for address in refused {
                let error = of(subnet).reserve(ip(address)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{subnet} {address}");
            }
        }
    }

    #[test]
    fn small_subnets_have_no_network_and_no_broadcast_address() {
        for (subnet, gateway, expected) in [
            ("10.0.0.0/30", Some("10.0.0.1/30"), &["10.0.0.2"][..]),
            ("10.0.0.4/31", Some("10.0.0.4/31"), &["10.0.0.5"]),
            ("10.0.0.5/31", Some("10.0.0.5/31"), &["10.0.0.4"]),
            ("10.0.0.5/32", None, &["10.0.0.5"]),
            ("fd00::/126", Some("fd00::1/126"), &["fd00::2", "fd00::3"]),
            ("fd00::/127", Some("fd00::/127"), &["fd00::1"]),
            ("fd00::5/128", None, &["fd00::5"]),
        ] {
            let mut addresses = of(subnet);
            let found = addresses.gateway().map(|gateway| gateway.to_string());
            assert_eq!(found.as_deref(), gateway, "{subnet}");
            assert_eq!(all(&mut addresses), expected, "{subnet}");
        }
    }

    #[test]
    fn only_the_range_is_handed_out_and_the_error_says_what_is_full() {
        let subnet = Subnet::new("10.0.0.0/24".parse().unwrap())
            .range("10.0.0.0/29".parse().unwrap())
            .aux("dns", ip("10.0.0.3"));
        let mut addresses = Addresses::of(subnet).unwrap();
        let given = all(&mut addresses);
        assert_eq!(
            given,
            ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"]
        );
        let error = addresses.allocate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(
            error.to_string(),
            "take an address of 10.0.0.0/24 (range 10.0.0.0/29): all 5 are handed out, and 2 reserved"
        );
        addresses.reserve(ip("10.0.0.200")).unwrap();

        let nothing = Subnet::new("10.0.0.0/24".parse().unwrap());
        let nothing = nothing.range("10.0.0.255/32".parse().unwrap());
        let error = Addresses::of(nothing).unwrap().allocate().unwrap_err();
        assert!(
            error.to_string().ends_with("all 0 are handed out"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_in_the_subnet_is_refused() {
        let subnet = || Subnet::new("10.0.0.0/24".parse().unwrap());
        for (bad, why) in [
            (
                subnet().range("10.0.1.0/25".parse().unwrap()),
                "the range 10.0.1.0/25",
            ),
            (
                subnet().range("10.0.0.0/23".parse().unwrap()),
                "the range 10.0.0.0/23",
            ),
            (
                subnet().range("fd00::/64".parse().unwrap()),
                "the range fd00::/64",
            ),
            (subnet().gateway(ip("10.0.1.1")), "the gateway 10.0.1.1"),
            (subnet().gateway(ip("10.0.0.255")), "the gateway 10.0.0.255"),
            (subnet().gateway(ip("fd00::1")), "the gateway fd00::1"),
            (subnet().aux("a", ip("10.0.0.0")), "a 10.0.0.0"),
            (
                subnet().aux("a", ip("10.0.0.1")),
                "10.0.0.1 is both gateway and a",
            ),
            (subnet().aux("a b", ip("10.0.0.2")), "aux address \"a b\""),
            (
                subnet().aux("a", ip("10.0.0.2")).aux("b", ip("10.0.0.2")),
                "10.0.0.2 is both a and b",
            ),
        ] {
            let error = Addresses::of(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(Addresses::of(subnet().without_gateway().aux("a", ip("10.0.0.1"))).is_ok());
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        assert_eq!(take(&mut of("255.255.255.252/30"), 1), ["255.255.255.254"]);
        assert_eq!(take(&mut of("0.0.0.0/0"), 1), ["0.0.0.2"]);
        assert_eq!(take(&mut of("::/0"), 1), ["::2"]);
        let end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126";
        assert_eq!(all(&mut of(end)).len(), 2);
    }

    /// What the documentation says, done by looking at every address.
    struct Naive {
        order: Vec<IpAddr>,
        taken: BTreeSet<IpAddr>,
        turn: usize,
    }

    impl Naive {
        fn allocate(&mut self) -> Option<IpAddr> {
            let free = |step: &usize| {
                !self
                    .taken
                    .contains(&self.order[(self.turn + step) % self.order.len()])
            };
            let at = (self.turn + (0..self.order.len()).find(free)?) % self.order.len();
            self.turn = (at + 1) % self.order.len();
            self.taken.insert(self.order[at]);
            Some(self.order[at])
        }
    }

    #[test]
    fn it_does_as_a_model_that_looks_at_every_address() {
        let subnets = [
            "10.0.0.0/26",
            "10.0.0.9/28",
            "fd00::/122",
            "255.255.255.240/28",
            "10.0.0.0/31",
        ];
        for seed in 0..60 {
            let mut random = Random::new(seed);
            let subnet = Subnet::new(subnets[seed as usize % subnets.len()].parse().unwrap());
            let hosts = subnet.hosts();
            let at = |n: u64| {
                subnet
                    .family()
                    .address(hosts.start + u128::from(n) % hosts.len())
            };
            let aux = at(random.below(64));
            let subnet = match Some(aux) == subnet.gateway_address() {
                true => subnet.clone(),
                false => subnet.clone().aux("aux", aux),
            };
            let mut addresses = Addresses::of(subnet.clone()).unwrap();
            let order = (0..hosts.len() as u64)
                .map(at)
                .filter(|&address| subnet.holder(address).is_none());
            let mut model = Naive {
                order: order.collect(),
                taken: BTreeSet::new(),
                turn: 0,
            };
            if model.order.is_empty() {
                continue;
            }
            for _ in 0..500 {
                let address = at(random.below(64));
                match random.below(8) {
                    0..4 => {
                        let given = addresses.allocate().ok().map(|address| address.ip());
                        assert_eq!(given, model.allocate());
                    }
                    4 => {
                        let free = model.order.contains(&address) && model.taken.insert(address);
                        assert_eq!(addresses.reserve(address).is_ok(), free);
                    }
                    _ => {
                        let taken = model.taken.remove(&address);
                        assert_eq!(addresses.release(address).is_ok(), taken);
                    }
                }
                assert_eq!(addresses.in_use(), model.taken.len());
                assert_eq!(addresses.is_in_use(address), model.taken.contains(&address));
            }
        }
    }

    #[test]
    fn a_huge_subnet_takes_no_more_room_or_time_than_its_leases() {
        let mut addresses = of("fd00::/48");
        for n in 0..20_000 {
            let address = addresses.allocate().unwrap();
            if n % 3 == 0 {
                addresses.release(address.ip()).unwrap();
            }
        }
        addresses.reserve(ip("fd00::ffff:ffff:ffff:ffff")).unwrap();
        assert_eq!(addresses.in_use(), 20_000 - 6667 + 1);
    }
}
