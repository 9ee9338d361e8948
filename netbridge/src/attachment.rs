//! What a container gets of a network.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::error::{Error, Result};
use crate::ifname::IfName;
use crate::interface_sysctl::InterfaceSysctl;
use crate::mac::{Mac, is_unicast};
use crate::message::{mac_of, mac_of_bytes};
use crate::port_flags::PortFlags;
use crate::port_settings::{Guard, PortSettings};
use crate::port_vlans::PortVlans;
use crate::route::Route;

/// The smallest MTU with which the kernel does IPv6.
pub(crate) const IPV6_MTU: u32 = 1280;

/// What a container gets of a network: [`Bridge::attach`](crate::Bridge::attach) does it.
///
/// ```
/// use cofferdam_netbridge::{Attachment, Gateway, Route};
///
/// let second_network = Attachment::new("172.21.0.2/24".parse().unwrap())
///     .address("fd00:21::2/64".parse().unwrap())
///     .gateway(Gateway::None)
///     .route(Route::via("10.0.0.0/8".parse().unwrap(), "172.21.0.9".parse().unwrap()));
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "an attachment does nothing until it is attached"]
pub struct Attachment {
    pub(crate) addresses: Vec<IpNetwork>,
    pub(crate) gateway4: Gateway,
    pub(crate) gateway6: Gateway,
    pub(crate) gateway_metric: Option<u32>,
    pub(crate) routes: Vec<Route>,
    pub(crate) ifname: Option<IfName>,
    pub(crate) host_ifname: Option<IfName>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: Option<u32>,
    pub(crate) port: PortSettings,
    pub(crate) sysctls: Vec<InterfaceSysctl>,
}

/// Where a container's default route leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gateway {
    /// To the bridge, or whatever is the gateway of the network; nowhere where the network has none.
    #[default]
    Bridge,
    /// To this address of the subnet.
    Address(IpAddr),
    /// There is none: an internal network, or the container has one by another network.
    None,
}

impl Attachment {
    /// An interface with this address and a default route to the bridge. The prefix is the bridge's, where the address is
    /// in a subnet of it. The interface is named `eth0`, or the first `ethN` that is free.
    ///
    /// [`Attachment::default`] is one without an address.
    pub fn new(address: IpNetwork) -> Self {
        Attachment::default().address(address)
    }

    /// One more address, of either family. A container with an IPv6 address has IPv6, any other has it off.
    pub fn address(mut self, address: IpNetwork) -> Self {
        self.addresses.push(address);
        self
    }

    /// Where the default routes lead: an address is for its own family, the others for both.
    pub fn gateway(mut self, gateway: Gateway) -> Self {
        match gateway {
            Gateway::Address(IpAddr::V4(_)) => self.gateway4 = gateway,
            Gateway::Address(IpAddr::V6(_)) => self.gateway6 = gateway,
            Gateway::Bridge | Gateway::None => {
                self.gateway4 = gateway;
                self.gateway6 = gateway;
            }
        }
        self
    }

    /// The metric of the default routes: the one with the lowest is used. Without it the kernel's default.
    pub fn gateway_metric(mut self, metric: u32) -> Self {
        self.gateway_metric = Some(metric);
        self
    }

    /// One more route, beside the default ones.
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// The name of the interface in the container. Without it `eth0`, or the first `ethN` that is free there; it keeps
    /// that name whatever comes and goes beside it.
    pub fn ifname(mut self, name: IfName) -> Self {
        self.ifname = Some(name);
        self
    }

    /// The name of the host's end. Without it, one is derived of the bridge, the namespace, the interface name and
    /// the hardware address.
    pub fn host_ifname(mut self, name: IfName) -> Self {
        self.host_ifname = Some(name);
        self
    }

    /// The hardware address of the interface. Without it, one is derived of the first address.
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// The MTU in bytes. Without it, that of the network.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Flags of the port of the bridge, such as [`Isolated`](crate::PortFlag::Isolated): the port has them before anything
    /// goes through it. Called again, what is said last counts. One more message reads them back.
    pub fn flags(mut self, flags: PortFlags) -> Self {
        self.port.flags = flags.or(self.port.flags);
        self
    }

    /// The VLANs of the port of the bridge, which it is in before anything goes through it. Without them, that of
    /// [`BridgeOptions::vlan_filtering`](crate::BridgeOptions::vlan_filtering).
    pub fn vlans(mut self, vlans: PortVlans) -> Self {
        self.port.vlans = Some(vlans);
        self
    }

    /// Has the bridge drop what the container sends in the name of another hardware address, from its first frame on, as
    /// [`Port::guard_mac`](crate::Port::guard_mac) does: where it cannot, nothing is attached.
    pub fn guard_mac(mut self) -> Self {
        self.port.guard = Guard::Mac;
        self
    }

    /// A setting of the interface inside, written before the interface goes up and after those this crate makes. Called
    /// again, it is one more.
    pub fn sysctl(mut self, sysctl: InterfaceSysctl) -> Self {
        self.sysctls.push(sysctl);
        self
    }

    /// The hardware address given, or else derived: of the first address, or where there is none of `seed`.
    pub(crate) fn mac_or_derived(&self, seed: &[u8]) -> Mac {
        self.mac.unwrap_or_else(|| match self.addresses.first() {
            Some(address) => mac_of(address.ip()),
            None => mac_of_bytes(seed),
        })
    }

