//! Bridges, veth pairs, addresses and subnets for containers, over rtnetlink.
//!
//! ```no_run
//! use cofferdam_netbridge::{Addresses, Attachment, Bridge, NetNs};
//!
//! let bridge = Bridge::builder("app0".parse()?).create()?;      // a free subnet is picked
//! let mut addresses = Addresses::new(bridge.addresses()[0])?;
//!
//! let netns = NetNs::new()?;                                    // give its fd to the container
//! let port = bridge.attach(&netns, Attachment::new(addresses.allocate()?))?;
//!
//! // Opened inside, used from here.
//! let socket = netns.run(|| std::net::TcpListener::bind("0.0.0.0:80"))??;
//! # drop(socket);
//!
//! port.remove()?;
//! bridge.remove()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The calls block, for as long as the kernel works: no answer is waited for that it may not give. What is made goes
//! into the network namespace of the calling thread; a [`Bridge`] keeps to the one it was made in, whatever thread
//! uses it. No thread of the caller ever enters a namespace: one that is thrown away does.
//!
//! Feature `tokio` adds `create_async`, `attach_async` and so on, which send the same messages over the connection of
//! rtnetlink and are safe to cancel.
//!
//! # Kinds
//!
//! A [`Bridge`] is one kind of network. [`Macvlan`] and [`Ipvlan`] put containers on a network that the host is on,
//! [`Vxlan`] joins bridges of several hosts; [`Vlan`] and [`Dummy`] are parents for them. [`NetworkMode`] is for containers
//! with the host's network, none, or another's. Each works alone, and a container may be attached to several.
//! [`LinkKind::available`] says what the kernel has.
//!
//! There is no enum of them here: what attaches to one has other needs than what attaches to another, and who lets a user
//! choose has more to choose from than this crate has.
//!
//! # What it does, piece by piece
//!
//! Both families, with an IPv6 subnet that is this host's own:
//!
//! ```no_run
//! use cofferdam_netbridge::{Attachment, Bridge, NetNs, Pool, Pools};
//!
//! let pools = Pools::default().pool(Pool::ula_of_machine()?);
//! let bridge = Bridge::builder("app0".parse()?).pools(pools).create()?;
//! # Ok::<(), cofferdam_netbridge::Error>(())
//! ```
//!
//! Containers that do not reach each other, nor send in each other's names:
//!
//! ```no_run
//! # use cofferdam_netbridge::{Attachment, Bridge, NetNs};
//! # let (bridge, netns): (Bridge, NetNs) = todo!();
//! use cofferdam_netbridge::{PortFlag, PortFlags};
//!
//! let attachment = Attachment::new("172.20.0.2/24".parse().unwrap())
//!     .flags(PortFlags::new().on(PortFlag::Isolated))
//!     .guard_mac();
//! let port = bridge.attach(&netns, attachment)?;
//! # Ok::<(), cofferdam_netbridge::Error>(())
//! ```
//!
//! Several networks for a container, of which one has the default route ([`Gateways`]):
//!
//! ```no_run
//! # use cofferdam_netbridge::{Attachment, Bridge, NetNs};
//! # let (back, front, netns): (Bridge, Bridge, NetNs) = todo!();
//! use cofferdam_netbridge::{Gateway, Gateways};
//!
//! let mut gateways = Gateways::new();
//! for (name, bridge, address) in [("back", &back, "172.20.0.2/24"), ("front", &front, "172.21.0.2/24")] {
//!     let attachment = Attachment::new(address.parse().unwrap()).gateway(Gateway::None);
//!     let port = bridge.attach(&netns, attachment)?;         // eth0, then eth1
//!     gateways.join(&netns, name, bridge.gateway_of(&port))?;
//!     port.persist();
//! }
//! # Ok::<(), cofferdam_netbridge::Error>(())
//! ```
//!
//! A network of containers alone, and one that goes on on other hosts ([`Vxlan`]):
//!
//! ```no_run
//! use cofferdam_netbridge::{Bridge, Vxlan};
//!
//! let internal = Bridge::builder("db0".parse()?).address("10.8.0.1/24".parse().unwrap()).internal().create()?;
//!
//! let vxlan = Vxlan::builder("vx0".parse()?, 42).dev("eth0".parse()?).group("239.1.2.3".parse().unwrap());
//! let bridge = Bridge::builder("app0".parse()?).mtu(1500 - vxlan.overhead()).create()?;
//! let vxlan = vxlan.create_on(&bridge)?;
//! # Ok::<(), cofferdam_netbridge::Error>(())
//! ```
//!
//! Addresses that survive this process, and limits of what goes through:
//!
//! ```no_run
//! # use cofferdam_netbridge::{Attachment, Bridge, NetNs};
//! # let (bridge, netns): (Bridge, NetNs) = todo!();
//! use cofferdam_netbridge::ipam::{Family, Ipam, LeaseRequest, NetworkSpec, Pools};
//! use cofferdam_netbridge::{Bandwidth, Rate};
//!
//! let ipam = Ipam::open("/run/app/ipam")?;
//! ipam.create("app", &NetworkSpec::new().pick(Family::V4, Pools::default()))?;
//! let lease = ipam.lease("app", &LeaseRequest::new("container-1"))?;
//! let attachment = lease.addresses.iter().fold(Attachment::default(), |all, one| all.address(*one));
//!
//! let port = bridge.attach(&netns, attachment)?;
//! let shaper = port.limit(&Bandwidth::new().egress(Rate::bits(10_000_000)))?;
//! # Ok::<(), cofferdam_netbridge::Error>(())
//! ```
//!
//! What there is, in this namespace or another: [`Inspect`]. Containers on the host's own network: [`Macvlan`].
//!
//! # Privileges
//!
//! `CAP_NET_ADMIN` in the user namespace that owns the network namespace of the bridge, and in that of the container's;
//! `CAP_SYS_ADMIN` in both the caller's and the latter's to enter it ([`NetNs::run`], [`Bridge::attach`]) or make one.
//! [`Announcer`] takes `CAP_NET_RAW` over it too.
//! Root of a user namespace has them for the network namespaces made in it. `/proc` must be mounted, and `/proc/sys`
//! be writable.
//!
//! # Kernel support
//!
//! Linux 5.1 and later, with `bridge` and `veth`, and for the other [kinds](LinkKind) what they are named after: built in,
//! or modules the kernel can load. Tried on 6.1 and 6.18. [`Attachment::guard_mac`] takes 5.18,
//! [`BridgeOptions::fdb_max_learned`] 6.7, [`MacvlanBuilder::bc_cutoff`] 6.4: what a kernel has not is `Unsupported`. Kernels before 6.8 may take some milliseconds longer to let a new link work; `attach` waits for it.
//!
//! Limits of bandwidth want `sch_tbf`, and of what a container sends `ifb`, `sch_ingress`, `cls_u32` and `act_mirred`, or
//! without `ifb` `act_police`; [`Bandwidth::probe`] says what there is.
//!
//! # What it changes on the host
//!
//! - A bridge, with addresses and the routes of their subnets, and `disable_ipv6`, `accept_ra`, `autoconf`, `accept_redirects`
//!   and `addr_gen_mode` of that bridge, where it has IPv6 `accept_dad` too; of an internal one `rp_filter` and
//!   `arp_ignore`. Of a bridge that is [adopted](Bridge::adopt), nothing.
//! - `rp_filter`, `arp_ignore` and the MTU of ends of veth pairs, and of VXLAN links, that were ports of a bridge of this crate
//!   when it was deleted.
//! - `accept_ra`, `autoconf` and `accept_redirects` of a VXLAN link; IPv6 off on a VLAN or dummy link.
//! - The same sysctls of a container's interface, in its own network namespace, and `arp_notify` and `ndisc_notify`.
//! - A link `veth<10 hex digits>` for each container, or of the name given.
//! - A VXLAN, VLAN or dummy link, of the name given. A link that is the parent of others is neither deleted nor changed,
//!   but where it is to be set [up](MacvlanBuilder::parent_up); the kernel may have it take frames for all hardware
//!   addresses while there are macvlan links upon it.
//! - Only where asked for: [`route_localnet`](BridgeBuilder::route_localnet) and
//!   [`forwarding`](BridgeBuilder::forwarding) of the bridge; [`forwarding`](enable_forwarding_on) of another link;
//!   [`ip_forward`](enable_forwarding), which turns it on for every link of the namespace and is never turned off again.
//! - Only for a port with a [limit](Port::limit): a queueing discipline, a filter, and for what the container sends a link
//!   `ifb<10 hex digits>`.
//! - Only of an [`ipam::Ipam`] that was opened in one: a directory, with a file for each network.
//!
//! No packet filter is touched: masquerading, published ports and isolation of networks from each other are another crate's.
//!
//! # What a container may do to its neighbours
//!
//! What the link layer can do is here; what has to look at addresses and ports is a packet filter's.
//!
//! - Bridges and interfaces take no router advertisement, make no address of their own and believe no redirect
//!   (`accept_ra`, `autoconf`, `accept_redirects`), from before they go up. Where a network has no IPv6 they have it off
//!   (`disable_ipv6`), and if that cannot be written nothing is made.
//! - Containers of one network reach each other, unless their ports are [`Isolated`](PortFlag::Isolated): the bridge drops,
//!   whatever `bridge-nf-call-iptables` is. [`BridgeOptions::vlan_filtering`] and [`PortVlans`] keep groups of them apart.
//! - A container that has `CAP_NET_RAW` can send in its neighbours' names. [`Attachment::guard_mac`] has the bridge drop that as
//!   to hardware addresses; [`Sender`] is what a packet filter needs to know to drop it as to IP addresses.
//! - Networks of the usual kind reach each other where the host forwards: keeping them apart is for a packet filter.
//!   An [internal](BridgeBuilder::internal) one is apart by itself, from the host too, whatever is written to `ip_forward`
//!   before or after.
//! - Of several networks, [`Gateways`] gives the default route to the one that is to have it, and moves it in one step when
//!   that network goes.
//! - The links of containers whose bridge was deleted are no way round that: the host takes nothing from them.
//! - Neighbours that remember who had an address before are told when a container is attached; [`Announcer`] repeats it.
//!
//! # Cleanup
//!
//! [`Bridge`], [`Port`] and the others delete their link when dropped; deleting a link takes the kernel 20 to 40 ms,
//! whoever asks, and hundreds at once well under a millisecond each ([`Bridge::detach_all`]).
//! What outlives a killed process: the bridge, which has the name the caller gave it, and with it its sysctls; and the
//! links of containers whose network namespace something still holds. With the namespace's last process, socket and fd
//! they go by themselves, a little later. [`Port`] says which way of the two is the cheaper. [`delete_link`] removes what was
//! left so, or persisted; [`links`] finds it. The `ifb` link of a [`Shaper`] whose process was killed stays too, until
//! [`Bandwidth::clear`]; leases stay in the directory of an [`ipam::Ipam`] until they are released by address or owner.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod announce;
mod answer;
#[cfg(feature = "tokio")]
mod asynchronous;
mod attachment;
mod bandwidth;
mod bridge;
mod bridge_options;
mod claims;
mod dummy;
mod error;
mod gateway;
mod guard;
mod ifname;
mod inspect;
mod interface;
mod interface_sysctl;
pub mod ipam;
mod ipvlan;
mod kind;
mod link;
mod mac;
mod macvlan;
mod message;
mod mode;
mod netns;
mod parent;
mod port;
mod port_flags;
mod port_settings;
mod port_vlans;
mod route;
mod socket;
mod sublink;
mod subnet;
mod sys;
mod sysctl;
mod transport;
mod vlan;
mod vlan_id;
mod vxlan;

