//! A network with the leases of its addresses: what a store keeps, one of each name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::addresses::Addresses;
use super::name::check_owner;
use super::span::Family;
use super::subnet::Subnet;
use crate::error::{Error, Result};

/// What is asked of [`Ipam::lease`](super::Ipam::lease).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct LeaseRequest {
    pub(super) owner: String,
    pub(super) given: Vec<IpAddr>,
    pub(super) without: Vec<Family>,
}

impl LeaseRequest {
    /// The next address of each family the network has. `owner` says whose they are (a container's id, say): 1 to 255
    /// printable ASCII characters without a blank.
    pub fn new(owner: impl Into<String>) -> Self {
        LeaseRequest {
            owner: owner.into(),
            given: Vec::new(),
            without: Vec::new(),
        }
    }

    /// This address, and no other of its family. Given twice of a family, both.
    pub fn address(mut self, address: IpAddr) -> Self {
        self.given.push(address);
        self
    }

    /// None of this family by itself.
    pub fn without(mut self, family: Family) -> Self {
        self.without.push(family);
        self
    }
}

/// Addresses of a network that were given to an owner. A plain value: they stay given until
/// [released](super::Ipam::release_owner), whatever becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The network.
    pub network: String,
    /// Whose they are.
    pub owner: String,
    /// With the prefixes of their subnets, IPv4 first.
    pub addresses: Vec<IpNetwork>,
    /// The gateways of the subnets of these addresses, IPv4 first.
    pub gateways: Vec<IpAddr>,
}

impl Lease {
    /// The first address of this family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpNetwork> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| Family::of(address.ip()) == family)
    }

    /// The gateway of this family.
    #[must_use]
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        let mut gateways = self.gateways.iter().copied();
        gateways.find(|gateway| Family::of(*gateway) == family)
    }
}

/// A network of a store, and who has which of its addresses.
#[derive(Clone, Debug)]
pub struct Network {
    name: String,
    /// At most one of each family, IPv4 first.
    subnets: Vec<Addresses>,
    owners: BTreeMap<IpAddr, String>,
}

impl Network {
    pub(super) fn new(name: String, subnets: Vec<Subnet>) -> Result<Self> {
        let mut network = Network {
            name,
            subnets: Vec::new(),
            owners: BTreeMap::new(),
        };
        for family in [Family::V4, Family::V6] {
            let mut of_family = subnets.iter().filter(|subnet| subnet.family() == family);
            if let Some(subnet) = of_family.next() {
                network.subnets.push(Addresses::of(subnet.clone())?);
            }
            if let Some(second) = of_family.next() {
                let why = format!("it has two subnets of {family}: {second} too");
                return Err(Error::invalid(network.what(), why));
            }
        }
        if network.subnets.is_empty() {
            return Err(Error::invalid(network.what(), "it has no subnet"));
        }
        Ok(network)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The subnet of this family.
    #[must_use]
    pub fn subnet(&self, family: Family) -> Option<&Subnet> {
        self.subnets().find(|subnet| subnet.family() == family)
    }

    /// The subnets, IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        self.subnets.iter().map(Addresses::config)
    }

    /// The gateway of this family, with the prefix of the subnet: the address of a bridge.
    #[must_use]
    pub fn gateway(&self, family: Family) -> Option<IpNetwork> {
        let mut of_family = self.subnets.iter();
        of_family
            .find(|addresses| addresses.config().family() == family)?
            .gateway()
    }

    /// The addresses that are leased and whose each is, in order, IPv4 first.
    pub fn leases(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        let leases = self.owners.iter();
        leases.map(|(address, owner)| (*address, owner.as_str()))
    }

    /// Whose this address is.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        self.owners.get(&address).map(String::as_str)
    }

    pub(super) fn allocators(&self) -> &[Addresses] {
        &self.subnets
    }

    /// All that is asked for. After an error, the value is to be thrown away: it has a part of it.
    pub(super) fn lease(&mut self, request: &LeaseRequest) -> Result<Lease> {
        check_owner(&request.owner)?;
        let mut taken = Vec::new();
        for &address in &request.given {
            taken.push(self.allocator(address)?.reserve(address)?);
        }
        for addresses in &mut self.subnets {
            let family = addresses.config().family();
            let given = request.given.iter().any(|&a| Family::of(a) == family);
            if !given && !request.without.contains(&family) {
                taken.push(addresses.allocate()?);
            }
        }
        if taken.is_empty() {
            let why = "the lease is of no address";
            return Err(Error::invalid(self.what(), why));
        }
        Ok(self.leased(&request.owner, taken))
    }

    fn leased(&mut self, owner: &str, mut addresses: Vec<IpNetwork>) -> Lease {
        addresses.sort_by_key(IpNetwork::ip);
        for address in &addresses {
            self.owners.insert(address.ip(), owner.to_owned());
        }
        let families = |family| addresses.iter().any(|a| Family::of(a.ip()) == family);
        let subnets = self.subnets.iter().map(Addresses::config);
        let gateways = subnets
            .filter(|subnet| families(subnet.family()))
            .filter_map(Subnet::gateway_address)
            .collect();
        Lease {
            network: self.name.clone(),
            owner: owner.to_owned(),
            addresses,
            gateways,
        }
    }

    /// Whether it was leased.
    pub(super) fn release(&mut self, address: IpAddr) -> Result<bool> {
        let leased = self.owners.remove(&address).is_some();
        if leased {
            self.allocator(address)?.release(address)?;
        }
        Ok(leased)
    }

    /// The addresses that were the owner's.
    pub(super) fn release_owner(&mut self, owner: &str) -> Result<Vec<IpAddr>> {
        let of_owner = |(address, other): (&IpAddr, &String)| (other == owner).then_some(*address);
        let addresses: Vec<IpAddr> = self.owners.iter().filter_map(of_owner).collect();
        for &address in &addresses {
            self.release(address)?;
        }
        Ok(addresses)
    }

    /// A lease as a file has it.
    pub(super) fn restore(&mut self, address: IpAddr, owner: &str) -> Result<()> {
        check_owner(owner)?;
        self.allocator(address)?.reserve(address)?;
        self.owners.insert(address, owner.to_owned());
        Ok(())
    }

    /// The turn of a subnet as a file has it.
    pub(super) fn restore_last(&mut self, last: IpAddr) -> Result<()> {
        self.allocator(last)?.set_last(last)
    }

    fn allocator(&mut self, address: IpAddr) -> Result<&mut Addresses> {
        let family = Family::of(address);
        let mut subnets = self.subnets.iter_mut();
        let found = subnets.find(|addresses| addresses.config().family() == family);
        found.ok_or_else(|| {
            let what = format!("address {address} of network {}", self.name);
            Error::invalid(what, format_args!("it has no subnet of {family}"))
        })
    }

    fn what(&self) -> String {
        format!("network {}", self.name)
    }
}
