//! Networks that containers share.

mod addresses;
mod attached;
mod builder;
mod config;
mod connect;
mod connection;
mod create;
mod endpoint;
mod files;
mod inspect;
mod pasta;
mod ports;
mod resolver;

use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_dns::{Name, Server, SharedZone, Upstreams};
use cofferdam_netbridge::{
    Attachment, Bridge, Ipvlan, Macvlan, NetNs, Port, PortFlag, PortFlags, Sublink, Vxlan,
};
use cofferdam_portmap::{NetworkGuard, Portmap, Proxy};
use ipnetwork::IpNetwork;

use crate::error::{Error, Result, Subject};
use crate::runtime::Noted;
use addresses::Pool;
use inspect::Registry;

pub(crate) use attached::Attached;
pub(crate) use builder::{Networking, Plan};
pub use config::NetworkBuilder;
pub use connection::Connection;
pub(crate) use create::TABLE;
pub use inspect::{EndpointInfo, NetworkInfo, NetworkKind, PublishedPort};
pub(crate) use pasta::Pasta;

/// A network that containers share: a bridge with subnets, translated to the host's address on the way out, whose
/// containers find each other by name at 127.0.0.11; or one of the other kinds that [`NetworkBuilder`] makes. A cheap
/// handle; clones are the same network.
///
/// Dropping the last handle, those in containers included, removes it from the host; [`remove`](Self::remove) tells how
/// that went.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

/// In the order in which it has to go.
struct Inner {
    subject: Subject,
    name: String,
    options: Options,
    registry: Registry,
    names: Option<Names>,
    proxy: Mutex<Option<Arc<Proxy>>>,
    pool: Pool,
    medium: Medium,
    noted: Option<Noted>,
}

/// What was asked for and is looked at again.
#[derive(Clone, Debug)]
struct Options {
    internal: bool,
    icc: bool,
    masquerade: bool,
    guard_mac: bool,
    layer3: bool,
    upstreams: Option<Upstreams>,
}

/// Its resolver. The server lives as long as a container that began with it.
struct Names {
    zone: SharedZone,
    domain: Option<Name>,
    server: Arc<Server>,
}

/// What carries its packets, in the order in which it has to go.
#[allow(clippy::large_enum_variant, reason = "there is one a network")]
enum Medium {
    Bridge {
        managed: NetworkGuard,
        portmap: Portmap,
        vxlan: Option<Vxlan>,
        bridge: Bridge,
    },
    Macvlan(Macvlan),
    Ipvlan(Ipvlan),
}

/// A container's link.
#[derive(Debug)]
enum Link {
    Port(Port),
    Sublink(Sublink),
}

impl Network {
    /// Says what a bridge network of this name will be. Letters, digits, `-`, `_` and `.`.
    pub fn bridge(name: impl Into<String>) -> NetworkBuilder {
        NetworkBuilder::bridge(name.into())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name of its bridge on the host; of one without a bridge, of the link it is upon.
    #[must_use]
    pub fn bridge_name(&self) -> &str {
        match &self.0.medium {
            Medium::Bridge { bridge, .. } => bridge.name().as_str(),
            Medium::Macvlan(macvlan) => macvlan.parent().as_str(),
            Medium::Ipvlan(ipvlan) => ipvlan.parent().as_str(),
        }
    }

    /// The address of its bridge, with the length of the subnet: the first one, IPv4 before IPv6. Of an internal network
    /// nobody has it.
    #[must_use]
    pub fn gateway(&self) -> IpNetwork {
        self.0.pool.first_gateway()
    }

    /// Its subnets, IPv4 first.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNetwork> {
        self.0.pool.subnets()
    }

