//! The default routes of a container that is in several networks.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use ipnetwork::IpNetwork;

use crate::answer::{LinkAnswer, RouteAnswer};
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::ipam::Family;
use crate::message;
use crate::message::gateway::Default as Route;
use crate::netns::run_in;
use crate::socket::Socket;

/// What one network offers a container on the way out.
///
/// ```
/// use cofferdam_netbridge::NetworkGateway;
///
/// let front = NetworkGateway::new("eth1".parse()?)
///     .ipv4([172, 20, 0, 1].into())
///     .ipv6("fd00:20::1".parse().unwrap())
///     .priority(10);
/// # drop(front);
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it does nothing until a container joins the network"]
pub struct NetworkGateway {
    ifname: IfName,
    priority: i32,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

impl NetworkGateway {
    /// What the gateways of a network offer those of its families that a container has addresses of.
    pub(crate) fn of_network(
        ifname: &IfName,
        addresses: &[IpNetwork],
        gateway_for: impl Fn(IpAddr) -> Option<IpAddr>,
    ) -> Self {
        let gateways = addresses.iter().filter_map(|a| gateway_for(a.ip()));
        gateways.fold(
            NetworkGateway::new(ifname.clone()),
            |offer, gateway| match gateway {
                IpAddr::V4(gateway) => offer.ipv4(gateway),
                IpAddr::V6(gateway) => offer.ipv6(gateway),
            },
        )
    }

    /// Nothing yet, on this interface of the container. [`Bridge::gateway_of`](crate::Bridge::gateway_of) and that of the
    /// other kinds say it of a link that is attached.
    pub fn new(ifname: IfName) -> Self {
        NetworkGateway {
            ifname,
            priority: 0,
            ipv4: None,
            ipv6: None,
        }
    }

    /// A router for IPv4.
    pub fn ipv4(mut self, gateway: Ipv4Addr) -> Self {
        self.ipv4 = Some(gateway);
        self
    }

    /// A router for IPv6.
    pub fn ipv6(mut self, gateway: Ipv6Addr) -> Self {
        self.ipv6 = Some(gateway);
        self
    }

    /// Of two networks, the one with the higher priority has the default route. 0 where nothing is said.
    #[doc(alias = "gw-priority")]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    fn of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ipv4.map(IpAddr::V4),
            Family::V6 => self.ipv6.map(IpAddr::V6),
        }
    }
}

/// The default routes of a container that is in several networks: of each family the one that the network of the
/// highest priority offers; of equal ones, that whose name comes first.
///
/// A plain value: it holds nothing of the container. Attach without a gateway
/// ([`Gateway::None`](crate::Gateway::None)), then [`join`](Gateways::join); [`leave`](Gateways::leave), then remove the
/// port. So the default route moves while both networks are there, in one step of the kernel (`NLM_F_REPLACE`): no packet
/// finds none, or two.
///
/// ```no_run
/// use cofferdam_netbridge::{Attachment, Bridge, Gateway, Gateways, NetNs};
///
/// # let (back, front): (Bridge, Bridge) = todo!();
/// let netns = NetNs::new()?;
/// let mut gateways = Gateways::new();
/// let first = Attachment::new("172.20.0.2/24".parse().unwrap()).gateway(Gateway::None);
/// let eth0 = back.attach(&netns, first)?;
/// gateways.join(&netns, "back", back.gateway_of(&eth0))?;
///
/// let second = Attachment::new("172.21.0.2/24".parse().unwrap()).gateway(Gateway::None);
/// let eth1 = front.attach(&netns, second)?;
/// gateways.join(&netns, "front", front.gateway_of(&eth1).priority(10))?;   // the default route moves to eth1
///
/// gateways.leave(&netns, "front")?;                                        // and back to eth0
/// eth1.remove()?;
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
///
/// Routes that it did not make are left alone: a default route of the container's own is a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateways {
    networks: BTreeMap<String, NetworkGateway>,
    /// What was made, and is taken to be there.
    made: Made,
}

