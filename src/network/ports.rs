//! Ports of the host that lead to a container, wherever in its networks that is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use cofferdam_portmap::{PortMapping, PortSpec, Portmap, Proxied, Published};

use super::Network;
use super::beside::beside;
use super::inspect::PublishedPort;
use crate::error::{Error, ErrorKind, Result, Subject};

/// What was asked for by one call, and where it leads now.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) spec: PortSpec,
    /// The same with the host ports that were chosen, which stay.
    pinned: Vec<PortSpec>,
    lead: Lead,
}

#[derive(Debug)]
enum Lead {
    /// Its networks have no way to it.
    Nowhere,
    /// With what the rules do not lead of it.
    Rules(Vec<Proxied>, Published),
    Proxy(Vec<(Proxied, IpAddr)>),
}

/// Where ports of a container lead: addresses of one network, at most one a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) addresses: Vec<IpAddr>,
}

impl Port {
    /// Publishes it for the first time: what is to be chosen is chosen.
    pub(super) fn publish(
        subject: &Subject,
        spec: &PortSpec,
        network: &Network,
        target: &Target,
    ) -> Result<Self> {
        let Some(portmap) = network.portmap() else {
            return Err(unreachable(subject, spec));
        };
        let failed = || subject.failed::<cofferdam_portmap::Error>("publish");
        let (lead, pinned) = match by_rules(spec, target) {
            Some(targets) => first_led(subject, spec, network, portmap, &targets)?,
            None => {
                let to = by_proxy(subject, spec, target)?;
                let proxied = network.proxy(subject)?.publish(spec, to);
                let proxied = proxied.map_err(failed())?;
                let pinned = proxied.ports().to_vec();
                (Lead::Proxy(vec![(proxied, to)]), pinned)
            }
        };
        Ok(Port {
            spec: *spec,
            pinned,
            lead,
        })
    }

    /// Whether it leads somewhere else than to these addresses.
    pub(super) fn strays_from(&self, target: Option<&Target>) -> bool {
        let addresses = target
            .map(|target| &target.addresses[..])
            .unwrap_or_default();
        let led: BTreeSet<IpAddr> = match &self.lead {
            Lead::Nowhere => return target.is_some(),
            Lead::Rules(_, published) => {
                published.ports().iter().map(|p| p.target().ip()).collect()
            }
            Lead::Proxy(proxied) => proxied.iter().map(|(_, to)| *to).collect(),
        };
        led.iter().any(|ip| !addresses.contains(ip))
    }

    /// Closes it; it may lead somewhere again.
    pub(super) fn close(&mut self, subject: &Subject) -> Result<()> {
        match std::mem::replace(&mut self.lead, Lead::Nowhere) {
            Lead::Nowhere => Ok(()),
            Lead::Rules(proxied, published) => {
                let proxied = proxied.into_iter().try_for_each(Proxied::remove);
                let removed = proxied.and(published.remove());
                removed.map_err(subject.failed("take back a port"))
            }
            Lead::Proxy(proxied) => proxied.into_iter().try_for_each(|(proxied, _)| {
                proxied.remove().map_err(subject.failed("take back a port"))
            }),
        }
    }

    /// Leads the ports that it had to another place.
    pub(super) fn lead(
        &mut self,
        subject: &Subject,
        network: &Network,
        target: &Target,
    ) -> Result<()> {
        let Some(portmap) = network.portmap() else {
            return Ok(());
        };
        let failed = || subject.failed::<cofferdam_portmap::Error>("publish again");
        self.lead = match by_rules(&self.spec, target) {
            Some(targets) => {
                let published = self.again(portmap, &targets).map_err(failed())?;
                let proxied = beside(subject, &self.pinned, network, &published, &targets)?;
                Lead::Rules(proxied, published)
            }
            None => {
                let to = by_proxy(subject, &self.spec, target)?;
                let proxy = network.proxy(subject)?;
                let each = self.pinned.iter().map(|spec| {
                    let proxied = proxy.publish(spec, to)?;
                    Ok((proxied, to))
                });
                Lead::Proxy(
                    each.collect::<cofferdam_portmap::Result<_>>()
                        .map_err(failed())?,
                )
            }
        };
        Ok(())
    }

