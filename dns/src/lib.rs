//! The resolver inside every container: names of the network, and a forwarder.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod error;
mod event_loop;
mod forward;
mod hosts;
mod name;
mod poll;
mod random;
mod resolv_conf;
mod scope;
mod server;
mod slab;
mod stream;
mod upstream;
mod wire;
mod zone;

pub use answer::{Reply, answer};
pub use error::{Error, ErrorKind, Result};
pub use hosts::Hosts;
pub use name::Name;
pub use resolv_conf::ResolvConf;
pub use scope::{Scope, SharedZone};
pub use server::{Endpoint, Server, ServerBuilder, bind_in};
pub use wire::Transport;
pub use zone::Zone;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where a container finds its resolver: 127.0.0.11, port 53, inside its own network namespace.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
