//! What a port of a bridge lets through: flags that the kernel has on each port.

use std::fmt;

use crate::answer::attributes;
use crate::error::{Error, ErrorKind, Result};

/// A flag of a port of a bridge, named as bridge(8) names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PortFlag {
    /// Frames go from and to ports that are not isolated, and the host, only: containers of isolated ports do not reach
    /// each other. It is the bridge that drops, so no packet filter and no `bridge-nf-call-iptables` is needed.
    #[doc(alias = "IFLA_BRPORT_ISOLATED")]
    #[doc(alias = "icc")]
    Isolated,
    /// Frames may leave by the port they came in by, as a container needs that reaches itself by a published port. On at
    /// first.
    #[doc(alias = "IFLA_BRPORT_MODE")]
    Hairpin,
    /// The bridge answers ARP requests and neighbour solicitations for what its neighbour table knows, and does not
    /// send them out by this port.
    #[doc(alias = "IFLA_BRPORT_NEIGH_SUPPRESS")]
    NeighSuppress,
    /// The bridge learns from frames of this port where their sender is. On at first.
    #[doc(alias = "IFLA_BRPORT_LEARNING")]
    Learning,
    /// Frames to hardware addresses that the bridge does not know go out by this port. On at first.
    #[doc(alias = "IFLA_BRPORT_UNICAST_FLOOD")]
    UnicastFlood,
    /// Multicast frames that nobody asked for go out by this port. On at first.
    #[doc(alias = "IFLA_BRPORT_MCAST_FLOOD")]
    MulticastFlood,
    /// Broadcast frames go out by this port. On at first: ARP needs it.
    #[doc(alias = "IFLA_BRPORT_BCAST_FLOOD")]
    BroadcastFlood,
    /// Frames of a sender that the bridge does not know on this port are dropped. Without an entry for its address, a
    /// container behind it is cut off: [`Port::guard_mac`](crate::Port::guard_mac) does both.
    #[doc(alias = "IFLA_BRPORT_LOCKED")]
    Locked,
    /// The port is shut when a spanning-tree message comes in by it.
    #[doc(alias = "IFLA_BRPORT_GUARD")]
    BpduGuard,
    /// What is behind the port cannot become the root of a spanning tree.
    #[doc(alias = "IFLA_BRPORT_PROTECT")]
    RootBlock,
}

impl PortFlag {
    /// Every flag there is.
    pub const ALL: [PortFlag; 10] = [
        PortFlag::Isolated,
        PortFlag::Hairpin,
        PortFlag::NeighSuppress,
        PortFlag::Learning,
        PortFlag::UnicastFlood,
        PortFlag::MulticastFlood,
        PortFlag::BroadcastFlood,
        PortFlag::Locked,
        PortFlag::BpduGuard,
        PortFlag::RootBlock,
    ];

    /// The number of its attribute, the first kernel that has it, and its name in bridge(8).
    fn facts(self) -> (u16, &'static str, &'static str) {
        match self {
            PortFlag::Isolated => (33, "4.18", "isolated"),
            PortFlag::Hairpin => (4, "3.8", "hairpin"),
            PortFlag::NeighSuppress => (32, "4.15", "neigh_suppress"),
            PortFlag::Learning => (8, "3.11", "learning"),
            PortFlag::UnicastFlood => (9, "3.11", "flood"),
            PortFlag::MulticastFlood => (27, "4.9", "mcast_flood"),
            PortFlag::BroadcastFlood => (30, "4.12", "bcast_flood"),
            PortFlag::Locked => (39, "5.18", "locked"),
            PortFlag::BpduGuard => (5, "3.8", "guard"),
            PortFlag::RootBlock => (6, "3.8", "root_block"),
        }
    }

    pub(crate) fn attribute(self) -> u16 {
        self.facts().0
    }

    pub(crate) fn since(self) -> &'static str {
        self.facts().1
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for PortFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().2)
    }
}

/// Flags of a port of a bridge that are on or off; the others stay as they are.
///
/// ```
/// use cofferdam_netbridge::{PortFlag, PortFlags};
///
/// let flags = PortFlags::new().on(PortFlag::Isolated).off(PortFlag::Hairpin);
/// assert_eq!(flags.is_on(PortFlag::Isolated), Some(true));
/// assert_eq!(flags.is_on(PortFlag::Learning), None);
/// assert_eq!(flags.to_string(), "isolated on hairpin off");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[must_use = "flags do nothing until a port has them"]
pub struct PortFlags {
    said: u16,
    on: u16,
}

