//! Networks across hosts: Ethernet frames in UDP.

use std::net::{IpAddr, Ipv4Addr};

use crate::bridge::{Bridge, inferred_mtu};
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::kind::LinkKind;
use crate::link::{LinkGuard, SharedSocket};
use crate::mac::Colons;
use crate::message::vxlan::{self as message, FdbAnswer, FdbRoute, Put, VxlanLink};
use crate::message::{link_named, set_addressing_unknown, set_up};
use crate::parent::lower_link;
use crate::sysctl;
use crate::transport::now;

/// The UDP port the IANA gave to VXLAN.
const IANA_PORT: u16 = 4789;

/// Frames to many have this address, and those to hosts that no entry is known of: an [`Fdb`] of it floods.
const FLOOD: [u8; 6] = [0; 6];

/// The largest VNI, of 24 bits.
const LARGEST_VNI: u32 = 0x00ff_ffff;

/// What a [`Vxlan`] will be. [`Vxlan::builder`] makes it.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until create()"]
pub struct VxlanBuilder {
    name: IfName,
    vni: u32,
    port: u16,
    local: Option<IpAddr>,
    remote: Remote,
    dev: Option<IfName>,
    ttl: Option<u8>,
    learning: bool,
    proxy: bool,
    mtu: Option<u32>,
}

/// Where a frame goes that no entry is known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remote {
    /// Where [`Fdb::flood`] entries say.
    Fed,
    Group(IpAddr),
    Host(IpAddr),
}

impl Remote {
    fn address(self) -> Option<IpAddr> {
        match self {
            Remote::Fed => None,
            Remote::Group(address) | Remote::Host(address) => Some(address),
        }
    }
}

impl VxlanBuilder {
    /// The UDP port, of this host and the others. Without it 4789.
    #[doc(alias = "dstport")]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The address of this host that the others know it by. It decides the family of the network between the hosts.
    pub fn local(mut self, address: IpAddr) -> Self {
        self.local = Some(address);
        self
    }

    /// A multicast group all hosts are in: frames to many go there, and those to containers not learnt of yet. It takes
    /// [`dev`](Self::dev), whose network must carry multicast.
    pub fn group(mut self, group: IpAddr) -> Self {
        self.remote = Remote::Group(group);
        self
    }

    /// The one other host, where all is sent that no entry is known for.
    pub fn remote(mut self, host: IpAddr) -> Self {
        self.remote = Remote::Host(host);
        self
    }

    /// The link of the host it sends on. It is not changed.
    pub fn dev(mut self, name: IfName) -> Self {
        self.dev = Some(name);
        self
    }

    /// The TTL of what it sends. Without it the kernel's own: 1 for a group.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Learns nothing from what comes in, nor does the bridge it is a port of: where each container is, the caller says by
    /// [`Vxlan::add_fdb`]. Else whoever can send to the port can have frames of others.
    pub fn no_learning(mut self) -> Self {
        self.learning = false;
        self
    }

    /// Answers ARP and neighbour solicitations for what [`Vxlan::add_neighbour`] was told, so that they need not be
    /// flooded.
    pub fn proxy(mut self) -> Self {
        self.proxy = true;
        self
    }

    /// The MTU in bytes. Without it, that of [`dev`](Self::dev), or of the default route's link, less
    /// [`overhead`](Self::overhead).
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// How much larger a packet is on the way to another host, in bytes: 50 between hosts with IPv4 addresses, 70 with
    /// IPv6. The MTU of the bridge and its containers must be lower by as much.
    ///
    /// ```
    /// # use cofferdam_netbridge::Vxlan;
    /// let vxlan = Vxlan::builder("vx0".parse()?, 42).local("192.0.2.1".parse().unwrap());
    /// assert_eq!(1500 - vxlan.overhead(), 1450);
    /// # Ok::<(), cofferdam_netbridge::Error>(())
    /// ```
    #[must_use]
    pub fn overhead(&self) -> u32 {
        if self.is_ipv6() { 70 } else { 50 }
    }

    /// The name that it will have.
    #[must_use]
    pub fn ifname(&self) -> &IfName {
        &self.name
    }

