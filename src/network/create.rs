//! How a network is made.

use std::fs;
use std::sync::{Arc, Mutex};

use cofferdam_dns::{Name, Server, SharedZone};
use cofferdam_netbridge::ipam::{Family, Occupied, Pool as AddressPool, Pools, Subnet};
use cofferdam_netbridge::{Bridge, BridgeOptions, IfName, Parent, VxlanBuilder};
use cofferdam_portmap::{Isolation, NetworkGuard, NetworkSpec, Portmap};
use ipnetwork::IpNetwork;

use super::addresses::Pool;
use super::config::{Kind, NetworkBuilder};
use super::inspect::Registry;
use super::{Inner, Medium, Names, Network, Options};
use crate::error::{Error, Result, Subject};
use crate::noted::Noted;

/// The nf_tables table of every network in a network namespace.
pub(crate) const TABLE: &str = "cofferdam";

/// What a host's way out most often has.
const USUAL_MTU: u32 = 1500;

/// How often a subnet is picked that is another's a moment later.
const TRIES: u32 = 16;

/// What who picks a subnet looks at. A bridge that picks by itself looks again whether another took the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knows {
    Host,
    /// Also the networks of which the host has no route.
    Rules,
}

/// Whether the host forwards IPv6.
const FORWARDING_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

impl NetworkBuilder {
    /// Makes the network in the network namespace of the calling thread: the bridge, its rules, its resolver.
    ///
    /// Forwarding (`net.ipv4.ip_forward`, and `net.ipv6.conf.all.forwarding` for a bridge with an IPv6 subnet) is set and
    /// stays set, but not for an internal network. When it fails, nothing else is left.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot be one, two subnets of a family, or an option that its kind does not have;
    /// `AlreadyExists` if the bridge or the subnet is there, `PermissionDenied` without `CAP_NET_ADMIN`, `Unsupported` where the
    /// kernel lacks the kind or nf_tables.
    pub fn create(self) -> Result<Network> {
        let subject = Subject::network(&self.name);
        let bridge = bridge_name(&subject, &self.name)?;
        self.check(&subject)?;
        let noted = self.note(&subject, &bridge)?;
        let mut layer3 = false;
        let (medium, pool) = match self.kind.clone() {
            Kind::Bridge { options, vxlan } => self.on_free_subnet(|knows| {
                let (options, vxlan) = (options.clone(), vxlan.clone());
                self.on_bridge(&subject, bridge.clone(), options, vxlan, knows)
            })?,
            Kind::Macvlan { builder, .. } => {
                let builder = self.mtu.into_iter().fold(builder, |b, mtu| b.mtu(mtu));
                let pool = self.pool(&subject, &self.subnets)?;
                let made = builder
                    .create()
                    .map_err(subject.failed("find the parent"))?;
                (Medium::Macvlan(made), pool)
            }
            Kind::Ipvlan {
                builder,
                layer3: l3,
                ..
            } => {
                layer3 = l3;
                let builder = self.mtu.into_iter().fold(builder, |b, mtu| b.mtu(mtu));
                let pool = self.pool(&subject, &self.subnets)?;
                let made = builder
                    .create()
                    .map_err(subject.failed("find the parent"))?;
                (Medium::Ipvlan(made), pool)
            }
        };
        let names = self.names(&subject)?;
        let options = Options {
            internal: self.internal,
            icc: self.icc,
            masquerade: self.masquerade,
            guard_mac: self.guard_mac,
            proxy: self.proxy,
            layer3,
            upstreams: self.upstreams,
        };
        Ok(Network(Arc::new(Inner {
            subject,
            name: self.name,
            options,
            registry: Registry::default(),
            names,
            proxy: Mutex::new(None),
            pool,
            medium,
            noted,
        })))
    }

    /// Writes down what is about to be made, for [`reap`](crate::reap).
    fn note(&self, subject: &Subject, bridge: &IfName) -> Result<Option<Noted>> {
        let mut links = Vec::new();
        match &self.kind {
            Kind::Bridge { vxlan, .. } => {
                links.push(("bridge", bridge.to_string()));
                let vxlan = vxlan.iter();
                links.extend(vxlan.map(|vxlan| ("vxlan", vxlan.ifname().to_string())));
            }
            Kind::Macvlan { parent, .. } | Kind::Ipvlan { parent, .. } => {
                let kind = match parent {
                    Parent::Vlan(_) => "vlan",
                    Parent::Dummy(_) => "dummy",
                    _ => return Ok(None),
                };
                let name = parent.ifname().map_err(subject.failed("name the parent"))?;
                links.push((kind, name.to_string()));
            }
        }
        let noted = Noted::links(self.runtime_dir.as_deref(), &self.name, &links);
        noted
            .map(Some)
            .map_err(subject.failed("write down what is made"))
    }

