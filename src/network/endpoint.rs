//! A container's place in one network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_dns::{Name, SharedZone};
use cofferdam_netbridge::{Attachment, Gateway, IfName, NetNs, NetworkGateway};
use ipnetwork::IpNetwork;

use super::addresses::Lease;
use super::connection::Connection;
use super::inspect::{EndpointInfo, Registered, written};
use super::{Link, Network};
use crate::error::{Result, Subject};

/// In the order in which it has to go: nobody finds it, then nobody reaches it, then its addresses are another's.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) names: Vec<Name>,
    listed: Option<Listed>,
    _registered: Registered,
    link: Link,
    leases: Vec<Lease>,
    pub(super) priority: i32,
    pub(super) network: Network,
}

impl Endpoint {
    /// An interface in `netns`, without a default route but where the link itself is one. Nobody finds it by name yet.
    pub(super) fn new(
        connection: &Connection,
        names: &[Name],
        container: &str,
        subject: &Subject,
        netns: &NetNs,
        sole: bool,
    ) -> Result<Self> {
        let network = connection.network.clone();
        let leases = Lease::take(&network, subject, &connection.addresses)?;
        let addresses = leases.iter().map(|lease| lease.address);
        let mut attachment = addresses.fold(Attachment::default(), Attachment::address);
        if !(network.0.options.layer3 && sole) {
            attachment = attachment.gateway(Gateway::None);
        }
        if let Some(mac) = connection.mac {
            attachment = attachment.mac(mac);
        }
        if let Some(name) = connection.interface(subject)? {
            attachment = attachment.ifname(name);
        }
        let link = network
            .link(netns, attachment)
            .map_err(subject.failed("attach to the network"))?;
        let info = EndpointInfo {
            network: network.name().to_owned(),
            container: container.to_owned(),
            interface: link.ifname().to_string(),
            mac: written(link.mac()),
            addresses: leases.iter().map(|lease| lease.address).collect(),
            gateways: network.gateways(),
            names: names.iter().map(Name::to_string).collect(),
        };
        Ok(Endpoint {
            names: names.to_vec(),
            listed: None,
            _registered: network.0.registry.add(info),
            link,
            leases,
            priority: connection.priority,
            network,
        })
    }

    /// From now on it is found by its names.
    pub(super) fn list(&mut self) {
        let addresses: Vec<IpAddr> = self.addresses().collect();
        self.listed = Listed::add(&self.network, &self.names, addresses);
    }

    pub(super) fn unlist(&mut self) {
        self.listed = None;
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.leases.iter().map(|lease| lease.address.ip())
    }

    pub(super) fn subnets(&self) -> impl Iterator<Item = IpNetwork> + '_ {
        self.leases.iter().map(|lease| lease.address)
    }

    pub(super) fn ifname(&self) -> &IfName {
        self.link.ifname()
    }

    pub(super) fn mac(&self) -> [u8; 6] {
        self.link.mac()
    }

    /// The way out that it offers.
    pub(super) fn way_out(&self) -> Option<NetworkGateway> {
        let gateways = self.network.gateways();
        let (mut ipv4, mut ipv6): (Option<Ipv4Addr>, Option<Ipv6Addr>) = (None, None);
        for gateway in gateways {
            match gateway {
                IpAddr::V4(gateway) => ipv4 = Some(gateway),
                IpAddr::V6(gateway) => ipv6 = Some(gateway),
            }
        }
        if ipv4.is_none() && ipv6.is_none() {
            return None;
        }
        let offer = NetworkGateway::new(self.ifname().clone()).priority(self.priority);
        let offer = ipv4.into_iter().fold(offer, NetworkGateway::ipv4);
        Some(ipv6.into_iter().fold(offer, NetworkGateway::ipv6))
    }

    /// Takes it apart.
    pub(super) fn remove(self, subject: &Subject) -> Result<()> {
        let Endpoint { listed, link, .. } = self;
        drop(listed);
        link.remove()
            .map_err(subject.failed("detach from the network"))
    }

    /// Takes it apart while the container lives on, whose programs may hold what is connected by it. When a container ends,
    /// its ports end the flows that led to it; to look for others takes the kernel longer than all the rest, and an address
    /// is not given again before all others were.
    pub(super) fn leave(self, subject: &Subject) -> Result<()> {
        let addresses: Vec<IpAddr> = self.addresses().collect();
        let network = self.network.clone();
        let removed = self.remove(subject);
        let flows = end_flows(&network, &addresses).map_err(subject.failed("end its flows"));
        removed.and(flows)
    }
}

/// Where the kernel cannot tell, there is nothing to do.
fn end_flows(network: &Network, addresses: &[IpAddr]) -> cofferdam_portmap::Result<()> {
    let Some(portmap) = network.portmap() else {
        return Ok(());
    };
    for address in addresses {
        match portmap.end_flows_of(*address) {
            Err(error) if error.kind() != cofferdam_portmap::ErrorKind::Unsupported => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Names in the network's zone: each bare and in the network's domain.
///
/// The domain is not the zone's own: that would deny all other names below it, and a network may be named `app` or `dev` as
/// domains of the internet are.
#[derive(Debug)]
struct Listed {
    zone: SharedZone,
    addresses: Vec<IpAddr>,
}

impl Listed {
    fn add(network: &Network, names: &[Name], addresses: Vec<IpAddr>) -> Option<Self> {
        let resolver = network.0.names.as_ref()?;
        let domain = resolver.domain.as_ref();
        let long = |name: &Name| format!("{name}.{}", domain?).parse::<Name>().ok();
        let all: Vec<Name> = names
            .iter()
            .flat_map(|name| [Some(name.clone()), long(name)])
            .flatten()
            .collect();
        let zone = resolver.zone.clone();
        zone.update(|zone| {
            for address in &addresses {
                for name in &all {
                    zone.insert(name.clone(), *address);
                }
            }
        });
        Some(Listed { zone, addresses })
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.zone.update(|zone| {
            for address in &self.addresses {
                zone.remove_address(*address);
            }
        });
    }
}
