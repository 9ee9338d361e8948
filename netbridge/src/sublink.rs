//! A container's link upon one of the host's, of the kind macvlan or ipvlan.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use ipnetwork::IpNetwork;
use rustix::fs::fstat;

use crate::announce::Tell;
use crate::answer::{IFLA_INFO_DATA, IFLA_LINKINFO, attribute, malformed};
use crate::attachment::{Attachment, Gateway, address_fault};
use crate::error::{Error, ErrorKind, Result};
use crate::gateway::NetworkGateway;
use crate::ifname::IfName;
use crate::interface::Interface;
use crate::ipvlan::IpvlanMode;
use crate::kind::LinkKind;
use crate::link::{LinkGuard, SharedSocket};
use crate::macvlan::sources_fault;
use crate::message::sublink::{MacvlanOptions, Sort, create_sublink, rename, set_sources};
use crate::message::{self, Mac, sublink as messages};
use crate::parent::{LinkBelow, Lower, Parent};
use crate::route::Route;
use crate::socket::Socket;
use crate::subnet::hash;
use crate::transport::now;

/// How many names a link is tried to be born with.
const NAMES: u32 = 8;

/// A container's link to a [`Macvlan`](crate::Macvlan) or [`Ipvlan`](crate::Ipvlan), made by their `attach`. Dropping it
/// deletes it, as by `RTM_DELLINK`, which takes the kernel 20 to 40 ms ([`Sublink::remove`] tells how that went).
///
/// All of the link is inside of the container's network namespace, and for this value to delete it, it holds a socket
/// there: the namespace cannot end while it lives. [`persist`](Sublink::persist) lets go of it, and the link ends with the
/// namespace: microseconds for the caller.
///
/// One whose parent was deleted is gone: then `remove` succeeds and Drop does nothing.
#[derive(Debug)]
#[must_use = "dropping a Sublink detaches the container"]
pub struct Sublink {
    link: LinkGuard,
    ifname: IfName,
    addresses: Vec<IpNetwork>,
    mac: Mac,
    has_sources: bool,
}

impl Sublink {
    /// Deletes the link, as by `RTM_DELLINK`: 20 to 40 ms. One that is gone already is a success.
    ///
    /// # Errors
    /// `PermissionDenied` where `CAP_NET_ADMIN` was lost.
    pub fn remove(self) -> Result<()> {
        self.link.remove()
    }

    /// Leaves the link to end with the network namespace of the container, and returns its name there.
    pub fn persist(self) -> IfName {
        self.link.persist();
        self.ifname
    }

    /// In mode [`MacvlanMode::Source`](crate::MacvlanMode::Source), has it take frames of these senders instead of those
    /// before, in one message.
    ///
    /// # Errors
    /// `InvalidInput` for a link in another mode, an address that is no host's, or more than 1000; `NotFound` where the link
    /// is gone.
    pub fn set_sources(&self, sources: &[[u8; 6]]) -> Result<()> {
        let why = match self.has_sources {
            true => sources_fault(sources),
            false => Some("it is not in mode source"),
        };
        if let Some(why) = why {
            let what = format!("set the sources of {}", self.ifname);
            return Err(Error::invalid(what, why));
        }
        let request = set_sources(self.index(), &self.ifname, sources);
        self.link.socket().lock().ask_one(request).map(drop)
    }

    /// The name in the container, as it was given or found.
    #[must_use]
    pub fn ifname(&self) -> &IfName {
        &self.ifname
    }

    /// The index in the container's network namespace.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.link.index()
    }

    /// The addresses, with the prefixes of their subnets.
    #[must_use]
    pub fn addresses(&self) -> &[IpNetwork] {
        &self.addresses
    }

    /// The first IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Option<IpNetwork> {
        self.addresses.iter().copied().find(IpNetwork::is_ipv4)
    }

    /// The first IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Option<IpNetwork> {
        self.addresses.iter().copied().find(IpNetwork::is_ipv6)
    }

    /// The hardware address: of ipvlan, and of macvlan in mode passthru, the parent's.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }
}

/// What is said alike of a network of either kind before it is made.
#[derive(Clone, Debug)]
pub(crate) struct NetworkBuilder {
    parent: Parent,
    pub(crate) parent_up: bool,
    pub(crate) mtu: Option<u32>,
    gateways: Vec<IpAddr>,
}

impl NetworkBuilder {
    pub(crate) fn new(parent: Parent) -> Self {
        NetworkBuilder {
            parent,
            parent_up: false,
            mtu: None,
            gateways: Vec::new(),
        }
    }

