//! The bridge of a container network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnetwork::IpNetwork;
use netlink_packet_route::link::LinkFlags;

use crate::answer::{AddressAnswer, LinkAnswer, RouteAnswer, parse_all};
use crate::attachment::{Attachment, IPV6_MTU};
use crate::bridge_options::BridgeOptions;
use crate::claims::{Claim, Claims};
use crate::error::{Error, ErrorKind, Result};
use crate::gateway::NetworkGateway;
use crate::ifname::IfName;
use crate::ipam::Family;
use crate::link::{LinkGuard, SharedSocket};
use crate::mac::is_unicast;
use crate::message::{self, Addressing, Mac, Up, mac_of, mac_of_bytes};
use crate::netns::NetNs;
use crate::port::{self, Port};
use crate::port_settings::check_options;
use crate::socket::Socket;
use crate::subnet::{self, Occupied, Pools, start_of};
use crate::sysctl::{self, Ipv6};
use crate::transport::{Transport, ask_all, ask_one, now};

/// How often a subnet is picked again because another process took it in the meantime.
const PICKS: u8 = 16;

/// The MTU where there is no default route to infer it from.
const ETHERNET_MTU: u32 = 1500;

/// What a [`Bridge`] will be. [`Bridge::builder`] makes it.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until create()"]
pub struct BridgeBuilder {
    name: IfName,
    addresses: Vec<IpNetwork>,
    pick: Pick,
    mac: Option<Mac>,
    mtu: Option<u32>,
    route_localnet: bool,
    forwarding: bool,
    options: BridgeOptions,
    scope: Scope,
}

/// Whether the host is a part of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Shared,
    Internal,
}

/// Where an address that was not given comes from.
#[derive(Clone, Debug)]
enum Pick {
    /// The default pools, where no address is given at all.
    Default,
    /// These, of the families that no address is given of.
    Of(Pools),
    Nothing,
}

impl BridgeBuilder {
    /// An address of the bridge, the gateway of its containers, with the prefix of the subnet. Called again, it is one
    /// more: of IPv6, say. Without any, an IPv4 address is picked of the default [`Pools`].
    pub fn address(mut self, address: IpNetwork) -> Self {
        self.addresses.push(address);
        self
    }

    /// Pools to pick subnets of: one of each family that they have and no address is given of; the bridge gets its first host
    /// address. With [`Pool::ula`](crate::Pool::ula) among them the network has IPv6.
    ///
    /// ```no_run
    /// use cofferdam_netbridge::{Bridge, Pool, Pools};
    ///
    /// let pools = Pools::default().pool(Pool::ula_of_machine()?);
    /// let bridge = Bridge::builder("app0".parse()?).pools(pools).create()?;   // 172.x.y.1/24 and fdxx:...::1/64
    /// # Ok::<(), cofferdam_netbridge::Error>(())
    /// ```
    ///
    /// The pick is as [`Pools::pick`] does it. After the address is set, the bridge looks again: where another process
    /// took an overlapping subnet at the same time, it moves on to another.
    pub fn pools(mut self, pools: Pools) -> Self {
        self.pick = Pick::Of(pools);
        self
    }

    /// Picks no address: without one given, the host has none on the network, and there is no gateway. It still routes what is
    /// sent to its hardware address, where it forwards: [`internal`](BridgeBuilder::internal) keeps it out.
    pub fn unaddressed(mut self) -> Self {
        self.pick = Pick::Nothing;
        self
    }

