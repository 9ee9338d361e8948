//! A container's networks.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cofferdam_dns::{Counters, Name, SharedZone};
use cofferdam_netbridge::{Gateways, NetNs};
use cofferdam_portmap::PortSpec;

use super::connection::Connection;
use super::endpoint::Endpoint;
use super::follow::Written;
use super::inspect::{EndpointInfo, PublishedPort, written};
use super::ports::{self, Port, Target};
use super::resolver::{self, Resolver};
use super::{Network, Plan};
use crate::error::{Error, Result, Subject};

/// All that a container has of networks: its namespace, and what is in it and leads there.
#[derive(Debug)]
pub(crate) struct Attached {
    subject: Subject,
    container: String,
    pub(super) plan: Plan,
    state: Mutex<State>,
    /// Taken before the state, by who writes.
    written: Mutex<Written>,
    netns: NetNs,
}

/// In the order in which it has to go: ports lead nowhere before the address is another's.
#[derive(Debug, Default)]
struct State {
    ports: Vec<Port>,
    resolver: Option<Resolver>,
    own_zone: Option<SharedZone>,
    gateways: Gateways,
    endpoints: Vec<Endpoint>,
}

impl Attached {
    /// A network namespace in all networks of the plan, with its ports. When it fails, nothing of it is left.
    pub(super) fn new(plan: &Plan, subject: &Subject, container: &str) -> Result<Self> {
        let netns = NetNs::new().map_err(subject.failed("make a network namespace"))?;
        let attached = Attached {
            subject: subject.clone(),
            container: container.to_owned(),
            // What it has of networks is in the state: one that it left is not held.
            plan: Plan {
                connections: Vec::new(),
                ..plan.clone()
            },
            state: Mutex::default(),
            written: Mutex::default(),
            netns,
        };
        let mut state = attached.state();
        let sole = plan.connections.len() == 1;
        for connection in &plan.connections {
            attached.join(&mut state, connection, sole)?;
        }
        attached.serve(&mut state)?;
        for spec in &plan.ports {
            attached.lead_here(&mut state, spec)?;
        }
        for endpoint in &mut state.endpoints {
            endpoint.list();
        }
        drop(state);
        Ok(attached)
    }

    pub(super) fn connect(&self, connection: &Connection) -> Result<()> {
        let mut state = self.state();
        let (first, at) = (state.endpoints.is_empty(), state.endpoints.len());
        self.join(&mut state, connection, first)?;
        let outcome = self.serve(&mut state);
        let outcome = outcome.and_then(|()| self.lead_again(&mut state));
        if let Err(error) = outcome {
            // What can be taken back is; the first error is the one to tell.
            let _unused = self.part(&mut state, at).is_ok();
            return Err(error);
        }
        if let Some(endpoint) = state.endpoints.get_mut(at) {
            endpoint.list();
        }
        Ok(())
    }

    pub(super) fn disconnect(&self, network: &Network) -> Result<()> {
        let mut state = self.state();
        let mut endpoints = state.endpoints.iter();
        let Some(at) = endpoints.position(|endpoint| endpoint.network.same(network)) else {
            let reason = "it is not in this network";
            return Err(Error::invalid(
                &self.subject,
                "network",
                network.name(),
                reason,
            ));
        };
        self.part(&mut state, at)
    }

    pub(super) fn publish(&self, spec: &PortSpec) -> Result<Vec<PublishedPort>> {
        let mut state = self.state();
        self.lead_here(&mut state, spec)?;
        Ok(state.ports.last().map(Port::list).unwrap_or_default())
    }

    pub(super) fn unpublish(&self, spec: &PortSpec) -> Result<()> {
        let mut state = self.state();
        let Some(at) = state.ports.iter().position(|port| port.spec == *spec) else {
            let reason = "it is not published";
            return Err(Error::invalid(&self.subject, "unpublish", spec, reason));
        };
        state.ports.remove(at).close(&self.subject)
    }

    pub(super) fn ports(&self) -> Vec<PublishedPort> {
        self.state().ports.iter().flat_map(Port::list).collect()
    }

    pub(super) fn inspect(&self) -> Vec<EndpointInfo> {
        let of = |endpoint: &Endpoint| EndpointInfo {
            network: endpoint.network.name().to_owned(),
            container: self.container.clone(),
            interface: endpoint.ifname().to_string(),
            mac: written(endpoint.mac()),
            addresses: endpoint.subnets().collect(),
            gateways: endpoint.network.gateways(),
            names: endpoint.names.iter().map(Name::to_string).collect(),
        };
        self.state().endpoints.iter().map(of).collect()
    }

    /// Where its default routes lead, IPv4 first.
    pub(super) fn default_routes(&self) -> Vec<(String, IpAddr)> {
        let state = self.state();
        let both = [state.gateways.ipv4(), state.gateways.ipv6()];
        let named = both.into_iter().flatten();
        named.map(|(name, ip)| (name.to_owned(), ip)).collect()
    }

    pub(super) fn queries(&self) -> Option<Counters> {
        self.state().resolver.as_ref().map(Resolver::counters)
    }