    fn check(&self, subject: &Subject) -> Result<()> {
        for family in [Family::V4, Family::V6] {
            let mut of_family = self
                .subnets
                .iter()
                .filter(|subnet| Family::of(subnet.ip()) == family);
            if let (Some(_), Some(second)) = (of_family.next(), of_family.next()) {
                let reason = "is a second one of its family";
                return Err(Error::invalid(subject, "subnet", second, reason));
            }
        }
        if matches!(self.kind, Kind::Bridge { .. }) {
            return Ok(());
        }
        let only_bridges = [
            (self.internal, "internal"),
            (!self.icc, "without_icc"),
            (!self.masquerade, "without_masquerade"),
            (self.guard_mac, "guard_mac"),
            (!self.proxy, "without_proxy"),
            (!self.trusted.is_empty(), "trust"),
            (self.misplaced.is_some(), self.misplaced.unwrap_or_default()),
            (self.ipv6 || self.pools.is_some(), "ipv6 or pools"),
        ];
        if let Some((_, option)) = only_bridges.into_iter().find(|(said, _)| *said) {
            let reason = "is for bridge networks";
            return Err(Error::invalid(subject, "option", option, reason));
        }
        if self.subnets.is_empty() {
            let reason = "must be given: it is that of the parent's network";
            return Err(Error::invalid(subject, "subnet", "", reason));
        }
        Ok(())
    }

    /// Again, where the rules have the subnet that was picked: an internal network's, or one that was made at the same time.
    fn on_free_subnet<T>(&self, make: impl Fn(Knows) -> Result<T>) -> Result<T> {
        let tries = if self.subnets.is_empty() { TRIES } else { 1 };
        let mut made = make(Knows::Host);
        for _ in 1..tries {
            match &made {
                Err(error) if error.is_taken_in_rules() => made = make(Knows::Rules),
                _ => break,
            }
        }
        made
    }

    fn on_bridge(
        &self,
        subject: &Subject,
        name: IfName,
        options: BridgeOptions,
        vxlan: Option<VxlanBuilder>,
        knows: Knows,
    ) -> Result<(Medium, Pool)> {
        let portmap = Portmap::open(TABLE).map_err(subject.failed("make the rules"))?;
        let mut subnets = self.picked(subject, &portmap, knows)?;
        let mut builder = Bridge::builder(name).options(options);
        let mtu = match (&vxlan, self.mtu) {
            (Some(vxlan), None) => Some(USUAL_MTU - vxlan.overhead()),
            (_, mtu) => mtu,
        };
        builder = mtu
            .into_iter()
            .fold(builder, |builder, mtu| builder.mtu(mtu));
        for subnet in &subnets {
            let first = Subnet::new(*subnet).gateway_address();
            let ip = first.unwrap_or_else(|| subnet.ip());
            builder = builder.address(IpNetwork::new(ip, subnet.prefix()).unwrap_or(*subnet));
        }
        if self.internal {
            builder = builder.internal();
        } else {
            // The bridge picks where nothing is said, and looks again whether another took the same.
            builder = builder.pools(self.pools.clone().unwrap_or_default());
            if self.only_ipv6() {
                builder = builder.unaddressed();
            }
            builder = builder.route_localnet().forwarding();
        }
        let failed = || subject.failed::<cofferdam_netbridge::Error>("make the bridge");
        let bridge = builder.create().map_err(failed())?;
        if !self.internal {
            subnets = bridge.addresses().to_vec();
            self.forward(subject, &subnets)?;
        }
        let pool = self.pool(subject, &subnets)?;
        let vxlan = vxlan.map(|vxlan| vxlan.create_on(&bridge)).transpose();
        let vxlan = vxlan.map_err(subject.failed("make the VXLAN link"))?;
        let managed = self.manage(subject, &portmap, &bridge, &pool)?;
        let medium = Medium::Bridge {
            managed,
            portmap,
            vxlan,
            bridge,
        };
        Ok((medium, pool))
    }

    /// Subnets that are given, and those that the bridge does not pick by itself.
    fn picked(&self, subject: &Subject, portmap: &Portmap, knows: Knows) -> Result<Vec<IpNetwork>> {
        let mut subnets = self.subnets.clone();
        let failed = || subject.failed::<cofferdam_netbridge::Error>("pick a subnet");
        let has = |subnets: &[IpNetwork], ipv6| subnets.iter().any(|net| net.is_ipv6() == ipv6);
        if (self.internal || knows == Knows::Rules) && subnets.is_empty() {
            // The host has no route to other internal networks: the rules know their subnets.
            let rules = portmap.list().map_err(subject.failed("read the rules"))?;
            let managed = rules.networks().flat_map(NetworkSpec::subnets);
            let occupied = Occupied::of_caller().map_err(failed())?;
            let occupied = managed.fold(occupied, Occupied::on_link_network);
            let pools = self.pools.clone().unwrap_or_default();
            subnets.push(
                pools
                    .find(Family::V4, &self.name, &occupied)
                    .map_err(failed())?,
            );
        }
        if self.ipv6 && !has(&subnets, true) {
            let pool = AddressPool::ula_of_machine().map_err(failed())?;
            let picked = Pools::new([pool]).pick6(&self.name).map_err(failed())?;
            subnets.push(picked);
        }
        Ok(subnets)
    }