    /// The hardware address. Without it, one is derived of the first address, or else of the name. It never changes,
    /// whatever is attached.
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.mac = Some(mac);
        self
    }

    /// The MTU in bytes, of the bridge and all that is attached to it. Without it, that of the default route's link,
    /// or 1500.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Sets `net.ipv4.conf.<bridge>.route_localnet`: ports published on 127.0.0.1 need it, as the bridge then sends
    /// packets from that address. Whoever sets it must drop packets to and from 127.0.0.0/8 that come in from elsewhere, or
    /// neighbours reach the services on the host's loopback.
    pub fn route_localnet(mut self) -> Self {
        self.route_localnet = true;
        self
    }

    /// Sets `forwarding` of the bridge, of each family it has an address of: packets that come in from containers are
    /// routed on. Answers come in on another link, which must forward too: [`enable_forwarding`] or
    /// [`enable_forwarding_on`].
    pub fn forwarding(mut self) -> Self {
        self.forwarding = true;
        self
    }

    /// Options of the bridge, such as VLAN filtering. It has them before it goes up.
    pub fn options(mut self, options: BridgeOptions) -> Self {
        self.options = options;
        self
    }

    /// Makes a network of containers alone: the host has no address on it, takes nothing from it and routes nothing to it or
    /// from it, whatever is written to `ip_forward` and whenever. Addresses given are those of the subnets: none is set, and
    /// containers get no default route. None is picked.
    ///
    /// By what keeps them apart: the host has no route to the subnets; `rp_filter` is 1, and as the bridge has no address no
    /// sender is believed, in either mode; `arp_ignore` is 8; and for the host's own end of it the bridge has an MTU of 1279
    /// ([`Bridge::mtu`] is still that of the network), with which the kernel does no IPv6 whatever `disable_ipv6` is.
    /// `forwarding` is not relied upon, which a write to `ip_forward` resets. Who sets `rp_filter` of this bridge to 0
    /// opens a way out for packets that need no answer. What needs to be apart from what has such rights is made in a network
    /// namespace of its own: `NetNs::new()?.run(|| builder.create())`.
    #[doc(alias = "isolated")]
    pub fn internal(mut self) -> Self {
        self.scope = Scope::Internal;
        self.pick = Pick::Nothing;
        self
    }

    /// Makes the bridge in the network namespace of the calling thread, sets it up and returns it.
    ///
    /// It has STP off, `accept_ra` 0, IPv6 off where it has no address of it, and a hardware address of its own, all
    /// before it goes up. A failure leaves nothing behind.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken; `PermissionDenied` without `CAP_NET_ADMIN` over the namespace or where
    /// `/proc/sys` is read-only; `InvalidInput` for an address or MTU that cannot be; `NotFound` for an IPv6 address
    /// where the kernel has no IPv6; `Exhausted` where no subnet is free.
    pub fn create(self) -> Result<Bridge> {
        self.check()?; // before anything is made
        let socket = SharedSocket::open()?;
        now(self.make(socket.clone(), socket, NetNs::of_caller()?))
    }

    /// Makes the bridge over a conversation in `netns`; `socket` is of there too.
    pub(crate) async fn make<T: Transport>(
        self,
        host: T,
        socket: SharedSocket,
        netns: NetNs,
    ) -> Result<Bridge> {
        let (mtu, picks) = (self.fitting_mtu(&host).await?, self.picks());
        let link = create_link(&host, socket, &self.name, &self.options).await?;
        let name = self.name.clone();
        let mut addresses = self.addresses.clone();
        let (given, scope) = (self.mac, self.scope);
        host.at_home(move || self.set_sysctls()).await?;
        let add = addresses
            .iter()
            .filter(|_| scope == Scope::Shared)
            .map(|address| message::add_address(link.index(), &name, *address));
        ask_all(&host, &add.collect::<Vec<_>>()).await?;
        for (family, pools) in picks {
            addresses.push(pick_address(&host, &link, &pools, family).await?);
        }
        let derived = match addresses.first() {
            Some(address) => mac_of(address.ip()),
            None => mac_of_bytes(name.as_str().as_bytes()),
        };
        let up = Up {
            mac: Some(given.unwrap_or(derived)),
            mtu: Some(match scope {
                Scope::Shared => mtu,
                Scope::Internal => mtu.min(IPV6_MTU - 1),
            }),
            addressing: Addressing::Derived,
        };
        ask_one(&host, message::set_up(link.index(), name.as_str(), up)).await?;
        let uplink = Uplink {
            scope,
            ..Uplink::of(&link, addresses, mtu)
        };
        Ok(Bridge::of(link, uplink, netns))
    }

    /// What can be told to be wrong without asking the kernel.
    pub(crate) fn check(&self) -> Result<()> {
        for address in &self.addresses {
            check_gateway(&self.name, *address)?;
        }
        if self.mac.is_some_and(|mac| !is_unicast(mac)) {
            return Err(Error::invalid(
                self.what(),
                "the hardware address is no host's",
            ));
        }
        if let Pick::Of(pools) = &self.pick {
            if pools.families().next().is_none() && self.addresses.is_empty() {
                return Err(Error::invalid(self.what(), "there is no pool"));
            }
        }
        if self.scope == Scope::Internal && (self.forwarding || self.route_localnet) {
            return Err(Error::invalid(
                self.what(),
                "the host has no part in an internal network",
            ));
        }
        match self.mtu {
            Some(mtu) => self.check_mtu(mtu),
            None => Ok(()),
        }
    }

    fn what(&self) -> String {
        format!("create bridge {}", self.name)
    }

    /// The kernel takes a link's IPv6 addresses away without a word where the MTU is too small for them.
    fn check_mtu(&self, mtu: u32) -> Result<()> {
        if mtu < IPV6_MTU && self.has_ipv6() {
            let why = format!("IPv6 needs an MTU of {IPV6_MTU}, and it is {mtu}");
            return Err(Error::invalid(self.what(), why));
        }
        Ok(())
    }

    async fn fitting_mtu<T: Transport>(&self, host: &T) -> Result<u32> {
        let Some(given) = self.mtu else {
            let inferred = inferred_mtu(host).await?;
            return self.check_mtu(inferred).map(|()| inferred);
        };
        Ok(given)
    }

    /// Whether an address is of IPv6, or one will be.
    fn has_ipv6(&self) -> bool {
        let picked = || self.picks().iter().any(|(family, _)| *family == Family::V6);
        self.addresses.iter().any(IpNetwork::is_ipv6) || picked()
    }

    /// The families that an address is picked of, and the pools to pick it of.
    fn picks(&self) -> Vec<(Family, Pools)> {
        let pools = match &self.pick {
            Pick::Default if self.addresses.is_empty() => Pools::default(),
            Pick::Of(pools) => pools.clone(),
            Pick::Default | Pick::Nothing => return Vec::new(),
        };
        let given = |family| self.addresses.iter().any(|a| Family::of(a.ip()) == family);
        let missing = pools.families().filter(|family| !given(*family));
        missing.map(|family| (family, pools.clone())).collect()
    }

    fn set_sysctls(&self) -> Result<()> {
        let ipv6 = match self.has_ipv6() {
            true if self.scope == Scope::Shared => Ipv6::On,
            _ => Ipv6::Off,
        };
        sysctl::ipv6(&self.name, ipv6)?;
        if self.scope == Scope::Internal {
            sysctl::no_part_of(&self.name)?;
        }
        if self.route_localnet {
            sysctl::route_localnet(&self.name)?;
        }
        if self.forwarding {
            sysctl::forwarding(&self.name)?;
        }
        if self.forwarding && ipv6 == Ipv6::On {
            sysctl::forwarding6(&self.name)?;
        }
        Ok(())
    }
}

