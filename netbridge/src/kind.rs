//! The kinds of links, and whether the kernel has them.

use std::fmt;

use netlink_packet_route::link::InfoKind;

use crate::error::{Error, ErrorKind, Result};
use crate::message::probe::probe;
use crate::socket::Socket;

/// A kind of link this crate makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// [`Bridge`](crate::Bridge).
    Bridge,
    /// Of a [`Port`](crate::Port) of a bridge.
    Veth,
    /// [`Macvlan`](crate::Macvlan).
    Macvlan,
    /// [`Ipvlan`](crate::Ipvlan).
    Ipvlan,
    /// [`Vxlan`](crate::Vxlan).
    Vxlan,
    /// [`Vlan`](crate::Vlan).
    Vlan,
    /// [`Dummy`](crate::Dummy).
    Dummy,
}

/// Where a kernel has a kind of link from.
struct Origin {
    config: &'static str,
    module: &'static str,
    since: &'static str,
}

impl LinkKind {
    /// Every kind.
    pub const ALL: [LinkKind; 7] = [
        LinkKind::Bridge,
        LinkKind::Veth,
        LinkKind::Macvlan,
        LinkKind::Ipvlan,
        LinkKind::Vxlan,
        LinkKind::Vlan,
        LinkKind::Dummy,
    ];

    /// Whether the kernel has it, as by an `RTM_NEWLINK` that it refuses in any case: nothing is made. Where the kind is
    /// a module, the kernel loads it for this.
    ///
    /// The builders of the kinds ask so before they change anything.
    ///
    /// # Errors
    /// `Unsupported` where it has not, with the name of the module and the option of its configuration;
    /// `PermissionDenied` without `CAP_NET_ADMIN` over the network namespace of the calling thread.
    pub fn available(self) -> Result<()> {
        self.available_to(&mut Socket::open()?)
    }

    pub(crate) fn available_to(self, socket: &mut Socket) -> Result<()> {
        match socket.ask_one(probe(self.info())) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Err(self.missing()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    }

    /// By the kernel's name.
    pub(crate) fn is_made_here(name: &str) -> bool {
        LinkKind::ALL.iter().any(|kind| kind.to_string() == name)
    }

    fn missing(self) -> Error {
        let Origin {
            config,
            module,
            since,
        } = self.origin();
        let what = format!("find links of kind {self}");
        let why = format!(
            "this kernel has none: it takes the module {module} or {config}, of Linux {since} or later"
        );
        Error::plain(ErrorKind::Unsupported, what, why)
    }

    fn info(self) -> InfoKind {
        match self {
            LinkKind::Bridge => InfoKind::Bridge,
            LinkKind::Veth => InfoKind::Veth,
            LinkKind::Macvlan => InfoKind::MacVlan,
            LinkKind::Ipvlan => InfoKind::IpVlan,
            LinkKind::Vxlan => InfoKind::Vxlan,
            LinkKind::Vlan => InfoKind::Vlan,
            LinkKind::Dummy => InfoKind::Dummy,
        }
    }

    fn origin(self) -> Origin {
        let (config, module, since) = match self {
            LinkKind::Bridge => ("CONFIG_BRIDGE", "bridge", "2.6.31"),
            LinkKind::Veth => ("CONFIG_VETH", "veth", "2.6.24"),
            LinkKind::Macvlan => ("CONFIG_MACVLAN", "macvlan", "2.6.23"),
            LinkKind::Ipvlan => ("CONFIG_IPVLAN", "ipvlan", "3.19"),
            LinkKind::Vxlan => ("CONFIG_VXLAN", "vxlan", "3.7"),
            LinkKind::Vlan => ("CONFIG_VLAN_8021Q", "8021q", "2.6.23"),
            LinkKind::Dummy => ("CONFIG_DUMMY", "dummy", "2.6.23"),
        };
        Origin {
            config,
            module,
            since,
        }
    }
}

/// As the kernel calls it.
impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.info())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let error = LinkKind::Ipvlan.missing();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "find links of kind ipvlan: this kernel has none: it takes the module ipvlan or CONFIG_IPVLAN, of Linux \
             3.19 or later"
        );
    }

    #[test]
    fn the_kinds_have_the_kernels_names() {
        let names = LinkKind::ALL.map(|kind| kind.to_string());
        assert_eq!(
            names,
            [
                "bridge", "veth", "macvlan", "ipvlan", "vxlan", "vlan", "dummy"
            ]
        );
    }
}
