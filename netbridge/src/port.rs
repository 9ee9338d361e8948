//! A container's link to a bridge.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use ipnetwork::IpNetwork;
use netlink_packet_route::link::LinkFlags;
use rustix::fs::fstat;

use crate::announce::Tell;
use crate::answer::{LinkAnswer, malformed};
use crate::attachment::{Attachment, address_fault};
use crate::bridge::Uplink;
use crate::claims::Claims;
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::interface::{Interface, Pauses};
use crate::link::{LinkGuard, SharedSocket};
use crate::message::{self, Addressing, Mac, VethPair};
use crate::subnet::hash;
use crate::transport::{Counted, Transport, ask_one};

/// How many names for the host's end are tried where none was given.
const NAMES: u32 = 8;

/// A link of a container to a bridge, made by [`Bridge::attach`](crate::Bridge::attach): a veth pair. Dropping it deletes both ends, as by
/// `RTM_DELLINK`, which takes the kernel 20 to 40 ms ([`Port::remove`] tells how that went).
///
/// There are three ways to be rid of it:
/// - [`remove`](Port::remove) deletes both ends now. When it returns, nobody sees a link any more, though processes and
///   sockets may still be in the namespace. It waits those 20 to 40 ms.
/// - [`Bridge::detach_all`](crate::Bridge::detach_all) does that for many ports at once, in well under a millisecond for each.
/// - [`persist`](Port::persist), then drop the last fd, socket and process of the network namespace. That takes
///   microseconds; the kernel deletes both ends when it takes the namespace down, some tens of milliseconds later, many
///   namespaces at once. Until then the host's end can be seen. The addresses stay claimed until
///   [`Bridge::release`](crate::Bridge::release).
///
/// A namespace that ended on its own took the link with it: then `remove` succeeds and Drop does nothing.
#[derive(Debug)]
#[must_use = "dropping a Port detaches the container"]
pub struct Port {
    link: LinkGuard,
    lease: Lease,
    addresses: Vec<IpNetwork>,
    mac: Mac,
    ifname: IfName,
    messages: u32,
}

impl Port {
    /// Deletes the link, as by `RTM_DELLINK`: 20 to 40 ms. One that is gone already is a success.
    ///
    /// # Errors
    /// `PermissionDenied` where `CAP_NET_ADMIN` was lost.
    pub fn remove(self) -> Result<()> {
        self.link.remove()
    }

    /// Leaves the link to end with the network namespace of the container, and returns the name of the host's end.
    ///
    /// The link has its addresses for as long as it lives: so the [`Bridge`](crate::Bridge) attaches no other with them until
    /// [`Bridge::release`](crate::Bridge::release) says that they are free. [`delete_link`](crate::delete_link) deletes the link earlier.
    pub fn persist(self) -> IfName {
        self.lease.keep();
        self.link.persist()
    }

    pub(crate) fn socket(&self) -> &SharedSocket {
        self.link.socket()
    }

    /// The name of the host's end.
    #[must_use]
    pub fn name(&self) -> &IfName {
        self.link.name()
    }

    /// The index of the host's end.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.link.index()
    }

    /// The name of the container's end, as it was given.
    #[must_use]
    pub fn ifname(&self) -> &IfName {
        &self.ifname
    }

    /// The addresses of the container's end, with the prefixes of their subnets.
    #[must_use]
    pub fn addresses(&self) -> &[IpNetwork] {
        &self.addresses
    }

    /// The first IPv4 address of the container's end.
    #[must_use]
    pub fn ipv4(&self) -> Option<IpNetwork> {
        self.addresses.iter().copied().find(IpNetwork::is_ipv4)
    }

    /// The first IPv6 address of the container's end.
    #[must_use]
    pub fn ipv6(&self) -> Option<IpNetwork> {
        self.addresses.iter().copied().find(IpNetwork::is_ipv6)
    }

    /// The hardware address of the container's end.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// How many netlink messages were sent to attach it.
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    pub(crate) fn link(&self) -> &LinkGuard {
        &self.link
    }

    pub(crate) fn link_mut(&mut self) -> &mut LinkGuard {
        &mut self.link
    }
}

/// Addresses of a bridge in use by a port. Dropping it frees them.
#[derive(Debug)]
struct Lease {
    addresses: Vec<IpAddr>,
    claims: Claims,
}

