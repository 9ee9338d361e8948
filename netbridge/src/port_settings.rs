//! What a port of a bridge lets through: when it is made, and later.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::answer::{IFLA_INFO_DATA, IFLA_LINKINFO, attribute};
use crate::bridge::Bridge;
use crate::bridge_options::BridgeOptions;
use crate::error::Result;
use crate::guard::Sender;
use crate::link::LinkGuard;
use crate::message::brport::{self, Whose};
use crate::message::{self, HostEnd, LinkLocal, Mac};
use crate::port::Port;
use crate::port_flags::{PortFlag, PortFlags};
use crate::port_vlans::PortVlans;
use crate::transport::{Transport, ask_one, now};

/// What a port is to have before anything goes through it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortSettings {
    pub(crate) flags: PortFlags,
    pub(crate) vlans: Option<PortVlans>,
    pub(crate) guard: Guard,
}

/// Whether the port takes frames of its container alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Guard {
    #[default]
    Off,
    Mac,
}

/// What guards a port, beside the entry of the container's address.
fn guarded() -> PortFlags {
    PortFlags::new()
        .on(PortFlag::Locked)
        .off(PortFlag::Learning)
}

impl PortSettings {
    /// Whether the bridge sends it what is for nobody it knows of: else it has to know this container first.
    pub(crate) fn is_flooded(&self) -> bool {
        self.flags.is_on(PortFlag::UnicastFlood) != Some(false)
    }

    /// A setting that was asked for.
    pub(crate) fn said(&self) -> Option<String> {
        if let Some((flag, _)) = self.flags.iter().next() {
            return Some(format!("flag {flag}"));
        }
        let vlans = self.vlans.is_some().then_some("a list of VLANs");
        let guard = (self.guard == Guard::Mac).then_some("guard_mac()");
        vlans.or(guard).map(str::to_owned)
    }

    /// A port with settings of its own is not up before it has them.
    pub(crate) fn host_end(&self) -> HostEnd {
        match self.said() {
            None => HostEnd::Up,
            Some(_) => HostEnd::Down,
        }
    }

    fn all_flags(&self) -> PortFlags {
        let flags = match self.guard {
            Guard::Mac => guarded().or(self.flags),
            Guard::Off => self.flags,
        };
        // Which published ports need.
        flags.or(PortFlags::new().on(PortFlag::Hairpin))
    }

    /// Gives a fresh port its settings, and sets it up. The host's end gets no IPv6 address, which nothing could reach.
    pub(crate) async fn apply<T: Transport>(
        &self,
        host: &T,
        link: &LinkGuard,
        mac: Mac,
    ) -> Result<()> {
        if let Some(vlans) = &self.vlans {
            let port = (link.index(), link.name().as_str());
            set_vlans(host, port, Whose::Port, vlans).await?;
        }
        if self.guard == Guard::Mac {
            bind(host, link, mac).await?;
        }
        let flags = self.all_flags();
        let set = |local| message::port_options(link.index(), link.name(), flags, local);
        match ask_one(host, set(LinkLocal::Off)).await {
            // A kernel, or an MTU, without IPv6.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                ask_one(host, set(LinkLocal::Unchanged)).await?
            }
            done => done?,
        };
        if self.host_end() == HostEnd::Up {
            return Ok(());
        }
        flags.check(flags_of(host, link).await?, link.name().as_str())
    }
}

impl Port {
    /// Reads the flags of the port of the bridge, as by `RTM_GETLINK`: those that the kernel has.
    ///
    /// # Errors
    /// `NotFound` where the link is gone.
    pub fn flags(&self) -> Result<PortFlags> {
        now(flags_of(self.link().socket(), self.link()))
    }

