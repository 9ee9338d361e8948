//! What a network is to be.

use std::path::PathBuf;

use cofferdam_dns::Upstreams;
use cofferdam_netbridge::{
    BridgeOptions, Ipvlan, IpvlanBuilder, IpvlanMode, Macvlan, MacvlanBuilder, Parent, Pools,
    VxlanBuilder,
};
use ipnetwork::IpNetwork;

use super::Network;

/// Says what a [`Network`] is to be.
///
/// ```no_run
/// use cofferdam::Network;
/// use cofferdam::netbridge::{Dummy, Vxlan};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let plain = Network::bridge("app").create()?; // subnet picked, names at 127.0.0.11, translated on the way out
/// let fixed = Network::bridge("lab").subnet("172.30.0.0/24".parse()?).ipv6().mtu(1400).without_icc().create()?;
/// let wide = Network::bridge("wide").subnet("10.9.0.0/24".parse()?)
///     .vxlan(Vxlan::builder("vx0".parse()?, 42).local("192.0.2.1".parse()?)).create()?;
/// let alone = Network::macvlan("alone", Dummy::builder("dummy0".parse()?)).subnet("10.8.0.0/24".parse()?).create()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a NetworkBuilder does nothing until create"]
pub struct NetworkBuilder {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// With the gateway's address in it, or that of the mere network.
    pub(super) subnets: Vec<IpNetwork>,
    pub(super) ranges: Vec<IpNetwork>,
    pub(super) pools: Option<Pools>,
    pub(super) ipv6: bool,
    pub(super) internal: bool,
    pub(super) dns: bool,
    pub(super) icc: bool,
    pub(super) masquerade: bool,
    pub(super) guard_mac: bool,
    pub(super) proxy: bool,
    pub(super) trusted: Vec<String>,
    pub(super) mtu: Option<u32>,
    pub(super) upstreams: Option<Upstreams>,
    pub(super) runtime_dir: Option<PathBuf>,
    /// An option that its kind does not have.
    pub(super) misplaced: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Bridge {
        options: BridgeOptions,
        vxlan: Option<VxlanBuilder>,
    },
    Macvlan {
        builder: MacvlanBuilder,
        parent: Parent,
    },
    Ipvlan {
        parent: Parent,
        builder: IpvlanBuilder,
        layer3: bool,
    },
}

impl Network {
    /// Says what a network of links upon one of the host's will be, each with a hardware address of its own. Its containers are
    /// neighbours of the machines there: [`subnet`](NetworkBuilder::subnet) must be theirs, with addresses that nobody else
    /// has. The host does not reach them, nor they the host, and no ports are published.
    ///
    /// `parent` is the name of a link, or a [`Vlan`](crate::netbridge::Vlan) or [`Dummy`](crate::netbridge::Dummy) to make.
    pub fn macvlan(name: impl Into<String>, parent: impl Into<Parent>) -> NetworkBuilder {
        let parent = parent.into();
        let builder = Macvlan::builder(parent.clone());
        NetworkBuilder::new(name.into(), Kind::Macvlan { builder, parent })
    }

    /// As [`macvlan`](Self::macvlan), with the hardware address of the parent, and by `mode` without a gateway: in layer 3 the
    /// link itself leads everywhere.
    pub fn ipvlan(
        name: impl Into<String>,
        parent: impl Into<Parent>,
        mode: IpvlanMode,
    ) -> NetworkBuilder {
        let layer3 = mode != IpvlanMode::L2;
        let parent = parent.into();
        let builder = Ipvlan::builder(parent.clone()).mode(mode);
        let kind = Kind::Ipvlan {
            parent,
            builder,
            layer3,
        };
        NetworkBuilder::new(name.into(), kind)
    }
}

impl NetworkBuilder {
    pub(super) fn bridge(name: String) -> Self {
        let options = BridgeOptions::new();
        let vxlan = None;
        NetworkBuilder::new(name, Kind::Bridge { options, vxlan })
    }

    fn new(name: String, kind: Kind) -> Self {
        NetworkBuilder {
            name,
            kind,
            subnets: Vec::new(),
            ranges: Vec::new(),
            pools: None,
            ipv6: false,
            internal: false,
            dns: true,
            icc: true,
            masquerade: true,
            guard_mac: false,
            proxy: true,
            trusted: Vec::new(),
            mtu: None,
            upstreams: None,
            runtime_dir: None,
            misplaced: None,
        }
    }