impl Lease {
    /// All of them, or none.
    fn take(bridge: &Uplink, addresses: &[IpNetwork]) -> Result<Self> {
        let mut lease = Lease {
            addresses: Vec::new(),
            claims: bridge.claims.clone(),
        };
        for address in addresses.iter().map(IpNetwork::ip) {
            if !lease.claims.insert(address) {
                let what = format!("attach {address} to {}", bridge.name);
                let why = "a container has the address";
                return Err(Error::plain(ErrorKind::AlreadyExists, what, why));
            }
            lease.addresses.push(address);
        }
        Ok(lease)
    }

    /// Leaves the addresses claimed.
    fn keep(mut self) {
        for address in self.addresses.drain(..) {
            self.claims.persist(address);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        for address in &self.addresses {
            self.claims.remove(*address);
        }
    }
}

/// What an attach will do, before anything is done.
#[derive(Debug)]
struct Plan<'a> {
    bridge: &'a Uplink,
    netns: BorrowedFd<'a>,
    attachment: &'a Attachment,
    mtu: u32,
    interface: Interface,
    addressing: Addressing,
}

impl<'a> Plan<'a> {
    fn new(bridge: &'a Uplink, netns: BorrowedFd<'a>, attachment: &'a Attachment) -> Result<Self> {
        let what = format!("attach to {}", bridge.name);
        attachment.check(&what, bridge.mtu)?;
        let gateway = |address: &IpNetwork| bridge.gateway_for(address.ip());
        let addresses = attachment.addresses.iter();
        let addresses = addresses.map(|address| container_address(bridge, *address));
        let mut interface = Interface {
            mac: attachment.mac_or_derived(&inode(netns)?.to_ne_bytes()),
            addresses: addresses.collect::<Result<_>>()?,
            routes: attachment.all_routes(&what, gateway)?,
            sysctls: attachment.sysctls.clone(),
            tell: Tell::OnceForwarded,
        };
        let addressing = Addressing::from(bridge.flags());
        let is_known = addressing == Addressing::Derived && interface.has_derived_mac();
        if is_known && attachment.port.is_flooded() {
            interface.tell = Tell::Nobody;
        }
        Ok(Plan {
            bridge,
            netns,
            attachment,
            mtu: attachment.mtu.unwrap_or(bridge.mtu),
            interface,
            addressing,
        })
    }

    /// Says on the bridge that hardware addresses are not all derived, before any neighbour learns of it.
    async fn note_addressing<T: Transport>(&self, host: &T) -> Result<()> {
        if self.addressing == Addressing::Unknown || self.interface.has_derived_mac() {
            return Ok(());
        }
        let note = message::set_addressing_unknown(self.bridge.index, &self.bridge.name);
        match ask_one(host, note).await {
            Ok(_ack) => Ok(()),
            Err(error) => Err(gone(self.bridge, host).await?.unwrap_or(error)),
        }
    }
}

/// Attaches `netns` to `bridge`, over a conversation in the bridge's network namespace.
pub(crate) async fn attach<T: Transport>(
    bridge: &Uplink,
    host: T,
    netns: BorrowedFd<'_>,
    attachment: &Attachment,
) -> Result<Port> {
    let plan = Plan::new(bridge, netns, attachment)?;
    let lease = Lease::take(bridge, &plan.interface.addresses)?;
    let host = Counted::new(host);
    plan.note_addressing(&host).await?;
    let (link, index) = create_pair(&plan, &host).await?;
    let (settings, mac) = (&attachment.port, plan.interface.mac);
    settings.apply(&host, &link, mac).await?;
    let inside = plan.interface.configure(&host, netns, index).await?;
    let mut pauses = Pauses::new();
    let is_up: fn(&LinkAnswer) -> bool = LinkAnswer::is_up;
    pauses.until(&inside.transport, index, is_up).await?;
    await_forwarding(bridge, &host, &link, &mut pauses).await?;
    let announcement = &inside.announcement;
    pauses
        .until_seen(&host, || announcement.is_reachable())
        .await;
    announcement.after_forwarding()?;
    Ok(Port {
        link,
        lease,
        addresses: plan.interface.addresses,
        mac: plan.interface.mac,
        ifname: inside.name,
        messages: host.sent(),
    })
}

