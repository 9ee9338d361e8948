//! VLANs of the ports of a bridge that filters them.

use std::collections::BTreeMap;
use std::fmt;

use crate::answer::{attributes, malformed};
use crate::error::Result;
use crate::vlan_id::VlanId;

/// The VLANs that a port of a bridge is in. The bridge keeps them apart only where it filters:
/// [`BridgeOptions::vlan_filtering`](crate::BridgeOptions::vlan_filtering).
///
/// ```
/// use cofferdam_netbridge::{PortVlans, VlanId};
///
/// let container = PortVlans::access(VlanId::new(10)?);
/// let router = PortVlans::none().tagged(VlanId::new(10)?).tagged(VlanId::new(20)?);
/// assert_eq!(container.to_string(), "10 pvid untagged");
/// assert_eq!(router.to_string(), "10, 20");
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "VLANs do nothing until a port has them"]
pub struct PortVlans {
    pvid: Option<VlanId>,
    /// Whether frames leave untagged.
    members: BTreeMap<VlanId, bool>,
}

const PVID: u16 = 1 << 1;
const UNTAGGED: u16 = 1 << 2;
const RANGE_BEGIN: u16 = 1 << 3;
const RANGE_END: u16 = 1 << 4;

impl PortVlans {
    /// In none: nothing goes in or out.
    pub fn none() -> Self {
        PortVlans::default()
    }

    /// In this one, and without tags: what a container that knows nothing of VLANs needs.
    pub fn access(vlan: VlanId) -> Self {
        PortVlans::none().untagged(vlan).pvid(vlan)
    }

    /// Frames that come in untagged are of this VLAN.
    pub fn pvid(mut self, vlan: VlanId) -> Self {
        self.pvid = Some(vlan);
        self.members.entry(vlan).or_insert(false);
        self
    }

    /// In this VLAN, whose frames go out without a tag.
    pub fn untagged(mut self, vlan: VlanId) -> Self {
        self.members.insert(vlan, true);
        self
    }

    /// In this VLAN, whose frames go out with their tag.
    pub fn tagged(mut self, vlan: VlanId) -> Self {
        self.members.insert(vlan, false);
        self
    }

    /// The VLAN of frames that come in untagged.
    #[must_use]
    pub fn pvid_of(&self) -> Option<VlanId> {
        self.pvid
    }

    /// The VLANs, and of each whether its frames go out without a tag.
    pub fn members(&self) -> impl Iterator<Item = (VlanId, bool)> + '_ {
        self.members
            .iter()
            .map(|(vlan, untagged)| (*vlan, *untagged))
    }

    /// Number and `BRIDGE_VLAN_INFO_*` flags of each.
    pub(crate) fn infos(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.members().map(|(vlan, untagged)| {
            let pvid = if self.pvid == Some(vlan) { PVID } else { 0 };
            let untagged = if untagged { UNTAGGED } else { 0 };
            (vlan.number(), pvid | untagged)
        })
    }

    /// Of `IFLA_AF_SPEC` of a port of a bridge, with ranges.
    pub(crate) fn parse(specs: &[u8]) -> Result<Self> {
        const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
        let mut vlans = PortVlans::none();
        let mut begin = None;
        for spec in attributes(specs, 0)? {
            let spec = spec?;
            if spec.kind() != IFLA_BRIDGE_VLAN_INFO {
                continue;
            }
            let &[a, b, c, d] = spec.value() else {
                return Err(malformed("a VLAN is not 4 bytes"));
            };
            let (flags, number) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
            if flags & RANGE_BEGIN != 0 {
                begin = Some(number);
                continue;
            }
            let first = match begin.take() {
                Some(first) if flags & RANGE_END != 0 => first,
                _ => number,
            };
            for number in first..=number {
                let vlan = VlanId::new(number);
                let vlan = vlan.map_err(|error| malformed(&error.to_string()))?;
                vlans.add(vlan, flags);
            }
        }
        Ok(vlans)
    }

    fn add(&mut self, vlan: VlanId, flags: u16) {
        self.members.insert(vlan, flags & UNTAGGED != 0);
        if flags & PVID != 0 {
            self.pvid = Some(vlan);
        }
    }
}

impl fmt::Display for PortVlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (vlan, flags)) in self.infos().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let pvid = if flags & PVID != 0 { " pvid" } else { "" };
            let untagged = if flags & UNTAGGED != 0 {
                " untagged"
            } else {
                ""
            };
            write!(f, "{comma}{vlan}{pvid}{untagged}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    fn info(flags: u16, number: u16) -> Vec<u8> {
        let parts = [8_u16, 2, flags, number];
        parts.into_iter().flat_map(u16::to_ne_bytes).collect()
    }

    #[test]
    fn ranges_are_read() {
        let specs = [
            info(PVID | UNTAGGED, 1),
            info(RANGE_BEGIN, 10),
            info(RANGE_END, 12),
            info(UNTAGGED, 20),
        ];
        let read = PortVlans::parse(&specs.concat()).unwrap();
        assert_eq!(read.to_string(), "1 pvid untagged, 10, 11, 12, 20 untagged");
        assert!(PortVlans::parse(&info(0, 0)).is_err());
        assert!(
            PortVlans::parse(&[info(RANGE_BEGIN, 9), info(RANGE_END, 65535)].concat()).is_err()
        );
        assert_eq!(PortVlans::parse(&[]).unwrap(), PortVlans::none());
    }

    #[test]
    fn a_pvid_is_a_member() {
        let vlans = PortVlans::none().pvid(vlan(3)).tagged(vlan(2));
        assert_eq!(vlans.infos().collect::<Vec<_>>(), [(2, 0), (3, PVID)]);
    }
}
