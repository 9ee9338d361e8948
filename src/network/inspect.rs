//! Networks and what containers have of them, as plain data.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use ipnetwork::IpNetwork;

use super::{Medium, Network};

/// What kind of network one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum NetworkKind {
    /// A bridge of the host.
    Bridge,
    /// A bridge that goes on to other hosts by VXLAN.
    Vxlan,
    /// Links with hardware addresses of their own upon one of the host's.
    Macvlan,
    /// Links with the hardware address of the host's that they are upon.
    Ipvlan,
}

/// A network, as [`Network::inspect`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct NetworkInfo {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: NetworkKind,
    /// The bridge, or the link of the host that it is upon.
    pub link: String,
    /// IPv4 first.
    pub subnets: Vec<IpNetwork>,
    /// Where default routes of its containers lead. Of an internal network nowhere.
    pub gateways: Vec<IpAddr>,
    /// In bytes.
    pub mtu: u32,
    /// Whether nothing is forwarded into or out of it.
    pub internal: bool,
    /// Whether its containers reach each other.
    pub icc: bool,
    /// Whether they reach out in the name of the host.
    pub masquerade: bool,
    /// Whether they find each other by name.
    pub dns: bool,
    /// The containers in it, in the order they came.
    pub endpoints: Vec<EndpointInfo>,
}

/// What a container has of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct EndpointInfo {
    /// The network.
    pub network: String,
    /// The container.
    pub container: String,
    /// The interface inside.
    pub interface: String,
    /// Its hardware address, as `02:42:0a:09:00:02`.
    pub mac: String,
    /// With the lengths of the subnets, IPv4 first.
    pub addresses: Vec<IpNetwork>,
    /// What the network offers as a way out.
    pub gateways: Vec<IpAddr>,
    /// What others find it by.
    pub names: Vec<String>,
}

/// A port of the host that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PublishedPort {
    /// The address of the host; none is every one of the family of `container`.
    pub host_ip: Option<IpAddr>,
    /// The port of the host, chosen or given.
    pub host_port: u16,
    /// Where it leads.
    pub container: SocketAddr,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Whether a socket leads it, of this process or of `pasta`, and not the kernel's rules.
    pub proxied: bool,
}

impl Network {
    /// What it is, and who is in it, as plain data. Feature `serde` makes it serializable.
    #[must_use]
    pub fn inspect(&self) -> NetworkInfo {
        let inner = &*self.0;
        let (kind, mtu) = match &inner.medium {
            Medium::Bridge {
                vxlan: None,
                bridge,
                ..
            } => (NetworkKind::Bridge, bridge.mtu()),
            Medium::Bridge { bridge, .. } => (NetworkKind::Vxlan, bridge.mtu()),
            Medium::Macvlan(macvlan) => (NetworkKind::Macvlan, macvlan.mtu()),
            Medium::Ipvlan(ipvlan) => (NetworkKind::Ipvlan, ipvlan.mtu()),
        };
        NetworkInfo {
            name: inner.name.clone(),
            kind,
            link: self.bridge_name().to_owned(),
            subnets: self.subnets(),
            gateways: self.gateways(),
            mtu,
            internal: inner.options.internal,
            icc: inner.options.icc,
            masquerade: inner.options.masquerade,
            dns: inner.names.is_some(),
            endpoints: inner.registry.all(),
        }
    }
}

/// Who is in a network.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    last: u64,
    endpoints: BTreeMap<u64, EndpointInfo>,
}

/// Dropping it takes the entry out.
#[derive(Debug)]
pub(super) struct Registered {
    registry: Registry,
    number: u64,
}

impl Registry {
    pub(super) fn add(&self, info: EndpointInfo) -> Registered {
        let number = self.with(|entries| {
            entries.last += 1;
            entries.endpoints.insert(entries.last, info);
            entries.last
        });
        Registered {
            registry: self.clone(),
            number,
        }
    }

    fn all(&self) -> Vec<EndpointInfo> {
        self.with(|entries| entries.endpoints.values().cloned().collect())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Entries) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let number = self.number;
        self.registry
            .with(|entries| entries.endpoints.remove(&number));
    }
}

/// A hardware address as it is written.
pub(super) fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
