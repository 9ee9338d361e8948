//! What a managed network is to be.

use std::collections::BTreeSet;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::error::Result;
use crate::name::{IfName, Owner};

/// What traffic a network may have with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isolation {
    /// Containers reach out, and are reached by published ports.
    #[default]
    None,
    /// Internal: nothing is forwarded into or out of the network, published ports included. The host and its services are
    /// reached.
    Internal,
    /// Internal, and of the host only DNS: udp and tcp port 53 of the bridge's own addresses. For IPv6 neighbour discovery is let
    /// through too. The host reaches the containers.
    Strict,
}

/// Whether something that is usual is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usual {
    Done,
    LeftOut,
}

/// A network to manage: a bridge, the subnets of its containers, and what they may do.
///
/// ```
/// use cofferdam_portmap::{Isolation, NetworkSpec};
///
/// let app = NetworkSpec::new("br0")?
///     .subnet("10.1.0.0/24".parse()?)
///     .subnet("fd00:1::/64".parse()?)
///     .trust("vpn0")?;
/// let databases = NetworkSpec::new("br1")?
///     .subnet("10.2.0.0/24".parse()?)
///     .isolation(Isolation::Strict);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a NetworkSpec does nothing until it is given to a Portmap or a Ruleset"]
pub struct NetworkSpec {
    pub(crate) bridge: IfName,
    pub(crate) subnets: BTreeSet<IpNetwork>,
    pub(crate) trusted: BTreeSet<IfName>,
    isolation: Isolation,
    icc: Usual,
    masquerade: Usual,
    pub(crate) owner: Option<Owner>,
}

impl NetworkSpec {
    /// A network on the bridge of that name, which need not exist yet: without subnets, its containers reach each other and, in
    /// the name of the host, out.
    ///
    /// # Errors
    /// `InvalidInput` for a name no link can have.
    pub fn new(bridge: &str) -> Result<Self> {
        Ok(Self::on(IfName::new(bridge)?))
    }

    pub(crate) fn on(bridge: IfName) -> Self {
        NetworkSpec {
            bridge,
            subnets: BTreeSet::new(),
            trusted: BTreeSet::new(),
            isolation: Isolation::None,
            icc: Usual::Done,
            masquerade: Usual::Done,
            owner: None,
        }
    }

    /// Adds a subnet of its containers, IPv4 or IPv6; host bits do not matter. A container reaches ports that are published for
    /// itself or another of the same subnet (hairpin).
    pub fn subnet(mut self, subnet: IpNetwork) -> Self {
        self.subnets.insert(canonical(subnet));
        self
    }

    /// What traffic it may have with others.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Closes its containers to each other (ICC off), but for published ports.
    ///
    /// The kernel shows bridged packets to a table of this family only where br_netfilter is loaded and
    /// `net.bridge.bridge-nf-call-iptables` (`-ip6tables`) is 1. Where it is not, isolate the ports of the bridge
    /// (`IFLA_BRPORT_ISOLATED`), which needs no netfilter.
    pub fn without_icc(mut self) -> Self {
        self.icc = Usual::LeftOut;
        self
    }

    /// Lets its containers out under their own addresses: for those that the network outside knows the way to.
    pub fn without_masquerade(mut self) -> Self {
        self.masquerade = Usual::LeftOut;
        self
    }

    /// Lets in everything that is routed to its containers from this interface, such as a VPN's, also to ports that are not
    /// published and where it is internal.
    ///
    /// # Errors
    /// `InvalidInput` for a name no link can have.
    pub fn trust(mut self, interface: &str) -> Result<Self> {
        self.trusted.insert(IfName::new(interface)?);
        self.trusted.remove(&self.bridge);
        Ok(self)
    }

    /// Whose it is.
    pub fn owned_by(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// The bridge's name.
    #[must_use]
    pub fn bridge(&self) -> &str {
        self.bridge.as_str()
    }

    /// Its subnets, in order, without host bits.
    pub fn subnets(&self) -> impl Iterator<Item = IpNetwork> + '_ {
        self.subnets.iter().copied()
    }

    /// What traffic it may have with others.
    #[must_use]
    pub fn isolated(&self) -> Isolation {
        self.isolation
    }

    /// Whether nothing is forwarded into or out of it: [`Isolation::Internal`] or [`Isolation::Strict`].
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.isolation != Isolation::None
    }

    /// Whether its containers reach each other.
    #[must_use]
    pub fn has_icc(&self) -> bool {
        self.icc == Usual::Done
    }

    /// Whether its containers reach out in the name of the host.
    #[must_use]
    pub fn has_masquerade(&self) -> bool {
        self.masquerade == Usual::Done
    }

    /// Interfaces that everything is let in from, in order.
    pub fn trusted(&self) -> impl Iterator<Item = &str> + '_ {
        self.trusted.iter().map(IfName::as_str)
    }

    /// Whose it is, if that was said.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    pub(crate) fn with_icc(mut self) -> Self {
        self.icc = Usual::Done;
        self
    }

    pub(crate) fn with_masquerade(mut self) -> Self {
        self.masquerade = Usual::Done;
        self
    }
}

/// The subnet without host bits.
fn canonical(subnet: IpNetwork) -> IpNetwork {
    match subnet {
        IpNetwork::V4(subnet) => Ipv4Network::new(subnet.network(), subnet.prefix())
            .unwrap_or(subnet)
            .into(),
        IpNetwork::V6(subnet) => Ipv6Network::new(subnet.network(), subnet.prefix())
            .unwrap_or(subnet)
            .into(),
    }
}

/// Whether two subnets have an address in common.
pub(crate) fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    match (one, other) {
        (IpNetwork::V4(one), IpNetwork::V4(other)) => one.overlaps(other),
        (IpNetwork::V6(one), IpNetwork::V6(other)) => one.overlaps(other),
        _ => false,
    }
}
