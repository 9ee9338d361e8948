//! Containers with hardware addresses of their own on a network of the host's.

use std::net::IpAddr;
use std::os::fd::AsFd;

use crate::attachment::Attachment;
use crate::error::{Error, Result};
use crate::gateway::NetworkGateway;
use crate::ifname::IfName;
use crate::kind::LinkKind;
use crate::mac::is_unicast;
use crate::message::sublink::{MacvlanOptions, Sort};
use crate::parent::Parent;
use crate::sublink::{self, Network, NetworkBuilder, Sublink};

/// Who a container on a [`Macvlan`] reaches beside what is on the network of the parent. The host itself reaches none of
/// them by the parent, nor they it, but where the switch before the parent sends frames back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MacvlanMode {
    /// The other containers of the parent in this mode, directly.
    #[default]
    Bridge,
    /// No other container, not even by way of a switch that sends frames back.
    Private,
    /// The other containers where the switch before the parent sends frames back (802.1Qbg).
    Vepa,
    /// All that comes to the parent: it has this container alone, and gives it its hardware address.
    Passthru,
    /// Senders of these hardware addresses, and nobody else.
    Source(Vec<[u8; 6]>),
}

/// What a [`Macvlan`] will be. [`Macvlan::builder`] makes it.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until create()"]
pub struct MacvlanBuilder {
    network: NetworkBuilder,
    options: MacvlanOptions,
}

impl MacvlanBuilder {
    /// The mode. Without it [`MacvlanMode::Bridge`].
    pub fn mode(mut self, mode: MacvlanMode) -> Self {
        self.options.mode = mode;
        self
    }

    /// Where the default route of a family leads, of each container that does not say otherwise. Without it such a
    /// container has none.
    pub fn gateway(mut self, address: IpAddr) -> Self {
        self.network.gateway(address);
        self
    }

    /// The MTU of the containers in bytes. Without it that of the parent, which is the largest it can be.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.network.mtu = Some(bytes);
        self
    }

    /// How many frames to many may wait to be copied to the containers of the parent (`bcqueuelen`). The kernel takes the
    /// largest of them all; without it 1000.
    #[doc(alias = "bcqueuelen")]
    pub fn bc_queue_len(mut self, frames: u32) -> Self {
        self.options.bc_queue_len = Some(frames);
        self
    }

    /// Up to how many containers of a multicast group its frames are copied to at once, and not by the queue (`bclim`). -1
    /// never waits; without it 1. It takes Linux 6.4.
    #[doc(alias = "bclim")]
    pub fn bc_cutoff(mut self, containers: i32) -> Self {
        self.options.bc_cutoff = Some(containers);
        self
    }

    /// In mode [`MacvlanMode::Passthru`], has the parent take frames for every hardware address, which the kernel counts
    /// as promiscuous. Without it the parent takes those for its own.
    pub fn promiscuous(mut self) -> Self {
        self.options.promiscuous = true;
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
    /// `Unsupported` where the kernel has no macvlan; `NotFound` without the parent; `Busy` where it is down;
    /// `InvalidInput` for an MTU larger than the parent's, or sources that are no host's addresses; `PermissionDenied`
    /// without `CAP_NET_ADMIN` over the namespace. Else as [`VlanBuilder::create`](crate::VlanBuilder::create) and
    /// [`DummyBuilder::create`](crate::DummyBuilder::create).
    pub fn create(self) -> Result<Macvlan> {
        if let Some(why) = self.fault() {
            return Err(Error::invalid("create a macvlan network", why));
        }
        let network = self
            .network
            .create(LinkKind::Macvlan, Sort::Macvlan(self.options))?;
        Ok(Macvlan { network })
    }

    fn fault(&self) -> Option<&'static str> {
        let promiscuous = self.options.promiscuous;
        match &self.options.mode {
            MacvlanMode::Source(sources) => sources_fault(sources),
            MacvlanMode::Passthru => None,
            _ if promiscuous => Some("promiscuous() is for mode passthru"),
            _ => None,
        }
    }
}

