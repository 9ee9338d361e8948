//! The resolver inside every container: names of the network, and a forwarder.
//!
//! ```no_run
//! use std::fs::File;
//! use cofferdam_dns::{LISTEN, ResolvConf, Server, SharedZone, bind_in};
//!
//! let host = std::fs::read_to_string("/etc/resolv.conf")?;
//! let server = Server::builder().resolv_conf("/etc/resolv.conf").start()?;
//! let app = SharedZone::default();
//!
//! let netns = File::open("/proc/4711/ns/net")?; // of the container
//! let (udp, tcp) = bind_in(&netns, LISTEN)?;
//! let endpoint = server.serve(udp, tcp, &app)?;
//! let resolv_conf = ResolvConf::parse(&host).for_container().to_string();
//!
//! let (db, address) = ("db".parse()?, "10.89.0.2".parse()?);
//! app.update(|zone| zone.insert(db, address)); // from now on the container finds `db`
//!
//! endpoint.remove()?;
//! server.stop()?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Zone`] has the names of one network; a [`Scope`] says which zones a container sees and whether other names are
//! forwarded. Who asks is known by the socket that the query came in, which is in the container's own namespace and
//! cannot be used from another. [`answer`] is what the server does, as a function of bytes.
//!
//! Forwarded queries go to the first upstream that is up. After 0.8 seconds of silence, or at once where it refuses or
//! is not there, the next one is asked, a late reply still counting; after 2.4 seconds the client gets SERVFAIL. An
//! upstream that was silent is passed over and gets copies of queries, ever more rarely, until it replies. Ids and
//! ports are random, and a reply must come from the address asked with the id and the question sent.
//!
//! # What clients make of it
//!
//! Tested with glibc 2.36, musl 1.2.3, c-ares 1.18 and dig 9.18:
//! - A type that a name of the network does not have is answered with NODATA, which fails neither the other half of a lookup
//!   nor holds it up; NXDOMAIN is only for names in the zone's [domain](Zone::set_domain), and for names of elsewhere on an
//!   [internal](Scope::internal) network. Neither comes with an SOA record, so that no cache keeps it.
//! - Too many addresses for a datagram set TC, and glibc, c-ares and dig ask again over TCP; musl before 1.2.4 takes what is
//!   there, about 30 of them.
//! - Where no upstream answers, glibc and c-ares fail at once with the SERVFAIL; musl does not take it for an answer and waits
//!   for its timeout of 5 seconds, less with `options timeout:1` in resolv.conf.
//!
//! # Limits
//!
//! All of them are fixed, and of each [worker](ServerBuilder::workers):
//! - 32768 forwarded queries at once and 8 MiB of them, 256 of one container over UDP and 64 over TCP, then SERVFAIL;
//! - 16 TCP connections of one container and 512 in all, then the one idle longest is closed; each for 10 seconds after
//!   its last query;
//! - 8 UDP sockets to an upstream and 96 in all, but one for each upstream in any case; where they are opened in another
//!   namespace, 32 per 100 ms and upstream;
//! - 4 TCP connections to an upstream, each with 256 queries and 64 KiB that the upstream has not read yet, then SERVFAIL;
//!   one that brings no reply for 2.4 seconds is replaced;
//! - 4096 bytes of a query; a longer one is dropped, or over TCP the connection closed;
//! - 64 KiB of answers that a TCP client has not read when one more is due, then the connection is closed;
//! - 1232 bytes of an answer over UDP, then TC is set.
//!
//! # Privileges
//!
//! None but those to bind the sockets: [`bind_in`] needs `CAP_SYS_ADMIN` over the network namespace and in the caller's
//! own, and for port 53 `CAP_NET_BIND_SERVICE` over the former.
//!
//! # Kernel support
//!
//! Every kernel since 3.17, the first with getrandom(2).
//!
//! # What it changes on the host
//!
//! Nothing. The process gets a thread named `cofferdam-dns` for each worker, and sockets: two in each container's namespace,
//! and those to upstreams in the namespace of the thread that started the server, or in [theirs](Upstreams::new_in), until
//! they were not used for 30 seconds over UDP or 3 over TCP. To open one in another namespace, a thread is started and ends.
//!
//! Memory is about 0.3 MB of a worker and 1 KB of a container (measured: 250 KiB, and 410 KiB for 500 containers), the zones,
//! and of a [`Cache`] at most 5 KB an answer. What containers can add is bounded by the limits above: one, that sends all it
//! can and reads nothing, about 5 MB; all together about 110 MB, of which 32768 queries that hang are 11 MiB.
//!
//! # Cleanup
//!
//! [`Endpoint::remove`] or its drop closes a container's sockets; [`Server::stop`] or its drop ends the threads and
//! closes all others, both within 2 seconds. A process that is killed leaves nothing.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod batch;
mod cache;
mod counters;
mod error;
mod event_loop;
mod extra_host;
mod forward;
#[cfg(test)]
mod fuzz;
mod hosts;
mod log;
mod name;
mod poll;
mod random;
mod redirect;
mod resolv_conf;
mod scope;
mod server;
mod service;
mod slab;
mod stream;
mod sys;
mod upstream;
mod upstreams;
mod wire;
mod worker;
mod zone;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub use answer::{Reply, answer};
pub use cache::Cache;
pub use counters::Counters;
pub use error::{Error, ErrorKind, Result};
pub use extra_host::ExtraHost;
pub use hosts::Hosts;
pub use log::{Fate, Logged, LoggedName};
pub use name::Name;
pub use redirect::{Redirect, bind_beside};
pub use resolv_conf::ResolvConf;
pub use scope::{Scope, SharedZone};
pub use server::{Endpoint, Server, ServerBuilder, bind_in};
pub use service::Service;
pub use upstreams::Upstreams;
pub use wire::Transport;
pub use zone::Zone;

/// Where a container finds its resolver: 127.0.0.11, port 53, inside its own network namespace.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
