//! Published ports and masquerading for containers on bridges, as elements of nf_tables maps: one netlink transaction a change,
//! and always the same rules.
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
//! # Privileges
//! `CAP_NET_ADMIN` in the user namespace that owns the network namespace: root, or the owner of a user namespace in a network
//! namespace made in it. `CAP_NET_BIND_SERVICE` there for host ports below `net.ipv4.ip_unprivileged_port_start`, and
//! `CAP_SYS_ADMIN` to publish from a thread in another network namespace than the handle's. /proc must be mounted.
//!
//! # Kernel support
//! Linux 5.7, for rules on the incoming interface in postrouting, with nf_tables, NAT and the expressions `ct`, `fib`, `masq`, `nat`;
//! where they are modules the kernel loads them by itself, if it may. The first change fails with [`ErrorKind::Unsupported`] and the
//! missing part if one is not there, and then changes nothing. Tables with an owner need 5.12, such that persist 6.9.
//!
//! IPv4 and IPv6. The kernel leads nothing from one to the other, and nothing from `::1` to a container: [`PortMapping::on`] refuses
//! both, and a [`Proxy`] does both. Reserving a port of SCTP needs the module `sctp`, publishing it does not.
//!
//! # What it changes on the host
//! One table of family inet with the name it was given, in one network namespace, and a bound socket for each published TCP and UDP
//! port. Not changed, and the caller's to set:
//! - `net.ipv4.ip_forward=1` and `net.ipv6.conf.all.forwarding=1`, for anything to be forwarded;
//! - `net.ipv4.conf.<bridge>.route_localnet=1`, for the host to reach published ports by 127.0.0.1. The table drops packets
//!   for and from 127.0.0.0/8 that come in by another interface than lo, so that it opens nothing else;
//! - hairpin mode on the bridge's ports, for a container to reach its own published ports where br_netfilter is loaded.
//!
//! # Cleanup
//! [`NetworkGuard`] and [`Published`] undo what they did when dropped, or by `remove()` with a result, or outlive the process by
//! `persist()`. The last removal deletes the table. A killed process leaves its elements in the kernel, while its sockets are
//! closed; [`Portmap::unpublish`] removes one port, [`Portmap::unpublish_owner`] those of one owner, [`Portmap::delete_table`] all at
//! once, and [`Portmap::reconcile`] what is not declared. A [`Proxy`] ends with its process.
//!
//! # How it works
//! What is wanted is a [`Ruleset`]: networks ([`NetworkSpec`]) and published ports ([`PortMapping`]) as a plain value. In nf_tables
//! it is one table of 28 rules for both families, which do not depend on it; everything that does is an element of a set or a map.
//! So the cost of a change and of a packet does not grow with the number of ports or networks. `Display` prints all of it in nft's
//! syntax, and `nft list` shows it the same. The sets and maps:
//!
//! | set or map | key | leads to | what for |
//! |---|---|---|---|
//! | `ports4`, `ports6` | host address . protocol . port | container's address . port | ports published on one address |
//! | `ports4_any`, `ports6_any` | protocol . port | the same | ports published on every address |
//! | `bridges` | bridge | | what is managed: closed but for what is open |
//! | `open` | interface . bridge | | a bridge with itself: ICC; another interface: trusted |
//! | `internal`, `strict` | bridge | | [`Isolation`] |
//! | `masquerade_from` | bridge | | reaches out in the name of the host |
//! | `subnet_pairs4`, `subnet_pairs6` | subnet . the same | | published traffic that turns back (hairpin) |
//!
//! A packet passes these chains, each with a few rules:
//! - `guard_loopback` (prerouting, raw): what comes from outside in the name of 127.0.0.0/8 or ::1, or for it, is dropped: a port
//!   published on 127.0.0.1 is for the host alone.
//! - `nat_prerouting`, `nat_output`: what is for an address of the host (`fib daddr type local`) is looked up in the maps, first
//!   with its address, then without, and led to the container by DNAT.
//! - `filter_forward`: answers; pairs of `open`; nothing else into or out of `internal`; what was led by DNAT
//!   (`ct status dnat`); nothing else to `bridges`, not even to a port of a container that is published under another; everything
//!   out of them.
//! - `filter_input`: from `strict`, answers, DNS for the bridge's own addresses, neighbour discovery, and nothing else.
//! - `nat_postrouting`: masquerading where the answer would not come back otherwise: from 127.0.0.0/8, and within a subnet, which is
//!   told by addresses since bridged packets have no incoming interface here; and from `masquerade_from` to outside. All other
//!   published traffic keeps its client's address. No marks are used.
//!
//! A change is decided on what the kernel has, and the kernel takes it only if nothing changed since (its generation); else it is
//! decided anew. So any number of processes and threads share a table: they cannot both make it, take the same port, or delete it
//! under each other's hands. A handle remembers what it saw as long as the generation stays, and asks for no more than the elements of
//! its keys where it did not see the table and ports are few, so that one more port beside many is one small transaction. Owners are comments of elements; rules have a hash of themselves as user data, by which it is seen that
//! somebody changed one. [`Portmap::list`] reads all of it back, [`Portmap::reconcile`] and [`Portmap::reapply`] repair it.
//!
//! # Networks
//! A bridge is managed with its subnets, and with what its containers may do ([`NetworkSpec`], [`Isolation`]). By default they reach
//! each other and, in the name of the host, out; nobody reaches them but by published ports.
//!
//! ```no_run
//! # let portmap = cofferdam_portmap::Portmap::open("myapp")?;
//! use cofferdam_portmap::{Isolation, NetworkSpec};
//!
//! let databases = NetworkSpec::new("br1")?.subnet("10.2.0.0/24".parse()?);
//! let databases = portmap.network(databases.isolation(Isolation::Strict))?; // of the host only DNS
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Declared state and flushes
//! What should be is a [`Ruleset`]. [`Portmap::reconcile`] makes the table exactly that, by one transaction that touches nothing
//! that is right already: for a program that starts again after a crash. [`Portmap::list`] reads back what is there, with the
//! [`Owner`]s.
//!
//! ```no_run
//! # let portmap = cofferdam_portmap::Portmap::open("myapp")?;
//! use cofferdam_portmap::{PortMapping, Ruleset};
//!
//! let mut declared = Ruleset::new("myapp")?;
//! let web = PortMapping::of_spec(&"8080:80".parse()?, "10.1.0.2".parse()?)?;
//! declared.publish(web.owned_by("web".parse()?))?;
//! let repaired = portmap.reconcile(&declared)?;
//! println!("{} added, {} removed", repaired.added, repaired.removed);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `nft flush ruleset`, as a restart of the `nftables` service has it, deletes the tables of everybody: then [`Portmap::reapply`]
//! brings back ports, networks and guards in one transaction. With [`Ownership::Owned`] the kernel refuses it to others instead,
//! and traffic never stops; the price is that no other process can change the table.
//!
//! # Ports
//! [`PortSpec`] reads all of Docker's spellings, ranges and ports to be chosen among them. A port to be chosen is one the kernel
//! would give to a socket without a port, that is not published and that no socket of the host has; for a container with addresses
//! of both families [`Portmap::publish_to`] chooses the same in both.
//!
//! ```no_run
//! # let portmap = cofferdam_portmap::Portmap::open("myapp")?;
//! let dns = portmap.publish_to(&"53:53/udp".parse()?, &["10.1.0.2".parse()?, "fd00:1::2".parse()?])?;
//! let range = portmap.publish(&"8000-8100:3000-3100".parse()?, "10.1.0.3".parse()?)?;
//! let any = portmap.publish(&"80".parse()?, "10.1.0.3".parse()?)?;
//! println!("chosen: {}", any.ports()[0].host_port());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A published port is also reserved, if [`Reserve`] does not say otherwise: a socket is bound to it first, one for both families
//! where it is of both, in the handle's network namespace. That socket has a filter that drops everything, and is never accepted
//! from: a client that dials before the rule is there is neither let in nor refused, but tries again a second later. It takes one
//! file descriptor a port; a call that cannot get as many is refused before it takes any, with what to do about it. SCTP ports are
//! reserved only where the kernel's module is loaded already.
//!
//! The way to publish thousands is a handle with [`Reserve::Check`]: it looks once at the host's sockets, refuses ports they have, and
//! keeps nothing. Ten thousand sockets alone take longer than ten thousand elements of a map.
//!
//! ```no_run
//! use cofferdam_portmap::{PortSpec, Portmap, Reserve};
//!
//! let portmap = Portmap::builder("myapp").reserve(Reserve::Check).open()?;
//! let range: PortSpec = "10000-19999:10000-19999".parse()?;
//! let media = portmap.publish(&range, "10.1.0.2".parse()?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Flows
//! The kernel leads the packets of a flow to where it led the first one, whatever the rules say since; a client of UDP that never
//! pauses would stay with a container that is gone. So flows through a port are ended when it is published, if they lead elsewhere,
//! and when it is unpublished, if they lead where it led: by host port and address, in both families, in one look at the kernel's
//! table. Flows of other ports and flows that only pass through the host are left alone, and so are established connections of TCP
//! and SCTP: a port that is unpublished is closed to new ones, as a listener that is closed is. [`Portmap::end_flows`] ends those
//! too, and [`Portmap::end_flows_of`] all of an address.
//!
//! The look is what a change costs on a busy host: nothing where the namespace has no flows, and else what the kernel takes to go
//! through its whole table, which all namespaces share: milliseconds, with 262,144 buckets (`net.netfilter.nf_conntrack_buckets`)
//! ten and more, for one port as for thousands at once. Publishing ports of TCP takes none: no flow of TCP that is not established
//! outlives the port it came by. When the table goes with the last removal, nothing is led any more.
//!
//! # Where rules do not reach
//! No rule leads connections to `::1`, or from IPv6 to IPv4, to a container. [`Proxy`] does, by sockets of this process: it stands
//! beside a [`Portmap`] ([`Proxy::assist`]) or alone where there is no nf_tables.
//!
//! ```no_run
//! use cofferdam_portmap::Proxy;
//!
//! let proxy = Proxy::builder().start()?;
//! let web = proxy.publish(&"[::1]:8080:80".parse()?, "10.1.0.2".parse()?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rootless
//! An ordinary user cannot change nf_tables of the host's network namespace: [`Portmap::open`] is `PermissionDenied` and says so. What
//! is left is the [`Proxy`], for ports from `net.ipv4.ip_unprivileged_port_start` on (1024 by default), and for targets the user
//! can dial: with [`ProxyBuilder::dial_from`] it dials from the network namespace of the container, if it may enter that, which
//! takes `CAP_SYS_ADMIN` over it. The container then sees the connections come from its own addresses. In a network namespace
//! made within a user namespace of one's own everything works as for root, but nothing leads there from the host.
//!
//! # Beside other firewalls
//! Rules of others still hold: a packet that this table accepts may be dropped by another's chain at the same hook, since an accept
//! ends one chain only. [`ForeignHook::find`] names the chains that drop what none of their rules accepts, such as those of ufw,
//! firewalld and Docker. What to do about each is the caller's to choose:
//! - a chain of nf_tables at hook forward, also one that iptables-nft made (ufw, Docker): [`ForeignHook::let_in`] puts two rules before its
//!   others, for a bridge, and takes exactly them back. Or the same by hand, where an administrator keeps them:
//!   `iptables -I DOCKER-USER -i br0 -j ACCEPT` and `-o br0`, for ufw `ufw route allow in on br0` and `out on br0`;
//! - firewalld: the bridge into the trusted zone, `firewall-cmd --zone=trusted --add-interface=br0` or D-Bus' `addInterface` of
//!   `org.fedoraproject.FirewallD1.zone`. Newer ones own their table, and the kernel refuses rules of others there;
//! - iptables-legacy: its own programs, or the back end `Iptables`, whose rules stand before the others.
//!
//! ```no_run
//! use cofferdam_portmap::ForeignHook;
//!
//! for hook in ForeignHook::find("myapp")? {
//!     eprintln!("{hook}"); // which table, chain and policy, and whose
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A reload of such a firewall may flush everything. firewalld says so on D-Bus, by the signal `Reloaded` of
//! `org.fedoraproject.FirewallD1`; others say nothing, but `NFNLGRP_NFTABLES` of nfnetlink tells of each change. The caller listens, and
//! calls [`Portmap::reapply`] and [`WayIn::reapply`]. A table that the handle owns is not flushed by others
//! ([`PortmapBuilder::ownership`]).
//!
//! No mark of packets or connections is read or written: those of Kubernetes, CNI and others mean what they meant.
//!
//! # Back ends
//! nf_tables, by netlink: [`Portmap`]. It executes nothing. With the feature `iptables` a [`Ruleset`] can be given to
//! `iptables-restore` instead, on hosts whose rules are managed so: `Iptables`, whose page says what it costs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod choice;
mod conntrack;
mod element;
mod ephemeral;
mod error;
mod flows;
mod inspect;
#[cfg(feature = "iptables")]
#[cfg_attr(docsrs, doc(cfg(feature = "iptables")))]
mod iptables;
mod kernel;
mod layout;
mod listeners;
mod mapping;
mod name;
mod netns;
mod network;
mod portmap;
mod preflight;
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
#[cfg(feature = "iptables")]
#[cfg_attr(docsrs, doc(cfg(feature = "iptables")))]
pub use crate::iptables::{Iptables, Programs, Variant};
pub use crate::kernel::Ownership;
pub use crate::mapping::PortMapping;
pub use crate::name::Owner;
pub use crate::network::{Isolation, NetworkSpec};
pub use crate::portmap::{NetworkGuard, Portmap, PortmapBuilder, Published};
pub use crate::preflight::{Drops, Firewall, ForeignHook, Hook, HookFamily, HookSource, WayIn};
pub use crate::proxy::{Proxied, Proxy, ProxyBuilder, ProxyStats};
pub use crate::reconcile::{Repaired, TableRepair};
pub use crate::reservation::Reserve;
pub use crate::ruleset::Ruleset;
pub use crate::spec::{PortSpec, Protocol};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