    /// The address that its ports lead to, or else its first.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let state = self.state();
        let target = state
            .target()
            .and_then(|(_, target)| target.addresses.first().copied());
        target.or_else(|| state.endpoints.first()?.addresses().next())
    }

    pub(crate) fn netns(&self) -> std::io::Result<OwnedFd> {
        self.netns.as_fd().try_clone_to_owned()
    }

    pub(super) fn with_endpoints<T>(&self, read: impl FnOnce(&[Endpoint]) -> T) -> T {
        read(&self.state().endpoints)
    }

    /// Whether 127.0.0.11 answers inside.
    pub(super) fn has_resolver(&self) -> bool {
        self.state().resolver.is_some()
    }

    /// Takes it apart, ports first. All steps are tried; the first failure is told.
    pub(crate) fn remove(self, subject: &Subject) -> Result<()> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Ok(());
        for mut port in state.ports {
            outcome = outcome.and(port.close(subject));
        }
        let resolver = state.resolver.map_or(Ok(()), |r| r.remove(subject));
        outcome = outcome.and(resolver);
        for endpoint in state.endpoints {
            outcome = outcome.and(endpoint.remove(subject));
        }
        outcome
    }

    /// What its files for names say.
    pub(super) fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, state: &mut State, connection: &Connection, sole: bool) -> Result<()> {
        let subject = &self.subject;
        let network = &connection.network;
        let name = network.name();
        if state.endpoints.iter().any(|e| e.network.name() == name) {
            let reason = "it is in a network of this name";
            return Err(Error::invalid(subject, "network", name, reason));
        }
        let names = connection.names(subject, &self.plan.own_name, &self.plan.aliases)?;
        let endpoint = Endpoint::new(
            connection,
            &names,
            &self.container,
            subject,
            &self.netns,
            sole,
        )?;
        if let Some(offer) = endpoint.way_out() {
            state
                .gateways
                .join(&self.netns, name, offer)
                .map_err(subject.failed("set the default route"))?;
        }
        state.endpoints.push(endpoint);
        Ok(())
    }

    /// Rules first: whoever gets the address next gets nothing that was meant for this one.
    fn part(&self, state: &mut State, at: usize) -> Result<()> {
        let subject = &self.subject;
        let mut endpoint = state.endpoints.remove(at);
        let name = endpoint.network.name().to_owned();
        let ports = self.lead_again(state);
        endpoint.unlist();
        let served = self.serve(state);
        let route = state.gateways.leave(&self.netns, &name);
        let route = route.map_err(subject.failed("move the default route"));
        // Where the routes lead may decide where ports do.
        let again = self.lead_again(state);
        let removed = endpoint.leave(subject);
        ports.and(served).and(route).and(again).and(removed)
    }

    /// Has the resolver see what the container's networks have now.
    fn serve(&self, state: &mut State) -> Result<()> {
        let hosts = state
            .endpoints
            .iter()
            .flat_map(|e| e.network.host_addresses());
        let gateways: Vec<IpAddr> = hosts.collect();
        state.own_zone = resolver::zone_of(&self.plan.extra_hosts, &gateways);
        let scope = resolver::scope(
            state.own_zone.as_ref(),
            self.plan.upstreams.as_ref(),
            &state.endpoints,
        );
        if let Some(resolver) = &state.resolver {
            return resolver.set_scope(&self.subject, scope);
        }
        state.resolver = Resolver::start(&self.subject, &self.netns, &state.endpoints, scope)?;
        Ok(())
    }

    fn lead_here(&self, state: &mut State, spec: &PortSpec) -> Result<()> {
        let Some((network, target)) = state.target() else {
            return Err(ports::unreachable(&self.subject, spec));
        };
        let port = Port::publish(&self.subject, spec, &network, &target)?;
        state.ports.push(port);
        Ok(())
    }

    /// Has all ports lead to where the container is now. All are closed before the first is led elsewhere.
    fn lead_again(&self, state: &mut State) -> Result<()> {
        let to = state.target();
        let target = to.as_ref().map(|(_, target)| target);
        let strays = |port: &&mut Port| port.strays_from(target);
        let mut outcome = Ok(());
        for port in state.ports.iter_mut().filter(strays) {
            outcome = outcome.and(port.close(&self.subject));
            if let Some((network, target)) = &to {
                outcome = outcome.and(port.lead(&self.subject, network, target));
            }
        }
        outcome
    }
}

impl State {
    /// Where ports lead: to the addresses in the network that has the default route, since answers go out there; if that takes
    /// no ports, to the first that does.
    fn target(&self) -> Option<(Network, Target)> {
        let takes = |endpoint: &&Endpoint| endpoint.network.portmap().is_some();
        let default = |ipv6: bool| match ipv6 {
            false => self.gateways.ipv4(),
            true => self.gateways.ipv6(),
        };
        let of_family = |ipv6: bool| {
            let name = default(ipv6).map(|(name, _)| name);
            let has = |e: &&Endpoint| e.addresses().any(|ip| ip.is_ipv6() == ipv6);
            let mut candidates = self.endpoints.iter().filter(takes).filter(has);
            let first = candidates.clone().next();
            let preferred = candidates.find(|e| Some(e.network.name()) == name);
            let endpoint = preferred.or(first)?;
            let ip = endpoint.addresses().find(|ip| ip.is_ipv6() == ipv6)?;
            Some((endpoint.network.clone(), ip))
        };
        let (ipv4, ipv6) = (of_family(false), of_family(true));
        let addresses = [&ipv4, &ipv6].into_iter().flatten();
        let addresses = addresses.map(|(_, ip)| *ip).collect();
        let (network, _) = ipv4.or(ipv6)?;
        Some((network, Target { addresses }))
    }
}