    fn again(&self, portmap: &Portmap, targets: &[IpAddr]) -> cofferdam_portmap::Result<Published> {
        let each = self.pinned.iter().flat_map(|spec| {
            targets
                .iter()
                .map(move |target| PortMapping::of_spec(spec, *target))
        });
        let mappings: Vec<PortMapping> = each.collect::<cofferdam_portmap::Result<_>>()?;
        portmap.publish_all(mappings)
    }

    pub(super) fn list(&self) -> Vec<PublishedPort> {
        match &self.lead {
            Lead::Nowhere => Vec::new(),
            Lead::Rules(_, published) => published.ports().iter().map(of_rule).collect(),
            Lead::Proxy(proxied) => proxied
                .iter()
                .flat_map(|(proxied, to)| proxied.ports().iter().map(|port| of_proxy(port, *to)))
                .collect(),
        }
    }
}

/// By rules, and by the proxy what those do not lead, all at the same ports of the host.
fn first_led(
    subject: &Subject,
    spec: &PortSpec,
    network: &Network,
    portmap: &Portmap,
    targets: &[IpAddr],
) -> Result<(Lead, Vec<PortSpec>)> {
    const TRIES: usize = 8;
    let failed = || subject.failed::<cofferdam_portmap::Error>("publish");
    let mut tries = 0;
    loop {
        tries += 1;
        let published = portmap.publish_to(spec, targets).map_err(failed())?;
        let pinned = pin(spec, published.ports()).map_err(failed())?;
        match beside(subject, &pinned, network, &published, targets) {
            Ok(proxied) => return Ok((Lead::Rules(proxied, published), pinned)),
            // One that was chosen, and that a process has in the other family: the next.
            Err(error) if error.kind() == ErrorKind::Busy && is_chosen(spec) && tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether it leaves a port of the host to be chosen.
fn is_chosen(spec: &PortSpec) -> bool {
    !spec.expand().all(|one| one.is_single())
}

/// The addresses that rules can lead it to; none where it takes a proxy: for `::1`, and from one family to the other.
fn by_rules(spec: &PortSpec, target: &Target) -> Option<Vec<IpAddr>> {
    let of_host = |ip: &&IpAddr| {
        spec.host_ip()
            .is_none_or(|host| host.is_ipv6() == ip.is_ipv6())
    };
    let targets: Vec<IpAddr> = target.addresses.iter().filter(of_host).copied().collect();
    let loopback = spec.host_ip() == Some(IpAddr::V6(Ipv6Addr::LOCALHOST));
    (!loopback && !targets.is_empty()).then_some(targets)
}

fn by_proxy(subject: &Subject, spec: &PortSpec, target: &Target) -> Result<IpAddr> {
    let first = target.addresses.first().copied();
    first.ok_or_else(|| unreachable(subject, spec))
}

pub(super) fn unreachable(subject: &Subject, spec: &PortSpec) -> Error {
    let reason =
        "none of its networks takes published ports: a bridge network that is not internal does";
    Error::invalid(subject, "publish", spec, reason)
}

/// Each host port once, whatever families it is of.
fn pin(spec: &PortSpec, ports: &[PortMapping]) -> cofferdam_portmap::Result<Vec<PortSpec>> {
    let pairs: BTreeSet<(u16, u16)> = ports
        .iter()
        .map(|port| (port.host_port(), port.target().port()))
        .collect();
    let each = pairs.into_iter().map(|(host, inside)| {
        let pinned = PortSpec::new(host, inside)?.with_protocol(spec.protocol());
        Ok(match spec.host_ip() {
            Some(ip) => pinned.with_host_ip(ip),
            None => pinned,
        })
    });
    each.collect()
}

fn of_rule(port: &PortMapping) -> PublishedPort {
    PublishedPort {
        host_ip: port.host_ip(),
        host_port: port.host_port(),
        container: port.target(),
        protocol: port.protocol().to_string(),
        proxied: false,
    }
}

fn of_proxy(port: &PortSpec, to: IpAddr) -> PublishedPort {
    PublishedPort {
        host_ip: port.host_ip(),
        host_port: port.host_port(),
        container: SocketAddr::new(to, port.container_port()),
        protocol: port.protocol().to_string(),
        proxied: true,
    }
}