    /// One of each family.
    pub(crate) fn gateway(&mut self, address: IpAddr) {
        self.gateways
            .retain(|other| other.is_ipv4() != address.is_ipv4());
        self.gateways.push(address);
    }

    pub(crate) fn has_gateways(&self) -> bool {
        !self.gateways.is_empty()
    }

    pub(crate) fn create(self, kind: LinkKind, sort: Sort) -> Result<Network> {
        let socket = SharedSocket::open()?;
        kind.available_to(&mut socket.lock())?;
        let lower = self.parent.open(&socket, self.parent_up)?;
        let what = format!("create a network of {kind}");
        lower.below.mtu_fits(self.mtu, &what)?;
        Ok(Network {
            mtu: self.mtu.unwrap_or(lower.below.mtu),
            socket,
            lower,
            sort,
            gateways: self.gateways,
        })
    }
}

/// What a container is attached to.
#[derive(Debug)]
pub(crate) struct Network {
    /// In the network namespace of the parent.
    socket: SharedSocket,
    lower: Lower,
    mtu: u32,
    sort: Sort,
    gateways: Vec<IpAddr>,
}

impl Network {
    pub(crate) fn parent(&self) -> &LinkBelow {
        &self.lower.below
    }

    pub(crate) fn mtu(&self) -> u32 {
        self.mtu
    }

    pub(crate) fn remove(self) -> Result<()> {
        self.lower.remove()
    }

    pub(crate) fn persist(self) -> Option<IfName> {
        self.lower.persist()
    }

    pub(crate) fn gateway_of(&self, link: &Sublink) -> NetworkGateway {
        let gateway = |ip: IpAddr| self.gateway_for(ip);
        NetworkGateway::of_network(&link.ifname, &link.addresses, gateway)
    }

    fn gateway_for(&self, ip: IpAddr) -> Option<IpAddr> {
        let mut gateways = self.gateways.iter().copied();
        gateways.find(|gateway| gateway.is_ipv4() == ip.is_ipv4())
    }

    fn what(&self) -> String {
        format!("attach to {} of {}", self.sort.name(), self.parent().name)
    }

    /// Whether the link has the hardware address of its parent in any case.
    fn shares_mac(&self) -> bool {
        match &self.sort {
            Sort::Macvlan(options) => options.mode == crate::MacvlanMode::Passthru,
            Sort::Ipvlan(..) => true,
        }
    }

