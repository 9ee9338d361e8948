//! The addresses of one subnet, handed out in memory.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::error::{Error, ErrorKind, Result};
use crate::subnet::{SMALLEST, v4};

/// Hands out the host addresses of a subnet: in order, each once, and one that was given back only after all others.
///
/// The first host address is the gateway's; it, the network and the broadcast address are never handed out. A plain
/// value: it asks the kernel nothing and is gone with the process.
///
/// ```
/// use cofferdam_netbridge::Addresses;
///
/// let mut addresses = Addresses::new("172.20.0.0/24".parse().unwrap())?;
/// assert_eq!(addresses.gateway().to_string(), "172.20.0.1/24");
/// let first = addresses.allocate()?;
/// assert_eq!(first.to_string(), "172.20.0.2/24");
/// addresses.release(first.ip())?;
/// assert_eq!(addresses.allocate()?.to_string(), "172.20.0.3/24");   // .2 last, when the others are used up
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug)]
#[doc(alias = "IPAM")]
pub struct Addresses {
    subnet: Ipv4Network,
    /// The next address nobody had yet; above the last host when there is none.
    fresh: u32,
    /// Addresses from `fresh` on that somebody had: reserved ones, and those of them that came back.
    ahead: BTreeSet<u32>,
    taken: BTreeSet<u32>,
    /// Came back, the one that waits longest first.
    released: VecDeque<u32>,
}

impl Addresses {
    /// All host addresses of the subnet of `network`, but the first.
    ///
    /// # Errors
    /// `InvalidInput` where the subnet has no room for a gateway and a container; `Unsupported` for IPv6.
    pub fn new(network: IpNetwork) -> Result<Self> {
        let subnet = v4(network, format_args!("hand out addresses of {network}"))?;
        if subnet.prefix() > SMALLEST {
            let why = "it has no room for a gateway and a container";
            return Err(Error::invalid(format_args!("subnet {subnet}"), why));
        }
        Ok(Addresses {
            subnet,
            fresh: u32::from(subnet.network()) + 2,
            ahead: BTreeSet::new(),
            taken: BTreeSet::new(),
            released: VecDeque::new(),
        })
    }

    /// The gateway: the first host address, with the prefix.
    #[must_use]
    pub fn gateway(&self) -> IpNetwork {
        self.with_prefix(u32::from(self.subnet.network()) + 1)
    }

    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> IpNetwork {
        self.with_prefix(self.subnet.network().into())
    }