/// A bridge. Dropping one this value made deletes it, as by `RTM_DELLINK`, which takes the kernel 20 to 40 ms
/// ([`Bridge::remove`] tells how that went). One that was [adopted](Bridge::adopt) is never deleted. Links attached to it
/// are not deleted with it, only let go of: they belong to their [`Port`]s. The host takes nothing from the ends that are
/// left with it so (`rp_filter` 1, `arp_ignore` 8, and an MTU without IPv6).
///
/// It may be used from any thread: all it does goes to the network namespace it was made in.
#[derive(Debug)]
#[must_use = "dropping a Bridge deletes it"]
pub struct Bridge {
    link: LinkGuard,
    uplink: Uplink,
    netns: NetNs,
    #[cfg(feature = "tokio")]
    pub(crate) connection: crate::asynchronous::Cached,
}

/// What an attach has to know of a bridge. Clones are of the same bridge.
#[derive(Clone, Debug)]
pub(crate) struct Uplink {
    pub(crate) name: IfName,
    pub(crate) index: u32,
    pub(crate) addresses: Vec<IpNetwork>,
    pub(crate) mtu: u32,
    pub(crate) scope: Scope,
    pub(crate) claims: Claims,
    pub(crate) socket: SharedSocket,
    /// Whether a port ever found it operational.
    pub(crate) was_up: Arc<AtomicBool>,
}

