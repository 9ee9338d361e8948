//! Which addresses a network has, and who has which.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cofferdam_netbridge::Addresses;
use cofferdam_netbridge::ipam::{Family, Subnet};
use ipnetwork::IpNetwork;

use super::Network;
use crate::error::{Error, Result, Subject};

/// One of each family at most, IPv4 first.
pub(super) struct Pool {
    families: Vec<Mutex<Addresses>>,
    gateways: Vec<IpNetwork>,
}

impl Pool {
    pub(super) fn new(subject: &Subject, mut subnets: Vec<Subnet>) -> Result<Self> {
        subnets.sort_by_key(Subnet::family);
        let mut pool = Pool {
            families: Vec::new(),
            gateways: Vec::new(),
        };
        for subnet in subnets {
            let network = subnet.network();
            let addresses = Addresses::of(subnet).map_err(subject.failed("divide the subnet"))?;
            let Some(gateway) = addresses.gateway() else {
                let reason = "has no room for a gateway";
                return Err(Error::invalid(subject, "subnet", network, reason));
            };
            pool.gateways.push(gateway);
            pool.families.push(Mutex::new(addresses));
        }
        if pool.families.is_empty() {
            return Err(Error::invalid(subject, "subnet", "", "there is none"));
        }
        Ok(pool)
    }

    /// There is at least one.
    pub(super) fn first_gateway(&self) -> IpNetwork {
        self.gateways[0]
    }

    pub(super) fn gateways(&self) -> Vec<IpAddr> {
        self.gateways.iter().map(IpNetwork::ip).collect()
    }

    pub(super) fn subnets(&self) -> Vec<IpNetwork> {
        let families = self.families.iter().map(locked);
        families.map(|addresses| addresses.subnet()).collect()
    }
}

fn locked(family: &Mutex<Addresses>) -> MutexGuard<'_, Addresses> {
    family.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address in use. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Lease {
    network: Network,
    at: usize,
    pub(super) address: IpNetwork,
}

impl Lease {
    /// One of each family of the network: that which was asked for, or the next.
    pub(super) fn take(
        network: &Network,
        subject: &Subject,
        wanted: &[IpAddr],
    ) -> Result<Vec<Self>> {
        let failed = || subject.failed::<cofferdam_netbridge::Error>("take an address");
        let mut leases = Vec::new();
        let mut used = 0;
        for (at, family) in network.0.pool.families.iter().enumerate() {
            let mut addresses = locked(family);
            let of_family = Family::of(addresses.subnet().ip());
            let given = wanted.iter().find(|ip| Family::of(**ip) == of_family);
            used += usize::from(given.is_some());
            let address = match given {
                Some(ip) => addresses.reserve(*ip),
                None => addresses.allocate(),
            };
            leases.push(Lease {
                network: network.clone(),
                at,
                address: address.map_err(failed())?,
            });
        }
        if used < wanted.len() {
            let list: Vec<String> = wanted.iter().map(IpAddr::to_string).collect();
            let reason = "the network has no subnet for each of them, or one is of a family twice";
            return Err(Error::invalid(subject, "address", list.join(" "), reason));
        }
        Ok(leases)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(family) = self.network.0.pool.families.get(self.at) {
            let _released = locked(family).release(self.address.ip()).is_ok();
        }
    }
}