/// A macvlan network: containers with hardware addresses of their own upon a link of the host's, without a bridge between.
///
/// The kernel has nothing of it but the parent and one link for each container; so dropping it deletes the parent where it
/// was made for this (a VLAN or dummy link), and with it the containers' links, and else does nothing. An existing parent
/// is never deleted.
///
/// The containers are neighbours of the machines on the network: their addresses must be of its subnet, and free there; no
/// one translates them. A cloud's network or a Wi-Fi that knows one hardware address a machine will not carry them:
/// [`Ipvlan`](crate::Ipvlan) does.
///
/// ```no_run
/// use cofferdam_netbridge::{Attachment, IfName, Macvlan, NetNs};
///
/// let eth0: IfName = "eth0".parse()?;
/// let lan = Macvlan::builder(eth0).gateway("192.168.1.1".parse().unwrap()).create()?;
/// let netns = NetNs::new()?;
/// let link = lan.attach(&netns, Attachment::new("192.168.1.200/24".parse().unwrap()))?;
/// # link.remove()?;
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a Macvlan deletes the parent it made"]
pub struct Macvlan {
    network: Network,
}

impl Macvlan {
    /// Says what a network upon `parent` will be: the name of a link that is there, a
    /// [`VlanBuilder`](crate::VlanBuilder) or a [`DummyBuilder`](crate::DummyBuilder).
    pub fn builder(parent: impl Into<Parent>) -> MacvlanBuilder {
        MacvlanBuilder {
            network: NetworkBuilder::new(parent.into()),
            options: MacvlanOptions {
                mode: MacvlanMode::default(),
                promiscuous: false,
                bc_queue_len: None,
                bc_cutoff: None,
            },
        }
    }

    /// Puts a link into the network namespace `netns`: by one `RTM_NEWLINK` it is born there, then it gets addresses, is set
    /// up and gets routes. A failure leaves nothing behind.
    ///
    /// The work inside is done by threads that enter `netns` and end.
    ///
    /// # Errors
    /// `AlreadyExists` where the interface name is taken in `netns`, or it has a default route; `Busy` where the parent is a
    /// port of a bridge or bond, or has ipvlan links; `InvalidInput` for addresses, gateways or a hardware address that
    /// cannot be, a hardware address in mode passthru, or a parent that a link in that mode has for itself;
    /// `Unsupported` for [`bc_queue_len`](MacvlanBuilder::bc_queue_len) or [`bc_cutoff`](MacvlanBuilder::bc_cutoff) on a
    /// kernel without it; `NotFound` where the parent is gone; `PermissionDenied` without `CAP_NET_ADMIN` over both
    /// namespaces and `CAP_SYS_ADMIN` to enter `netns`.
    pub fn attach(&self, netns: impl AsFd, attachment: Attachment) -> Result<Sublink> {
        sublink::attach(&self.network, netns.as_fd(), &attachment)
    }

    /// What this network offers a container on the way out, for [`Gateways::join`](crate::Gateways::join): its gateways, of
    /// the families that the link has addresses of.
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

/// Why the kernel would not take the list.
pub(crate) fn sources_fault(sources: &[[u8; 6]]) -> Option<&'static str> {
    /// The list goes into one attribute, whose length has 16 bits.
    const MOST: usize = 1000;
    if sources.iter().any(|mac| !is_unicast(*mac)) {
        return Some("a source is no host's hardware address");
    }
    (sources.len() > MOST).then_some("there are more than 1000 sources")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn builder() -> MacvlanBuilder {
        Macvlan::builder("eth0".parse::<IfName>().unwrap())
    }

    #[test]
    fn what_cannot_be_is_refused_before_the_host_is_looked_at() {
        for (builder, why) in [
            (builder().promiscuous(), "passthru"),
            (builder().mode(MacvlanMode::Source(vec![[0; 6]])), "source"),
            (builder().mode(MacvlanMode::Source(vec![[1; 6]])), "source"),
            (
                builder().mode(MacvlanMode::Source(vec![[2; 6]; 1001])),
                "1000",
            ),
        ] {
            let error = builder.create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(why), "{error}");
        }
        let passthru = builder().mode(MacvlanMode::Passthru).promiscuous();
        assert_eq!(passthru.fault(), None);
    }
}