impl Uplink {
    fn of(link: &LinkGuard, addresses: Vec<IpNetwork>, mtu: u32) -> Self {
        Uplink {
            name: link.name().clone(),
            index: link.index(),
            addresses,
            mtu,
            scope: Scope::Shared,
            claims: Claims::default(),
            socket: link.socket().clone(),
            was_up: Arc::default(),
        }
    }

    pub(crate) fn was_up(&self) -> bool {
        self.was_up.load(Ordering::Relaxed)
    }

    /// What it is now; nothing of a bridge that is gone.
    pub(crate) fn flags(&self) -> LinkFlags {
        self.socket.lock().flags(&self.name)
    }

    /// The address in whose subnet `ip` is.
    pub(crate) fn address_for(&self, ip: IpAddr) -> Option<IpNetwork> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| address.contains(ip))
    }

    /// The address of the host that routes for `ip`.
    pub(crate) fn gateway_for(&self, ip: IpAddr) -> Option<IpAddr> {
        match self.scope {
            Scope::Shared => self.address_for(ip).map(|address| address.ip()),
            Scope::Internal => None,
        }
    }
}

impl Bridge {
    /// Says what a bridge of this name will be.
    pub fn builder(name: IfName) -> BridgeBuilder {
        BridgeBuilder {
            name,
            addresses: Vec::new(),
            pick: Pick::Default,
            mac: None,
            mtu: None,
            route_localnet: false,
            forwarding: false,
            options: BridgeOptions::new(),
            scope: Scope::Shared,
        }
    }

    /// Takes a bridge that is there in the network namespace of the calling thread, with its addresses and its MTU. It is
    /// somebody else's: none of its settings is changed, and neither Drop nor [`remove`](Bridge::remove) deletes it.
    ///
    /// # Errors
    /// `NotFound` without such a link; `InvalidInput` where it is no bridge.
    pub fn adopt(name: IfName) -> Result<Self> {
        let socket = SharedSocket::open()?;
        let answer = socket.lock().ask_one(message::link_named(&name))?;
        let link = LinkAnswer::parse(&answer)?;
        if link.kind.as_deref() != Some("bridge") {
            return Err(Error::invalid(format!("adopt {name}"), "it is no bridge"));
        }
        let addresses = subnet::addresses(&mut socket.lock())?;
        let global =
            |a: &&AddressAnswer| a.index == link.index && a.scope == libc::RT_SCOPE_UNIVERSE;
        let addresses = addresses.iter().filter(global).map(|a| a.local);
        let guard = LinkGuard::adopted(socket, name, link.index);
        let uplink = Uplink::of(&guard, addresses.collect(), link.mtu);
        Ok(Bridge::of(guard, uplink, NetNs::of_caller()?))
    }

    fn of(link: LinkGuard, uplink: Uplink, netns: NetNs) -> Self {
        Bridge {
            link,
            uplink,
            netns,
            #[cfg(feature = "tokio")]
            connection: crate::asynchronous::Cached::default(),
        }
    }

