//! Networks that containers share.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_dns::{Endpoint, Hosts, LISTEN, Name, Server, SharedZone};
use cofferdam_netbridge::{Addresses, Attachment, Bridge, IfName, NetNs, Port};
use cofferdam_portmap::{NetworkGuard, NetworkSpec, PortSpec, Portmap, Published};
use ipnetwork::IpNetwork;

use crate::error::{Error, Result, Subject};
use crate::runtime::Noted;

/// The nf_tables table of every network in a network namespace.
pub(crate) const TABLE: &str = "cofferdam";

/// A network that containers share: a bridge with a subnet, translated to the host's address on the way out, whose
/// containers find each other by name at 127.0.0.11. A cheap handle; clones are the same network.
///
/// Dropping the last handle, those in containers included, removes it from the host; [`remove`](Self::remove) tells how
/// that went.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

/// In the order in which it has to go.
struct Inner {
    subject: Subject,
    name: String,
    zone: SharedZone,
    dns: Server,
    portmap: Portmap,
    managed: NetworkGuard,
    addresses: Mutex<Addresses>,
    gateway: IpNetwork,
    bridge: Bridge,
    noted: Noted,
}

/// Says what a [`Network`] is to be.
#[derive(Clone, Debug)]
#[must_use = "a NetworkBuilder does nothing until create"]
pub struct NetworkBuilder {
    name: String,
    subnet: Option<IpNetwork>,
    runtime_dir: Option<PathBuf>,
}

impl NetworkBuilder {
    /// The address of the bridge with the length of the subnet, as `"172.30.0.1/24".parse()?`. Without it the first subnet
    /// of Docker's pools that no route of the host overlaps.
    pub fn gateway(mut self, address: IpNetwork) -> Self {
        self.subnet = Some(address);
        self
    }

    /// Where it is written down what is made on the host, before it is made: as
    /// [`ContainerBuilder::runtime_dir`](crate::ContainerBuilder::runtime_dir).
    pub fn runtime_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.runtime_dir = Some(path.into());
        self
    }

    /// Makes the network in the network namespace of the calling thread: the bridge, its rules, its resolver.
    ///
    /// Forwarding (`net.ipv4.ip_forward`) is set and stays set. Queries for other names go to the nameservers of
    /// `/etc/resolv.conf`. When it fails, nothing else is left.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot be one, `AlreadyExists` if the bridge is there, `PermissionDenied` without
    /// `CAP_NET_ADMIN`, `Unsupported` where the kernel has no bridges or nf_tables.
    pub fn create(self) -> Result<Network> {
        let subject = Subject::network(&self.name);
        let bridge = bridge_name(&subject, &self.name)?;
        let dir = self.runtime_dir.as_deref();
        let noted = Noted::bridge(dir, &self.name, bridge.as_str());
        let noted = noted.map_err(subject.failed("write down what is made"))?;
        let mut builder = Bridge::builder(bridge);
        if let Some(subnet) = self.subnet {
            builder = builder.address(subnet);
        }
        let builder = builder.route_localnet().forwarding();
        let failed = || subject.failed::<cofferdam_netbridge::Error>("make the bridge");
        let bridge = builder.create().map_err(failed())?;
        // The one given, or the one picked.
        let gateway = bridge.addresses().first().copied();
        let gateway = gateway
            .ok_or_else(|| Error::invalid(&subject, "gateway", "", "the bridge has no address"))?;
        let addresses = Addresses::new(gateway).map_err(failed())?;
        cofferdam_netbridge::enable_forwarding().map_err(subject.failed("turn forwarding on"))?;
        let failed = || subject.failed::<cofferdam_portmap::Error>("make the rules");
        let portmap = Portmap::open(TABLE).map_err(failed())?;
        let managed = NetworkSpec::new(bridge.name().as_str())
            .and_then(|network| portmap.network(network.subnet(addresses.subnet())))
            .map_err(failed())?;
        let dns = Server::builder().resolv_conf("/etc/resolv.conf").start();
        let dns = dns.map_err(subject.failed("start the resolver"))?;
        let (zone, addresses) = (SharedZone::default(), Mutex::new(addresses));
        let name = self.name;
        Ok(Network(Arc::new(Inner {
            subject,
            name,
            zone,
            dns,
            portmap,
            managed,
            addresses,
            gateway,
            bridge,
            noted,
        })))
    }
}