    /// Makes it in the network namespace of the calling thread and sets it up.
    ///
    /// It has no address, and the kernel gives it none; `accept_ra`, `autoconf` and `accept_redirects` are 0. A failure leaves nothing behind.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken, or another link has this VNI on this port; `InvalidInput` for a VNI above
    /// 2^24-1, a group that is none, a group without [`dev`](Self::dev), addresses of two families, or an MTU too large
    /// for `dev`; `NotFound` without `dev`; `Unsupported` where the kernel has no VXLAN; `PermissionDenied` without
    /// `CAP_NET_ADMIN` over the namespace.
    pub fn create(self) -> Result<Vxlan> {
        self.create_in(SharedSocket::open()?, None)
    }

    /// Makes it as a port of `bridge`, whose containers it connects with those of the same VNI on other hosts.
    ///
    /// It is made in the bridge's network namespace. A failure leaves nothing behind.
    ///
    /// # Errors
    /// `InvalidInput` where the MTU of the bridge is larger than that of the VXLAN link: what is longer would be dropped
    /// without a word. Else as [`create`](Self::create).
    pub fn create_on(self, bridge: &Bridge) -> Result<Vxlan> {
        self.create_in(bridge.socket().clone(), Some(bridge))
    }

    fn create_in(self, socket: SharedSocket, bridge: Option<&Bridge>) -> Result<Vxlan> {
        if let Some(why) = self.fault() {
            return Err(Error::invalid(self.what(), why));
        }
        LinkKind::Vxlan.available_to(&mut socket.lock())?;
        let dev = match &self.dev {
            Some(name) => Some(lower_link(&mut socket.lock(), name)?),
            None => None,
        };
        let mtu = self.fitting_mtu(&socket, dev.as_ref().map(|dev| dev.mtu))?;
        if let Some(bridge) = bridge {
            self.check_bridge(bridge, mtu)?;
        }
        let request = message::create_vxlan(VxlanLink {
            name: &self.name,
            vni: self.vni,
            port: self.port,
            local: self.local,
            remote: self.remote.address(),
            dev: dev.map(|dev| dev.index),
            ttl: self.ttl,
            learning: self.learning,
            proxy: self.proxy,
            mtu,
            bridge: bridge.map(Bridge::index),
        });
        if let Some(bridge) = bridge {
            let note = set_addressing_unknown(bridge.index(), bridge.name());
            socket.lock().ask_one(note)?; // other hosts have rules of their own
        }
        socket.lock().ask_one(request)?;
        let mut link = LinkGuard::new(socket, self.name.clone());
        let read = link.socket().lock().ask_one(link_named(&self.name))?;
        link.found(&read)?;
        let tells_bridge = bridge.is_some() && !self.learning;
        if tells_bridge {
            let learning = message::no_learning_of_port(link.index(), link.name());
            link.socket().lock().ask_one(learning)?;
        }
        let name = link.name().clone();
        match bridge {
            Some(bridge) => bridge.netns().run(|| sysctl::deaf(&name))??,
            None => sysctl::deaf(&name)?,
        }
        bring_up(&link)?;
        let VxlanBuilder { vni, proxy, .. } = self;
        Ok(Vxlan {
            link,
            vni,
            proxy,
            tells_bridge,
            mtu,
        })
    }

    fn what(&self) -> String {
        format!("create vxlan {} with VNI {}", self.name, self.vni)
    }

    fn is_ipv6(&self) -> bool {
        let known = [self.local, self.remote.address()];
        known.into_iter().flatten().any(|address| address.is_ipv6())
    }

