//! Links of a network namespace.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::answer::LinkAnswer;
use crate::error::{Error, ErrorKind, Result};
use crate::ifname::IfName;
use crate::kind::LinkKind;
use crate::message::{self, LOOPBACK, Request, Up};
use crate::socket::Socket;

/// Sets `lo` of the calling thread's network namespace up, as by `RTM_SETLINK`: in a fresh namespace it is down.
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN` over the namespace.
pub fn loopback_up() -> Result<()> {
    let request = message::set_up(LOOPBACK, "lo", Up::default());
    Socket::open()?.ask_one(request).map(drop)
}

/// Deletes a link of a [`LinkKind`] of the calling thread's network namespace, as by `RTM_DELLINK`: what was persisted,
/// or left by a process that was killed. One that is gone already is a success.
///
/// Deleting either end of a veth pair deletes both; deleting a link deletes what was made upon it. The links attached to a
/// bridge are not deleted with it, and the host takes nothing from them any more. It takes the kernel 20 to 40 ms. A [`Bridge`](crate::Bridge) or [`Port`](crate::Port) whose link was deleted so is removed without
/// an error.
///
/// ```no_run
/// # use cofferdam_netbridge::{delete_link, links};
/// for link in links()? {
///     if link.name.starts_with("app-") {
///         delete_link(&link.name.parse()?)?;
///     }
/// }
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput` where the link is of no [`LinkKind`]; `PermissionDenied` without `CAP_NET_ADMIN` over the
/// namespace.
pub fn delete_link(name: &IfName) -> Result<()> {
    let mut socket = Socket::open()?;
    let link = match socket.ask_one(message::link_named(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => LinkAnswer::parse(&read?)?,
    };
    if !link.kind.as_deref().is_some_and(LinkKind::is_made_here) {
        let what = format!("delete link {name}");
        let why = "it is of no kind that is made here";
        return Err(Error::invalid(what, why));
    }
    // By index: the name may be another's by now.
    if link.kind.as_deref() == Some("bridge") {
        let_go(&mut socket, link.index)?;
    }
    delete(&mut socket, link.index, name)
}

/// One that is gone already is a success.
fn delete(socket: &mut Socket, index: u32, name: &IfName) -> Result<()> {
    match socket.ask_one(message::delete_link(index, name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.map(drop),
    }
}

/// Ports do not end with their bridge: they become links of the host's own. What a container sends on one must not be taken
/// for traffic of a network, which it might be apart from. Only links of containers: others were the host's before.
fn let_go(socket: &mut Socket, bridge: u32) -> Result<()> {
    let ports = match socket.dump(&message::all_ports(bridge)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        ports => ports?,
    };
    let ports: Vec<LinkAnswer> = ports
        .iter()
        .map(|payload| LinkAnswer::parse(payload))
        .collect::<Result<_>>()?;
    let of_containers = |port: &&LinkAnswer| {
        let kind = port.kind.as_deref().unwrap_or_default();
        port.controller == Some(bridge) && ["veth", "vxlan"].contains(&kind)
    };
    let requests: Vec<Request> = ports
        .iter()
        .filter(of_containers)
        .map(|port| message::quarantine(port.index, &port.name))
        .collect();
    let refused = socket
        .ask_each(&requests)?
        .into_iter()
        .filter_map(Result::err);
    refused
        .filter(|error| error.kind() != ErrorKind::NotFound)
        .map(Err)
        .next()
        .unwrap_or(Ok(()))
}

/// The rtnetlink socket of a bridge and its ports, in the network namespace the bridge was made in.
#[derive(Clone, Debug)]
pub(crate) struct SharedSocket(Arc<Mutex<Socket>>);

impl SharedSocket {
    /// In the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self> {
        Socket::open().map(SharedSocket::new)
    }

    pub(crate) fn new(socket: Socket) -> Self {
        SharedSocket(Arc::new(Mutex::new(socket)))
    }

    /// Whether both are the same.
    pub(crate) fn is(&self, other: &SharedSocket) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A panic of another thread leaves at most unread answers, which are told by their sequence number.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Socket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link this process made: dropping it deletes the link.
#[derive(Debug)]
pub(crate) struct LinkGuard {
    socket: SharedSocket,
    /// 0 until it is found.
    index: u32,
    name: IfName,
    ports: Ports,
    armed: bool,
}

/// What becomes of others when a link is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    None,
    /// It is a bridge, and lets go of its ports.
    LetGo,
}

impl LinkGuard {
    /// Guards a link by its name alone, until it is found.
    pub(crate) fn new(socket: SharedSocket, name: IfName) -> Self {
        LinkGuard {
            socket,
            index: 0,
            name,
            ports: Ports::None,
            armed: true,
        }
    }

    /// As [`new`](Self::new), a bridge.
    pub(crate) fn of_bridge(socket: SharedSocket, name: IfName) -> Self {
        let mut bridge = LinkGuard::new(socket, name);
        bridge.ports = Ports::LetGo;
        bridge
    }

    /// Never deletes a link that was there before.
    pub(crate) fn adopted(socket: SharedSocket, name: IfName, index: u32) -> Self {
        LinkGuard {
            socket,
            index,
            name,
            ports: Ports::None,
            armed: false,
        }
    }

    /// Takes the index from the answer to [`message::link_named`]: it holds where the name may change.
    pub(crate) fn found(&mut self, payload: &[u8]) -> Result<LinkAnswer> {
        let link = LinkAnswer::parse(payload)?;
        self.index = link.index;
        Ok(link)
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn name(&self) -> &IfName {
        &self.name
    }

    pub(crate) fn socket(&self) -> &SharedSocket {
        &self.socket
    }

    /// Deletes the link. One that is gone already is a success; an adopted one stays.
    pub(crate) fn remove(mut self) -> Result<()> {
        match std::mem::take(&mut self.armed) {
            true => self.delete(),
            false => Ok(()),
        }
    }

    /// Whether dropping it deletes the link.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Says that another deleted the link.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }

    /// Leaves the link where it is.
    pub(crate) fn persist(mut self) -> IfName {
        self.armed = false;
        self.name.clone()
    }

    fn delete(&self) -> Result<()> {
        let mut socket = self.socket.lock();
        let let_go = match self.ports {
            Ports::LetGo if self.index != 0 => let_go(&mut socket, self.index),
            _ => Ok(()),
        };
        let deleted = delete(&mut socket, self.index, &self.name);
        deleted.and(let_go)
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        if self.armed {
            let _unused = self.delete().is_ok();
        }
    }
}