    /// What the kernel would refuse, or worse, not refuse. `what` says what it is for, `mtu` is that of the network.
    pub(crate) fn check(&self, what: &str, mtu: u32) -> Result<()> {
        let mtu = self.mtu.unwrap_or(mtu);
        if mtu < IPV6_MTU && self.addresses.iter().any(IpNetwork::is_ipv6) {
            let why = format!("IPv6 needs an MTU of {IPV6_MTU}, and it is {mtu}");
            return Err(Error::invalid(what, why));
        }
        if self.mac.is_some_and(|mac| !is_unicast(mac)) {
            return Err(Error::invalid(what, "the hardware address is no host's"));
        }
        let faulty = |route: &Route| Some(format!("{route}: {}", route.fault()?));
        if let Some(fault) = self.routes.iter().find_map(faulty) {
            return Err(Error::invalid(what, fault));
        }
        for (number, address) in self.addresses.iter().enumerate() {
            if self.addresses[..number]
                .iter()
                .any(|a| a.ip() == address.ip())
            {
                return Err(Error::invalid(what, format!("{} twice", address.ip())));
            }
        }
        Ok(())
    }

    /// The default routes and the others, in the order in which they work. `bridge` gives the gateway of a family that the
    /// network has.
    pub(crate) fn all_routes(
        &self,
        what: &str,
        bridge: impl Fn(&IpNetwork) -> Option<IpAddr>,
    ) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for (gateway, ipv4) in [(self.gateway4, true), (self.gateway6, false)] {
            let first = self.addresses.iter().find(|a| a.is_ipv4() == ipv4);
            let by = match (gateway, first) {
                (Gateway::Bridge, Some(address)) => bridge(address),
                (Gateway::Address(by), Some(_)) => Some(by),
                (Gateway::Address(by), None) => {
                    let why = format!("gateway {by}, but no address of its family");
                    return Err(Error::invalid(what, why));
                }
                (Gateway::None, _) | (Gateway::Bridge, None) => None,
            };
            let route = by.map(Route::default_via);
            routes.extend(route.map(|route| match self.gateway_metric {
                Some(metric) => route.metric(metric),
                None => route,
            }));
        }
        // What is on the link first: the others may lead there.
        let (direct, others): (Vec<_>, Vec<_>) = self
            .routes
            .iter()
            .cloned()
            .partition(|route| matches!(route.kind, crate::RouteKind::Direct));
        Ok(direct.into_iter().chain(routes).chain(others).collect())
    }
}

/// Why no container can have it.
pub(crate) fn address_fault(address: IpNetwork) -> Option<&'static str> {
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
        return Some("it is no host's address");
    }
    match address {
        IpNetwork::V4(v4)
            if v4.prefix() < 31 && (v4.ip() == v4.network() || v4.ip() == v4.broadcast()) =>
        {
            Some("it is the network or the broadcast address")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn bridge(address: &IpNetwork) -> Option<IpAddr> {
        address
            .is_ipv4()
            .then(|| IpAddr::from([10, 0, 0, 1]))
            .or("fd00::1".parse().ok())
    }

    fn routes(attachment: &Attachment) -> Vec<String> {
        let routes = attachment.all_routes("attach", bridge).unwrap();
        routes.iter().map(Route::to_string).collect()
    }

    #[test]
    fn each_family_has_a_default_route_of_its_own() {
        let both = Attachment::new(net("10.0.0.2/24")).address(net("fd00::2/64"));
        let (v4, v6) = ("default route via 10.0.0.1", "default route via fd00::1");
        assert_eq!(routes(&both), [v4, v6]);
        assert_eq!(routes(&Attachment::new(net("fd00::2/64"))), [v6]);
        assert!(routes(&Attachment::default()).is_empty());
        assert!(routes(&both.clone().gateway(Gateway::None)).is_empty());
        let other = Gateway::Address("10.0.0.9".parse().unwrap());
        let routed = both.gateway(other).gateway_metric(5);
        let expected = [
            "default route via 10.0.0.9 metric 5",
            "default route via fd00::1 metric 5",
        ];
        assert_eq!(routes(&routed), expected);
    }

    #[test]
    fn routes_on_the_link_come_before_those_that_lead_there() {
        let attachment = Attachment::new(net("10.0.0.2/32"))
            .route(Route::via(net("10.9.0.0/16"), "10.1.0.1".parse().unwrap()))
            .route(Route::direct(net("10.1.0.1/32")));
        let expected = [
            "route 10.1.0.1/32",
            "default route via 10.0.0.1",
            "route 10.9.0.0/16 via 10.1.0.1",
        ];
        assert_eq!(routes(&attachment), expected);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let one = Attachment::new(net("10.0.0.2/24"));
        let route = Route::via(net("10.9.0.0/16"), "fd00::1".parse().unwrap());
        for bad in [
            one.clone().mac([1; 6]),
            one.clone().mac([0; 6]),
            one.clone().address(net("10.0.0.2/16")),
            one.clone().route(route),
            one.clone().address(net("fd00::2/64")).mtu(1279),
        ] {
            let error = bad.check("attach", 1500).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let gateway = Gateway::Address("fd00::1".parse().unwrap());
        assert!(
            one.clone()
                .gateway(gateway)
                .all_routes("attach", bridge)
                .is_err()
        );
        assert!(one.check("attach", 1279).is_ok());
    }

    #[test]
    fn addresses_no_container_can_have_are_refused() {
        for bad in [
            "10.0.0.0/24",
            "10.0.0.255/24",
            "0.0.0.0/0",
            "127.0.0.1/8",
            "ff02::1/64",
            "::1/128",
        ] {
            assert!(address_fault(bad.parse().unwrap()).is_some(), "{bad}");
        }
        for good in ["10.0.0.1/24", "10.0.0.0/31", "10.0.0.255/32", "fd00::/64"] {
            assert_eq!(address_fault(good.parse().unwrap()), None, "{good}");
        }
    }
}
