#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod container;
mod error;
mod network;
mod rootfs;
mod running;

pub use builder::ContainerBuilder;
pub use container::Container;
pub use error::{Error, ErrorKind, Result};
pub use network::{
    Connection, EndpointInfo, Network, NetworkBuilder, NetworkInfo, NetworkKind, PublishedPort,
};
pub use rootfs::Rootfs;
pub use running::Running;

pub use cofferdam_namespaces::{Capabilities, Capability, Mount, Stdio, User};
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
        any_thread::<Network>();
        any_thread::<Error>();
    }
}