pub use announce::{Announce, Announcer};
pub use attachment::{Attachment, Gateway};
pub use bandwidth::{Bandwidth, BandwidthSupport, Egress, Limit, Rate, Shaper, Shaping};
pub use bridge::{Bridge, BridgeBuilder, enable_forwarding, enable_forwarding_on};
pub use bridge_options::BridgeOptions;
pub use dummy::{Dummy, DummyBuilder};
pub use error::{Error, ErrorKind, Result};
pub use gateway::{Gateways, NetworkGateway};
pub use guard::Sender;
pub use ifname::IfName;
pub use inspect::{Counters, Inspect, Link, LinkAddress, Neighbour, RouteEntry, links};
pub use interface_sysctl::{InterfaceSysctl, ReversePath};
pub use ipam::{Addresses, Pool, Pools};
pub use ipnetwork::{self, IpNetwork};
pub use ipvlan::{Ipvlan, IpvlanBuilder, IpvlanFlag, IpvlanMode};
pub use kind::LinkKind;
pub use link::{delete_link, loopback_up};
pub use macvlan::{Macvlan, MacvlanBuilder, MacvlanMode};
pub use mode::NetworkMode;
pub use netns::NetNs;
pub use parent::Parent;
pub use port::Port;
pub use port_flags::{PortFlag, PortFlags};
pub use port_vlans::PortVlans;
pub use route::{Route, RouteKind};
pub use sublink::Sublink;
pub use vlan::{Vlan, VlanBuilder};
pub use vlan_id::VlanId;
pub use vxlan::{Fdb, FdbEntry, Vxlan, VxlanBuilder};
