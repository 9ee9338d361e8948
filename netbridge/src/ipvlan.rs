//! Containers with addresses, but no hardware addresses, of their own on a network of the host's.

use std::net::IpAddr;
use std::os::fd::AsFd;

use crate::attachment::Attachment;
use crate::error::{Error, Result};
use crate::gateway::NetworkGateway;
use crate::ifname::IfName;
use crate::kind::LinkKind;
use crate::message::sublink::Sort;
use crate::parent::Parent;
use crate::sublink::{self, Network, NetworkBuilder, Sublink};

/// At which layer the containers of an [`Ipvlan`] are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IpvlanMode {
    /// Ethernet: ARP and broadcast work, a gateway of the network is a neighbour.
    #[default]
    L2,
    /// IP: the host routes for them, without its packet filter. No ARP, no broadcast; the default route leads to the link
    /// itself. The network must route the addresses to this host.
    L3,
    /// As [`L3`](Self::L3), and packets pass the host's packet filter and connection tracking. It takes
    /// `CONFIG_IPVLAN_L3S`.
    L3s,
}

/// Whether the containers of an [`Ipvlan`] reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IpvlanFlag {
    /// Directly.
    #[default]
    Bridge,
    /// Not at all.
    Private,
    /// Where the switch before the parent sends frames back (802.1Qbg); in layer 3 it sends a redirect, for which the
    /// router must be told not to.
    Vepa,
}

/// What an [`Ipvlan`] will be. [`Ipvlan::builder`] makes it.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until create()"]
pub struct IpvlanBuilder {
    network: NetworkBuilder,
    mode: IpvlanMode,
    flag: IpvlanFlag,
}

impl IpvlanBuilder {
    /// The mode. Without it [`IpvlanMode::L2`].
    pub fn mode(mut self, mode: IpvlanMode) -> Self {
        self.mode = mode;
        self
    }

    /// Whether the containers reach each other. Without it they do.
    pub fn flag(mut self, flag: IpvlanFlag) -> Self {
        self.flag = flag;
        self
    }

    /// In mode [`IpvlanMode::L2`], where the default route of a family leads, of each container that does not say
    /// otherwise. Without it such a container has none.
    pub fn gateway(mut self, address: IpAddr) -> Self {
        self.network.gateway(address);
        self
    }

    /// The MTU of the containers in bytes. Without it that of the parent, which is the largest it can be.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.network.mtu = Some(bytes);
        self
    }

    /// Sets a parent that is there up, where it is down: it is left up. Without this, one that is down is an error.
    pub fn parent_up(mut self) -> Self {
        self.network.parent_up = true;
        self
    }

    /// Finds the parent in the network namespace of the calling thread, or makes it. A failure leaves nothing behind.
    ///
    /// # Errors
    /// `Unsupported` where the kernel has no ipvlan; `NotFound` without the parent; `Busy` where it is down;
    /// `InvalidInput` for an MTU larger than the parent's; `PermissionDenied` without `CAP_NET_ADMIN` over the namespace.
    /// Else as [`VlanBuilder::create`](crate::VlanBuilder::create) and
    /// [`DummyBuilder::create`](crate::DummyBuilder::create).
    pub fn create(self) -> Result<Ipvlan> {
        if self.mode != IpvlanMode::L2 && self.network.has_gateways() {
            let why = "in layer 3 no gateway is a neighbour: the default route leads to the link";
            return Err(Error::invalid("create an ipvlan network", why));
        }
        let network = self
            .network
            .create(LinkKind::Ipvlan, Sort::Ipvlan(self.mode, self.flag))?;
        Ok(Ipvlan { network })
    }
}

/// An ipvlan network: containers with addresses of their own upon a link of the host's, which all have its hardware
/// address. For networks that know one hardware address a machine: clouds, Wi-Fi, switches with port security.
///
/// The kernel has nothing of it but the parent and one link for each container; so dropping it deletes the parent where it
/// was made for this (a VLAN or dummy link), and with it the containers' links, and else does nothing. An existing parent
/// is never deleted.
///
/// **All ipvlan links of a parent have one mode and one flag: those of the last that was made**, by whomever. The kernel
/// changes the others with it and says nothing; links in the namespaces of containers cannot be seen from here. Give
/// networks of different modes VLANs of their own.
#[derive(Debug)]
#[must_use = "dropping an Ipvlan deletes the parent it made"]
pub struct Ipvlan {
    network: Network,
}

impl Ipvlan {
    /// Says what a network upon `parent` will be: the name of a link that is there, a
    /// [`VlanBuilder`](crate::VlanBuilder) or a [`DummyBuilder`](crate::DummyBuilder).
    pub fn builder(parent: impl Into<Parent>) -> IpvlanBuilder {
        IpvlanBuilder {
            network: NetworkBuilder::new(parent.into()),
            mode: IpvlanMode::default(),
            flag: IpvlanFlag::default(),
        }
    }

    /// Puts a link into the network namespace `netns`: by one `RTM_NEWLINK` it is born there, then it gets addresses, is set
    /// up and gets routes. A failure leaves nothing behind.
    ///
    /// In the modes of layer 3 it gets a default route to the link itself for each family it has an address of, unless
    /// the attachment says [`Gateway::None`](crate::Gateway::None). The work inside is done by threads that enter `netns` and end.
    ///
    /// # Errors
    /// `AlreadyExists` where the interface name is taken in `netns`, or it has a default route, or another ipvlan link of
    /// the parent has an address; `Busy` where the parent is a port of a bridge or bond, or has macvlan links;
    /// `InvalidInput` for addresses or gateways that cannot be, a hardware address, which is always the parent's, or a
    /// gateway in a mode of layer 3; `Unsupported` for mode L3s on a kernel without it; `NotFound` where the parent is
    /// gone; `PermissionDenied` without `CAP_NET_ADMIN` over both namespaces and `CAP_SYS_ADMIN` to enter `netns`.
    pub fn attach(&self, netns: impl AsFd, attachment: Attachment) -> Result<Sublink> {
        sublink::attach(&self.network, netns.as_fd(), &attachment)
    }

    /// What this network offers a container on the way out, for [`Gateways::join`](crate::Gateways::join): its gateways, of
    /// the families that the link has addresses of. In layer 3 there are none: the default route leads to the link, and
    /// [`Attachment::gateway_metric`] says which link's is used.
    pub fn gateway_of(&self, link: &Sublink) -> NetworkGateway {
        self.network.gateway_of(link)
    }

    /// Deletes the parent where it was made for this, as by `RTM_DELLINK`, and with it the containers' links: 20 to 40 ms.
    ///
    /// # Errors
    /// `PermissionDenied` where `CAP_NET_ADMIN` was lost.
    pub fn remove(self) -> Result<()> {
        self.network.remove()
    }

    /// Leaves the parent where it is, and returns its name where it was made for this:
    /// [`delete_link`](crate::delete_link) deletes it.
    pub fn persist(self) -> Option<IfName> {
        self.network.persist()
    }

    /// The name of the parent.
    #[must_use]
    pub fn parent(&self) -> &IfName {
        &self.network.parent().name
    }

    /// The MTU of the containers in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.network.mtu()
    }
}
