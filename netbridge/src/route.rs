//! Routes a container gets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// A route of a container: a plain value, which [`Attachment::route`](crate::Attachment::route) takes.
///
/// ```
/// use cofferdam_netbridge::Route;
///
/// let lan = Route::via("192.168.0.0/16".parse().unwrap(), "10.0.0.9".parse().unwrap()).metric(50);
/// let nowhere = Route::blackhole("169.254.169.254/32".parse().unwrap());
/// assert_eq!(lan.to_string(), "route 192.168.0.0/16 via 10.0.0.9 metric 50");
/// # drop(nowhere);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "a route does nothing until it is attached"]
pub struct Route {
    pub(crate) destination: IpNetwork,
    pub(crate) kind: RouteKind,
    pub(crate) metric: Option<u32>,
    pub(crate) onlink: bool,
}

/// Where a [`Route`] leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RouteKind {
    /// To a router.
    Via(IpAddr),
    /// The destination is on the link itself.
    Direct,
    /// Packets are dropped without a word.
    Blackhole,
    /// Packets are dropped, and the sender is told that there is no way.
    Unreachable,
    /// Packets are dropped, and the sender is told that it is forbidden.
    Prohibit,
}

impl Route {
    /// By a router on the link.
    pub fn via(destination: IpNetwork, gateway: IpAddr) -> Self {
        Route::new(destination, RouteKind::Via(gateway))
    }

    /// The default route of the gateway's family.
    pub fn default_via(gateway: IpAddr) -> Self {
        Route::via(everything(gateway), gateway)
    }

    /// The destination is on the link, without a router.
    pub fn direct(destination: IpNetwork) -> Self {
        Route::new(destination, RouteKind::Direct)
    }

    /// Packets are dropped without a word.
    pub fn blackhole(destination: IpNetwork) -> Self {
        Route::new(destination, RouteKind::Blackhole)
    }

    /// Packets are dropped; the sender is told that there is no way (`EHOSTUNREACH`).
    pub fn unreachable(destination: IpNetwork) -> Self {
        Route::new(destination, RouteKind::Unreachable)
    }

    /// Packets are dropped; the sender is told that it is forbidden (`EACCES`).
    pub fn prohibit(destination: IpNetwork) -> Self {
        Route::new(destination, RouteKind::Prohibit)
    }

    /// The metric: of two routes to a destination the lower one is used. Without it the kernel's default, 0 for IPv4
    /// and 1024 for IPv6.
    pub fn metric(mut self, metric: u32) -> Self {
        self.metric = Some(metric);
        self
    }

    /// The router is on the link, though no address of the link says so (`RTNH_F_ONLINK`).
    #[doc(alias = "RTNH_F_ONLINK")]
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    /// The destination.
    #[must_use]
    pub fn destination(&self) -> IpNetwork {
        self.destination
    }

    /// Where it leads.
    #[must_use]
    pub fn kind(&self) -> RouteKind {
        self.kind
    }

    /// Whether it is for every destination of its family.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.destination.prefix() == 0
    }

    fn new(destination: IpNetwork, kind: RouteKind) -> Self {
        Route {
            destination,
            kind,
            metric: None,
            onlink: false,
        }
    }

    /// Why the kernel would not take it, as far as can be told without asking.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        match self.kind {
            RouteKind::Via(gateway) if gateway.is_ipv4() != self.destination.is_ipv4() => {
                Some("the gateway is not of the destination's family")
            }
            RouteKind::Via(gateway) if gateway.is_unspecified() || gateway.is_multicast() => {
                Some("the gateway is no host's address")
            }
            RouteKind::Via(_) => None,
            _ if self.onlink => Some("onlink is for a gateway"),
            _ => None,
        }
    }
}

/// `0.0.0.0/0` or `::/0`.
fn everything(of: IpAddr) -> IpNetwork {
    let unspecified = match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNetwork::new(unspecified, 0).unwrap_or(unspecified.into())
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RouteKind::Blackhole => "blackhole ",
            RouteKind::Unreachable => "unreachable ",
            RouteKind::Prohibit => "prohibit ",
            RouteKind::Via(_) | RouteKind::Direct => "",
        };
        match self.is_default() {
            true => write!(f, "default {kind}route")?,
            false => write!(f, "{kind}route {}", self.destination)?,
        }
        if let RouteKind::Via(gateway) = self.kind {
            write!(f, " via {gateway}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_says_what_it_is() {
        let net = |text: &str| text.parse().unwrap();
        for (route, text) in [
            (
                Route::default_via("fe80::1".parse().unwrap()),
                "default route via fe80::1",
            ),
            (
                Route::direct(net("10.0.0.0/8")).metric(3),
                "route 10.0.0.0/8 metric 3",
            ),
            (Route::blackhole(net("::/0")), "default blackhole route"),
            (
                Route::prohibit(net("10.0.0.0/8")),
                "prohibit route 10.0.0.0/8",
            ),
        ] {
            assert_eq!(route.to_string(), text);
            assert_eq!(route.fault(), None);
        }
    }

    #[test]
    fn a_route_the_kernel_would_not_take_is_told() {
        let all: IpNetwork = "0.0.0.0/0".parse().unwrap();
        for route in [
            Route::via(all, "fe80::1".parse().unwrap()),
            Route::via(all, "0.0.0.0".parse().unwrap()),
            Route::via(all, "224.0.0.1".parse().unwrap()),
            Route::blackhole(all).onlink(),
        ] {
            assert!(route.fault().is_some(), "{route}");
        }
    }
}
