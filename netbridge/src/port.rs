//! A container's link to a bridge.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};
use rustix::fs::fstat;

use crate::answer::{LinkAnswer, malformed};
use crate::bridge::{Attached, Bridge};
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::link::{LinkGuard, SharedSocket};
use crate::message::{self, LinkLocal, Peer, Request, Up};
use crate::netns::run_in;
use crate::socket::Socket;
use crate::subnet::{hash, v4};
use crate::sysctl;

/// How many names for the host's end are tried where none was given.
const NAMES: u32 = 8;

/// The pauses between the questions whether a new link is operational: 0.3 s in all.
const PAUSES: [Duration; 6] = [
    Duration::from_micros(200),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
];

/// What a container gets of a bridge: [`Bridge::attach`] does it.
///
/// ```
/// use cofferdam_netbridge::{Attachment, Gateway};
///
/// let second_network = Attachment::new("172.21.0.2/24".parse().unwrap())
///     .ifname("eth1".parse()?)
///     .gateway(Gateway::None);
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an attachment does nothing until Bridge::attach"]
pub struct Attachment {
    address: IpNetwork,
    gateway: Gateway,
    ifname: IfName,
    host_ifname: Option<IfName>,
}

/// Where a container's default route leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gateway {
    /// To the bridge.
    #[default]
    Bridge,
    /// To this address of the subnet.
    Address(IpAddr),
    /// There is none: an internal network, or the container has one by another network.
    None,
}

impl Attachment {
    /// An interface `eth0` with this address, and a default route to the bridge. The prefix is the bridge's.
    pub fn new(address: IpNetwork) -> Self {
        Attachment {
            address,
            gateway: Gateway::Bridge,
            ifname: IfName::derived("eth0".to_owned()),
            host_ifname: None,
        }
    }

    /// Where the default route leads.
    pub fn gateway(mut self, gateway: Gateway) -> Self {
        self.gateway = gateway;
        self
    }

    /// The name of the interface in the container.
    pub fn ifname(mut self, name: IfName) -> Self {
        self.ifname = name;
        self
    }

    /// The name of the host's end. Without it, one is derived of the bridge, the namespace and the interface name.
    pub fn host_ifname(mut self, name: IfName) -> Self {
        self.host_ifname = Some(name);
        self
    }
}

/// A link of a container to a bridge, made by [`Bridge::attach`]: a veth pair. Dropping it deletes both ends, as by
/// `RTM_DELLINK`, which takes the kernel 20 to 40 ms ([`Port::remove`] tells how that went).
///
/// There are two ways to be rid of it:
/// - [`remove`](Port::remove) deletes both ends now. When it returns, nobody sees a link any more, though processes and
///   sockets may still be in the namespace. It waits those 20 to 40 ms.
/// - [`persist`](Port::persist), then drop the last fd, socket and process of the network namespace. That takes
///   microseconds; the kernel deletes both ends when it takes the namespace down, some tens of milliseconds later, many
///   namespaces at once. Until then the host's end can be seen. The address stays claimed until [`Bridge::release`].
///
/// A namespace that ended on its own took the link with it: then `remove` succeeds and Drop does nothing.
#[derive(Debug)]
#[must_use = "dropping a Port detaches the container"]
pub struct Port {
    link: LinkGuard,
    lease: Lease,
    address: Ipv4Network,
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
    /// The link has its address for as long as it lives: so the [`Bridge`] attaches no other with it until
    /// [`Bridge::release`] says that it is free. [`delete_link`](crate::delete_link) deletes the link earlier.
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

    /// The address of the container's end, with the prefix of the subnet.
    #[must_use]
    pub fn address(&self) -> IpNetwork {
        IpNetwork::V4(self.address)
    }

    /// The hardware address of the container's end.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        message::mac_of(self.lease.address)
    }
}

/// An address of a bridge in use by a port. Dropping it frees the address.
#[derive(Debug)]
struct Lease {
    address: Ipv4Addr,
    attached: Attached,
    armed: bool,
}

impl Lease {
    fn take(bridge: &Bridge, address: Ipv4Addr) -> Result<Self> {
        let attached = bridge.attached().clone();
        if attached.insert(address) {
            return Ok(Lease {
                address,
                attached,
                armed: true,
            });
        }
        let what = format!("attach {address} to {}", bridge.name());
        let why = "a container has the address";
        Err(Error::plain(ErrorKind::AlreadyExists, what, why))
    }

    /// Leaves the address claimed.
    fn keep(mut self) {
        self.armed = false;
        self.attached.persist(self.address);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.armed {
            self.attached.remove(self.address);
        }
    }
}

pub(crate) fn attach(
    bridge: &Bridge,
    netns: BorrowedFd<'_>,
    attachment: &Attachment,
) -> Result<Port> {
    attach_counted(bridge, netns, attachment).map(|(port, _)| port)
}

