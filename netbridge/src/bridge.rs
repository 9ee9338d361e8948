//! The bridge of a container network.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::answer::{LinkAnswer, RouteAnswer};
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::link::{LinkGuard, SharedSocket};
use crate::message::{self, Up};
use crate::port::{self, Attachment, Port};
use crate::socket::Socket;
use crate::subnet::{self, Occupied, Pools, start_of, v4};
use crate::sysctl;

/// How often a subnet is picked again because another process took it in the meantime.
const PICKS: u8 = 16;

/// The MTU where there is no default route to infer it from.
const ETHERNET_MTU: u32 = 1500;

/// What a [`Bridge`] will be. [`Bridge::builder`] makes it.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until create()"]
pub struct BridgeBuilder {
    name: IfName,
    address: Addressing,
    mtu: Option<u32>,
    route_localnet: bool,
    forwarding: bool,
}

#[derive(Clone, Debug)]
enum Addressing {
    Given(IpNetwork),
    Picked(Pools),
}

impl BridgeBuilder {
    /// The address of the bridge, the gateway of its containers, with the prefix of the subnet. Without it, one is
    /// picked of the default [`Pools`].
    pub fn address(mut self, address: IpNetwork) -> Self {
        self.address = Addressing::Given(address);
        self
    }

    /// Pools to pick the subnet of; the bridge gets its first host address.
    ///
    /// The pick is as [`Pools::pick`] does it. After the address is set, the bridge looks again: where another process
    /// took an overlapping subnet at the same time, it moves on to another.
    pub fn pools(mut self, pools: Pools) -> Self {
        self.address = Addressing::Picked(pools);
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

    /// Sets `net.ipv4.conf.<bridge>.forwarding`: packets that come in from containers are routed on. Answers come in
    /// on another link, which must forward too: [`enable_forwarding`] or [`enable_forwarding_on`].
    pub fn forwarding(mut self) -> Self {
        self.forwarding = true;
        self
    }

    /// Makes the bridge in the network namespace of the calling thread, sets it up and returns it.
    ///
    /// It has STP off, IPv6 off, `accept_ra` 0 and a hardware address derived from its address, all before it goes up.
    /// A failure leaves nothing behind.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken; `PermissionDenied` without `CAP_NET_ADMIN` over the namespace or where
    /// `/proc/sys` is read-only; `InvalidInput` for an address or MTU that cannot be; `Unsupported` for IPv6;
    /// `Exhausted` where no subnet is free.
    pub fn create(self) -> Result<Bridge> {
        if let Addressing::Given(address) = self.address {
            gateway(&self.name, address)?; // before anything is made
        }
        let socket = SharedSocket::open()?;
        let mtu = match self.mtu {
            Some(mtu) => mtu,
            None => inferred_mtu(&mut socket.lock())?,
        };
        let link = create_link(socket, &self.name)?;
        self.set_sysctls()?;
        let address = match &self.address {
            Addressing::Given(address) => add_address(&link, gateway(&self.name, *address)?)?,
            Addressing::Picked(pools) => pick_address(&link, pools)?,
        };
        let with = Up {
            mac: Some(message::mac_of(address.ip())),
            mtu: Some(mtu),
        };
        let up = message::set_up(link.index(), self.name.as_str(), with);
        link.socket().lock().ask_one(up)?;
        Ok(Bridge {
            link,
            address,
            mtu,
            attached: Attached::default(),
        })
    }

    fn set_sysctls(&self) -> Result<()> {
        sysctl::ipv6_off(&self.name)?;
        if self.route_localnet {
            sysctl::route_localnet(&self.name)?;
        }
        if self.forwarding {
            sysctl::forwarding(&self.name)?;
        }
        Ok(())
    }
}

/// A bridge this value made. Dropping it deletes it, as by `RTM_DELLINK`, which takes the kernel 20 to 40 ms
/// ([`Bridge::remove`] tells how that went). Links attached to it are not deleted with it, only let go of: they belong
/// to their [`Port`]s.
///
/// It may be used from any thread: all it does goes to the network namespace it was made in.
#[derive(Debug)]
#[must_use = "dropping a Bridge deletes it"]
pub struct Bridge {
    link: LinkGuard,
    address: Ipv4Network,
    mtu: u32,
    attached: Attached,
}

impl Bridge {
    /// Says what a bridge of this name will be.
    pub fn builder(name: IfName) -> BridgeBuilder {
        BridgeBuilder {
            name,
            address: Addressing::Picked(Pools::default()),
            mtu: None,
            route_localnet: false,
            forwarding: false,
        }
    }

