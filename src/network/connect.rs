//! Networks and ports of a container that runs.

use cofferdam_dns::Counters;
use cofferdam_portmap::PortSpec;

use super::connection::Connection;
use super::files::Files;
use super::inspect::{EndpointInfo, PublishedPort};
use super::{Attached, Network, Pasta};
use crate::error::{Error, Result, Subject};
use crate::running::Running;

impl Running {
    /// Connects it to one more network, or as a [`Connection`] says: with an interface, an address and its names there. The
    /// default route is that of the network of the highest priority, and published ports lead to its address there. Interfaces
    /// that it has keep their names. A failure changes nothing.
    ///
    /// `/etc/hosts` inside stays as it was at the start; 127.0.0.11 knows it all.
    ///
    /// # Errors
    /// `InvalidInput` if it is in a network of that name, or was started with the host's network, another container's, or none
    /// at all: [`no_network`](crate::ContainerBuilder::no_network) begins with none. `AlreadyExists` for an address or
    /// interface name that is taken, `Exhausted` where no address is free.
    pub fn connect(&self, network: impl Into<Connection>) -> Result<()> {
        self.networked("network")?.connect(&network.into())
    }

    /// Takes it out of a network: its names there first, then the default route, which moves to another network, then the
    /// interface. Ports that led to its address there lead to one in another network, or nowhere until it has one again. Flows
    /// of the address end.
    ///
    /// # Errors
    /// `InvalidInput` if it is not in it. Otherwise the first step that failed, after all others were tried.
    pub fn disconnect(&self, network: &Network) -> Result<()> {
        self.networked("network")?.disconnect(network)
    }

    /// Leads one more port of the host to it, or several, and says which. As
    /// [`ContainerBuilder::publish`](crate::ContainerBuilder::publish).
    ///
    /// # Errors
    /// `AlreadyExists` for a port that is published, `Busy` for one that a process of the host has, `InvalidInput` where none of
    /// its networks takes ports.
    pub fn publish(&self, port: &PortSpec) -> Result<Vec<PublishedPort>> {
        self.networked("publish")?.publish(port)
    }

    /// Takes back what was published by this spec. Connections that are open go on.
    ///
    /// # Errors
    /// `InvalidInput` if nothing was; otherwise what the kernel says.
    pub fn unpublish(&self, port: &PortSpec) -> Result<()> {
        self.networked("unpublish")?.unpublish(port)
    }

    /// The ports of the host that lead to it now, with those that were chosen.
    #[must_use]
    pub fn ports(&self) -> Vec<PublishedPort> {
        let pasta = || self.pasta().map(Pasta::ports).unwrap_or_default();
        self.attached().map_or_else(pasta, Attached::ports)
    }

    /// What it has of each of its networks, in the order of its connections, as plain data.
    #[must_use]
    pub fn networks(&self) -> Vec<EndpointInfo> {
        self.attached().map(Attached::inspect).unwrap_or_default()
    }

    /// Which networks its default routes lead out by, and the router: of IPv4, then of IPv6, as far as there are any.
    #[must_use]
    pub fn default_routes(&self) -> Vec<(String, std::net::IpAddr)> {
        self.attached()
            .map(Attached::default_routes)
            .unwrap_or_default()
    }

    /// What became of its queries for names so far. `None`: it has no resolver.
    #[must_use]
    pub fn queries(&self) -> Option<Counters> {
        self.attached().and_then(Attached::queries)
    }

    fn networked(&self, item: &'static str) -> Result<&Attached> {
        self.attached().ok_or_else(|| {
            let subject = Subject::container(self.name());
            let reason = "it has no networks of its own";
            Error::invalid(&subject, item, "", reason)
        })
    }

    /// What its files would say now.
    pub(super) fn files(&self) -> Option<Files> {
        let subject = Subject::container(self.name());
        Files::of(self.attached()?, &subject).ok()
    }
}