    fn fault(&self) -> Option<&'static str> {
        let families = [self.local, self.remote.address()];
        let mut families = families.into_iter().flatten().map(|ip| ip.is_ipv4());
        let first = families.next();
        match (self.remote, self.local) {
            _ if self.vni > LARGEST_VNI => Some("the VNI has more than 24 bits"),
            _ if self.port == 0 => Some("there is no UDP port 0"),
            _ if self.mtu == Some(0) => Some("the MTU is 0"),
            (Remote::Group(group), _) if !group.is_multicast() => Some("the group is none"),
            (Remote::Group(_), _) if self.dev.is_none() => Some("a group takes a dev"),
            (Remote::Host(host), _) if !is_host(host) => Some("the remote is no host's address"),
            (_, Some(local)) if !is_host(local) => Some("the local address is no host's"),
            _ if families.any(|family| Some(family) != first) => {
                Some("the local address and the other are of two families")
            }
            _ => None,
        }
    }

    fn fitting_mtu(&self, socket: &SharedSocket, dev: Option<u32>) -> Result<u32> {
        let outside = match (dev, self.mtu) {
            (Some(outside), _) => outside,
            (None, Some(given)) => return Ok(given),
            (None, None) => now(inferred_mtu(socket))?,
        };
        let largest = outside.saturating_sub(self.overhead());
        match self.mtu {
            Some(mtu) if mtu > largest => {
                let why = format!("an MTU of {mtu} does not fit into {outside}: {largest} does");
                Err(Error::invalid(self.what(), why))
            }
            given => Ok(given.unwrap_or(largest)),
        }
    }

    fn check_bridge(&self, bridge: &Bridge, mtu: u32) -> Result<()> {
        if bridge.mtu() <= mtu {
            return Ok(());
        }
        let why = format!(
            "the MTU of {} is {}, and only {mtu} fits: make the bridge with that",
            bridge.name(),
            bridge.mtu()
        );
        Err(Error::invalid(self.what(), why))
    }
}

/// A VXLAN link this value made. Dropping it deletes it, as by `RTM_DELLINK`, which takes the kernel 20 to 40 ms
/// ([`Vxlan::remove`] tells how that went); its entries go with it.
///
/// Frames to the containers of other hosts leave in UDP packets. Where each is, the link learns from what comes in, or
/// the caller says, entry by entry, out of whatever store the hosts share:
///
/// ```no_run
/// use cofferdam_netbridge::{Bridge, Fdb, Vxlan};
///
/// let vxlan = Vxlan::builder("vx0".parse()?, 42).local("192.0.2.1".parse().unwrap()).no_learning().proxy();
/// let bridge = Bridge::builder("app0".parse()?)
///     .address("10.9.0.1/24".parse().unwrap())
///     .mtu(1500 - vxlan.overhead())
///     .create()?;
/// let vxlan = vxlan.create_on(&bridge)?;
///
/// let (host, mac) = ("192.0.2.2".parse().unwrap(), [2, 0x42, 10, 9, 0, 7]);
/// vxlan.add_fdb(Fdb::flood(host))?;                                  // frames to all go there too
/// vxlan.add_fdb(Fdb::new(mac, host))?;                               // and those to 10.9.0.7
/// vxlan.add_neighbour("10.9.0.7".parse().unwrap(), mac)?;            // which nobody need ask for
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
///
/// Nothing is encrypted or authenticated: whoever can send to the port can send into the network. Between hosts it wants
/// a network of its own, IPsec or WireGuard, and a packet filter before the port.
#[derive(Debug)]
#[must_use = "dropping a Vxlan deletes it"]
pub struct Vxlan {
    link: LinkGuard,
    vni: u32,
    proxy: bool,
    /// Whether its bridge learns nothing by itself of it.
    tells_bridge: bool,
    mtu: u32,
}

/// Where the frames for a hardware address go: an entry of the forwarding database of a [`Vxlan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fdb {
    /// The container's hardware address.
    pub mac: [u8; 6],
    /// The host's address: its VXLAN tunnel end point.
    pub vtep: IpAddr,
}

/// An [`Fdb`] entry as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FdbEntry {
    /// The entry.
    pub fdb: Fdb,
    /// Whether the kernel learnt it, and will forget it.
    pub learned: bool,
}

impl Fdb {
    /// Frames for `mac` go to the host `vtep`.
    #[must_use]
    pub fn new(mac: [u8; 6], vtep: IpAddr) -> Self {
        Fdb { mac, vtep }
    }

    /// Frames to many go to the host `vtep` too, and those to whom no other entry is of.
    #[must_use]
    pub fn flood(vtep: IpAddr) -> Self {
        Fdb { mac: FLOOD, vtep }
    }

    /// Whether several entries of the hardware address may be.
    fn is_flood(self) -> bool {
        self.mac == FLOOD || self.mac[0] & 1 != 0
    }
}

