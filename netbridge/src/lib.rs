//! Bridges, veth pairs, addresses and subnets for containers, over netlink.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod addresses;
mod answer;
mod bridge;
mod error;
mod ifname;
mod link;
mod message;
mod netns;
mod port;
mod socket;
mod subnet;
mod sys;
mod sysctl;

pub use addresses::Addresses;
pub use bridge::{Bridge, BridgeBuilder, enable_forwarding, enable_forwarding_on};
pub use error::{Error, ErrorKind, Result};
pub use ifname::IfName;
pub use ipnetwork::{self, IpNetwork};
pub use link::{Link, links, loopback_up};
pub use netns::NetNs;
pub use port::{Attachment, Gateway, Port};
pub use subnet::{Pool, Pools};