    /// Whether there are no neighbours: the link itself is where the default route leads.
    fn is_layer3(&self) -> bool {
        matches!(self.sort, Sort::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
    }

    /// What cannot be, of what this kind of network adds to [`Attachment::check`].
    fn fault(&self, attachment: &Attachment) -> Option<String> {
        let gateways = [attachment.gateway4, attachment.gateway6];
        let given = |gateway: &Gateway| matches!(gateway, Gateway::Address(_));
        if attachment.host_ifname.is_some() {
            return Some("it has no end on the host to name".to_owned());
        }
        if let Some(setting) = attachment.port.said() {
            return Some(format!(
                "{setting} is of a port of a bridge, and there is none"
            ));
        }
        if attachment.mac.is_some() && self.shares_mac() {
            return Some("its hardware address is that of the parent".to_owned());
        }
        if self.is_layer3() && gateways.iter().any(given) {
            let why = "in layer 3 no gateway is a neighbour: the default route leads to the link";
            return Some(why.to_owned());
        }
        attachment.addresses.iter().find_map(|address| {
            let why = address_fault(*address)?;
            Some(format!("{address}: {why}"))
        })
    }

    fn routes(&self, attachment: &Attachment) -> Result<Vec<Route>> {
        let gateway = |address: &IpNetwork| self.gateway_for(address.ip());
        let mut routes = attachment.all_routes(&self.what(), gateway)?;
        if self.is_layer3() {
            routes.extend(layer3_routes(attachment));
        }
        Ok(routes)
    }
}

/// Default routes to the link itself, for the families that it has addresses of.
fn layer3_routes(attachment: &Attachment) -> impl Iterator<Item = Route> {
    let families = [
        (
            attachment.gateway4,
            IpNetwork::is_ipv4 as fn(&IpNetwork) -> bool,
            "0.0.0.0/0",
        ),
        (attachment.gateway6, IpNetwork::is_ipv6, "::/0"),
    ];
    let metric = attachment.gateway_metric;
    families
        .into_iter()
        .filter_map(move |(gateway, is_of, all)| {
            let has_one = attachment.addresses.iter().any(is_of);
            let route = Route::direct(all.parse().ok()?);
            let wanted = gateway == Gateway::Bridge && has_one;
            wanted.then(|| match metric {
                Some(metric) => route.metric(metric),
                None => route,
            })
        })
}

pub(crate) fn attach(
    network: &Network,
    netns: BorrowedFd<'_>,
    attachment: &Attachment,
) -> Result<Sublink> {
    attachment.check(&network.what(), network.mtu)?;
    if let Some(why) = network.fault(attachment) {
        return Err(Error::invalid(network.what(), why));
    }
    network.parent().mtu_fits(attachment.mtu, &network.what())?;
    let routes = network.routes(attachment)?;
    let (link, mac) = create(network, netns, attachment)?;
    let interface = Interface {
        mac,
        addresses: attachment.addresses.clone(),
        routes,
        sysctls: attachment.sysctls.clone(),
        tell: Tell::AsItGoesUp,
    };
    let inside = now(interface.configure(&network.socket, netns, link.index()))?;
    inside.announcement.after_forwarding()?;
    Ok(Sublink {
        link,
        ifname: inside.name,
        addresses: interface.addresses,
        mac,
        has_sources: matches!(&network.sort, Sort::Macvlan(options) if options.has_sources()),
    })
}

/// Makes the link and gives it its name. Returns its hardware address too.
///
/// It is born with another name: before Linux 6.15 the kernel refuses a name that a link of the *parent's* namespace has,
/// and that is `eth0` more often than not.
fn create(
    network: &Network,
    netns: BorrowedFd<'_>,
    attachment: &Attachment,
) -> Result<(LinkGuard, Mac)> {
    // First, as whoever cannot get in could not delete the link either.
    let inside = SharedSocket::new(Socket::open_in(netns)?);
    let name = create_named(network, netns, attachment)?;
    let mut link = LinkGuard::new(inside, name.clone());
    let read = link.socket().lock().ask_one(message::link_named(&name))?;
    link.found(&read)?;
    if let Sort::Macvlan(options) = &network.sort {
        check_applied(options, &read, &network.what())?;
    }
    let named = rename(link.index(), attachment.ifname.as_ref());
    link.socket().lock().ask_one(named)?;
    let mac = mac_of_link(&read)?;
    Ok((link, mac))
}

/// Returns the name it was born with.
fn create_named(
    network: &Network,
    netns: BorrowedFd<'_>,
    attachment: &Attachment,
) -> Result<IfName> {
    let inode = fstat(netns)
        .map_err(|errno| Error::sys("stat the network namespace", errno))?
        .st_ino;
    let mac = (!network.shares_mac()).then(|| attachment.mac_or_derived(&inode.to_ne_bytes()));
    let mut last = None;
    for attempt in 0..NAMES {
        let name = birth_name(network.parent().index, inode, attempt);
        let sublink = messages::Sublink {
            netns,
            name: &name,
            parent: network.parent().index,
            mtu: attachment.mtu.unwrap_or(network.mtu),
            mac,
        };
        let request = create_sublink(sublink, &network.sort, network.what());
        match network.socket.lock().ask_one(request) {
            Ok(_) => return Ok(name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => last = Some(error),
            Err(error) => return Err(explain(network, error)),
        }
    }
    Err(last.unwrap_or_else(|| malformed("no name was tried")))
}

/// A name nothing else has: of the parent and the namespace.
fn birth_name(parent: u32, inode: u64, attempt: u32) -> IfName {
    let bytes = parent
        .to_ne_bytes()
        .into_iter()
        .chain(inode.to_ne_bytes())
        .chain(attempt.to_ne_bytes());
    IfName::derived(format!("sub{:010x}", hash(bytes) >> 24))
}

/// What the kernel says by a bare errno.
fn explain(network: &Network, error: Error) -> Error {
    /// An errno of the kernel's own, that no manual page has.
    const ENOTSUPP: i32 = 524;
    match (error.raw_os_error(), &network.sort) {
        (Some(libc::EBUSY), _) => error.advised(
            "the parent is a port of a bridge or bond, or has links of another kind upon it: take another one, or a VLAN of it",
        ),
        (Some(libc::EINVAL), Sort::Macvlan(_)) => {
            error.advised("is there a link in mode passthru? It has the parent for itself")
        }
        (Some(libc::ENODEV), _) => error.advised("the parent is gone"),
        (Some(ENOTSUPP | libc::EOPNOTSUPP), Sort::Ipvlan(IpvlanMode::L3s, _)) => {
            let why = "this kernel has no mode l3s: it takes CONFIG_IPVLAN_L3S, of Linux 4.9 or later";
            Error::plain(ErrorKind::Unsupported, network.what(), why)
        }
        _ => error,
    }
}

/// An option a kernel does not know it leaves out without a word.
fn check_applied(options: &MacvlanOptions, link: &[u8], what: &str) -> Result<()> {
    const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;
    const IFLA_MACVLAN_BC_CUTOFF: u16 = 9;
    let wanted = [
        (
            IFLA_MACVLAN_BC_QUEUE_LEN,
            options.bc_queue_len,
            "bc_queue_len",
            "5.11",
        ),
        (
            IFLA_MACVLAN_BC_CUTOFF,
            options
                .bc_cutoff
                .map(|limit| u32::from_ne_bytes(limit.to_ne_bytes())),
            "bc_cutoff",
            "6.4",
        ),
    ];
    let info = attribute(link, 16, IFLA_LINKINFO)?.unwrap_or_default();
    let has = attribute(info, 0, IFLA_INFO_DATA)?.unwrap_or_default();
    for (kind, value, name, since) in wanted {
        let Some(value) = value else { continue };
        if attribute(has, 0, kind)? != Some(&value.to_ne_bytes()[..]) {
            let why = format!("this kernel has no {name} of macvlan: it takes Linux {since}");
            return Err(Error::plain(ErrorKind::Unsupported, what, why));
        }
    }
    Ok(())
}

fn mac_of_link(link: &[u8]) -> Result<Mac> {
    const IFLA_ADDRESS: u16 = 1;
    attribute(link, 16, IFLA_ADDRESS)?
        .and_then(|mac| Mac::try_from(mac).ok())
        .ok_or_else(|| malformed("a link has no hardware address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MacvlanMode;

    fn attachment(addresses: &[&str]) -> Attachment {
        addresses.iter().fold(Attachment::default(), |all, one| {
            all.address(one.parse().unwrap())
        })
    }

    fn said(attachment: &Attachment) -> Vec<String> {
        let routes = layer3_routes(attachment);
        routes.map(|route| route.to_string()).collect()
    }

    #[test]
    fn in_layer_3_each_family_has_a_default_route_to_the_link() {
        let both = attachment(&["10.0.0.2/32", "fd00::2/128"]);
        assert_eq!(said(&both).len(), 2);
        assert!(layer3_routes(&both).all(|route| route.is_default()));
        assert_eq!(said(&attachment(&["10.0.0.2/32"])).len(), 1);
        assert!(said(&Attachment::default()).is_empty());
        assert!(said(&both.clone().gateway(Gateway::None)).is_empty());
        let metric = both.gateway_metric(7);
        assert!(said(&metric).iter().all(|line| line.ends_with("metric 7")));
    }

    #[test]
    fn a_link_is_born_with_a_name_of_its_own() {
        let name = birth_name(3, 4_026_531_840, 0);
        assert_eq!(name, birth_name(3, 4_026_531_840, 0));
        assert_eq!(name.as_str().len(), 13);
        assert_ne!(name, birth_name(4, 4_026_531_840, 0));
        assert_ne!(name, birth_name(3, 4_026_531_841, 0));
        assert_ne!(name, birth_name(3, 4_026_531_840, 1));
    }

    #[test]
    fn an_option_that_was_left_out_is_noticed() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes
        };
        let link = |data: &[u8]| {
            let info = attribute(18, &attribute(2, data));
            [vec![0; 16], attribute(1, &[2; 4]), info].concat()
        };
        let asked = |bc_queue_len, bc_cutoff| MacvlanOptions {
            mode: MacvlanMode::Bridge,
            promiscuous: false,
            bc_queue_len,
            bc_cutoff,
        };
        let queue = attribute(7, &9_u32.to_ne_bytes());
        let check = |options, data: &[u8]| check_applied(&options, &link(data), "attach");
        check(asked(Some(9), None), &queue).unwrap();
        check(asked(None, None), &[]).unwrap();
        let both = [queue.clone(), attribute(9, &(-1_i32).to_ne_bytes())].concat();
        check(asked(Some(9), Some(-1)), &both).unwrap();
        for (options, since) in [
            (asked(Some(9), Some(-1)), "6.4"),
            (asked(Some(8), None), "5.11"),
        ] {
            let error = check(options, &queue).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(since), "{error}");
        }
    }
}
