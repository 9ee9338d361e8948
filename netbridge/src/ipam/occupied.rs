//! What a new subnet must not overlap.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::span::{Family, Span, Spans};

/// Networks in use: what a new subnet must not overlap. A plain value, empty by [`Default`].
///
/// ```no_run
/// use cofferdam_netbridge::ipam::{Family, Occupied, Pools};
///
/// let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
/// let occupied = Occupied::of_caller()?.nameservers(&resolv_conf);
/// let subnet = Pools::default().find(Family::V4, "app", &occupied)?;
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Occupied {
    on_link: Vec<IpNetwork>,
    routed: Vec<IpNetwork>,
}

impl Occupied {
    /// This network is in use: of an address, or reached on a link without a router.
    ///
    /// What covers half of all addresses or more does not count, nor do `fc00::/7` and shorter prefixes of IPv6: such
    /// routes are put up by VPNs (`0.0.0.0/1` and `128.0.0.0/1`, `2000::/3`, `fc00::/7`) to go before the default route
    /// without replacing it. They say where everything goes that nobody else knows, not that a network is there. If they
    /// counted, no network could be made while a VPN is up.
    pub fn on_link_network(mut self, network: IpNetwork) -> Self {
        if !is_default(network) {
            self.on_link.push(network);
        }
        self
    }

    /// A router is known for this network. It is used where nothing else is left: an office's network may announce all of
    /// `10.0.0.0/8`, and with it every pool there is, though hardly anything is there.
    pub fn routed(mut self, network: IpNetwork) -> Self {
        if !is_default(network) {
            self.routed.push(network);
        }
        self
    }

    /// The addresses of the `nameserver` lines of a resolv.conf(5): a name server behind a VPN may be in a network of
    /// which the host has no route of its own. Other lines, and addresses that cannot be read, say nothing.
    pub fn nameservers(self, resolv_conf: &str) -> Self {
        let addresses = resolv_conf.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            let address = words.next()?;
            // fe80::1%eth0
            let address = address
                .split_once('%')
                .map_or(address, |(address, _)| address);
            address.parse::<IpAddr>().ok()
        });
        addresses.fold(self, |occupied, address| {
            occupied.on_link_network(address.into())
        })
    }

    /// Whether `network` overlaps any of them, those that are only routed included.
    #[must_use]
    pub fn overlaps(&self, network: IpNetwork) -> bool {
        let family = Family::of(network.ip());
        self.all(family).overlapped(Span::of(network)).is_some()
    }

    pub(crate) fn on_link(&self, family: Family) -> Spans {
        spans(family, self.on_link.iter())
    }

    pub(crate) fn all(&self, family: Family) -> Spans {
        spans(family, self.on_link.iter().chain(&self.routed))
    }
}

/// A default route, or a part of one.
fn is_default(network: IpNetwork) -> bool {
    match network {
        IpNetwork::V4(network) => network.prefix() <= 1,
        IpNetwork::V6(network) => network.prefix() <= 7,
    }
}

fn spans<'a>(family: Family, networks: impl Iterator<Item = &'a IpNetwork>) -> Spans {
    let of_family = networks.filter(|network| Family::of(network.ip()) == family);
    Spans::new(of_family.map(|&network| Span::of(network)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn default_routes_and_their_parts_do_not_count() {
        for network in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "::/0",
            "::/1",
            "8000::/1",
            "2000::/3",
            "fc00::/7",
        ] {
            let occupied = Occupied::default().on_link_network(net(network));
            assert_eq!(occupied.routed(net(network)), Occupied::default());
        }
        for network in ["10.0.0.0/8", "64.0.0.0/2", "fd00::/8"] {
            assert!(
                Occupied::default()
                    .routed(net(network))
                    .overlaps(net(network))
            );
        }
    }

    #[test]
    fn the_nameservers_of_a_resolv_conf_count() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver  172.20.3.4 # x\r\n\
                    nameserver fe80::1%eth0\nnameserver\nnameserver x\n nameserver 10.1.1.1\n";
        let occupied = Occupied::default().nameservers(text);
        let expected = ["172.20.3.4/32", "fe80::1/128", "10.1.1.1/32"];
        assert_eq!(occupied.on_link, expected.map(net));
        assert!(occupied.overlaps(net("172.20.3.0/24")));
        assert!(!occupied.overlaps(net("1.1.1.0/24")));
    }
}