    /// Puts a link into the network namespace `netns`, connected to this bridge, with addresses, hardware address,
    /// default routes and the MTU of the bridge, up, and IPv6 off where it has no address of it.
    ///
    /// It is a veth pair; its other end is a port of the bridge, in hairpin mode. When this returns, both ends and the
    /// bridge are operational, so that the first packet is not lost; on a machine too busy to let them be, or where
    /// the bridge is down, it gives up waiting after 0.3 s. What is done inside is done by a thread that enters `netns`
    /// and ends, or through a socket it opened. A failure leaves nothing behind. A container may be attached to several
    /// bridges, at any time.
    ///
    /// Where a neighbour may know another hardware address for one of the addresses, it is told, by gratuitous ARP and
    /// unsolicited neighbour advertisements: a frame to each container of the network, 3 us for each. That is so on an adopted
    /// bridge; on one with a VXLAN link; on a port without `UnicastFlood`, which the bridge has to learn of; and once any
    /// container has had an address with a hardware address other than that derived of it, because one was given, or it has
    /// addresses of two families. Bridges made here have that written on themselves, by the flag `AUTOMEDIA`, which stands for
    /// nobody yet: so all processes that attach to one know it. A port that somebody adds by other means is not known of;
    /// [`Announcer`](crate::Announcer) is for it.
    ///
    /// With an address of one family and its default route 8 messages are sent, with both families 10, each further
    /// address or route being one more; so is each pause where the kernel takes a moment, and one more before Linux 6.2. The
    /// first attach by a handle looks at the bridge by one more, and the first hardware address that is not derived is noted by one.
    ///
    /// # Errors
    /// `AlreadyExists` where the interface name is taken in `netns`, the name given for the host's end is taken, `netns`
    /// has a default route of the same metric, or a [`Port`] of this bridge has an address, or had when it was persisted;
    /// `InvalidInput` where an address is not a container's in a subnet of the bridge, or the gateway is not on a link;
    /// `PermissionDenied` without `CAP_NET_ADMIN` over both namespaces and `CAP_SYS_ADMIN` to enter `netns`; `NotFound`
    /// where the bridge is gone, or for an IPv6 address where the kernel has no IPv6.
    pub fn attach(&self, netns: impl AsFd, attachment: Attachment) -> Result<Port> {
        let host = self.socket().clone();
        now(port::attach(&self.uplink, host, netns.as_fd(), &attachment))
    }

    /// Detaches many containers at once: gives all their links one group, and deletes that group by one `RTM_DELLINK`. The
    /// kernel waits for its readers once, not once for each. Links that are gone already are a success.
    ///
    /// Ports of other bridges, which may be in other network namespaces, are deleted by a message more for each bridge.
    ///
    /// # Errors
    /// `PermissionDenied` where `CAP_NET_ADMIN` was lost. Links it could not delete so are deleted one by one.
    pub fn detach_all(&self, ports: impl IntoIterator<Item = Port>) -> Result<()> {
        detach(ports)
    }

    /// What this network offers a container on the way out, for [`Gateways::join`](crate::Gateways::join): the addresses of
    /// the bridge, of the families that the port has addresses of. An [internal](BridgeBuilder::internal) network, and one
    /// that the port is not of, offer nothing.
    pub fn gateway_of(&self, port: &Port) -> NetworkGateway {
        let gateway = |ip| self.uplink.gateway_for(ip);
        NetworkGateway::of_network(port.ifname(), port.addresses(), gateway)
    }

    /// Frees the address of a [`Port`] that was persisted, when its link is gone: it may be attached again.
    ///
    /// # Errors
    /// `NotFound` where no port was persisted with the address; `Busy` where a [`Port`] that lives has it.
    pub fn release(&self, address: IpAddr) -> Result<()> {
        let what = || format!("release {address} of {}", self.name());
        match self.uplink.claims.release(address) {
            Some(Claim::Persisted) => Ok(()),
            Some(Claim::Port) => Err(Error::plain(ErrorKind::Busy, what(), "a port has it")),
            None => {
                let why = "no port was persisted with it";
                Err(Error::plain(ErrorKind::NotFound, what(), why))
            }
        }
    }

    /// Deletes it, as by `RTM_DELLINK`: 20 to 40 ms. One that is gone already is a success; an adopted one stays.
    ///
    /// # Errors
    /// `PermissionDenied` where `CAP_NET_ADMIN` was lost.
    pub fn remove(self) -> Result<()> {
        self.link.remove()
    }

    /// Leaves the bridge where it is, and returns its name, by which [`delete_link`](crate::delete_link) deletes it.
    pub fn persist(self) -> IfName {
        self.link.persist()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &IfName {
        self.link.name()
    }

    /// The index of the link in its network namespace.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.link.index()
    }

