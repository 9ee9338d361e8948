//! The link that links of containers are made upon.

use crate::answer::LinkAnswer;
use crate::dummy::DummyBuilder;
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::link::{LinkGuard, SharedSocket};
use crate::message::{self, Request, Up};
use crate::socket::Socket;
use crate::sysctl::{self, Ipv6};
use crate::vlan::VlanBuilder;

/// The link that a [`Macvlan`](crate::Macvlan) or [`Ipvlan`](crate::Ipvlan) is upon.
///
/// ```
/// use cofferdam_netbridge::{Dummy, IfName, Macvlan, Vlan, VlanId};
///
/// let eth0: IfName = "eth0".parse()?;
/// let _on_the_lan = Macvlan::builder(eth0.clone());
/// let _on_vlan_100 = Macvlan::builder(Vlan::builder(eth0, VlanId::new(100)?));
/// let _internal = Macvlan::builder(Dummy::builder("app0".parse()?));
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parent {
    /// One that is there. It is never deleted, and not changed but where that is asked for.
    Link(IfName),
    /// A VLAN of one that is there, made and deleted with the network.
    Vlan(VlanBuilder),
    /// One that leads nowhere, made and deleted with the network, which is an internal one then.
    Dummy(DummyBuilder),
}

impl From<IfName> for Parent {
    fn from(name: IfName) -> Self {
        Parent::Link(name)
    }
}

impl From<VlanBuilder> for Parent {
    fn from(vlan: VlanBuilder) -> Self {
        Parent::Vlan(vlan)
    }
}

impl From<DummyBuilder> for Parent {
    fn from(dummy: DummyBuilder) -> Self {
        Parent::Dummy(dummy)
    }
}

impl Parent {
    /// The name that it has, or will have once it is made.
    ///
    /// # Errors
    /// `InvalidInput` for a [VLAN without a name](VlanBuilder::name) whose parent's leaves no room for the id.
    pub fn ifname(&self) -> Result<IfName> {
        match self {
            Parent::Link(name) => Ok(name.clone()),
            Parent::Vlan(vlan) => vlan.checked_name(),
            Parent::Dummy(dummy) => Ok(dummy.ifname().clone()),
        }
    }

    /// Finds or makes it.
    pub(crate) fn open(&self, socket: &SharedSocket, up: bool) -> Result<Lower> {
        let made = match self {
            Parent::Link(name) => {
                let below = lower_link(&mut socket.lock(), name)?;
                below.ready(&mut socket.lock(), up)?;
                return Ok(Lower { below, made: None });
            }
            Parent::Vlan(vlan) => vlan.create_with(socket.clone())?.link,
            Parent::Dummy(dummy) => dummy.create_with(socket.clone())?.link,
        };
        let below = lower_link(&mut socket.lock(), made.name())?;
        Ok(Lower {
            below,
            made: Some(made),
        })
    }
}

/// A parent, and who deletes it.
#[derive(Debug)]
pub(crate) struct Lower {
    pub(crate) below: LinkBelow,
    made: Option<LinkGuard>,
}

impl Lower {
    pub(crate) fn remove(self) -> Result<()> {
        self.made.map_or(Ok(()), LinkGuard::remove)
    }

    /// The name of the link that is left, where this made it.
    pub(crate) fn persist(self) -> Option<IfName> {
        self.made.map(LinkGuard::persist)
    }
}

/// A link, as it is before another is made upon it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkBelow {
    pub(crate) name: IfName,
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

impl LinkBelow {
    /// Refuses a parent that is down, or sets it up where that is asked for: a link upon it would carry nothing.
    pub(crate) fn ready(&self, socket: &mut Socket, set_up: bool) -> Result<()> {
        let name = &self.name;
        if self.up {
            return Ok(());
        }
        if set_up {
            let up = message::set_up(self.index, name.as_str(), Up::default());
            return socket.ask_one(up).map(drop);
        }
        let what = format!("make links upon {name}");
        let why = "it is down: set it up first, or ask for that by parent_up()";
        Err(Error::plain(ErrorKind::Busy, what, why))
    }

    pub(crate) fn mtu_fits(&self, mtu: Option<u32>, what: &str) -> Result<()> {
        match mtu {
            Some(mtu) if mtu > self.mtu => {
                let why = format!(
                    "its MTU of {mtu} is larger than {} of {}",
                    self.mtu, self.name
                );
                Err(Error::invalid(what, why))
            }
            _ => Ok(()),
        }
    }
}

/// Reads the link of this name.
pub(crate) fn lower_link(socket: &mut Socket, name: &IfName) -> Result<LinkBelow> {
    let answer = socket.ask_one(message::link_named(name))?;
    let link = LinkAnswer::parse(&answer)?;
    Ok(LinkBelow {
        name: name.clone(),
        index: link.index,
        mtu: link.mtu,
        up: link.is_set_up,
    })
}

/// Makes a link of the host's by `request`, and sets it up without IPv6, which it would else have addresses and take
/// routes by.
pub(crate) fn adopt(
    socket: SharedSocket,
    name: IfName,
    request: Request,
) -> Result<(LinkGuard, LinkBelow)> {
    socket.lock().ask_one(request)?;
    let mut link = LinkGuard::new(socket, name);
    let read = message::link_named(link.name());
    let read = link.socket().lock().ask_one(read)?;
    link.found(&read)?;
    sysctl::ipv6(link.name(), Ipv6::Off)?;
    let up = message::set_up(link.index(), link.name().as_str(), Up::default());
    link.socket().lock().ask_one(up)?;
    let below = lower_link(&mut link.socket().lock(), link.name())?;
    Ok((link, below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dummy, Vlan, VlanId};

    #[test]
    fn the_name_of_a_parent_is_known_before_it_is_made() {
        let eth0: IfName = "eth0".parse().unwrap();
        let vlan = || Vlan::builder(eth0.clone(), VlanId::new(7).unwrap());
        let named = vlan().name("seven".parse().unwrap());
        let parents: [(Parent, &str); 4] = [
            (eth0.clone().into(), "eth0"),
            (vlan().into(), "eth0.7"),
            (named.into(), "seven"),
            (Dummy::builder("app0".parse().unwrap()).into(), "app0"),
        ];
        for (parent, name) in parents {
            assert_eq!(parent.ifname().unwrap().as_str(), name);
        }
    }
}
