#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod commit;
mod container;
mod error;
mod events;
mod exec;
#[cfg(feature = "tokio")]
mod futures;
mod image;
mod lifecycle;
mod network;
mod noted;
mod process;
mod reap;
mod reference;
mod rootfs;
mod running;
mod runtime;
mod secret;
mod stats;
mod volume;

pub use builder::ContainerBuilder;
pub use container::Container;
pub use error::{Error, ErrorKind, Result};
pub use events::{Event, Events};
pub use exec::{Exec, Process};
pub use network::{
    Connection, EndpointInfo, Network, NetworkBuilder, NetworkInfo, NetworkKind, PublishedPort,
};
pub use reap::{Reaped, Removed, reap, reap_in};
pub use reference::Reference;
pub use rootfs::Rootfs;
pub use running::Running;
pub use secret::Secret;
pub use stats::{LinkStats, Stats, TopProcess};
pub use volume::{Volume, Volumes};

pub use cofferdam_cgroups::Limits;
pub use cofferdam_namespaces::{Capabilities, Capability, IdMap, Mount, Stdio, Terminal, User};
pub use cofferdam_portmap::{PortSpec, Protocol};
pub use ipnetwork::IpNetwork;

pub use cofferdam_cgroups as cgroups;
pub use cofferdam_dns as dns;
pub use cofferdam_namespaces as namespaces;
pub use cofferdam_netbridge as netbridge;
pub use cofferdam_overlay as overlay;
pub use cofferdam_portmap as portmap;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_used_from_any_thread() {
        fn any_thread<T: Send + Sync>() {}
        any_thread::<Container>();
        any_thread::<ContainerBuilder>();
        any_thread::<Running>();
        any_thread::<Events<'_>>();
        any_thread::<Exec<'_>>();
        any_thread::<Process>();
        any_thread::<Reference>();
        any_thread::<Network>();
        any_thread::<Error>();
    }
}