    /// Turns flags of the port on and off, as by `RTM_NEWLINK`, and reads them back: the kernel passes over what it does not
    /// know.
    ///
    /// # Errors
    /// `Unsupported` for a flag that the kernel does not have, which leaves the others set; `NotFound` where the link is
    /// gone; `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn set_flags(&self, flags: PortFlags) -> Result<()> {
        now(set_flags(self.link().socket(), self.link(), flags))
    }

    /// Reads the VLANs of the port, as by a dump of `RTM_GETLINK` with `AF_BRIDGE`.
    ///
    /// # Errors
    /// `NotFound` where the link is gone; `Busy` where links keep changing while they are read.
    #[doc(alias = "IFLA_BRIDGE_VLAN_INFO")]
    pub fn vlans(&self) -> Result<PortVlans> {
        now(vlans_of(self.link().socket(), self.link().index()))
    }

    /// Puts the port into these VLANs and no others, as by `RTM_SETLINK` and `RTM_DELLINK` with `AF_BRIDGE`. It leaves the
    /// old ones first: for a moment it may be in none. A [guarded](Port::guard_mac) port stays so.
    ///
    /// # Errors
    /// `Unsupported` where the kernel has no VLAN filtering; else as [`vlans`](Port::vlans), and `PermissionDenied` without
    /// `CAP_NET_ADMIN`.
    pub fn set_vlans(&self, vlans: &PortVlans) -> Result<()> {
        let (host, link) = (self.link().socket(), self.link());
        now(async {
            let port = (link.index(), link.name().as_str());
            set_vlans(host, port, Whose::Port, vlans).await?;
            // The entry that guards is of the VLANs that the port was in.
            if flags_of(host, link).await?.is_on(PortFlag::Locked) == Some(true) {
                bind(host, link, self.mac()).await?;
            }
            Ok(())
        })
    }

    /// Has the bridge drop what comes from the container in the name of another hardware address: a static entry for its own,
    /// then [`Locked`](PortFlag::Locked) on and [`Learning`](PortFlag::Learning) off. So it can neither take its neighbours'
    /// frames nor fill the bridge's table. A container that changes its address cuts itself off.
    ///
    /// IP addresses are not looked at: see [`Sender`].
    ///
    /// # Errors
    /// `Unsupported` before Linux 5.18, where the port is then as open as it was, but for the entry; else as
    /// [`set_flags`](Port::set_flags).
    #[doc(alias = "macspoofchk")]
    pub fn guard_mac(&self) -> Result<()> {
        let (host, link) = (self.link().socket(), self.link());
        now(async {
            bind(host, link, self.mac()).await?;
            let locked = PortFlags::new().on(PortFlag::Locked);
            set_flags(host, link, locked).await?;
            set_flags(host, link, guarded()).await
        })
    }

    /// Who may send by this port, for a packet filter that looks at IP addresses too.
    #[must_use]
    pub fn sender(&self) -> Sender {
        let addresses: Vec<IpAddr> = self.addresses().iter().map(IpNetwork::ip).collect();
        Sender::new(self.name().clone(), self.mac(), addresses)
    }
}

impl Bridge {
    /// Reads the options of the bridge, as by `RTM_GETLINK`: those that the kernel has.
    ///
    /// # Errors
    /// `NotFound` where the bridge is gone.
    pub fn options(&self) -> Result<BridgeOptions> {
        now(options_of(self.socket(), self.index()))
    }

    /// Changes options of the bridge, as by `RTM_NEWLINK`, and reads them back.
    ///
    /// # Errors
    /// `Unsupported` for an option that the kernel does not have; `NotFound` where the bridge is gone; `PermissionDenied`
    /// without `CAP_NET_ADMIN`.
    pub fn set_options(&self, options: &BridgeOptions) -> Result<()> {
        let (host, name) = (self.socket(), self.name().as_str());
        now(async {
            let set = brport::set_bridge_options(self.index(), name, options.infos());
            ask_one(host, set).await?;
            check_options(host, self.index(), name, options).await
        })
    }

    /// Reads the VLANs that the host itself is in on this bridge, as [`Port::vlans`] does those of a port.
    ///
    /// # Errors
    /// As [`Port::vlans`].
    pub fn vlans(&self) -> Result<PortVlans> {
        now(vlans_of(self.socket(), self.index()))
    }