    /// How many addresses are handed out.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.taken.len()
    }

    /// Hands out the next address, with the prefix of the subnet.
    ///
    /// # Errors
    /// `Exhausted` where every address is handed out.
    pub fn allocate(&mut self) -> Result<IpNetwork> {
        while self.ahead.remove(&self.fresh) {
            self.fresh += 1;
        }
        let address = if self.fresh <= self.last() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            self.released.pop_front().ok_or_else(|| {
                let what = format!("take an address of {}", self.subnet());
                Error::plain(ErrorKind::Exhausted, what, "all are handed out")
            })?
        };
        self.taken.insert(address);
        Ok(self.with_prefix(address))
    }

    /// Hands out this address.
    ///
    /// # Errors
    /// `AlreadyExists` where it is handed out; `InvalidInput` where it is not one of the host addresses after the
    /// gateway.
    pub fn reserve(&mut self, address: IpAddr) -> Result<IpNetwork> {
        let wanted = self.host(address)?;
        if !self.taken.insert(wanted) {
            let what = format!("take {address} of {}", self.subnet());
            return Err(Error::plain(
                ErrorKind::AlreadyExists,
                what,
                "it is handed out",
            ));
        }
        self.released.retain(|&released| released != wanted);
        if wanted >= self.fresh {
            self.ahead.insert(wanted);
        }
        Ok(self.with_prefix(wanted))
    }

    /// Takes an address back.
    ///
    /// # Errors
    /// `NotFound` where it is not handed out; `InvalidInput` as in [`reserve`](Self::reserve).
    pub fn release(&mut self, address: IpAddr) -> Result<()> {
        let returned = self.host(address)?;
        if !self.taken.remove(&returned) {
            let what = format!("give {address} back to {}", self.subnet());
            return Err(Error::plain(
                ErrorKind::NotFound,
                what,
                "it is not handed out",
            ));
        }
        self.released.push_back(returned);
        Ok(())
    }

    fn last(&self) -> u32 {
        u32::from(self.subnet.broadcast()) - 1
    }

    fn host(&self, address: IpAddr) -> Result<u32> {
        let first = u32::from(self.subnet.network()) + 2;
        let number = match address {
            IpAddr::V4(address) => u32::from(address),
            IpAddr::V6(_) => 0,
        };
        if (first..=self.last()).contains(&number) {
            return Ok(number);
        }
        let why = format!("it is no address of a container in {}", self.subnet());
        Err(Error::invalid(format_args!("address {address}"), why))
    }

    fn with_prefix(&self, address: u32) -> IpNetwork {
        let network = Ipv4Network::new(address.into(), self.subnet.prefix());
        IpNetwork::V4(network.unwrap_or(self.subnet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(subnet: &str) -> Addresses {
        Addresses::new(subnet.parse().unwrap()).unwrap()
    }

    fn take(addresses: &mut Addresses, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| addresses.allocate().unwrap().ip().to_string())
            .collect()
    }

    #[test]
    fn the_last_address_is_before_the_broadcast_address() {
        let mut addresses = of("10.0.0.9/29");
        assert_eq!(addresses.subnet().to_string(), "10.0.0.8/29");
        assert_eq!(addresses.gateway().to_string(), "10.0.0.9/29");
        let all = take(&mut addresses, 5);
        assert_eq!(all.first().unwrap(), "10.0.0.10");
        assert_eq!(all.last().unwrap(), "10.0.0.14");
        let error = addresses.allocate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(addresses.in_use(), 5);
    }

    #[test]
    fn a_released_address_comes_after_all_fresh_ones_and_in_order_of_release() {
        let mut addresses = of("10.0.0.0/29");
        take(&mut addresses, 3);
        addresses.release("10.0.0.3".parse().unwrap()).unwrap();
        addresses.release("10.0.0.2".parse().unwrap()).unwrap();
        let next = take(&mut addresses, 4);
        assert_eq!(next, ["10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.2"]);
    }

    #[test]
    fn a_reserved_address_is_skipped_and_waits_when_it_comes_back() {
        let mut addresses = of("10.0.0.0/29");
        addresses.reserve("10.0.0.3".parse().unwrap()).unwrap();
        addresses.reserve("10.0.0.5".parse().unwrap()).unwrap();
        addresses.release("10.0.0.3".parse().unwrap()).unwrap();
        let next = take(&mut addresses, 4);
        assert_eq!(next, ["10.0.0.2", "10.0.0.4", "10.0.0.6", "10.0.0.3"]);
        assert!(addresses.allocate().is_err());
    }

    #[test]
    fn an_address_is_handed_out_once() {
        let mut addresses = of("10.0.0.0/29");
        let address = addresses.allocate().unwrap().ip();
        let kind = |result: Result<IpNetwork>| result.unwrap_err().kind();
        assert_eq!(kind(addresses.reserve(address)), ErrorKind::AlreadyExists);
        addresses.release(address).unwrap();
        let again = addresses.release(address).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::NotFound);
        addresses.reserve(address).unwrap();
        assert_eq!(take(&mut addresses, 4).len(), 4);
        assert_eq!(kind(addresses.allocate()), ErrorKind::Exhausted);
    }

    #[test]
    fn addresses_that_are_no_containers_are_refused() {
        let mut addresses = of("10.0.0.0/29");
        for address in [
            "10.0.0.0",
            "10.0.0.1",
            "10.0.0.7",
            "10.0.0.8",
            "9.255.255.255",
            "::1",
        ] {
            let error = addresses.reserve(address.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{address}");
        }
    }

    #[test]
    fn a_subnet_without_room_is_refused() {
        for (subnet, kind) in [
            ("10.0.0.0/31", ErrorKind::InvalidInput),
            ("10.0.0.1/32", ErrorKind::InvalidInput),
            ("fd00::/64", ErrorKind::Unsupported),
        ] {
            let error = Addresses::new(subnet.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), kind, "{subnet}");
        }
        assert_eq!(take(&mut of("10.0.0.0/30"), 1), ["10.0.0.2"]);
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        assert_eq!(take(&mut of("255.255.255.252/30"), 1), ["255.255.255.254"]);
        assert!(of("0.0.0.0/0").allocate().is_ok());
    }
}