impl Vxlan {
    /// Says what a link of this name with this VNI will be. The hosts of a network have its VNI in common.
    pub fn builder(name: IfName, vni: u32) -> VxlanBuilder {
        VxlanBuilder {
            name,
            vni,
            port: IANA_PORT,
            local: None,
            remote: Remote::Fed,
            dev: None,
            ttl: None,
            learning: true,
            proxy: false,
            mtu: None,
        }
    }

    /// Adds an entry, as `bridge fdb add` does; a [flooding](Fdb::flood) one beside those there are, as
    /// `bridge fdb append`. It is permanent: nothing that is learnt changes it. To add a flooding one again is a success.
    ///
    /// # Errors
    /// `AlreadyExists` where one of the address is there, learnt or given: see [`replace_fdb`](Self::replace_fdb);
    /// `InvalidInput` for a `vtep` of another family than the link's.
    pub fn add_fdb(&self, fdb: Fdb) -> Result<()> {
        let put = if fdb.is_flood() {
            Put::Append
        } else {
            Put::New
        };
        self.put_fdb(fdb, put, "add")
    }

    /// Adds an entry or has the one of its address lead elsewhere, as `bridge fdb replace` does: a container moved.
    ///
    /// # Errors
    /// `InvalidInput` for a flooding entry, of which several may be, or a `vtep` of another family than the link's.
    pub fn replace_fdb(&self, fdb: Fdb) -> Result<()> {
        if fdb.is_flood() {
            let why = "several may be of this address: remove one and add another";
            return Err(Error::invalid(self.fdb_what("replace", fdb), why));
        }
        self.put_fdb(fdb, Put::Replace, "replace")
    }

    /// Removes an entry. One of the address that leads to another host stays; the kernel calls that a success.
    ///
    /// # Errors
    /// `NotFound` where there is none of the address.
    pub fn remove_fdb(&self, fdb: Fdb) -> Result<()> {
        let (what, route) = (self.fdb_what("remove", fdb), self.fdb_route(fdb));
        let removed = self.ask(message::delete_fdb(route, what.clone()));
        if !route.by_bridge {
            return removed;
        }
        match self.ask(message::delete_fdb_of_bridge(route, what)) {
            // One who has the address spoke at another port: the bridge knows better already.
            Err(error) if error.kind() == ErrorKind::NotFound => removed,
            of_bridge => removed.and(of_bridge),
        }
    }

    /// Lists the entries, those the kernel learnt among them.
    ///
    /// # Errors
    /// `Busy` where they keep changing while they are listed.
    pub fn fdb(&self) -> Result<Vec<FdbEntry>> {
        let request = message::all_fdb(self.index(), self.name());
        let payloads = self.link.socket().lock().dump(&request)?;
        let entries = payloads
            .iter()
            .filter_map(|payload| FdbAnswer::parse(payload));
        // Those without a destination are the bridge's of this port.
        Ok(entries
            .filter(|entry| entry.index == self.index())
            .filter_map(|entry| {
                Some(FdbEntry {
                    fdb: Fdb::new(entry.mac, entry.vtep?),
                    learned: !entry.given,
                })
            })
            .collect())
    }

    /// Says which hardware address an address of the network has, or has now: with [`proxy`](VxlanBuilder::proxy) the
    /// link answers for it. An [`Fdb`] entry must say where that is.
    ///
    /// # Errors
    /// `InvalidInput` for an address no host has, or without `proxy`, where it would do nothing.
    pub fn add_neighbour(&self, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let what = format!(
            "add neighbour {address} at {} to {}",
            Colons(mac),
            self.name()
        );
        if !is_host(address) {
            return Err(Error::invalid(what, "it is no host's address"));
        }
        if !self.proxy {
            let why = "the link was made without proxy(), and would not answer for it";
            return Err(Error::invalid(what, why));
        }
        self.ask(message::put_neighbour(self.index(), address, mac, what))
    }

    /// Takes back what [`add_neighbour`](Self::add_neighbour) said.
    ///
    /// # Errors
    /// `NotFound` where nothing was said of the address.
    pub fn remove_neighbour(&self, address: IpAddr) -> Result<()> {
        let what = format!("remove neighbour {address} of {}", self.name());
        self.ask(message::delete_neighbour(self.index(), address, what))
    }