    /// Puts the host itself into these VLANs of the bridge and no others, as [`Port::set_vlans`] does a port: what it is not
    /// in, it neither hears nor routes.
    ///
    /// # Errors
    /// As [`Port::set_vlans`].
    pub fn set_vlans(&self, vlans: &PortVlans) -> Result<()> {
        let bridge = (self.index(), self.name().as_str());
        now(set_vlans(self.socket(), bridge, Whose::Host, vlans))
    }
}

/// An error where the kernel passed over one of the options.
pub(crate) async fn check_options<T: Transport>(
    host: &T,
    bridge: u32,
    name: &str,
    options: &BridgeOptions,
) -> Result<()> {
    if *options == BridgeOptions::new() {
        return Ok(());
    }
    options.check(&options_of(host, bridge).await?, name)
}

async fn options_of<T: Transport>(host: &T, bridge: u32) -> Result<BridgeOptions> {
    let answer = ask_one(host, message::link_at(bridge)).await?;
    let info = attribute(&answer, 16, IFLA_LINKINFO)?.unwrap_or_default();
    BridgeOptions::parse(attribute(info, 0, IFLA_INFO_DATA)?.unwrap_or_default())
}

async fn flags_of<T: Transport>(host: &T, link: &LinkGuard) -> Result<PortFlags> {
    const IFLA_INFO_SLAVE_DATA: u16 = 5;
    let answer = ask_one(host, message::link_at(link.index())).await?;
    let info = attribute(&answer, 16, IFLA_LINKINFO)?.unwrap_or_default();
    PortFlags::parse(attribute(info, 0, IFLA_INFO_SLAVE_DATA)?.unwrap_or_default())
}

async fn set_flags<T: Transport>(host: &T, link: &LinkGuard, flags: PortFlags) -> Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    let name = link.name().as_str();
    ask_one(host, brport::set_port_flags(link.index(), name, flags)).await?;
    flags.check(flags_of(host, link).await?, name)
}

async fn bind<T: Transport>(host: &T, link: &LinkGuard, mac: Mac) -> Result<()> {
    let entry = brport::add_fdb_entry(link.index(), link.name().as_str(), mac);
    ask_one(host, entry).await.map(drop)
}

async fn vlans_of<T: Transport>(host: &T, index: u32) -> Result<PortVlans> {
    const IFLA_AF_SPEC: u16 = 26;
    let payloads = host.dump(&brport::all_vlans()).await?;
    let own = |payload: &&Vec<u8>| payload.get(4..8) == Some(&index.to_ne_bytes()[..]);
    let specs = match payloads.iter().find(own) {
        Some(payload) => attribute(payload, 16, IFLA_AF_SPEC)?,
        // In no VLAN, or gone: then the question for the link fails.
        None => {
            ask_one(host, message::link_at(index)).await?;
            None
        }
    };
    PortVlans::parse(specs.unwrap_or_default())
}

async fn set_vlans<T: Transport>(
    host: &T,
    (index, name): (u32, &str),
    whose: Whose,
    vlans: &PortVlans,
) -> Result<()> {
    let old = vlans_of(host, index).await?;
    let old: Vec<_> = old.members().map(|(vlan, _)| vlan).collect();
    if !old.is_empty() {
        let delete = brport::delete_vlans(index, name, whose, &old);
        ask_one(host, delete).await?;
    }
    let add = brport::add_vlans(index, name, whose, vlans);
    ask_one(host, add).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_without_settings_is_up_at_once_and_in_hairpin_mode() {
        let plain = PortSettings::default();
        assert_eq!(plain.host_end(), HostEnd::Up);
        assert_eq!(plain.all_flags().to_string(), "hairpin on");
        let guarded = PortSettings {
            flags: PortFlags::new().off(PortFlag::Hairpin),
            guard: Guard::Mac,
            ..PortSettings::default()
        };
        assert_eq!(guarded.host_end(), HostEnd::Down);
        assert_eq!(
            guarded.all_flags().to_string(),
            "hairpin off learning off locked on"
        );
    }
}