/// The address with the prefix of the bridge's subnet, in which it must be one of a container.
///
/// A bridge without an address takes any.
fn container_address(bridge: &Uplink, address: IpNetwork) -> Result<IpNetwork> {
    let ip = address.ip();
    let subnet = bridge.address_for(ip);
    let what = || {
        let with = bridge.addresses.iter().map(ToString::to_string);
        match with.collect::<Vec<_>>().join(" and ") {
            with if with.is_empty() => format!("attach {address} to {}", bridge.name),
            with => format!("attach {ip} to {} with {with}", bridge.name),
        }
    };
    let why = match subnet {
        None if bridge.addresses.is_empty() => match address_fault(address) {
            None => return Ok(address),
            Some(why) => why,
        },
        None => "it is not in the subnet",
        Some(subnet) if ip == subnet.ip() => "it is the address of the bridge",
        Some(subnet) if ip == subnet.network() => "it is the network address",
        Some(subnet) if ip.is_ipv4() && ip == subnet.broadcast() => "it is the broadcast address",
        Some(subnet) => return Ok(IpNetwork::new(ip, subnet.prefix()).unwrap_or(address)),
    };
    Err(Error::invalid(what(), why))
}

/// Makes the veth pair and returns the host's end, with the index of the container's end.
async fn create_pair<T: Transport>(plan: &Plan<'_>, host: &T) -> Result<(LinkGuard, u32)> {
    if let Some(name) = &plan.attachment.host_ifname {
        return create_named(plan, host, name)
            .await?
            .map_err(Clash::into_error);
    }
    let mut last = None;
    for attempt in 0..NAMES {
        let name = host_name(plan, attempt)?;
        match create_named(plan, host, &name).await? {
            Ok(pair) => return Ok(pair),
            Err(Clash::Host(error)) => last = Some(error),
            Err(Clash::Inside(error)) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| malformed("no name was tried")))
}

/// Which of the two names was taken, with the kernel's refusal.
#[derive(Debug)]
enum Clash {
    Host(Error),
    Inside(Error),
}

impl Clash {
    fn into_error(self) -> Error {
        match self {
            Clash::Host(error) | Clash::Inside(error) => error,
        }
    }
}

/// `EEXIST` does not say whose name is taken: whether the host's end can be read does.
async fn create_named<T: Transport>(
    plan: &Plan<'_>,
    host: &T,
    name: &IfName,
) -> Result<std::result::Result<(LinkGuard, u32), Clash>> {
    let veth = message::create_veth(&VethPair {
        name,
        bridge: plan.bridge.index,
        mtu: plan.mtu,
        netns: plan.netns,
        inside: plan.attachment.ifname.as_ref(),
        mac: plan.interface.mac,
        state: plan.attachment.port.host_end(),
    });
    let echo = match ask_one(host, veth).await {
        Ok(echo) => echo,
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(gone(plan.bridge, host).await?.unwrap_or(error));
        }
        Err(error) => {
            let read = ask_one(host, message::link_named(name)).await;
            return Ok(Err(match read {
                Ok(_) => Clash::Host(error),
                Err(_) => Clash::Inside(error),
            }));
        }
    };
    let mut link = LinkGuard::new(plan.bridge.socket.clone(), name.clone());
    let read = match echo.is_empty() {
        true => ask_one(host, message::link_named(name)).await?, // before Linux 6.2
        false => echo,
    };
    let peer = link.found(&read)?.link;
    let inside = peer.ok_or_else(|| malformed("a veth has no peer"))?;
    Ok(Ok((link, inside)))
}

/// The error for a bridge that another deleted: for the kernel, that is `EINVAL` without a word.
async fn gone<T: Transport>(bridge: &Uplink, host: &T) -> Result<Option<Error>> {
    match ask_one(host, message::link_at(bridge.index)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let what = format!("attach to {}", bridge.name);
            Ok(Some(Error::plain(error.kind(), what, "the bridge is gone")))
        }
        done => done.map(|_link| None),
    }
}

/// A name for the host's end: the same again for the same bridge, namespace, interface name and hardware address.
fn host_name(plan: &Plan<'_>, attempt: u32) -> Result<IfName> {
    let ifname = plan.attachment.ifname.as_ref();
    let ifname = ifname.map_or(message::BY_RULE, IfName::as_str);
    let inode = inode(plan.netns)?;
    Ok(derived_host_name(
        plan.bridge.index,
        inode,
        ifname,
        plan.interface.mac,
        attempt,
    ))
}

