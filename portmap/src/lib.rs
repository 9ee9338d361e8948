//! Published ports and masquerading for containers on bridges, as elements of nf_tables maps: one netlink transaction a change,
//! and always the same fourteen rules.
//!
//! ```no_run
//! use cofferdam_portmap::{NetworkSpec, Portmap};
//!
//! let portmap = Portmap::open("myapp")?;
//! let network = portmap.network(NetworkSpec::new("br0")?.subnet("10.1.0.0/24".parse()?))?;
//! let web = portmap.publish(&"127.0.0.1:8080:80".parse()?, "10.1.0.2".parse()?)?;
//! // Connections to 127.0.0.1:8080 now arrive at 10.1.0.2:80, and containers on br0 reach out.
//! web.remove()?;
//! network.remove()?; // the last one takes the table with it
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it works
//! Everything that depends on a network or a port is an element of a set or a map; [`Ruleset`] prints all of it in nft's syntax.
//! So the cost of a change and of a packet does not grow with the number of ports. A change is decided on what the kernel has,
//! and the kernel takes it only if nothing changed since; else it is decided anew. So any number of processes share a table: they
//! cannot both make it, take the same port, or delete it under each other's hands. There is no state elsewhere.
//!
//! # Privileges
//! `CAP_NET_ADMIN` in the user namespace that owns the network namespace: root, or the owner of a user namespace in a network
//! namespace made in it. `CAP_NET_BIND_SERVICE` there for host ports below `net.ipv4.ip_unprivileged_port_start`, and
//! `CAP_SYS_ADMIN` to publish from a thread in another network namespace than the handle's. /proc must be mounted.
//!
//! # Kernel support
//! Linux 5.6, for sets of concatenated intervals, with nf_tables, NAT and the expressions `ct`, `fib`, `masq`, `nat`; where they are
//! modules the kernel loads them by itself, if it may. The first change fails with [`ErrorKind::Unsupported`] and the missing part
//! if one is not there, and then changes nothing.
//!
//! IPv4 only as yet: an IPv6 subnet, host address or target is [`ErrorKind::Unsupported`]. The maps are per family (`ports4`,
//! `ports4_any`, `subnet_pairs4`), so that those of IPv6 will stand beside them. The table's rules on bridges hold for both
//! families: IPv6 does not get around them.
//!
//! # What it changes on the host
//! One table of family inet with the name it was given, in one network namespace, and a bound socket for each published TCP and UDP
//! port. Not changed, and the caller's to set:
//! - `net.ipv4.ip_forward=1`, for anything to be forwarded;
//! - `net.ipv4.conf.<bridge>.route_localnet=1`, for the host to reach published ports by 127.0.0.1. The table drops packets
//!   for and from 127.0.0.0/8 that come in by another interface than lo, so that it opens nothing else;
//! - hairpin mode on the bridge's ports, for a container to reach its own published ports where br_netfilter is loaded.
//!
//! Rules of others still hold: a packet this table accepts may be dropped by another table, such as a firewall whose forward chain
//! has policy drop.
//!
//! # Cleanup
//! [`NetworkGuard`] and [`Published`] undo what they did when dropped, or by `remove()` with a result, or outlive the process by
//! `persist()`. The last removal deletes the table. A killed process leaves its elements in the kernel, while its sockets are
//! closed; [`Portmap::unpublish`] removes one port, [`Portmap::delete_table`] all at once. Flows that are established when a port is unpublished go on.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod choice;
mod conntrack;
mod element;
mod ephemeral;
mod error;
mod flows;
mod inspect;
mod kernel;
mod layout;
mod mapping;
mod name;
mod netns;
mod network;
mod portmap;
mod proxy;
mod reconcile;
mod reservation;
mod ruleset;
mod socket;
mod spec;
mod sys;
mod wire;

pub use ipnetwork;

pub use crate::error::{Error, ErrorKind, Result};
pub use crate::kernel::Ownership;
pub use crate::mapping::PortMapping;
pub use crate::name::Owner;
pub use crate::network::{Isolation, NetworkSpec};
pub use crate::portmap::{NetworkGuard, Portmap, PortmapBuilder, Published};
pub use crate::proxy::{Proxied, Proxy, ProxyBuilder, ProxyStats};
pub use crate::reconcile::{Repaired, TableRepair};
pub use crate::reservation::Reserve;
pub use crate::ruleset::Ruleset;
pub use crate::spec::{PortSpec, Protocol};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