    /// Puts a link into the network namespace `netns`, connected to this bridge, with address, hardware address,
    /// default route and the MTU of the bridge, up, and IPv6 off.
    ///
    /// It is a veth pair; its other end is a port of the bridge, in hairpin mode. When this returns, both ends and the
    /// bridge are operational, so that the first packet is not lost; on a machine too busy to let them be, or where
    /// the bridge is down, it gives up waiting after 0.3 s. The work inside is done by a thread that enters `netns` and
    /// ends. A failure leaves nothing behind.
    ///
    /// Nine messages are sent, and one more for each pause where the kernel takes a moment.
    ///
    /// # Errors
    /// `AlreadyExists` where the interface name is taken in `netns`, the name given for the host's end is taken, `netns`
    /// has a default route, or a [`Port`] of this bridge has the address, or had when it was persisted; `InvalidInput` where the address is not a
    /// container's in the bridge's subnet, or the gateway is not on a link; `PermissionDenied` without `CAP_NET_ADMIN`
    /// over both namespaces and `CAP_SYS_ADMIN` to enter `netns`; `NotFound` where the bridge is gone.
    pub fn attach(&self, netns: impl AsFd, attachment: Attachment) -> Result<Port> {
        port::attach(self, netns.as_fd(), &attachment)
    }

    /// Frees the address of a [`Port`] that was persisted, when its link is gone: it may be attached again.
    ///
    /// # Errors
    /// `NotFound` where no port was persisted with the address; `Busy` where a [`Port`] that lives has it.
    pub fn release(&self, address: IpAddr) -> Result<()> {
        let what = || format!("release {address} of {}", self.name());
        match self.attached.release(address) {
            Some(Claim::Persisted) => Ok(()),
            Some(Claim::Port) => Err(Error::plain(ErrorKind::Busy, what(), "a port has it")),
            None => {
                let why = "no port was persisted with it";
                Err(Error::plain(ErrorKind::NotFound, what(), why))
            }
        }
    }

    /// Deletes it, as by `RTM_DELLINK`: 20 to 40 ms. One that is gone already is a success.
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

    /// The address, with the prefix of the subnet.
    #[must_use]
    pub fn address(&self) -> IpNetwork {
        IpNetwork::V4(self.address)
    }

    /// The MTU in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    pub(crate) fn gateway(&self) -> Ipv4Network {
        self.address
    }

    pub(crate) fn socket(&self) -> &SharedSocket {
        self.link.socket()
    }