impl Network {
    /// Says what a bridge network of this name will be. Letters, digits, `-`, `_` and `.`.
    pub fn bridge(name: impl Into<String>) -> NetworkBuilder {
        NetworkBuilder {
            name: name.into(),
            subnet: None,
            runtime_dir: None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name of its bridge on the host.
    #[must_use]
    pub fn bridge_name(&self) -> &str {
        self.0.bridge.name().as_str()
    }

    /// The address of its bridge, with the length of the subnet.
    #[must_use]
    pub fn gateway(&self) -> IpNetwork {
        self.0.gateway
    }

    /// Removes it from the host: its rules, its resolver, its bridge.
    ///
    /// # Errors
    /// `Busy` while a container or another handle has it: that one's end is then the network's. Otherwise the first step
    /// that failed, after all others were tried.
    pub fn remove(self) -> Result<()> {
        let subject = self.0.subject.clone();
        let Some(inner) = Arc::into_inner(self.0) else {
            return Err(Error::busy(
                &subject,
                "containers or other handles still have it",
            ));
        };
        let dns = inner
            .dns
            .stop()
            .map_err(subject.failed("stop the resolver"));
        let rules = inner
            .managed
            .remove()
            .map_err(subject.failed("remove the rules"));
        let bridge = inner
            .bridge
            .remove()
            .map_err(subject.failed("remove the bridge"));
        if dns.is_err() || rules.is_err() || bridge.is_err() {
            inner.noted.keep();
        }
        dns.and(rules).and(bridge)
    }

    /// A network namespace connected to it, with these names and ports.
    pub(crate) fn attach(
        &self,
        subject: &Subject,
        names: &[Name],
        ports: &[PortSpec],
    ) -> Result<Attached> {
        let failed = |step| subject.failed::<cofferdam_netbridge::Error>(step);
        let netns = NetNs::new().map_err(failed("make a network namespace"))?;
        let lease = Lease::take(self).map_err(failed("take an address"))?;
        let address = lease.address.ip();
        let attachment = Attachment::new(lease.address);
        let port = self
            .0
            .bridge
            .attach(&netns, attachment)
            .map_err(failed("attach to the network"))?;
        let resolver = self
            .resolve_in(&netns)
            .map_err(subject.failed("serve names"))?;
        let published = ports
            .iter()
            .map(|spec| self.0.portmap.publish(spec, address))
            .collect::<std::result::Result<_, _>>()
            .map_err(subject.failed("publish"))?;
        let listed = Listed::add(self, names, address);
        Ok(Attached {
            published,
            listed,
            resolver,
            port,
            lease,
            netns,
        })
    }

    fn resolve_in(&self, netns: &NetNs) -> cofferdam_dns::Result<Endpoint> {
        let (udp, tcp) = cofferdam_dns::bind_in(netns.as_fd(), LISTEN)?;
        self.0.dns.serve(udp, tcp, &self.0.zone)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gateway = self.gateway().to_string();
        f.debug_struct("Network")
            .field("name", &self.0.name)
            .field("gateway", &gateway)
            .finish()
    }
}

/// A container's place in a network, in the order in which it has to go.
#[derive(Debug)]
pub(crate) struct Attached {
    published: Vec<Published>,
    listed: Listed,
    resolver: Endpoint,
    port: Port,
    lease: Lease,
    netns: NetNs,
}

impl Attached {
    pub(crate) fn address(&self) -> IpAddr {
        self.lease.address.ip()
    }

    pub(crate) fn netns(&self) -> std::io::Result<OwnedFd> {
        self.netns.as_fd().try_clone_to_owned()
    }

    /// What its `/etc/hosts` says: itself.
    pub(crate) fn hosts(&self) -> Hosts {
        Hosts::ipv4_only().host(self.address(), self.listed.names.iter().cloned())
    }

    /// Takes it apart. All steps are tried; the first failure is told.
    pub(crate) fn remove(self, subject: &Subject) -> Result<()> {
        let mut outcome = Ok(());
        for published in self.published {
            let removed = published
                .remove()
                .map_err(subject.failed("take back a port"));
            outcome = outcome.and(removed);
        }
        drop(self.listed);
        let resolver = self
            .resolver
            .remove()
            .map_err(subject.failed("stop serving names"));
        let port = self
            .port
            .remove()
            .map_err(subject.failed("detach from the network"));
        outcome.and(resolver).and(port)
    }
}

/// An address in use.
#[derive(Debug)]
struct Lease {
    network: Network,
    address: IpNetwork,
}

impl Lease {
    fn take(network: &Network) -> cofferdam_netbridge::Result<Self> {
        let address = network.0.addresses().allocate()?;
        Ok(Lease {
            network: network.clone(),
            address,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _released = self
            .network
            .0
            .addresses()
            .release(self.address.ip())
            .is_ok();
    }
}

impl Inner {
    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names in the network's zone.
#[derive(Debug)]
struct Listed {
    zone: SharedZone,
    names: Vec<Name>,
    address: IpAddr,
}

impl Listed {
    fn add(network: &Network, names: &[Name], address: IpAddr) -> Self {
        let zone = network.0.zone.clone();
        zone.update(|zone| {
            for name in names {
                zone.insert(name.clone(), address);
            }
        });
        Listed {
            zone,
            names: names.to_vec(),
            address,
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.zone.update(|zone| zone.remove_address(self.address));
    }
}

/// `br-app`, or where that is longer than the kernel's 15 bytes, its beginning and a hash.
fn bridge_name(subject: &Subject, name: &str) -> Result<IfName> {
    const ROOM: usize = 15 - "br-".len();
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(valid) {
        let reason = "is not 1 to 63 letters, digits, -, _ and .";
        return Err(Error::invalid(subject, "name", name, reason));
    }
    let short = if name.len() <= ROOM {
        format!("br-{name}")
    } else {
        format!("br-{}{:08x}", &name[..ROOM - 8], hash(name))
    };
    short.parse().map_err(subject.failed("name the bridge"))
}

/// FNV-1a, the same in every process and version.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_name_fits_the_kernel_and_tells_networks_apart() {
        let subject = Subject::network("x");
        let name = |name: &str| bridge_name(&subject, name).unwrap().to_string();
        assert_eq!(name("app"), "br-app");
        assert_eq!(name("twelve-bytes"), "br-twelve-bytes");
        assert_eq!(name("a-longer-name"), "br-a-lo9572a122");
        assert_ne!(name("a-longer-name"), name("a-longer-namf"));
        for bad in ["", "a b", "a/b", "ä"] {
            assert!(bridge_name(&subject, bad).is_err(), "{bad}");
        }
    }
}