type Made = BTreeMap<Family, Route>;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Gateways {
    /// Of a container that is in no network yet.
    #[must_use]
    pub fn new() -> Self {
        Gateways::default()
    }

    /// Takes a network in, whose interface is there, and gives it the default routes that are now its own, as by
    /// `RTM_NEWROUTE` in `netns`. A failure changes nothing.
    ///
    /// # Errors
    /// `AlreadyExists` where the container is in a network of the name, or has a default route that is not made here;
    /// `NotFound` without the interface; `InvalidInput` where the router is not on it; `PermissionDenied` without
    /// `CAP_NET_ADMIN` over the namespace or `CAP_SYS_ADMIN` to enter it.
    pub fn join(&mut self, netns: impl AsFd, network: &str, gateway: NetworkGateway) -> Result<()> {
        if self.networks.contains_key(network) {
            let what = format!("join network {network:?}");
            let why = "the container is in it";
            return Err(Error::plain(ErrorKind::AlreadyExists, what, why));
        }
        self.networks.insert(network.to_owned(), gateway);
        let netns = netns.as_fd();
        let Err(error) = self.apply(netns) else {
            return Ok(());
        };
        self.networks.remove(network);
        // What could be moved is moved back; the first error is the one to tell.
        let _unused = self.apply(netns).is_ok();
        Err(error)
    }

    /// Lets a network go, and moves its default routes to the next. To be called before its interface is removed; where
    /// that is gone already, the routes went with it and the next network's are made. Not to be in it is a success.
    ///
    /// # Errors
    /// As [`join`](Gateways::join), but for the name; then the network is let go all the same, and
    /// [`refresh`](Gateways::refresh) tries again.
    pub fn leave(&mut self, netns: impl AsFd, network: &str) -> Result<()> {
        self.networks.remove(network);
        self.refresh(netns)
    }

    /// Looks whether the default routes are there, and makes what is missing: after an interface was set down and up,
    /// which takes its routes away.
    ///
    /// # Errors
    /// As [`join`](Gateways::join).
    pub fn refresh(&mut self, netns: impl AsFd) -> Result<()> {
        self.apply(netns.as_fd())
    }

    /// The network that has the default route of IPv4, and the router.
    #[must_use]
    pub fn ipv4(&self) -> Option<(&str, IpAddr)> {
        self.chosen(Family::V4)
            .map(|(name, _, gateway)| (name, gateway))
    }

    /// The network that has the default route of IPv6, and the router.
    #[must_use]
    pub fn ipv6(&self) -> Option<(&str, IpAddr)> {
        self.chosen(Family::V6)
            .map(|(name, _, gateway)| (name, gateway))
    }

    fn chosen(&self, family: Family) -> Option<(&str, &IfName, IpAddr)> {
        let offers = self.networks.iter().filter_map(|(name, network)| {
            let gateway = network.of(family)?;
            Some((network.priority, name, &network.ifname, gateway))
        });
        offers
            .max_by_key(|(priority, name, ..)| (*priority, Reverse(*name)))
            .map(|(_, name, ifname, gateway)| (name.as_str(), ifname, gateway))
    }

    fn apply(&mut self, netns: BorrowedFd<'_>) -> Result<()> {
        run_in(netns, || {
            let mut socket = Socket::open()?;
            FAMILIES
                .into_iter()
                .try_for_each(|family| self.apply_one(&mut socket, family))
        })?
    }

    fn apply_one(&mut self, socket: &mut Socket, family: Family) -> Result<()> {
        let wanted = match self.chosen(family) {
            Some((_, ifname, gateway)) => {
                let index = LinkAnswer::parse(&socket.ask_one(message::link_named(ifname))?)?.index;
                Some(Route { gateway, index })
            }
            None => None,
        };
        let made = match self.made.get(&family) {
            Some(made) if is_there(socket, *made)? => Some(*made),
            _ => None,
        };
        let request = match (made, wanted) {
            (Some(made), Some(wanted)) if made == wanted => None,
            (Some(_), Some(wanted)) => Some(message::gateway::move_default(wanted)),
            (Some(made), None) => Some(message::gateway::delete_default(made)),
            (None, Some(wanted)) => Some(message::gateway::add_default(wanted)),
            (None, None) => None,
        };
        if let Some(request) = request {
            socket.ask_one(request)?;
        }
        match wanted {
            Some(wanted) => self.made.insert(family, wanted),
            None => self.made.remove(&family),
        };
        Ok(())
    }
}