    /// A subnet of its containers, as `"172.30.0.0/24".parse()?`, whose first address is the gateway: one of IPv4, one of IPv6
    /// or both. Without any the first IPv4 subnet of Docker's pools that no route of the host overlaps.
    pub fn subnet(mut self, subnet: IpNetwork) -> Self {
        let same = |other: &IpNetwork| {
            other.network() == subnet.network() && other.prefix() == subnet.prefix()
        };
        match self.subnets.iter_mut().find(|other| same(other)) {
            // The gateway was said before.
            Some(_) if subnet.ip() == subnet.network() => {}
            Some(other) => *other = subnet,
            None => self.subnets.push(subnet),
        }
        self
    }

    /// The address of the gateway with the length of the subnet, as `"172.30.0.1/24".parse()?`: of a bridge, its own.
    pub fn gateway(self, address: IpNetwork) -> Self {
        self.subnet(address)
    }

    /// Picks addresses from this part of the subnet only. Those asked for by a [`Connection`](super::Connection) may be of all
    /// of it.
    #[doc(alias = "ip-range")]
    pub fn ip_range(mut self, range: IpNetwork) -> Self {
        self.ranges.push(range);
        self
    }

    /// Where a subnet is picked from that is not given.
    pub fn pools(mut self, pools: Pools) -> Self {
        self.pools = Some(pools);
        self
    }

    /// Picks an IPv6 subnet too, where none is given: one of the unique local ones that `/etc/machine-id` decides.
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Keeps its containers to themselves: they reach each other and nobody else, the host included; no port of them is
    /// published, and no query of theirs is forwarded. The bridge keeps them apart, and the rules once more.
    pub fn internal(mut self) -> Self {
        self.internal = true;
        self
    }

    /// Does without names: its containers ask the nameservers of the host, as on Docker's default network.
    pub fn without_dns(mut self) -> Self {
        self.dns = false;
        self
    }

    /// Closes its containers to each other (ICC off), but for published ports: by isolated ports of the bridge, whatever
    /// filters see of bridged packets.
    #[doc(alias = "icc")]
    pub fn without_icc(mut self) -> Self {
        self.icc = false;
        self
    }

    /// Lets its containers out under their own addresses: for those that the network outside knows the way to.
    pub fn without_masquerade(mut self) -> Self {
        self.masquerade = false;
        self
    }

    /// Leaves published ports to the rules alone, where it says all addresses of the host: nobody answers at `::1`, and at those of
    /// a family that a container has no address of. Else sockets of this process do, one or two a port, and one thread for the
    /// network; the container sees the bridge as the client there.
    #[doc(alias = "userland-proxy")]
    pub fn without_proxy(mut self) -> Self {
        self.proxy = false;
        self
    }

    /// Has the bridge drop what a container sends in the name of another hardware address.
    pub fn guard_mac(mut self) -> Self {
        self.guard_mac = true;
        self
    }

    /// Lets in everything that is routed to its containers from this interface of the host, such as a VPN's, also to ports
    /// that are not published.
    pub fn trust(mut self, interface: impl Into<String>) -> Self {
        self.trusted.push(interface.into());
        self
    }

    /// Where it is written down what is made on the host, before it is made: as
    /// [`ContainerBuilder::runtime_dir`](crate::ContainerBuilder::runtime_dir). That is the bridge with its rules, a VXLAN link,
    /// and a VLAN or dummy link as the parent of others. A parent that was there is not: it stays.
    pub fn runtime_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.runtime_dir = Some(path.into());
        self
    }

    /// The MTU in bytes, instead of that of the host's way out or of the parent.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Asks these servers for names of elsewhere, instead of those of the host's `/etc/resolv.conf`. A container may have
    /// [others](crate::ContainerBuilder::dns).
    pub fn upstreams(mut self, upstreams: &Upstreams) -> Self {
        self.upstreams = Some(upstreams.clone());
        self
    }

    /// Options of the bridge, such as VLAN filtering. Of another kind of network, `create` refuses them.
    pub fn bridge_options(mut self, given: BridgeOptions) -> Self {
        if let Kind::Bridge { options, .. } = &mut self.kind {
            *options = given;
        } else {
            self.misplaced = Some("bridge_options");
        }
        self
    }

    /// Joins the bridge to those of other hosts with this VNI. The MTU is lower by what the way takes, unless given.
    pub fn vxlan(mut self, link: VxlanBuilder) -> Self {
        if let Kind::Bridge { vxlan, .. } = &mut self.kind {
            *vxlan = Some(link);
        } else {
            self.misplaced = Some("vxlan");
        }
        self
    }
}
