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
//! # Privileges
//!
//! `CAP_NET_ADMIN` in the user namespace that owns the network namespace of the bridge, and in that of the container's;
//! `CAP_SYS_ADMIN` in both the caller's and the latter's to enter it ([`NetNs::run`], [`Bridge::attach`]) or make one.
//! Root of a user namespace has them for the network namespaces made in it. `/proc` must be mounted, and `/proc/sys`
//! be writable.
//!
//! # Kernel support
//!
//! Linux 5.1 and later, with `bridge` and `veth`: built in, or modules the kernel can load. Tried on 6.1 and
//! 6.18. Kernels before 6.8 may take some milliseconds longer to let a new link work; `attach` waits for it.
//!
//! # What it changes on the host
//!
//! - A bridge, with addresses and the routes of their subnets, and `disable_ipv6` and `accept_ra` of that bridge, where it
//!   has IPv6 `autoconf` and `accept_dad` too. Of a bridge that is [adopted](Bridge::adopt), nothing.
//! - The same sysctls of a container's interface, in its own network namespace.
//! - A link `veth<10 hex digits>` for each container, or of the name given.
//! - Only where asked for: [`route_localnet`](BridgeBuilder::route_localnet) and
//!   [`forwarding`](BridgeBuilder::forwarding) of the bridge; [`forwarding`](enable_forwarding_on) of another link;
//!   [`ip_forward`](enable_forwarding), which turns it on for every link of the namespace and is never turned off again.
//!
//! No packet filter is touched: masquerading, published ports and isolation are another crate's.
//!
//! # Cleanup
//!
//! [`Bridge`] and [`Port`] delete their link when dropped; deleting a link takes the kernel 20 to 40 ms, whoever asks, and
//! hundreds at once well under a millisecond each ([`Bridge::detach_all`]).
//! What outlives a killed process: the bridge, which has the name the caller gave it, and with it its sysctls; and the
//! links of containers whose network namespace something still holds. With the namespace's last process, socket and fd
//! they go by themselves, a little later. [`Port`] says which way of the two is the cheaper. [`delete_link`] removes what was
//! left so, or persisted; [`links`] finds it.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod addresses;
mod announce;
mod answer;
#[cfg(feature = "tokio")]
mod asynchronous;
mod attachment;
mod bridge;
mod claims;
mod error;
mod ifname;
mod inspect;
mod interface;
mod link;
mod message;
mod netns;
mod port;
mod route;
mod socket;
mod subnet;
mod sys;
mod sysctl;
mod transport;

pub use addresses::Addresses;
pub use attachment::{Attachment, Gateway};
pub use bridge::{Bridge, BridgeBuilder, enable_forwarding, enable_forwarding_on};
pub use error::{Error, ErrorKind, Result};
pub use ifname::IfName;
pub use inspect::{Counters, Inspect, Link, LinkAddress, Neighbour, RouteEntry, links};
pub use ipnetwork::{self, IpNetwork};
pub use link::{delete_link, loopback_up};
pub use netns::NetNs;
pub use port::Port;
pub use route::{Route, RouteKind};
pub use subnet::{Pool, Pools};