    /// Deletes it, as by `RTM_DELLINK`: 20 to 40 ms. One that is gone already is a success.
    ///
    /// # Errors
    /// `PermissionDenied` where `CAP_NET_ADMIN` was lost.
    pub fn remove(self) -> Result<()> {
        self.link.remove()
    }

    /// Leaves the link where it is, with its entries, and returns its name, by which
    /// [`delete_link`](crate::delete_link) deletes it.
    pub fn persist(self) -> IfName {
        self.link.persist()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &IfName {
        self.link.name()
    }

    /// The index in its network namespace.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.link.index()
    }

    /// The VNI.
    #[must_use]
    pub fn vni(&self) -> u32 {
        self.vni
    }

    /// The MTU in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    fn put_fdb(&self, fdb: Fdb, put: Put, verb: &str) -> Result<()> {
        let what = self.fdb_what(verb, fdb);
        if !is_host(fdb.vtep) && !fdb.vtep.is_multicast() {
            return Err(Error::invalid(what, "the vtep is no host's address"));
        }
        let request = message::put_fdb(self.fdb_route(fdb), put, what.clone());
        match self.ask(request) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                Err(Error::invalid(what, "the vtep is not of the link's family"))
            }
            done => done,
        }
    }

    fn fdb_route(&self, fdb: Fdb) -> FdbRoute {
        FdbRoute {
            index: self.index(),
            mac: fdb.mac,
            vtep: fdb.vtep,
            by_bridge: self.tells_bridge && !fdb.is_flood(),
        }
    }

    fn fdb_what(&self, verb: &str, fdb: Fdb) -> String {
        let (mac, vtep) = (Colons(fdb.mac), fdb.vtep);
        format!("{verb} FDB entry {mac} at {vtep} of {}", self.name())
    }

    fn ask(&self, request: crate::message::Request) -> Result<()> {
        self.link.socket().lock().ask_one(request).map(drop)
    }
}

/// Without an IPv6 address, which nothing could reach.
fn bring_up(link: &LinkGuard) -> Result<()> {
    let ask = |request| link.socket().lock().ask_one(request).map(drop);
    match ask(message::no_link_local(link.index(), link.name())) {
        // A kernel, or an MTU, without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
        done => done?,
    }
    let up = set_up(link.index(), link.name().as_str(), Default::default());
    match ask(up) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
            let what = format!("set vxlan {} up", link.name());
            let why = "another program has the UDP port";
            Err(Error::plain(ErrorKind::AlreadyExists, what, why))
        }
        done => done,
    }
}

/// Whether it can be one host's.
fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn builder(vni: u32) -> VxlanBuilder {
        Vxlan::builder("vx0".parse().unwrap(), vni)
    }

    #[test]
    fn what_the_kernel_would_not_take_or_would_take_wrongly_is_refused() {
        let eth0: IfName = "eth0".parse().unwrap();
        for (builder, why) in [
            (builder(1 << 24), "24 bits"),
            (builder(1).port(0), "port 0"),
            (builder(1).mtu(0), "MTU"),
            (builder(1).group(ip("10.0.0.1")).dev(eth0.clone()), "none"),
            (builder(1).group(ip("239.0.0.1")), "dev"),
            (builder(1).remote(ip("239.0.0.1")), "remote"),
            (builder(1).remote(ip("255.255.255.255")), "remote"),
            (builder(1).local(ip("0.0.0.0")), "local"),
            (
                builder(1).local(ip("10.0.0.1")).remote(ip("fd00::1")),
                "two families",
            ),
        ] {
            let error = builder.create().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(builder(LARGEST_VNI).fault(), None);
        let group = builder(0).group(ip("ff05::7")).dev(eth0);
        assert_eq!(group.local(ip("fd00::1")).fault(), None);
    }

    #[test]
    fn the_overhead_is_of_the_family_between_the_hosts() {
        assert_eq!(builder(1).overhead(), 50);
        assert_eq!(builder(1).local(ip("10.0.0.1")).overhead(), 50);
        assert_eq!(builder(1).local(ip("fd00::1")).overhead(), 70);
        assert_eq!(builder(1).remote(ip("fd00::2")).overhead(), 70);
    }
}