/// Beside the port, how many messages were sent inside the container's namespace.
fn attach_counted(
    bridge: &Bridge,
    netns: BorrowedFd<'_>,
    attachment: &Attachment,
) -> Result<(Port, u32)> {
    let address = container_address(bridge, attachment.address)?;
    let gateway = default_gateway(bridge, attachment.gateway)?;
    let lease = Lease::take(bridge, address.ip())?;
    let (link, inside) = create_pair(bridge, netns, attachment, address.ip())?;
    let port = Port {
        link,
        lease,
        address,
    };
    set_port_options(&port.link)?;
    let mut pauses = Pauses::new();
    let sent = run_in(netns, || {
        let mut socket = configure(inside, &attachment.ifname, address, gateway)?;
        let up = || Ok(LinkAnswer::parse(&socket.ask_one(message::link_at(inside))?)?.is_up());
        pauses.until(up)?;
        Ok(socket.sent())
    })??;
    await_forwarding(bridge, &port.link, &mut pauses)?;
    Ok((port, sent))
}

/// The address with the prefix of the bridge's subnet, in which it must be one of a container.
fn container_address(bridge: &Bridge, address: IpNetwork) -> Result<Ipv4Network> {
    let subnet = bridge.gateway();
    let what = format!("attach {} to {} with {subnet}", address.ip(), bridge.name());
    let ip = v4(address, &what)?.ip();
    let why = if !subnet.contains(ip) {
        "it is not in the subnet"
    } else if ip == subnet.ip() {
        "it is the address of the bridge"
    } else if ip == subnet.network() || ip == subnet.broadcast() {
        "it is the network or the broadcast address"
    } else {
        return Ok(Ipv4Network::new(ip, subnet.prefix()).unwrap_or(subnet));
    };
    Err(Error::invalid(what, why))
}

fn default_gateway(bridge: &Bridge, gateway: Gateway) -> Result<Option<Ipv4Addr>> {
    match gateway {
        Gateway::Bridge => Ok(Some(bridge.gateway().ip())),
        Gateway::Address(address) => {
            let what = format!("attach to {} with gateway {address}", bridge.name());
            Ok(Some(v4(address.into(), what)?.ip()))
        }
        Gateway::None => Ok(None),
    }
}

/// Makes the veth pair and returns the host's end, with the index of the container's end.
fn create_pair(
    bridge: &Bridge,
    netns: BorrowedFd<'_>,
    attachment: &Attachment,
    address: Ipv4Addr,
) -> Result<(LinkGuard, u32)> {
    let peer = Peer {
        netns,
        name: &attachment.ifname,
        mac: message::mac_of(address),
    };
    if let Some(name) = &attachment.host_ifname {
        return create_named(bridge, name, peer)?.map_err(Clash::into_error);
    }
    let mut last = None;
    for attempt in 0..NAMES {
        let name = host_name(bridge.index(), netns, &attachment.ifname, attempt)?;
        match create_named(bridge, &name, peer)? {
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
fn create_named(
    bridge: &Bridge,
    name: &IfName,
    peer: Peer<'_>,
) -> Result<std::result::Result<(LinkGuard, u32), Clash>> {
    let veth = message::create_veth(name, bridge.index(), bridge.mtu(), peer);
    let [created, read] = bridge
        .socket()
        .lock()
        .ask([veth, message::link_named(name)])?;
    match created {
        Ok(_) => {}
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(gone(bridge)?.unwrap_or(error));
        }
        Err(error) if read.is_ok() => return Ok(Err(Clash::Host(error))),
        Err(error) => return Ok(Err(Clash::Inside(error))),
    }
    let mut link = LinkGuard::new(bridge.socket().clone(), name.clone());
    let host = link.found(&read?)?;
    let inside = host.link.ok_or_else(|| malformed("a veth has no peer"))?;
    Ok(Ok((link, inside)))
}

/// The error for a bridge that another deleted: for the kernel, that is `EINVAL` without a word.
fn gone(bridge: &Bridge) -> Result<Option<Error>> {
    let request = message::link_at(bridge.index());
    match bridge.socket().lock().ask_one(request) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let what = format!("attach to {}", bridge.name());
            Ok(Some(Error::plain(error.kind(), what, "the bridge is gone")))
        }
        done => done.map(|_link| None),
    }
}

/// A name for the host's end: the same again for the same bridge, namespace and interface name.
fn host_name(bridge: u32, netns: BorrowedFd<'_>, ifname: &IfName, attempt: u32) -> Result<IfName> {
    let inode = fstat(netns)
        .map_err(|errno| Error::sys("stat the network namespace", errno))?
        .st_ino;
    Ok(derived_host_name(bridge, inode, ifname, attempt))
}