    /// The addresses, with the prefixes of their subnets.
    #[must_use]
    pub fn addresses(&self) -> &[IpNetwork] {
        &self.uplink.addresses
    }

    /// The first IPv4 address, with the prefix of its subnet.
    #[must_use]
    pub fn ipv4(&self) -> Option<IpNetwork> {
        self.addresses().iter().copied().find(IpNetwork::is_ipv4)
    }

    /// The first IPv6 address, with the prefix of its subnet.
    #[must_use]
    pub fn ipv6(&self) -> Option<IpNetwork> {
        self.addresses().iter().copied().find(IpNetwork::is_ipv6)
    }

    /// The MTU in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.uplink.mtu
    }

    /// Whether it was there before, and stays.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        !self.link.is_armed()
    }

    /// The network namespace it is in.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    pub(crate) fn socket(&self) -> &SharedSocket {
        self.link.socket()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn uplink(&self) -> &Uplink {
        &self.uplink
    }
}

/// Makes the calling thread's network namespace a router, by `net.ipv4.ip_forward`: every link of it forwards.
///
/// This is the whole host's where the thread is in the host's namespace, and nothing here takes it back. Where only
/// some links need it, see [`BridgeBuilder::forwarding`] and [`enable_forwarding_on`].
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN`, or where `/proc/sys` is read-only and forwarding is off.
pub fn enable_forwarding() -> Result<()> {
    sysctl::ip_forward()
}

/// Has packets that come in on this link of the calling thread's network namespace routed on, by
/// `net.ipv4.conf.<name>.forwarding`.
///
/// # Errors
/// `NotFound` without such a link; else as [`enable_forwarding`].
pub fn enable_forwarding_on(name: &IfName) -> Result<()> {
    sysctl::forwarding(name)
}

/// Deletes the links of all `ports`. An index says nothing in another network namespace than its own: so each goes by the
/// socket it was made with.
pub(crate) fn detach(ports: impl IntoIterator<Item = Port>) -> Result<()> {
    let mut bridges: Vec<Vec<Port>> = Vec::new();
    for port in ports {
        let same = |others: &&mut Vec<Port>| {
            let other = others.first();
            other.is_some_and(|other| other.socket().is(port.socket()))
        };
        match bridges.iter_mut().find(same) {
            Some(others) => others.push(port),
            None => bridges.push(vec![port]),
        }
    }
    let done: Vec<Result<()>> = bridges.into_iter().map(detach_of_one).collect();
    done.into_iter().collect()
}

/// Deletes the links of ports that were made with one socket, by a group of theirs.
fn detach_of_one(mut ports: Vec<Port>) -> Result<()> {
    let Some(first) = ports.first() else {
        return Ok(());
    };
    let shared = first.socket().clone();
    let mut socket = shared.lock();
    let group = free_group(&mut socket, first.index())?;
    let into_group = |port: &Port| message::set_group(port.index(), port.name(), group);
    let requests: Vec<_> = ports.iter().map(into_group).collect();
    tolerate_gone(socket.ask_each(&requests)?)?;
    tolerate_gone([socket.ask_one(message::delete_group(group))])?;
    drop(socket);
    ports.iter_mut().for_each(|port| port.link_mut().disarm());
    Ok(())
}

/// A group that no link has. `seed` makes it unlikely that another looks for the same at once.
fn free_group(socket: &mut Socket, seed: u32) -> Result<u32> {
    let links = socket.dump(&message::all_links())?;
    let taken = links.iter().map(|payload| LinkAnswer::parse(payload));
    let taken: Vec<u32> = taken.map(|link| Ok(link?.group)).collect::<Result<_>>()?;
    let seed = [std::process::id(), seed].map(u32::to_ne_bytes).concat();
    let [a, b, c, d, ..] = subnet::hash(seed).to_be_bytes();
    let first = u32::from_be_bytes([a, b, c, d]);
    (0..=u32::MAX)
        .map(|step| first.wrapping_add(step))
        .find(|group| *group != 0 && !taken.contains(group))
        .ok_or_else(|| Error::plain(ErrorKind::Exhausted, "find a group", "all are in use"))
}

/// The first refusal but that a link is gone.
fn tolerate_gone(outcomes: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<()> {
    let refused = outcomes.into_iter().filter_map(Result::err);
    refused
        .filter(|error| error.kind() != ErrorKind::NotFound)
        .map(Err)
        .next()
        .unwrap_or(Ok(()))
}

/// An address a bridge can have: of a subnet, with room for containers.
fn check_gateway(name: &IfName, address: IpNetwork) -> Result<()> {
    let what = || format!("create bridge {name} with {address}");
    let (ip, longest) = match address {
        IpNetwork::V4(_) => (address.ip(), subnet::SMALLEST),
        IpNetwork::V6(_) => (address.ip(), 126),
    };
    if address.prefix() > longest {
        let why = "the subnet has no room for a gateway and a container";
        return Err(Error::invalid(what(), why));
    }
    if ip == address.network() || ip.is_ipv4() && ip == address.broadcast() {
        let why = "it is the network or the broadcast address";
        return Err(Error::invalid(what(), why));
    }
    if ip.is_multicast() || ip.is_loopback() {
        let why = "it is a multicast or a loopback address";
        return Err(Error::invalid(what(), why));
    }
    Ok(())
}

async fn create_link<T: Transport>(
    host: &T,
    socket: SharedSocket,
    name: &IfName,
    options: &BridgeOptions,
) -> Result<LinkGuard> {
    let create = message::create_bridge(name, options);
    let requests = [create, message::link_named(name)];
    let mut outcomes = host.ask_each(&requests).await?.into_iter();
    outcomes.next().transpose()?;
    let mut link = LinkGuard::of_bridge(socket, name.clone());
    link.found(&outcomes.next().transpose()?.unwrap_or_default())?;
    check_options(host, link.index(), name.as_str(), options).await?;
    Ok(link)
}

/// Two processes that pick at once both set an address, then both look: at least one sees the other, and yields.
async fn pick_address<T: Transport>(
    host: &T,
    link: &LinkGuard,
    pools: &Pools,
    family: Family,
) -> Result<IpNetwork> {
    for attempt in 0..PICKS {
        let occupied = Occupied::of(&routes(host).await?, &addresses(host).await?);
        let start = start_of(link.name().as_str(), attempt);
        let address = first_host(pools.free_of(family, &occupied, start)?);
        let add = message::add_address(link.index(), link.name(), address);
        ask_one(host, add).await?;
        if !overlapped(&addresses(host).await?, link.index(), address) {
            return Ok(address);
        }
        let delete = message::delete_address(link.index(), link.name(), address);
        ask_one(host, delete).await?;
    }
    let what = format!("pick a subnet for {}", link.name());
    let why = "others kept taking the same ones";
    Err(Error::plain(ErrorKind::Busy, what, why))
}

/// The first address of a subnet that has room for hosts.
fn first_host(subnet: IpNetwork) -> IpNetwork {
    let first: IpAddr = match subnet.network() {
        IpAddr::V4(network) => Ipv4Addr::from(u32::from(network).saturating_add(1)).into(),
        IpAddr::V6(network) => Ipv6Addr::from(u128::from(network).saturating_add(1)).into(),
    };
    IpNetwork::new(first, subnet.prefix()).unwrap_or(subnet)
}

/// Whether another link has an address of the same subnet.
fn overlapped(addresses: &[AddressAnswer], index: u32, address: IpNetwork) -> bool {
    let overlap = |other: &AddressAnswer| match (other.subnet, address) {
        (IpNetwork::V4(one), IpNetwork::V4(other)) => one.overlaps(other),
        (IpNetwork::V6(one), IpNetwork::V6(other)) => one.overlaps(other),
        _ => false,
    };
    addresses
        .iter()
        .any(|other| other.index != index && overlap(other))
}

async fn addresses<T: Transport>(host: &T) -> Result<Vec<AddressAnswer>> {
    let payloads = host.dump(&message::all_addresses(None)).await?;
    parse_all(&payloads, AddressAnswer::parse)
}

async fn routes<T: Transport>(host: &T) -> Result<Vec<RouteAnswer>> {
    let payloads = host.dump(&message::all_routes(None)).await?;
    parse_all(&payloads, RouteAnswer::parse)
}

/// The MTU of the link of the default route, so that packets of containers fit a VPN or an overlay on the way out.
pub(crate) async fn inferred_mtu<T: Transport>(host: &T) -> Result<u32> {
    let Some(index) = default_link(&routes(host).await?) else {
        return Ok(ETHERNET_MTU);
    };
    let answer = ask_one(host, message::link_at(index)).await?;
    Ok(LinkAnswer::parse(&answer)?.mtu)
}

/// Of IPv4 before IPv6, then by metric. Tables of a VRF are not `main`, and do not count.
fn default_link(routes: &[RouteAnswer]) -> Option<u32> {
    routes
        .iter()
        .filter(|route| route.is_main() && route.destination.prefix() == 0 && route.link.is_some())
        .min_by_key(|route| (route.destination.is_ipv6(), route.metric))?
        .link
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Reach;

    #[test]
    fn the_mtu_is_of_the_default_route_of_the_lowest_metric_in_the_main_table() {
        let route = |prefix, metric, main, link| RouteAnswer {
            destination: IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), prefix).unwrap(),
            kind: 1,
            gateway: None,
            table: if main { 254 } else { 7 },
            reach: Reach::Routed,
            link: Some(link),
            metric,
        };
        assert_eq!(default_link(&[]), None);
        let routes = [
            route(1, 0, true, 2),
            route(0, 100, true, 3),
            route(0, 50, true, 4),
            route(0, 0, false, 5),
        ];
        assert_eq!(default_link(&routes), Some(4));
    }

    #[test]
    fn a_subnet_is_picked_of_each_family_that_the_pools_have_and_none_is_given_of() {
        use crate::Pool;
        let families = |builder: &BridgeBuilder| {
            let picks = builder.picks();
            picks.iter().map(|(family, _)| *family).collect::<Vec<_>>()
        };
        let builder = || Bridge::builder(IfName::derived("br0".to_owned()));
        let both = || builder().pools(Pools::default().pool(Pool::ula("host")));
        assert_eq!(families(&builder()), [Family::V4]);
        assert_eq!(families(&both()), [Family::V4, Family::V6]);
        assert!(both().has_ipv6());
        let given = |address: &str| both().address(address.parse().unwrap());
        assert_eq!(families(&given("10.0.0.1/24")), [Family::V6]);
        assert_eq!(families(&given("fd00::1/64")), [Family::V4]);
        let ula = builder().pools(Pools::new([Pool::ula("host")]));
        assert_eq!(families(&ula), [Family::V6]);
        assert!(families(&both().unaddressed()).is_empty());
        for bad in [
            ula.mtu(1279),
            builder().pools(Pools::new([])),
            builder().mac([1; 6]),
        ] {
            assert_eq!(bad.check().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        let first = |subnet: &str| first_host(subnet.parse().unwrap()).to_string();
        assert_eq!(first("10.0.0.0/24"), "10.0.0.1/24");
        assert_eq!(first("fd00:1::/64"), "fd00:1::1/64");
    }

    #[test]
    fn addresses_no_bridge_can_have_are_refused() {
        let name = IfName::derived("br0".to_owned());
        for address in [
            "10.0.0.0/24",
            "10.0.0.255/24",
            "10.0.0.1/31",
            "fd00::/64",
            "fd00::1/127",
            "ff02::1/64",
        ] {
            let error = check_gateway(&name, address.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{address}");
            let what = format!("create bridge br0 with {address}: ");
            assert!(error.to_string().starts_with(&what), "{error}");
        }
        for address in ["10.0.0.254/24", "fd00::1/64", "fd00::ffff/112"] {
            assert!(check_gateway(&name, address.parse().unwrap()).is_ok());
        }
    }
}
