//! VLANs of a link.

use crate::error::Result;
use crate::ifname::IfName;
use crate::kind::LinkKind;
use crate::link::{LinkGuard, SharedSocket};
use crate::message::lower::create_vlan;
use crate::parent::{LinkBelow, adopt, lower_link};
use crate::vlan_id::VlanId;

/// What a [`Vlan`] will be. [`Vlan::builder`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a builder does nothing until create()"]
pub struct VlanBuilder {
    of: IfName,
    id: VlanId,
    name: Option<IfName>,
    mtu: Option<u32>,
    parent_up: bool,
}

impl VlanBuilder {
    /// The name of the link. Without it `<parent>.<id>`, as `eth0.100`.
    pub fn name(mut self, name: IfName) -> Self {
        self.name = Some(name);
        self
    }

    /// The MTU in bytes. Without it that of the parent, which is the largest it can be.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Sets the parent up where it is down: it is left up. Without this, a parent that is down is an error.
    pub fn parent_up(mut self) -> Self {
        self.parent_up = true;
        self
    }

    /// Makes the link in the network namespace of the calling thread and sets it up.
    ///
    /// It has no address, IPv6 off and `accept_ra` 0. A failure leaves nothing behind.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken, or the parent has a link of this VLAN; `NotFound` without the parent;
    /// `Busy` where the parent is down; `InvalidInput` for a name of more than 15 bytes, or an MTU larger than the parent's; `Unsupported` where the kernel has no VLANs; `PermissionDenied` without
    /// `CAP_NET_ADMIN` over the namespace.
    pub fn create(self) -> Result<Vlan> {
        self.create_with(SharedSocket::open()?)
    }

    pub(crate) fn create_with(&self, socket: SharedSocket) -> Result<Vlan> {
        let name = self.checked_name()?;
        LinkKind::Vlan.available_to(&mut socket.lock())?;
        let below = lower_link(&mut socket.lock(), &self.of)?;
        below.mtu_fits(self.mtu, &self.what())?;
        below.ready(&mut socket.lock(), self.parent_up)?;
        let request = create_vlan(&name, below.index, self.id, self.mtu);
        let (link, LinkBelow { mtu, .. }) = adopt(socket, name, request)?;
        Ok(Vlan {
            link,
            id: self.id,
            mtu,
        })
    }

    /// What can be said against it without a look at the host.
    pub(crate) fn checked_name(&self) -> Result<IfName> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => format!("{}.{}", self.of, self.id).parse(),
        }
    }

    fn what(&self) -> String {
        format!("create VLAN {} of {}", self.id, self.of)
    }
}

/// A VLAN of another link, by IEEE 802.1Q, which this value made. Dropping it deletes it, as by `RTM_DELLINK`, which takes
/// the kernel 20 to 40 ms ([`Vlan::remove`] tells how that went), and with it the links made upon it, wherever they are.
///
/// It is a [`Parent`](crate::Parent) for containers, or a port for a bridge of the caller's. The link it is of is neither
/// changed nor deleted.
#[derive(Debug)]
#[must_use = "dropping a Vlan deletes it"]
pub struct Vlan {
    pub(crate) link: LinkGuard,
    id: VlanId,
    mtu: u32,
}

impl Vlan {
    /// Says what VLAN `id` of the link `of` will be.
    pub fn builder(of: IfName, id: VlanId) -> VlanBuilder {
        VlanBuilder {
            of,
            id,
            name: None,
            mtu: None,
            parent_up: false,
        }
    }

    /// Deletes it, as by `RTM_DELLINK`: 20 to 40 ms. One that is gone already is a success.
    ///
    /// # Errors
    /// `PermissionDenied` where `CAP_NET_ADMIN` was lost.
    pub fn remove(self) -> Result<()> {
        self.link.remove()
    }

    /// Leaves the link where it is, and returns its name, by which [`delete_link`](crate::delete_link) deletes it.
    pub fn persist(self) -> IfName {
        self.link.persist()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &IfName {
        self.link.name()
    }

    /// The index in its network namespace.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.link.index()
    }

    /// The VLAN id.
    #[must_use]
    pub fn id(&self) -> VlanId {
        self.id
    }

    /// The MTU in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_vlan_is_named_as_the_field_names_it() {
        let vlan = |of: &str, id| Vlan::builder(of.parse().unwrap(), VlanId::new(id).unwrap());
        let named = |of, id| vlan(of, id).checked_name();
        assert_eq!(named("eth0", 100).unwrap().as_str(), "eth0.100");
        let error = named("enp0s31f6abc", 4094).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let named = vlan("enp0s31f6abc", 4094);
        let named = named.name("v4094".parse().unwrap());
        assert_eq!(named.checked_name().unwrap().as_str(), "v4094");
    }
}
