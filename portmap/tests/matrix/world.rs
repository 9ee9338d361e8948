//! A host with containers and a neighbour on its LAN, each a network namespace, in both families.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Once;

use cofferdam_testkit::{NetNs, load_module};

use crate::links::Links;

/// Who sends and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Host,
    /// On the host's LAN. It knows the way to the containers' subnets.
    Neighbour,
    /// The container that ports are published for, on network A.
    Web,
    /// Another on network A.
    Mate,
    /// One on network B.
    Other,
    /// One on the internal network.
    Inner,
}

impl Who {
    pub(crate) const ALL: [Who; 6] = [
        Who::Host,
        Who::Neighbour,
        Who::Web,
        Who::Mate,
        Who::Other,
        Who::Inner,
    ];
}

/// An address, in either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Loopback,
    /// The host's on the LAN.
    Lan,
    /// The host's on the bridges of networks A, B and of the internal one.
    GateA,
    GateB,
    GateI,
    Neighbour,
    Web,
    Mate,
    Other,
    Inner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl At {
    pub(crate) fn ip(self, family: Family) -> IpAddr {
        let (net, host) = match self {
            At::Loopback => return loopback(family),
            At::Lan => (0, 1),
            At::Neighbour => (0, 2),
            At::GateA => (1, 1),
            At::Web => (1, 2),
            At::Mate => (1, 3),
            At::GateB => (2, 1),
            At::Other => (2, 2),
            At::GateI => (3, 1),
            At::Inner => (3, 2),
        };
        match (family, net) {
            (Family::V4, 0) => Ipv4Addr::new(192, 0, 2, host).into(),
            (Family::V4, _) => Ipv4Addr::new(10, net, 0, host).into(),
            (Family::V6, 0) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
            (Family::V6, _) => Ipv6Addr::new(0xfd00, 0, 0, net.into(), 0, 0, 0, host.into()).into(),
        }
    }
}

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

impl Family {
    pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn prefix(self) -> u8 {
        match self {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    fn any(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Where the subnets of the containers are.
    fn of_containers(self) -> (IpAddr, u8) {
        match self {
            Family::V4 => (Ipv4Addr::new(10, 0, 0, 0).into(), 8),
            Family::V6 => (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        }
    }
}

/// A network of containers: its bridge and the host's address there.
pub(crate) const BRIDGES: [(&str, At); 3] =
    [("bra", At::GateA), ("brb", At::GateB), ("bri", At::GateI)];

/// Where each container is, and by which bridge.
const CONTAINERS: [(Who, At, &str, At); 4] = [
    (Who::Web, At::Web, "bra", At::GateA),
    (Who::Mate, At::Mate, "bra", At::GateA),
    (Who::Other, At::Other, "brb", At::GateB),
    (Who::Inner, At::Inner, "bri", At::GateI),
];

/// Whether br_netfilter shows bridged packets to the hooks of IP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bridged {
    Unseen,
    Seen,
}

impl Bridged {
    /// Those this kernel can have; of the VM's it is both.
    pub(crate) fn possible() -> &'static [Self] {
        static LOADED: Once = Once::new();
        LOADED.call_once(|| load_module("br_netfilter"));
        match Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
            true => &[Bridged::Unseen, Bridged::Seen],
            false => &[Bridged::Unseen],
        }
    }
}

pub(crate) struct World(Vec<(Who, NetNs)>);

impl World {
    pub(crate) fn new(bridged: Bridged) -> Self {
        let world = World(Who::ALL.map(|who| (who, NetNs::new())).into());
        let host = Links::of(world.netns(Who::Host));
        host.veth("lan0", world.netns(Who::Neighbour));
        for (bridge, _) in BRIDGES {
            host.bridge(bridge);
        }
        for (index, (who, _, bridge, _)) in CONTAINERS.iter().enumerate() {
            let port = format!("c{index}");
            host.veth(&port, world.netns(*who));
            host.port(&port, bridge);
        }
        world.netns(Who::Host).run(|| settings(bridged));
        for family in Family::BOTH {
            world.number(&host, family);
        }
        world.forge_loopback(Who::Neighbour, At::Lan);
        world
    }

    pub(crate) fn netns(&self, who: Who) -> &NetNs {
        let found = self.0.iter().find(|(one, _)| *one == who);
        &found.expect("everybody is there").1
    }

    fn number(&self, host: &Links<'_>, family: Family) {
        let prefix = family.prefix();
        host.address("lan0", At::Lan.ip(family), prefix);
        for (bridge, gate) in BRIDGES {
            host.address(bridge, gate.ip(family), prefix);
        }
        let neighbour = Links::of(self.netns(Who::Neighbour));
        neighbour.up("eth0");
        neighbour.address("eth0", At::Neighbour.ip(family), prefix);
        let (containers, length) = family.of_containers();
        neighbour.route(containers, length, At::Lan.ip(family));
        for (who, at, _, gate) in CONTAINERS {
            let inside = Links::of(self.netns(who));
            inside.up("eth0");
            inside.address("eth0", at.ip(family), prefix);
            inside.route(family.any(), 0, gate.ip(family));
        }
    }

    /// Has what `who` sends to 127.0.0.1 leave for the host, as an attacker would.
    fn forge_loopback(&self, who: Who, gateway: At) {
        let links = Links::of(self.netns(who));
        links.forget_local(Ipv4Addr::new(127, 0, 0, 0).into(), 8);
        links.forget_local(Ipv4Addr::LOCALHOST.into(), 32);
        links.route(
            Ipv4Addr::new(127, 0, 0, 0).into(),
            8,
            gateway.ip(Family::V4),
        );
    }
}

/// What the host's owner sets, and the worst an attacker could hope for: no check of the way back.
fn settings(bridged: Bridged) {
    sysctl("ipv4/ip_forward", "1");
    sysctl("ipv6/conf/all/forwarding", "1");
    sysctl("ipv4/conf/all/rp_filter", "0");
    for (bridge, _) in BRIDGES {
        sysctl(&format!("ipv4/conf/{bridge}/rp_filter"), "0");
        sysctl(&format!("ipv4/conf/{bridge}/route_localnet"), "1");
    }
    sysctl("ipv4/conf/lan0/rp_filter", "0");
    for name in ["iptables", "ip6tables"] {
        if Bridged::possible().contains(&Bridged::Seen) {
            let value = if bridged == Bridged::Seen { "1" } else { "0" };
            sysctl(&format!("bridge/bridge-nf-call-{name}"), value);
        }
    }
}

/// Writes a sysctl of the calling thread's network namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}