fn derived_host_name(bridge: u32, inode: u64, ifname: &IfName, attempt: u32) -> IfName {
    let bytes = bridge
        .to_ne_bytes()
        .into_iter()
        .chain(inode.to_ne_bytes())
        .chain(attempt.to_ne_bytes())
        .chain(ifname.as_str().bytes());
    IfName::derived(format!("veth{:010x}", hash(bytes) >> 24))
}

/// Hairpin mode, and no IPv6 address for the host's end, which nothing could reach.
fn set_port_options(link: &LinkGuard) -> Result<()> {
    let ask = |link_local| {
        let request = message::port_options(link.index(), link.name(), link_local);
        link.socket().lock().ask_one(request).map(drop)
    };
    match ask(LinkLocal::Off) {
        // A kernel, or an MTU, without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => ask(LinkLocal::Unchanged),
        done => done,
    }
}

/// What is done inside the container's namespace. Returns the socket there.
fn configure(
    index: u32,
    name: &IfName,
    address: Ipv4Network,
    gateway: Option<Ipv4Addr>,
) -> Result<Socket> {
    sysctl::ipv6_off(name)?;
    let mut socket = Socket::open()?;
    socket.ask_all(&inside_requests(index, name, address, gateway))?;
    Ok(socket)
}

fn inside_requests(
    index: u32,
    name: &IfName,
    address: Ipv4Network,
    gateway: Option<Ipv4Addr>,
) -> Vec<Request> {
    let mut requests = vec![
        message::add_address(index, name, address),
        message::set_up(index, name.as_str(), Up::default()),
    ];
    requests.extend(gateway.map(|gateway| message::add_default_route(index, name, gateway)));
    requests
}

/// Waits until the bridge forwards for the port, and the kernel sends on the port and on the bridge.
fn await_forwarding(bridge: &Bridge, link: &LinkGuard, pauses: &mut Pauses) -> Result<()> {
    let ask = |index| {
        let answer = bridge.socket().lock().ask_one(message::link_at(index))?;
        LinkAnswer::parse(&answer)
    };
    pauses.until(|| Ok(ask(link.index())?.is_forwarding()))?;
    // Its carrier comes with its first port that forwards.
    pauses.until(|| Ok(ask(bridge.index())?.is_bridge_up()))
}

/// The waits of one attach, until both ends and the bridge are operational.
///
/// A carrier that came says little: the kernel lets the link have its queue when its link watch gets to it, and until
/// then drops what is sent. An ARP request or its answer that is lost costs the container a second. Since Linux 6.8,
/// reading a link has it watched at once; older kernels do it when they have time.
///
/// A bridge that is down never forwards: then this gives up when the pauses are used up, without an error.
#[derive(Debug)]
struct Pauses(std::array::IntoIter<Duration, 6>);

impl Pauses {
    fn new() -> Self {
        Pauses(PAUSES.into_iter())
    }

    fn until(&mut self, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        while !ready()? {
            let Some(pause) = self.0.next() else {
                return Ok(());
            };
            thread::sleep(pause);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_testkit::{Need, have};

    #[test]
    fn a_container_is_attached_with_ten_messages() {
        if !have(&[Need::Namespaces]) {
            return;
        }
        cofferdam_testkit::NetNs::new().run(|| {
            let bridge = Bridge::builder("br0".parse().unwrap()).create().unwrap();
            let mut addresses = crate::Addresses::new(bridge.address()).unwrap();
            let mut count = || {
                let netns = cofferdam_testkit::NetNs::new();
                let attachment = Attachment::new(addresses.allocate().unwrap());
                let before = bridge.socket().lock().sent();
                let fd = std::os::fd::AsFd::as_fd(&netns);
                let (_port, inside) = attach_counted(&bridge, fd, &attachment).unwrap();
                (inside, bridge.socket().lock().sent() - before)
            };
            // Four and five, and one more for each pause: which a kernel before 6.8, or a busy machine, may take.
            let (inside, outside) = (0..8).map(|_| count()).min().unwrap();
            assert!(inside >= 4 && outside >= 5, "{inside} + {outside}");
            assert!(inside + outside <= 10, "{inside} + {outside}");
        });
    }

    #[test]
    fn the_hosts_end_has_a_name_of_its_own_and_keeps_it() {
        let eth0 = IfName::derived("eth0".to_owned());
        let eth1 = IfName::derived("eth1".to_owned());
        let name = derived_host_name(3, 4_026_531_840, &eth0, 0);
        assert_eq!(name, derived_host_name(3, 4_026_531_840, &eth0, 0));
        assert_eq!(name.as_str().len(), 14);
        for other in [
            derived_host_name(4, 4_026_531_840, &eth0, 0),
            derived_host_name(3, 4_026_531_841, &eth0, 0),
            derived_host_name(3, 4_026_531_840, &eth1, 0),
            derived_host_name(3, 4_026_531_840, &eth0, 1),
        ] {
            assert_ne!(name, other);
        }
    }
}
