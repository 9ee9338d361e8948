//! What a container is to have of a network.

use std::net::IpAddr;

use cofferdam_dns::Name;
use cofferdam_netbridge::IfName;

use super::Network;
use crate::error::{Error, Result, Subject};

/// What a container is to have of a [`Network`]: [`ContainerBuilder::network`](crate::ContainerBuilder::network) and
/// [`Running::connect`](crate::Running::connect) take one, or just the network.
///
/// ```no_run
/// # let (back, web): (cofferdam::Network, cofferdam::Running) = todo!();
/// use cofferdam::Connection;
///
/// web.connect(Connection::to(&back).alias("api").address("10.9.0.7".parse()?))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a Connection does nothing until a container has it"]
pub struct Connection {
    pub(super) network: Network,
    pub(super) aliases: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) ifname: Option<String>,
    pub(super) priority: i32,
}

impl Connection {
    /// Addresses that are picked, and the name of the container.
    pub fn to(network: &Network) -> Self {
        Connection {
            network: network.clone(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            mac: None,
            ifname: None,
            priority: 0,
        }
    }

    /// One more name in this network. Containers may share an alias; whoever asks gets all their addresses.
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.aliases.push(name.into());
        self
    }

    /// This address, and none that is picked of its family: one of the network's subnet that nobody has.
    #[doc(alias = "ip")]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// The hardware address, instead of one derived of the first address.
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// The name of the interface, instead of the first `ethN` that is free. Either way it stays.
    pub fn ifname(mut self, name: impl Into<String>) -> Self {
        self.ifname = Some(name.into());
        self
    }

    /// Of several networks, the one with the highest has the default route; of equals, the one whose name comes first. 0
    /// unless set.
    #[doc(alias = "gw-priority")]
    pub fn gateway_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// All names it has there.
    pub(super) fn names(&self, subject: &Subject, own: &Name, more: &[Name]) -> Result<Vec<Name>> {
        let mut names = vec![own.clone()];
        names.extend(more.iter().cloned());
        for alias in &self.aliases {
            names.push(label(subject, "alias", alias)?);
        }
        Ok(names)
    }

    pub(super) fn interface(&self, subject: &Subject) -> Result<Option<IfName>> {
        let parse = |name: &String| {
            name.parse::<IfName>()
                .map_err(subject.failed("name the interface"))
        };
        self.ifname.as_ref().map(parse).transpose()
    }
}

impl From<&Network> for Connection {
    fn from(network: &Network) -> Self {
        Connection::to(network)
    }
}

/// One label of a host name.
pub(super) fn label(subject: &Subject, item: &'static str, text: &str) -> Result<Name> {
    match text.parse::<Name>() {
        Ok(name) if !text.contains('.') => Ok(name),
        _ => Err(Error::invalid(
            subject,
            item,
            text,
            "is not 1 to 63 letters, digits, - and _",
        )),
    }
}