    pub(crate) fn attached(&self) -> &Attached {
        &self.attached
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

/// Addresses that are not free, and who has each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached(Arc<Mutex<BTreeMap<Ipv4Addr, Claim>>>);

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// A [`Port`].
    Port,
    /// A link that was left to its network namespace.
    Persisted,
}

impl Attached {
    /// Whether it was not there.
    pub(crate) fn insert(&self, address: Ipv4Addr) -> bool {
        match self.lock().entry(address) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(Claim::Port);
                true
            }
        }
    }

    pub(crate) fn persist(&self, address: Ipv4Addr) {
        self.lock().insert(address, Claim::Persisted);
    }

    /// Who had the address; only one that is persisted is removed.
    fn release(&self, address: IpAddr) -> Option<Claim> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let mut claims = self.lock();
        let claim = claims.get(&address).copied();
        if claim == Some(Claim::Persisted) {
            claims.remove(&address);
        }
        claim
    }

    pub(crate) fn remove(&self, address: Ipv4Addr) {
        self.lock().remove(&address);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Ipv4Addr, Claim>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An address a bridge can have: of a subnet, with room for containers.
fn gateway(name: &IfName, address: IpNetwork) -> Result<Ipv4Network> {
    let what = format!("create bridge {name} with {address}");
    let address = v4(address, &what)?;
    if address.prefix() > subnet::SMALLEST {
        let why = "the subnet has no room for a gateway and a container";
        return Err(Error::invalid(what, why));
    }
    if address.ip() == address.network() || address.ip() == address.broadcast() {
        let why = "it is the network or the broadcast address";
        return Err(Error::invalid(what, why));
    }
    Ok(address)
}

fn create_link(socket: SharedSocket, name: &IfName) -> Result<LinkGuard> {
    let [created, read] = socket
        .lock()
        .ask([message::create_bridge(name), message::link_named(name)])?;
    created?;
    let mut link = LinkGuard::new(socket, name.clone());
    link.found(&read?)?;
    Ok(link)
}

fn add_address(link: &LinkGuard, address: Ipv4Network) -> Result<Ipv4Network> {
    let request = message::add_address(link.index(), link.name(), address);
    link.socket().lock().ask_one(request)?;
    Ok(address)
}

/// Two processes that pick at once both set an address, then both look: at least one sees the other, and yields.
fn pick_address(link: &LinkGuard, pools: &Pools) -> Result<Ipv4Network> {
    for attempt in 0..PICKS {
        let occupied = Occupied::read(&mut link.socket().lock())?;
        let subnet = pools.free(&occupied, start_of(link.name().as_str(), attempt))?;
        let first_host = (u32::from(subnet.network()) + 1).into();
        let address = Ipv4Network::new(first_host, subnet.prefix()).unwrap_or(subnet);
        add_address(link, address)?;
        if !overlapped(link, address)? {
            return Ok(address);
        }
        let request = message::delete_address(link.index(), link.name(), address);
        link.socket().lock().ask_one(request)?;
    }
    let what = format!("pick a subnet for {}", link.name());
    let why = "others kept taking the same ones";
    Err(Error::plain(ErrorKind::Busy, what, why))
}

/// Whether another link has an address of the same subnet.
fn overlapped(link: &LinkGuard, address: Ipv4Network) -> Result<bool> {
    let addresses = subnet::addresses(&mut link.socket().lock())?;
    Ok(addresses
        .iter()
        .any(|other| other.index != link.index() && other.subnet.overlaps(address)))
}

/// The MTU of the link of the default route, so that packets of containers fit a VPN or an overlay on the way out.
pub(crate) fn inferred_mtu(socket: &mut Socket) -> Result<u32> {
    let routes = subnet::routes(socket)?;
    let Some(index) = default_link(&routes) else {
        return Ok(ETHERNET_MTU);
    };
    let answer = socket.ask_one(message::link_at(index))?;
    Ok(LinkAnswer::parse(&answer)?.mtu)
}

fn default_link(routes: &[RouteAnswer]) -> Option<u32> {
    routes
        .iter()
        .filter(|route| route.main && route.destination.prefix() == 0)
        .min_by_key(|route| route.metric)?
        .link
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Reach;

    #[test]
    fn the_mtu_is_of_the_default_route_of_the_lowest_metric_in_the_main_table() {
        let route = |prefix, metric, main, link| RouteAnswer {
            destination: Ipv4Network::new(Ipv4Addr::UNSPECIFIED, prefix).unwrap(),
            reach: Reach::Routed,
            link: Some(link),
            metric,
            main,
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
    fn addresses_no_bridge_can_have_are_refused() {
        let name = IfName::derived("br0".to_owned());
        for (address, kind) in [
            ("10.0.0.0/24", ErrorKind::InvalidInput),
            ("10.0.0.255/24", ErrorKind::InvalidInput),
            ("10.0.0.1/31", ErrorKind::InvalidInput),
            ("fd00::1/64", ErrorKind::Unsupported),
        ] {
            let error = gateway(&name, address.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), kind, "{address}");
            let what = format!("create bridge br0 with {address}: ");
            assert!(error.to_string().starts_with(&what), "{error}");
        }
        assert!(gateway(&name, "10.0.0.254/24".parse().unwrap()).is_ok());
    }
}
