//! What the addresses of a network are to be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::name::check_name;
use super::span::{Family, Span, Spans, number};
use crate::error::{Error, Result};

/// A subnet, which of its addresses are handed out, and which never: a plain value, checked by
/// [`Addresses::of`](super::Addresses::of).
///
/// ```
/// use cofferdam_netbridge::ipam::{Addresses, Subnet};
///
/// let subnet = Subnet::new("10.1.0.0/16".parse()?)
///     .range("10.1.5.0/24".parse()?)
///     .gateway("10.1.255.254".parse()?)
///     .aux("printer", "10.1.5.1".parse()?);
/// let mut addresses = Addresses::of(subnet)?;
/// assert_eq!(addresses.allocate()?.to_string(), "10.1.5.0/16");
/// assert_eq!(addresses.allocate()?.to_string(), "10.1.5.2/16");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Never handed out are the network and the broadcast address of IPv4, and of IPv6 the address of all routers
/// (RFC 4291, 2.6.1), which is the first. A `/31` (RFC 3021) and a `/127` (RFC 6164) have none of these but two
/// addresses to use, a `/32` and a `/128` one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Subnet {
    pub(super) network: IpNetwork,
    pub(super) range: Option<IpNetwork>,
    pub(super) gateway: GatewayAddress,
    pub(super) aux: BTreeMap<String, IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatewayAddress {
    First,
    Given(IpAddr),
    None,
}

impl Subnet {
    /// All host addresses of the subnet of `network`. Where `network` is an address of one (`10.0.0.254/24`), that is
    /// the gateway; of a mere network (`10.0.0.0/24`) it is the first host address.
    ///
    /// A `/32` or `/128` has no gateway by itself: its one address is a container's.
    pub fn new(network: IpNetwork) -> Self {
        let family = Family::of(network.ip());
        let alone = network.prefix() == family.bits();
        let gateway = if alone {
            GatewayAddress::None
        } else if network.ip() == network.network() {
            GatewayAddress::First
        } else {
            GatewayAddress::Given(network.ip())
        };
        Subnet {
            network: masked(network),
            range: None,
            gateway,
            aux: BTreeMap::new(),
        }
    }

    /// Hands out only addresses of this part of the subnet, as Docker's `--ip-range`. Addresses asked for by name may be
    /// of all of it.
    #[doc(alias = "ip_range")]
    pub fn range(mut self, range: IpNetwork) -> Self {
        self.range = Some(range);
        self
    }

    /// The gateway, which is never handed out.
    pub fn gateway(mut self, address: IpAddr) -> Self {
        self.gateway = GatewayAddress::Given(address);
        self
    }

    /// There is none: the first host address is a container's as any other.
    pub fn without_gateway(mut self) -> Self {
        self.gateway = GatewayAddress::None;
        self
    }

    /// An address that something else has, as Docker's `--aux-address`: never handed out.
    #[doc(alias = "aux_address")]
    pub fn aux(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.aux.insert(name.into(), address);
        self
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> IpNetwork {
        self.network
    }

    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.network.ip())
    }

    /// The address of the gateway, where there is one.
    #[must_use]
    pub fn gateway_address(&self) -> Option<IpAddr> {
        match self.gateway {
            GatewayAddress::Given(address) => Some(address),
            GatewayAddress::First => Some(self.family().address(self.hosts().start)),
            GatewayAddress::None => None,
        }
    }

    /// What may be handed out, but for the gateway and the aux addresses.
    pub(super) fn span(&self) -> Span {
        let hosts = self.hosts();
        let Some(range) = self.range.map(Span::of) else {
            return hosts;
        };
        Span {
            start: range.start.max(hosts.start),
            end: range.end.min(hosts.end),
        }
    }

    /// The addresses that a host can have.
    pub(super) fn hosts(&self) -> Span {
        let Span { start, end } = Span::of(self.network);
        let family = self.family();
        if self.network.prefix() + 1 >= family.bits() {
            return Span { start, end };
        }
        Span {
            start: start + 1,
            end: match family {
                Family::V4 => end - 1,
                Family::V6 => end,
            },
        }
    }

    /// The gateway and the aux addresses.
    pub(super) fn reserved(&self) -> Spans {
        let gateway = self.gateway_address();
        let addresses = self.aux.values().copied().chain(gateway).map(number);
        Spans::new(addresses.map(|at| Span { start: at, end: at }))
    }

    /// Who has a reserved address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<String> {
        if self.gateway_address() == Some(address) {
            return Some("it is the gateway".to_owned());
        }
        let (name, _) = self.aux.iter().find(|(_, aux)| **aux == address)?;
        Some(format!("it is reserved for {name}"))
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid(format_args!("subnet {self}"), why));
        if let Some(range) = self.range {
            if Family::of(range.ip()) != self.family()
                || !Span::of(range).within(Span::of(self.network))
            {
                return refuse(format!("the range {range} is not in it"));
            }
        }
        if let GatewayAddress::Given(gateway) = self.gateway {
            if !self.is_host(gateway) {
                return refuse(format!(
                    "the gateway {gateway} is not a host's address in it"
                ));
            }
        }
        let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
        seen.extend(self.gateway_address().map(|address| (address, "gateway")));
        for (name, &address) in &self.aux {
            check_name("aux address", name)?;
            if !self.is_host(address) {
                return refuse(format!("{name} {address} is not a host's address in it"));
            }
            if let Some(other) = seen.insert(address, name) {
                return refuse(format!("{address} is both {other} and {name}"));
            }
        }
        Ok(())
    }

    pub(super) fn is_host(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && self.hosts().contains(number(address))
    }
}

impl fmt::Display for Subnet {
    /// The network, and the range where there is one: `10.0.0.0/16 (range 10.0.5.0/24)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.network)?;
        match self.range {
            Some(range) => write!(f, " (range {range})"),
            None => Ok(()),
        }
    }
}

impl From<IpNetwork> for Subnet {
    fn from(network: IpNetwork) -> Self {
        Subnet::new(network)
    }
}

fn masked(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}
