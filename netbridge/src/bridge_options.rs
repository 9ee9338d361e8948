//! Options of a bridge itself.

use std::time::Duration;

use netlink_packet_route::link::{BridgeStpState, InfoBridge};

use crate::answer::attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::vlan_id::VlanId;

/// The clock the kernel counts the times of bridges in: `USER_HZ`.
const TICKS: u128 = 100;

/// Options of a bridge; what is not said stays as it is.
///
/// Whatever is said here, a bridge of this crate has STP off and a forward delay of 0, so that a port forwards at once.
///
/// ```
/// use std::time::Duration;
/// use cofferdam_netbridge::{BridgeOptions, VlanId};
///
/// let options = BridgeOptions::new()
///     .vlan_filtering(Some(VlanId::new(1)?))
///     .multicast_snooping(false)
///     .ageing(Duration::from_secs(30));
/// assert_eq!(options.ageing_of(), Some(Duration::from_secs(30)));
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "options do nothing until a bridge has them"]
pub struct BridgeOptions {
    vlan_filtering: Option<bool>,
    default_pvid: Option<u16>,
    multicast_snooping: Option<bool>,
    ageing: Option<Duration>,
    fdb_max_learned: Option<u32>,
}

impl BridgeOptions {
    /// Nothing said.
    pub fn new() -> Self {
        BridgeOptions::default()
    }

    /// Keeps VLANs apart. A port that is added is in `default_pvid`, untagged, or in none until it is given VLANs.
    ///
    /// Needs a kernel with `CONFIG_BRIDGE_VLAN_FILTERING`.
    #[doc(alias = "IFLA_BR_VLAN_FILTERING")]
    pub fn vlan_filtering(mut self, default_pvid: Option<VlanId>) -> Self {
        self.vlan_filtering = Some(true);
        self.default_pvid = Some(default_pvid.map_or(0, VlanId::number));
        self
    }

    /// Does not look at VLANs.
    pub fn no_vlan_filtering(mut self) -> Self {
        self.vlan_filtering = Some(false);
        self.default_pvid = None;
        self
    }

    /// Whether multicast goes only where it was asked for, by IGMP and MLD. On at first; without a querier on the network
    /// groups run out after some minutes, unless they are of the link alone.
    #[doc(alias = "IFLA_BR_MCAST_SNOOPING")]
    pub fn multicast_snooping(mut self, on: bool) -> Self {
        self.multicast_snooping = Some(on);
        self
    }

    /// How long the bridge remembers where a sender is, in hundredths of a second. 300 s at first.
    #[doc(alias = "IFLA_BR_AGEING_TIME")]
    pub fn ageing(mut self, time: Duration) -> Self {
        self.ageing = Some(time);
        self
    }

    /// How many senders the bridge remembers at most, so that a container that makes them up does not fill the host's
    /// memory; 0 is without bound. Linux 6.7 and later.
    #[doc(alias = "IFLA_BR_FDB_MAX_LEARNED")]
    pub fn fdb_max_learned(mut self, entries: u32) -> Self {
        self.fdb_max_learned = Some(entries);
        self
    }

    /// Whether VLANs are kept apart.
    #[must_use]
    pub fn filters_vlans(&self) -> Option<bool> {
        self.vlan_filtering
    }

    /// The VLAN of a port that is added.
    #[must_use]
    pub fn default_pvid(&self) -> Option<VlanId> {
        self.default_pvid
            .and_then(|number| VlanId::new(number).ok())
    }

    /// Whether multicast goes only where it was asked for.
    #[must_use]
    pub fn snoops_multicast(&self) -> Option<bool> {
        self.multicast_snooping
    }

    /// How long the bridge remembers where a sender is.
    #[must_use]
    pub fn ageing_of(&self) -> Option<Duration> {
        self.ageing
    }

    /// How many senders the bridge remembers at most.
    #[must_use]
    pub fn max_learned(&self) -> Option<u32> {
        self.fdb_max_learned
    }

