//! The same publication by each back end.

#[cfg(feature = "iptables")]
use cofferdam_portmap::{Iptables, Programs, Variant};
use cofferdam_portmap::{
    Isolation, NetworkGuard, NetworkSpec, PortMapping, Portmap, Protocol, Published, Ruleset,
};

use crate::world::{At, Family, Who, World};

const TABLE: &str = "matrix";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    NfTables,
    #[cfg(feature = "iptables")]
    Iptables(Variant),
}

/// Dropping it ends the publication.
#[expect(dead_code, reason = "kept for their ends")]
pub(crate) enum Guards {
    NfTables(Published, Vec<NetworkGuard>),
    #[cfg(feature = "iptables")]
    Iptables(Iptables),
}

impl Backend {
    pub(crate) fn publish(self, world: &World) -> Guards {
        let host = world.netns(Who::Host);
        let ruleset = ruleset();
        match self {
            Backend::NfTables => {
                let portmap = host.run(|| Portmap::open(TABLE)).unwrap();
                let networks = ruleset.networks().cloned();
                let networks = networks.map(|network| portmap.network(network).unwrap());
                let networks = networks.collect();
                let ports = portmap.publish_all(ruleset.ports().cloned()).unwrap();
                Guards::NfTables(ports, networks)
            }
            #[cfg(feature = "iptables")]
            Backend::Iptables(variant) => {
                let programs = Programs::find(variant).unwrap();
                let open = || Iptables::with_programs(TABLE, programs);
                let iptables = host.run(open).unwrap();
                iptables.apply(&ruleset).unwrap();
                Guards::Iptables(iptables)
            }
        }
    }
}

/// Networks A and B, an internal one, and ports of `Web`: 80 on every address, 81 on the LAN's, 82 on loopback.
fn ruleset() -> Ruleset {
    let mut ruleset = Ruleset::new(TABLE).unwrap();
    for (bridge, net) in [("bra", 1), ("brb", 2), ("bri", 3)] {
        let network = NetworkSpec::new(bridge)
            .unwrap()
            .subnet(format!("10.{net}.0.0/24").parse().unwrap())
            .subnet(format!("fd00:0:0:{net}::/64").parse().unwrap());
        let isolation = match bridge {
            "bri" => Isolation::Strict,
            _ => Isolation::None,
        };
        ruleset.network(network.isolation(isolation)).unwrap();
    }
    for family in Family::BOTH {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (port, on) in [(80, None), (81, Some(At::Lan)), (82, Some(At::Loopback))] {
                let target = (At::Web.ip(family), port).into();
                let mapping = PortMapping::new(protocol, 8000 + port, target).unwrap();
                let mapping = match on {
                    None => mapping,
                    // No port on ::1 without a proxy.
                    Some(At::Loopback) if family == Family::V6 => continue,
                    Some(at) => mapping.on(at.ip(family)).unwrap(),
                };
                ruleset.publish(mapping).unwrap();
            }
        }
    }
    ruleset
}
