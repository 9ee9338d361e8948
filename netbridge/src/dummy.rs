//! Links that lead nowhere.

use crate::error::Result;
use crate::ifname::IfName;
use crate::kind::LinkKind;
use crate::link::{LinkGuard, SharedSocket};
use crate::message::lower::create_dummy;
use crate::parent::{LinkBelow, adopt};

/// What a [`Dummy`] will be. [`Dummy::builder`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a builder does nothing until create()"]
pub struct DummyBuilder {
    name: IfName,
    mtu: Option<u32>,
}

impl DummyBuilder {
    /// The MTU in bytes. Without it 1500.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Makes the link in the network namespace of the calling thread and sets it up.
    ///
    /// It has no address, IPv6 off and `accept_ra` 0. A failure leaves nothing behind.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken; `Unsupported` where the kernel has no dummy links; `PermissionDenied`
    /// without `CAP_NET_ADMIN` over the namespace.
    pub fn create(self) -> Result<Dummy> {
        self.create_with(SharedSocket::open()?)
    }

    pub(crate) fn ifname(&self) -> &IfName {
        &self.name
    }

    pub(crate) fn create_with(&self, socket: SharedSocket) -> Result<Dummy> {
        LinkKind::Dummy.available_to(&mut socket.lock())?;
        let request = create_dummy(&self.name, self.mtu);
        let (link, LinkBelow { mtu, .. }) = adopt(socket, self.name.clone(), request)?;
        Ok(Dummy { link, mtu })
    }
}

/// A link that leads nowhere, which this value made: what is sent on it is gone. Dropping it deletes it, as by
/// `RTM_DELLINK`, which takes the kernel 20 to 40 ms ([`Dummy::remove`] tells how that went), and with it the links made
/// upon it, wherever they are.
///
/// As the [`Parent`](crate::Parent) of an internal network it lets containers reach each other and nobody else.
#[derive(Debug)]
#[must_use = "dropping a Dummy deletes it"]
pub struct Dummy {
    pub(crate) link: LinkGuard,
    mtu: u32,
}

impl Dummy {
    /// Says what a link of this name will be.
    pub fn builder(name: IfName) -> DummyBuilder {
        DummyBuilder { name, mtu: None }
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

    /// The MTU in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }
}