impl PortFlags {
    /// None on, none off.
    pub fn new() -> Self {
        PortFlags::default()
    }

    /// With this one on.
    pub fn on(mut self, flag: PortFlag) -> Self {
        self.said |= flag.bit();
        self.on |= flag.bit();
        self
    }

    /// With this one off.
    pub fn off(mut self, flag: PortFlag) -> Self {
        self.said |= flag.bit();
        self.on &= !flag.bit();
        self
    }

    /// Whether it is on; `None` where nothing is said of it, or the kernel does not know it.
    #[must_use]
    pub fn is_on(&self, flag: PortFlag) -> Option<bool> {
        (self.said & flag.bit() != 0).then_some(self.on & flag.bit() != 0)
    }

    /// Whether nothing is said of any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.said == 0
    }

    /// These, and where they say nothing, those of `others`.
    pub(crate) fn or(self, others: PortFlags) -> Self {
        PortFlags {
            said: self.said | others.said,
            on: self.on | others.on & !self.said,
        }
    }

    /// Those that are said, with their value.
    pub(crate) fn iter(self) -> impl Iterator<Item = (PortFlag, bool)> {
        PortFlag::ALL
            .into_iter()
            .filter_map(move |flag| Some((flag, self.is_on(flag)?)))
    }

    /// Of `IFLA_INFO_SLAVE_DATA`: what the kernel does not tell, it does not know.
    pub(crate) fn parse(options: &[u8]) -> Result<Self> {
        let mut flags = PortFlags::new();
        for option in attributes(options, 0)? {
            let option = option?;
            let known = PortFlag::ALL
                .into_iter()
                .find(|flag| flag.attribute() == option.kind());
            let (Some(flag), Some(value)) = (known, option.value().first()) else {
                continue;
            };
            flags = if *value == 0 {
                flags.off(flag)
            } else {
                flags.on(flag)
            };
        }
        Ok(flags)
    }

    /// An error where the kernel took the request and did not do it: it passes over attributes it does not know.
    pub(crate) fn check(self, now: PortFlags, port: &str) -> Result<()> {
        let missed = self
            .iter()
            .find(|(flag, value)| now.is_on(*flag) != Some(*value));
        let Some((flag, _)) = missed else {
            return Ok(());
        };
        let what = format!("set {flag} of port {port}");
        if now.is_on(flag).is_none() {
            let why = format!("the kernel does not have it, Linux {} does", flag.since());
            return Err(Error::plain(ErrorKind::Unsupported, what, why));
        }
        let why = "another changed it back";
        Err(Error::plain(ErrorKind::Busy, what, why))
    }
}

impl fmt::Display for PortFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (flag, on)) in self.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            let state = if on { "on" } else { "off" };
            write!(f, "{space}{flag} {state}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_counts() {
        let flags = PortFlags::new()
            .on(PortFlag::Locked)
            .off(PortFlag::Locked)
            .off(PortFlag::Learning)
            .on(PortFlag::Learning);
        assert_eq!(flags.to_string(), "learning on locked off");
        let others = PortFlags::new().on(PortFlag::Locked).on(PortFlag::Hairpin);
        let merged = flags.or(others).to_string();
        assert_eq!(merged, "hairpin on learning on locked off");
    }

    #[test]
    fn every_flag_has_an_attribute_of_its_own_and_is_read_back() {
        for flag in PortFlag::ALL {
            let other = |other: &&PortFlag| other.attribute() == flag.attribute();
            assert_eq!(PortFlag::ALL.iter().filter(other).count(), 1);
            let attribute = [5, 0, flag.attribute() as u8, 0, 1, 0, 0, 0];
            let read = PortFlags::parse(&attribute).unwrap();
            assert_eq!(read, PortFlags::new().on(flag));
        }
    }

    #[test]
    fn a_flag_the_kernel_passed_over_is_unsupported() {
        let asked = PortFlags::new().on(PortFlag::Locked);
        let older = PortFlags::new().on(PortFlag::Hairpin);
        let error = asked.check(older, "veth0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let line = "set locked of port veth0: the kernel does not have it, Linux 5.18 does";
        assert_eq!(error.to_string(), line);
        let other = older.off(PortFlag::Locked);
        let error = asked.check(other, "veth0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        asked.check(asked, "veth0").unwrap();
    }
}