    /// What every bridge is made with.
    pub(crate) fn fixed() -> Vec<InfoBridge> {
        vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(0),
        ]
    }

    /// The attributes of `IFLA_INFO_DATA`.
    pub(crate) fn infos(&self) -> Vec<InfoBridge> {
        let mut infos = Vec::new();
        infos.extend(self.default_pvid.map(InfoBridge::VlanDefaultPvid));
        infos.extend(self.vlan_filtering.map(InfoBridge::VlanFiltering));
        infos.extend(self.multicast_snooping.map(InfoBridge::MulticastSnooping));
        infos.extend(self.ageing.map(ticks).map(InfoBridge::AgeingTime));
        infos.extend(self.fdb_max_learned.map(InfoBridge::FdbMaxLearned));
        infos
    }

    /// Of `IFLA_INFO_DATA`.
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        const IFLA_BR_AGEING_TIME: u16 = 4;
        const IFLA_BR_VLAN_FILTERING: u16 = 7;
        const IFLA_BR_MCAST_SNOOPING: u16 = 23;
        const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
        const IFLA_BR_FDB_MAX_LEARNED: u16 = 49;
        let mut options = BridgeOptions::new();
        for option in attributes(data, 0)? {
            let option = option?;
            let value = option.value();
            match (option.kind(), value) {
                (IFLA_BR_AGEING_TIME, &[a, b, c, d]) => {
                    let ticks = u64::from(u32::from_ne_bytes([a, b, c, d]));
                    options.ageing = Some(Duration::from_millis(ticks * 10));
                }
                (IFLA_BR_VLAN_FILTERING, &[on]) => options.vlan_filtering = Some(on != 0),
                (IFLA_BR_MCAST_SNOOPING, &[on]) => options.multicast_snooping = Some(on != 0),
                (IFLA_BR_VLAN_DEFAULT_PVID, &[a, b]) => {
                    options.default_pvid = Some(u16::from_ne_bytes([a, b]));
                }
                (IFLA_BR_FDB_MAX_LEARNED, &[a, b, c, d]) => {
                    options.fdb_max_learned = Some(u32::from_ne_bytes([a, b, c, d]));
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// An error where the kernel took the request and did not do it: it passes over attributes it does not know.
    pub(crate) fn check(&self, now: &BridgeOptions, bridge: &str) -> Result<()> {
        let missed = [
            (
                "VLAN filtering",
                missed(self.vlan_filtering, now.vlan_filtering),
            ),
            ("default PVID", missed(self.default_pvid, now.default_pvid)),
            (
                "multicast snooping",
                missed(self.multicast_snooping, now.multicast_snooping),
            ),
            (
                "ageing time",
                missed(self.ageing.map(ticks), now.ageing.map(ticks)),
            ),
            (
                "limit of learned addresses (Linux 6.7)",
                missed(self.fdb_max_learned, now.fdb_max_learned),
            ),
        ];
        match missed.iter().find(|(_, missed)| *missed) {
            None => Ok(()),
            Some((option, _)) => {
                let what = format!("set {option} of bridge {bridge}");
                let why = "the kernel does not have it";
                Err(Error::plain(ErrorKind::Unsupported, what, why))
            }
        }
    }
}

fn missed<T: PartialEq>(asked: Option<T>, now: Option<T>) -> bool {
    asked.is_some() && asked != now
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() * TICKS / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    #[test]
    fn what_is_said_is_read_back() {
        let options = BridgeOptions::new()
            .vlan_filtering(Some(VlanId::new(7).unwrap()))
            .multicast_snooping(false)
            .ageing(Duration::from_millis(1230))
            .fdb_max_learned(64);
        let infos = options.infos();
        let mut bytes = vec![0; infos.as_slice().buffer_len()];
        infos.as_slice().emit(&mut bytes);
        assert_eq!(BridgeOptions::parse(&bytes).unwrap(), options);
        assert_eq!(options.default_pvid(), VlanId::new(7).ok());
    }

    #[test]
    fn an_option_the_kernel_passed_over_is_unsupported() {
        let asked = BridgeOptions::new().fdb_max_learned(64);
        let error = asked.check(&BridgeOptions::new(), "br0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "set limit of learned addresses (Linux 6.7) of bridge br0: the kernel does not have it"
        );
        asked.check(&asked, "br0").unwrap();
        BridgeOptions::new().check(&asked, "br0").unwrap();
    }
}