    /// Whether nothing is forwarded into or out of it.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.options.internal
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
        // A container that began with its server and has since gone elsewhere still asks it.
        let server = inner.names.and_then(|names| Arc::into_inner(names.server));
        let dns = server.map_or(Ok(()), Server::stop);
        let dns = dns.map_err(subject.failed("stop the resolver"));
        let proxy = inner
            .proxy
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        drop(proxy);
        let medium = inner.medium.remove(&subject);
        if let (Err(_), Some(noted)) = (&medium, inner.noted) {
            noted.keep();
        }
        dns.and(medium)
    }

    fn same(&self, other: &Network) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether ports of the host can be led to its containers.
    fn portmap(&self) -> Option<&Portmap> {
        match &self.0.medium {
            Medium::Bridge { portmap, .. } if !self.0.options.internal => Some(portmap),
            _ => None,
        }
    }

    /// The one that leads what rules cannot, begun when it is first needed.
    fn proxy(&self, subject: &Subject) -> Result<Arc<Proxy>> {
        let mut proxy = self.0.proxy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(proxy) = &*proxy {
            return Ok(proxy.clone());
        }
        let mut builder = Proxy::builder();
        if let Medium::Bridge { bridge, .. } = &self.0.medium {
            let netns = || bridge.netns().as_fd().try_clone_to_owned();
            let failed = || subject.failed::<std::io::Error>("duplicate a namespace");
            builder = builder.listen_in(netns().map_err(failed())?);
            builder = builder.dial_from(netns().map_err(failed())?);
        }
        let started = builder.start().map_err(subject.failed("start the proxy"))?;
        Ok(proxy.insert(Arc::new(started)).clone())
    }

    /// Addresses of the host that its containers reach.
    fn host_addresses(&self) -> Vec<IpAddr> {
        match &self.0.medium {
            Medium::Bridge { bridge, .. } if !self.0.options.internal => {
                bridge.addresses().iter().map(IpNetwork::ip).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The way out that it offers: none of an internal network, and none where the link itself is it.
    fn gateways(&self) -> Vec<IpAddr> {
        if self.0.options.internal || self.0.options.layer3 {
            return Vec::new();
        }
        self.0.pool.gateways()
    }

    fn link(&self, netns: &NetNs, mut attachment: Attachment) -> cofferdam_netbridge::Result<Link> {
        let options = &self.0.options;
        match &self.0.medium {
            Medium::Bridge { bridge, .. } => {
                if !options.icc {
                    attachment = attachment.flags(PortFlags::new().on(PortFlag::Isolated));
                }
                if options.guard_mac {
                    attachment = attachment.guard_mac();
                }
                bridge.attach(netns, attachment).map(Link::Port)
            }
            Medium::Macvlan(macvlan) => macvlan.attach(netns, attachment).map(Link::Sublink),
            Medium::Ipvlan(ipvlan) => ipvlan.attach(netns, attachment).map(Link::Sublink),
        }
    }
}

impl Medium {
    fn remove(self, subject: &Subject) -> Result<()> {
        let failed = |step| subject.failed::<cofferdam_netbridge::Error>(step);
        match self {
            Medium::Bridge {
                managed,
                vxlan,
                bridge,
                ..
            } => {
                let rules = managed.remove().map_err(subject.failed("remove the rules"));
                let vxlan = vxlan.map_or(Ok(()), Vxlan::remove);
                let vxlan = vxlan.map_err(failed("remove the VXLAN link"));
                let bridge = bridge.remove().map_err(failed("remove the bridge"));
                rules.and(vxlan).and(bridge)
            }
            Medium::Macvlan(macvlan) => macvlan.remove().map_err(failed("remove the parent")),
            Medium::Ipvlan(ipvlan) => ipvlan.remove().map_err(failed("remove the parent")),
        }
    }
}

impl Link {
    fn ifname(&self) -> &cofferdam_netbridge::IfName {
        match self {
            Link::Port(port) => port.ifname(),
            Link::Sublink(link) => link.ifname(),
        }
    }

    fn mac(&self) -> [u8; 6] {
        match self {
            Link::Port(port) => port.mac(),
            Link::Sublink(link) => link.mac(),
        }
    }

    fn remove(self) -> cofferdam_netbridge::Result<()> {
        match self {
            Link::Port(port) => port.remove(),
            Link::Sublink(link) => link.remove(),
        }
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