/// Whether a default route that was made is the one that a replacement would replace: the first of its metric.
fn is_there(socket: &mut Socket, made: Route) -> Result<bool> {
    let routes = socket.dump(&message::gateway::static_routes(made.gateway))?;
    for route in &routes {
        if let Some(found) = default_route(route)? {
            return Ok(found == Some(made));
        }
    }
    Ok(false)
}

/// `None` where it is no default route of the kernel's own metric; `Some(None)` for one that is not made here.
pub(crate) fn default_route(payload: &[u8]) -> Result<Option<Option<Route>>> {
    let Some(route) = RouteAnswer::parse(payload)? else {
        return Ok(None);
    };
    let kernels_own = if route.destination.is_ipv6() { 1024 } else { 0 };
    if route.destination.prefix() != 0 || route.metric != kernels_own {
        return Ok(None);
    }
    let made = route.gateway.zip(route.link);
    Ok(Some(made.map(|(gateway, index)| Route { gateway, index })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(priority: i32, ipv4: Option<&str>, ipv6: Option<&str>) -> NetworkGateway {
        NetworkGateway {
            ifname: IfName::derived("eth0".to_owned()),
            priority,
            ipv4: ipv4.map(|text| text.parse().unwrap()),
            ipv6: ipv6.map(|text| text.parse().unwrap()),
        }
    }

    fn of(networks: &[(&str, NetworkGateway)]) -> Gateways {
        let networks = networks
            .iter()
            .map(|(name, network)| ((*name).to_owned(), network.clone()));
        Gateways {
            networks: networks.collect(),
            made: Made::new(),
        }
    }

    #[test]
    fn the_priority_decides_then_the_name_and_each_family_for_itself() {
        let gateways = of(&[
            ("c", offer(1, Some("10.0.3.1"), None)),
            ("b", offer(1, Some("10.0.2.1"), None)),
            ("a", offer(-5, Some("10.0.1.1"), Some("fd00:1::1"))),
            ("d", offer(9, None, None)),
            ("e", offer(-6, None, Some("fd00:5::1"))),
        ]);
        assert_eq!(gateways.ipv4(), Some(("b", [10, 0, 2, 1].into())));
        assert_eq!(gateways.ipv6(), Some(("a", "fd00:1::1".parse().unwrap())));
        assert_eq!(Gateways::new().ipv4(), None);
    }

    #[test]
    fn a_default_route_is_told_from_others() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes
        };
        let route = |prefix, attributes: &[Vec<u8>]| {
            let mut header = vec![2, prefix];
            header.resize(12, 0);
            default_route(&[header, attributes.concat()].concat()).unwrap()
        };
        let oif = attribute(4, &7_u32.to_ne_bytes());
        let gateway = attribute(5, &[10, 0, 0, 1]);
        let metric = attribute(6, &50_u32.to_ne_bytes());
        let expected = Route {
            gateway: [10, 0, 0, 1].into(),
            index: 7,
        };
        let both = [oif.clone(), gateway.clone()];
        assert_eq!(route(0, &both), Some(Some(expected)));
        assert_eq!(route(0, std::slice::from_ref(&oif)), Some(None));
        assert_eq!(route(8, &both), None);
        assert_eq!(route(0, &[oif, gateway, metric]), None);
        assert!(default_route(&[2, 0]).is_err());
    }
}