    fn only_ipv6(&self) -> bool {
        !self.subnets.is_empty() && self.subnets.iter().all(IpNetwork::is_ipv6)
    }

    fn forward(&self, subject: &Subject, subnets: &[IpNetwork]) -> Result<()> {
        let what = "turn forwarding on";
        if subnets.iter().any(IpNetwork::is_ipv4) {
            cofferdam_netbridge::enable_forwarding().map_err(subject.failed(what))?;
        }
        let ipv6 = subnets.iter().any(IpNetwork::is_ipv6);
        if ipv6
            && fs::read_to_string(FORWARDING_V6)
                .map_err(subject.failed(what))?
                .trim()
                != "1"
        {
            fs::write(FORWARDING_V6, "1").map_err(subject.failed(what))?;
        }
        Ok(())
    }

    fn pool(&self, subject: &Subject, subnets: &[IpNetwork]) -> Result<Pool> {
        let with_range = |network: &IpNetwork| {
            let mut ranges = self.ranges.iter();
            let range = ranges.find(|range| range.is_ipv6() == network.is_ipv6());
            let subnet = Subnet::new(*network);
            range.into_iter().fold(subnet, |s, range| s.range(*range))
        };
        Pool::new(subject, subnets.iter().map(with_range).collect())
    }

    fn manage(
        &self,
        subject: &Subject,
        portmap: &Portmap,
        bridge: &Bridge,
        pool: &Pool,
    ) -> Result<NetworkGuard> {
        let spec = || {
            let mut spec = NetworkSpec::new(bridge.name().as_str())?;
            for subnet in pool.subnets() {
                spec = spec.subnet(subnet);
            }
            if self.internal {
                spec = spec.isolation(Isolation::Internal);
            }
            if !self.icc {
                spec = spec.without_icc();
            }
            if !self.masquerade {
                spec = spec.without_masquerade();
            }
            for interface in &self.trusted {
                spec = spec.trust(interface)?;
            }
            portmap.network(spec)
        };
        spec().map_err(subject.failed("make the rules"))
    }

    fn names(&self, subject: &Subject) -> Result<Option<Names>> {
        if !self.dns {
            return Ok(None);
        }
        let builder = Server::builder();
        let builder = match &self.upstreams {
            Some(upstreams) => builder.upstreams(upstreams),
            None if self.internal => builder,
            None => builder.resolv_conf("/etc/resolv.conf"),
        };
        let server = builder
            .start()
            .map_err(subject.failed("start the resolver"))?;
        Ok(Some(Names {
            zone: SharedZone::default(),
            domain: self.name.parse::<Name>().ok(),
            server: Arc::new(server),
        }))
    }
}

/// `br-app`, or where that is longer than the kernel's 15 bytes, its beginning and a hash.
fn bridge_name(subject: &Subject, name: &str) -> Result<IfName> {
    const ROOM: usize = 15 - "br-".len();
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(valid) {
        let reason = "is not 1 to 63 letters, digits, -, _ and .";
        return Err(Error::invalid(subject, "name", name, reason));
    }
    let short = if name.len() <= ROOM {
        format!("br-{name}")
    } else {
        format!("br-{}{:08x}", &name[..ROOM - 8], hash(name))
    };
    short.parse().map_err(subject.failed("name the bridge"))
}

/// FNV-1a, the same in every process and version.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_name_fits_the_kernel_and_tells_networks_apart() {
        let subject = Subject::network("x");
        let name = |name: &str| bridge_name(&subject, name).unwrap().to_string();
        assert_eq!(name("app"), "br-app");
        assert_eq!(name("twelve-bytes"), "br-twelve-bytes");
        assert_eq!(name("a-longer-name"), "br-a-lo9572a122");
        assert_ne!(name("a-longer-name"), name("a-longer-namf"));
        for bad in ["", "a b", "a/b", "ä"] {
            assert!(bridge_name(&subject, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_kind_does_not_have_is_refused_before_anything_is_made() {
        let parent: IfName = "none0".parse().unwrap();
        let lan = || Network::macvlan("lan", parent.clone()).subnet("10.0.0.0/24".parse().unwrap());
        for builder in [lan().internal(), lan().without_icc(), lan().ipv6()] {
            let error = builder.create().unwrap_err().to_string();
            assert!(error.ends_with("is for bridge networks"), "{error}");
        }
        let twice = Network::bridge("two")
            .subnet("10.0.0.0/24".parse().unwrap())
            .subnet("10.1.0.0/24".parse().unwrap());
        let error = twice.create().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"network two: subnet "10.1.0.0/24": is a second one of its family"#
        );
    }

    #[test]
    fn a_gateway_and_its_subnet_may_be_said_in_any_order() {
        let (subnet, gateway) = ("10.0.0.0/24", "10.0.0.254/24");
        for [first, second] in [[subnet, gateway], [gateway, subnet]] {
            let builder = Network::bridge("any").subnet(first.parse().unwrap());
            let builder = builder.gateway(second.parse().unwrap());
            assert_eq!(builder.subnets, [gateway.parse::<IpNetwork>().unwrap()]);
        }
    }
}
