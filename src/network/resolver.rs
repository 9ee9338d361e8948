//! The resolver of one container, whatever networks it is in.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use cofferdam_dns::{
    Counters, Endpoint as Served, ExtraHost, LISTEN, Scope, Server, SharedZone, Upstreams,
};
use cofferdam_netbridge::NetNs;

use super::endpoint::Endpoint;
use crate::error::{Result, Subject};

/// The container's sockets, and the server that reads them.
#[derive(Debug)]
pub(super) struct Resolver {
    served: Served,
    _server: Arc<Server>,
}

impl Resolver {
    /// Serves it, if one of its networks has names.
    pub(super) fn start(
        subject: &Subject,
        netns: &NetNs,
        endpoints: &[Endpoint],
        scope: Scope,
    ) -> Result<Option<Self>> {
        let mut named = endpoints.iter().filter_map(|e| e.network.0.names.as_ref());
        let Some(names) = named.next() else {
            return Ok(None);
        };
        let served = cofferdam_dns::bind_in(netns.as_fd(), LISTEN)
            .and_then(|(udp, tcp)| names.server.serve(udp, tcp, scope))
            .map_err(subject.failed("serve names"))?;
        Ok(Some(Resolver {
            served,
            _server: names.server.clone(),
        }))
    }

    pub(super) fn set_scope(&self, subject: &Subject, scope: Scope) -> Result<()> {
        self.served
            .set_scope(scope)
            .map_err(subject.failed("change the names it sees"))
    }

    pub(super) fn counters(&self) -> Counters {
        self.served.counters()
    }

    pub(super) fn remove(self, subject: &Subject) -> Result<()> {
        self.served
            .remove()
            .map_err(subject.failed("stop serving names"))
    }
}

/// What it may ask: its own extra hosts, the names of its networks, and, where one of them leads out, everything else.
pub(super) fn scope(
    own: Option<&SharedZone>,
    upstreams: Option<&Upstreams>,
    endpoints: &[Endpoint],
) -> Scope {
    let mut scope = own.into_iter().fold(Scope::new(), Scope::zone);
    for names in endpoints.iter().filter_map(|e| e.network.0.names.as_ref()) {
        scope = scope.zone(&names.zone);
    }
    let Some(out) = endpoints.iter().find(|e| !e.network.is_internal()) else {
        return scope.internal();
    };
    let of_network = || out.network.0.options.upstreams.as_ref();
    match upstreams.or_else(of_network) {
        Some(upstreams) => scope.upstreams(upstreams),
        None => scope,
    }
}

/// The extra hosts as names: for programs that ask the resolver and read no file.
pub(super) fn zone_of(hosts: &[ExtraHost], gateways: &[IpAddr]) -> Option<SharedZone> {
    if hosts.is_empty() {
        return None;
    }
    let zone = SharedZone::default();
    zone.update(|zone| {
        for host in hosts {
            for address in host.addresses(gateways) {
                zone.insert(host.name().clone(), address);
            }
        }
    });
    Some(zone)
}