fn inode(netns: BorrowedFd<'_>) -> Result<u64> {
    let stat = fstat(netns).map_err(|errno| Error::sys("stat the network namespace", errno))?;
    Ok(stat.st_ino)
}

fn derived_host_name(bridge: u32, inode: u64, ifname: &str, mac: Mac, attempt: u32) -> IfName {
    let bytes = bridge
        .to_ne_bytes()
        .into_iter()
        .chain(inode.to_ne_bytes())
        .chain(attempt.to_ne_bytes())
        .chain(mac)
        .chain(ifname.bytes());
    IfName::derived(format!("veth{:010x}", hash(bytes) >> 24))
}

/// Waits until the bridge forwards for the port, and the kernel sends on the port and on the bridge.
async fn await_forwarding<T: Transport>(
    bridge: &Uplink,
    host: &T,
    link: &LinkGuard,
    pauses: &mut Pauses,
) -> Result<()> {
    let forwarding: fn(&LinkAnswer) -> bool = LinkAnswer::is_forwarding;
    pauses.until(host, link.index(), forwarding).await?;
    // Its carrier comes with its first port that forwards: most often it has it. The flag may show before the bridge has its
    // queue, but the link watch gives both while nobody else has rtnetlink's lock: the announcement, which takes it, waits.
    // Of a bridge that has never been up the flag says nothing: it has it until the link watch has seen it first.
    if bridge.was_up() && bridge.flags().contains(LinkFlags::Running) {
        return Ok(());
    }
    let up = LinkAnswer::is_bridge_up;
    pauses.until(host, bridge.index, up).await?;
    // One that is down is no longer waited for, and was not up.
    let is_running = bridge.flags().contains(LinkFlags::Running);
    bridge.was_up.fetch_or(is_running, Ordering::Relaxed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bridge;
    use cofferdam_testkit::{Need, have};

    #[test]
    fn a_container_is_attached_with_ten_messages() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        cofferdam_testkit::NetNs::new().run(|| {
            let bridge = |name: &str| Bridge::builder(name.parse().unwrap());
            let ipv4 = bridge("br0").address("10.5.0.1/24".parse().unwrap());
            let both = bridge("br1")
                .address("10.6.0.1/24".parse().unwrap())
                .address("fd00:6::1/64".parse().unwrap());
            let attachment = |v4: &str| Attachment::new(v4.parse().unwrap());
            let first = attachment("10.5.0.2/24");
            fewest(&ipv4.create().unwrap(), first, attachment("10.5.0.3/24"));
            let first = attachment("10.6.0.2/24").address("fd00:6::2/64".parse().unwrap());
            let other = attachment("10.6.0.3/24").address("fd00:6::3/64".parse().unwrap());
            fewest(&both.create().unwrap(), first, other);
        });
    }

    /// One more for each pause, which a kernel before 6.8 or a busy machine may take; one more before 6.2; and one more for
    /// the first port of a bridge. Nine, elsewhere.
    fn fewest(bridge: &Bridge, first: Attachment, other: Attachment) {
        let netns = crate::NetNs::new().unwrap();
        let _first = bridge.attach(&netns, first).unwrap();
        let attach = |_| {
            let netns = crate::NetNs::new().unwrap();
            let port = bridge.attach(&netns, other.clone()).unwrap();
            port.messages()
        };
        let fewest = (0..8).map(attach).min().unwrap();
        assert!(fewest <= 10, "{fewest}");
    }

    #[test]
    fn the_hosts_end_has_a_name_of_its_own_and_keeps_it() {
        let name = derived_host_name(3, 4_026_531_840, "eth0", [2; 6], 0);
        assert_eq!(name, derived_host_name(3, 4_026_531_840, "eth0", [2; 6], 0));
        assert_eq!(name.as_str().len(), 14);
        for other in [
            derived_host_name(4, 4_026_531_840, "eth0", [2; 6], 0),
            derived_host_name(3, 4_026_531_841, "eth0", [2; 6], 0),
            derived_host_name(3, 4_026_531_840, "eth1", [2; 6], 0),
            derived_host_name(3, 4_026_531_840, "eth0", [2; 6], 1),
            derived_host_name(3, 4_026_531_840, "eth0", [4; 6], 0),
        ] {
            assert_ne!(name, other);
        }
    }
}
