//! The handle on a table in the kernel, and the guards of what it was given.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::element::{Element, Port};
use crate::error::{Error, ErrorKind, Failure, Inner, Result};
use crate::layout::Set;
use crate::name::TableName;
use crate::netns::NetNs;
use crate::reservation::{Claim, Reservation, Reserve};
use crate::ruleset::Ruleset;
use crate::socket::{Found, Socket};
use crate::spec::PortSpec;
use crate::wire;

/// A handle on one table of nf_tables in one network namespace: where networks are managed and ports published.
///
/// It holds no state but sockets: what is there is what the kernel has. Any number of handles, threads and processes may
/// use the same table at once. Dropping the handle changes nothing; guards outlive it.
#[derive(Clone, Debug)]
pub struct Portmap {
    shared: Arc<Shared>,
}

impl Portmap {
    /// Opens the table of that name and family inet in the calling thread's network namespace, and makes nothing yet.
    ///
    /// Everything done with the handle is done in that namespace, whichever thread calls later.
    ///
    /// # Errors
    /// `InvalidInput` for a name nft could not spell; `PermissionDenied` without `CAP_NET_ADMIN` in the user namespace that
    /// owns the network namespace; `Unsupported` if the kernel has no nf_tables; `NotFound` if /proc is not mounted.
    pub fn open(table_name: &str) -> Result<Self> {
        let table = TableName::new(table_name)?;
        let open = || {
            let netns = NetNs::of_this_thread()?;
            let mut socket = Socket::open()?;
            socket.generation().map_err(no_nftables)?;
            Ok((netns, socket))
        };
        let (netns, socket) = open()
            .map_err(|failure: Failure| failure.during(format_args!("open table inet {table}")))?;
        let held = BTreeSet::new();
        let kernel = Mutex::new(Kernel { socket, held });
        Ok(Portmap {
            shared: Arc::new(Shared {
                table,
                netns,
                kernel,
            }),
        })
    }

    /// Manages a bridge and its subnet, by one transaction: its containers reach out under an address of the host, reach each
    /// other, and are reached from elsewhere by published ports only.
    ///
    /// The bridge need not exist yet. See [the crate's page](crate#what-it-changes-on-the-host) for the sysctls that are the
    /// caller's to set.
    ///
    /// # Errors
    /// `AlreadyExists` if the bridge or an overlapping subnet is managed in this table; `InvalidInput` for a name no link can
    /// have; `Unsupported` for an IPv6 subnet, or if the kernel lacks a part of nf_tables; `Busy` if others kept changing the
    /// ruleset. In each case nothing was changed.
    pub fn network(&self, bridge: &str, subnet: IpNetwork) -> Result<NetworkGuard> {
        let elements = Element::network(bridge, subnet)?;
        let doing = format_args!("manage bridge {bridge} with {subnet}");
        self.shared.add(&elements, doing, |socket, table| {
            for element in &elements {
                refuse_if_there(socket, table, element, doing)?;
            }
            refuse_overlap(socket, table, &elements, doing)
        })?;
        let (shared, bridge) = (Arc::clone(&self.shared), bridge.to_owned());
        let lease = Lease::new(shared, elements.to_vec());
        Ok(NetworkGuard { lease, bridge })
    }

    /// Publishes a port: leads it to `target`'s container port, by one transaction.
    ///
    /// Before that, it binds a socket to the port in the handle's network namespace, and keeps it in the guard: a port a
    /// process of the host has is an error, and no process of the host can take a published one. That socket lets nothing in. SCTP
    /// ports are not reserved so: it would load the kernel's SCTP module.
    ///
    /// A port published on every address and the same on one address exclude each other, as with Docker.
    ///
    /// # Errors
    /// `AlreadyExists` if the port is published in this table already; `Busy` if a socket of the host has it, or if others kept
    /// changing the ruleset; `NotFound` if the host does not have the address; `PermissionDenied` for a port below 1024 without
    /// `CAP_NET_BIND_SERVICE`, or, from a thread in another network namespace, without `CAP_SYS_ADMIN`; `Unsupported` for an
    /// IPv6 host address or target, or if the kernel lacks a part of nf_tables. In each case nothing was changed.
    pub fn publish(&self, spec: &PortSpec, target: IpAddr) -> Result<Published> {
        let port = Port::new(spec, target)?;
        let elements = [Element::Port(port)];
        let table = &self.shared.table;
        let doing = format_args!("publish {spec} to {target} in table inet {table}");
        let mut reservation = Vec::new();
        self.shared.add(&elements, doing, |socket, table| {
            refuse_published(socket, table, &port, doing)?;
            if !reservation.is_empty() {
                return Ok(());
            }
            match Reservation::all(
                &self.shared.netns,
                &[Claim::of(spec, crate::reservation::Families::Ipv4)],
                Reserve::Hold,
            ) {
                Ok(made) => reservation = made,
                Err(failure) => {
                    // It may have been published between the look at the table and the bind.
                    refuse_published(socket, table, &port, doing)?;
                    return Err(failure.during(doing));
                }
            }
            Ok(())
        })?;
        let lease = Lease::new(Arc::clone(&self.shared), elements.to_vec());
        let spec = *spec;
        Ok(Published {
            lease,
            _reservation: reservation,
            spec,
            target,
        })
    }

    /// Closes a published port to new flows, whoever published it and wherever it leads, and deletes the table if nothing else is
    /// in it. Host address, host port and protocol tell which; that it is not there is success.
    ///
    /// It is for what was [persisted](Published::persist) or left by a failed [`Published::remove`] or a killed process. Where
    /// the [`Published`] still exists, that keeps the port reserved.
    ///
    /// # Errors
    /// `Unsupported` for an IPv6 host address; `Busy` if others kept changing the ruleset, else what the kernel says.
    pub fn unpublish(&self, spec: &PortSpec) -> Result<()> {
        let table = &self.shared.table;
        let doing = format!("unpublish {spec} in table inet {table}");
        let port = Port::nowhere(spec, &doing)?;
        let found = self
            .shared
            .lock()
            .socket
            .element(table, &Element::Port(port));
        let found = found.map_err(during(&doing))?;
        let Some(target) = found.and_then(|found| found.target()) else {
            return Ok(());
        };
        self.shared
            .remove(&[Element::Port(port.to(target))], &doing)
    }

    /// Whether the table is there: something of it is managed or published, by this process or another.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn exists(&self) -> Result<bool> {
        let table = &self.shared.table;
        let doing = format_args!("look for table inet {table}");
        self.shared
            .lock()
            .socket
            .has_table(table)
            .map_err(during(doing))
    }

    /// Deletes the table with all that is in it, also what was [persisted](Published::persist) or left by processes that were
    /// killed. That it is not there is success.
    ///
    /// # Errors
    /// `Busy` if others kept changing the ruleset, else what the kernel says.
    pub fn delete_table(&self) -> Result<()> {
        let table = &self.shared.table;
        let doing = format_args!("delete table inet {table}");
        let mut kernel = self.shared.lock();
        transact(&mut kernel.socket, doing, |socket, generation| {
            if !socket.has_table(table).map_err(during(doing))? {
                return Ok(Attempt::Done);
            }
            Ok(socket.commit(generation, wire::delete_table(table)).into())
        })
    }
}

/// A managed bridge. Dropping it ends that, and deletes the table if nothing else is in it.
///
/// Drop takes one transaction, tried again a bounded number of times if others change the ruleset; what it cannot remove stays
/// until [`Portmap::delete_table`].
#[derive(Debug)]
#[must_use = "dropping a NetworkGuard stops managing the bridge"]
pub struct NetworkGuard {
    lease: Lease,
    bridge: String,
}

impl NetworkGuard {
    /// The bridge's name.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// Stops managing the bridge, and deletes the table if nothing else is in it. Gone already is success.
    ///
    /// # Errors
    /// `Busy` if others kept changing the ruleset, else what the kernel says. Then it stays managed, until
    /// [`Portmap::delete_table`].
    pub fn remove(mut self) -> Result<()> {
        let doing = format!("stop managing bridge {}", self.bridge);
        self.lease.remove(&doing)
    }

    /// Leaves it in the kernel after the process.
    pub fn persist(mut self) {
        self.lease.persist();
    }
}

/// A published port. Dropping it closes the port to new flows, and deletes the table if nothing else is in it.
///
/// Drop takes one transaction, tried again a bounded number of times if others change the ruleset; what it cannot remove stays
/// until [`Portmap::unpublish`], no longer reserved. Flows that are established go on until they end or time out.
#[derive(Debug)]
#[must_use = "dropping a Published unpublishes the port"]
pub struct Published {
    // Before the reservation: the port is free again once it leads nowhere.
    lease: Lease,
    _reservation: Vec<Reservation>,
    spec: PortSpec,
    target: IpAddr,
}

impl Published {
    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &PortSpec {
        &self.spec
    }

    /// The address of the container.
    #[must_use]
    pub fn target(&self) -> IpAddr {
        self.target
    }

    /// Closes the port to new flows, and deletes the table if nothing else is in it. Gone already is success, and a port that
    /// somebody has since published elsewhere is left alone.
    ///
    /// # Errors
    /// `Busy` if others kept changing the ruleset, else what the kernel says. Then it stays published but is no longer reserved, as
    /// after [`persist`](Published::persist): [`Portmap::unpublish`] tries again.
    pub fn remove(mut self) -> Result<()> {
        let doing = format!("unpublish {}", self.spec);
        self.lease.remove(&doing)
    }

    /// Leaves the port published after the process. It is no longer reserved: a process of the host may bind it, but gets no
    /// connections from where the port is published.
    pub fn persist(mut self) {
        self.lease.persist();
    }
}

/// Elements that are ours to remove.
#[derive(Debug)]
struct Lease {
    shared: Arc<Shared>,
    elements: Vec<Element>,
    armed: bool,
}

impl Lease {
    fn new(shared: Arc<Shared>, elements: Vec<Element>) -> Self {
        Lease {
            shared,
            elements,
            armed: true,
        }
    }

    fn remove(&mut self, doing: &str) -> Result<()> {
        self.armed = false;
        self.shared.remove(&self.elements, doing)
    }

    fn persist(&mut self) {
        self.armed = false;
        let mut kernel = self.shared.lock();
        for element in &self.elements {
            kernel.held.remove(element);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.armed {
            let _unused = self.remove("remove").is_ok();
        }
    }
}

#[derive(Debug)]
struct Shared {
    table: TableName,
    netns: NetNs,
    kernel: Mutex<Kernel>,
}

/// The way to the kernel, and what was given to it by this handle and not taken back: where to look first for whether the
/// table is still needed.
#[derive(Debug)]
struct Kernel {
    socket: Socket,
    held: BTreeSet<Element>,
}

/// How often a transaction is tried when others change the ruleset between our look and our change.
const TRIES: u32 = 1000;

/// What became of one try of a transaction.
enum Attempt {
    Done,
    /// The ruleset has changed since it was looked at.
    Outdated,
    Failed(Failure),
}

impl From<std::result::Result<(), Failure>> for Attempt {
    fn from(committed: std::result::Result<(), Failure>) -> Self {
        match committed {
            Ok(()) => Attempt::Done,
            Err(failure) if failure.errno() == Some(libc::ERESTART) => Attempt::Outdated,
            Err(failure) => Attempt::Failed(failure),
        }
    }
}

impl Shared {
    /// Adds elements, and the table where it is missing, if `check` of the table as it is does not refuse.
    fn add(
        &self,
        elements: &[Element],
        doing: impl fmt::Display + Copy,
        mut check: impl FnMut(&mut Socket, Option<&TableName>) -> Result<()>,
    ) -> Result<()> {
        let mut kernel = self.lock();
        transact(&mut kernel.socket, doing, |socket, generation| {
            let exists = socket.has_table(&self.table).map_err(during(doing))?;
            check(socket, exists.then_some(&self.table))?;
            let changes = match exists {
                true => wire::add_elements(&self.table, elements),
                false => wire::create(&Ruleset::of(self.table.clone(), elements.to_vec())),
            };
            let attempt = socket.commit(generation, changes).into();
            Ok(match attempt {
                Attempt::Failed(failure) if exists && failure.errno() == Some(libc::ENOENT) => {
                    Attempt::Failed(foreign_table(failure))
                }
                attempt => attempt,
            })
        })?;
        kernel.held.extend(elements.iter().cloned());
        Ok(())
    }

    /// Removes those of the elements that are there as we made them, and with the last of all elements the table.
    fn remove(&self, elements: &[Element], doing: &str) -> Result<()> {
        let table = &self.table;
        let mut kernel = self.lock();
        let Kernel { socket, held } = &mut *kernel;
        for element in elements {
            held.remove(element);
        }
        transact(socket, doing, |socket, generation| {
            if !socket.has_table(table).map_err(during(doing))? {
                return Ok(Attempt::Done);
            }
            let mut ours = Vec::new();
            for element in elements {
                let found = socket.element(table, element).map_err(during(doing))?;
                if found.is_some_and(|found| found.is(element)) {
                    ours.push(element.clone());
                }
            }
            if ours.is_empty() {
                return Ok(Attempt::Done);
            }
            let changes = match has_others(socket, table, &ours, held).map_err(during(doing))? {
                false => wire::delete_table(table),
                true => wire::delete_elements(table, &ours),
            };
            Ok(socket.commit(generation, changes).into())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Kernel> {
        // A panic elsewhere leaves nothing half done: answers are told apart by their sequence number.
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks and changes, again and again until nobody has changed anything in between: the kernel takes a transaction only with
/// the generation it had before the look.
fn transact(
    socket: &mut Socket,
    doing: impl fmt::Display + Copy,
    mut attempt: impl FnMut(&mut Socket, u32) -> Result<Attempt>,
) -> Result<()> {
    for _ in 0..TRIES {
        let generation = socket.generation().map_err(during(doing))?;
        let refused = match attempt(socket, generation) {
            Ok(Attempt::Done) => return Ok(()),
            Ok(Attempt::Outdated) => None,
            Ok(Attempt::Failed(failure)) => Some(failure.during(doing)),
            Err(error) => Some(error),
        };
        // What was refused on the ground of a look that was outdated meanwhile may be right by now.
        match refused {
            Some(error) if socket.generation().map_err(during(doing))? == generation => {
                return Err(error);
            }
            _ => thread::yield_now(),
        }
    }
    let doing = doing.to_string();
    Err(Inner::Contended {
        doing,
        tries: TRIES,
    }
    .into())
}

fn during(doing: impl fmt::Display + Copy) -> impl Fn(Failure) -> Error {
    move |failure| failure.during(doing)
}

/// Refuses what is there under the same key.
fn refuse_if_there(
    socket: &mut Socket,
    table: Option<&TableName>,
    element: &Element,
    doing: impl fmt::Display + Copy,
) -> Result<()> {
    let Some(table) = table else { return Ok(()) };
    let found = socket.element(table, element).map_err(during(doing))?;
    match found {
        None => Ok(()),
        Some(_) => Err(taken(doing, element.to_string())),
    }
}

/// Refuses a port that is published on the same address, on every address, or, to be published on every address, on any.
fn refuse_published(
    socket: &mut Socket,
    table: Option<&TableName>,
    port: &Port,
    doing: impl fmt::Display + Copy,
) -> Result<()> {
    let Some(table) = table else { return Ok(()) };
    let any = Element::Port(port.on(None));
    let found = socket.element(table, &any).map_err(during(doing))?;
    if found.is_some() {
        return Err(published(doing, port, Ipv4Addr::UNSPECIFIED));
    }
    let Some(ip) = port.host_ip else {
        let key = any.key();
        let found = all_of(socket, table, Set::Ports4).map_err(during(doing))?;
        let same = found.iter().find_map(|one| {
            let (ip, rest) = one.key.split_first_chunk::<4>()?;
            (rest == key).then(|| Ipv4Addr::from(*ip))
        });
        return same.map_or(Ok(()), |ip| Err(published(doing, port, ip)));
    };
    let found = socket
        .element(table, &Element::Port(*port))
        .map_err(during(doing))?;
    match found {
        None => Ok(()),
        Some(_) => Err(published(doing, port, ip)),
    }
}

fn published(doing: impl fmt::Display, port: &Port, ip: Ipv4Addr) -> Error {
    taken(doing, format!("{ip}:{}/{}", port.host_port, port.protocol))
}

/// Refuses a subnet that overlaps with one that is managed.
fn refuse_overlap(
    socket: &mut Socket,
    table: Option<&TableName>,
    elements: &[Element],
    doing: impl fmt::Display + Copy,
) -> Result<()> {
    let Some(table) = table else { return Ok(()) };
    let found = all_of(socket, table, Set::SubnetPairs).map_err(during(doing))?;
    for element in elements {
        let Element::Subnet(subnet) = element else {
            continue;
        };
        if let Some(other) = found.iter().find(|one| overlap(one, *subnet)) {
            let first = other.key.first_chunk().copied().map(Ipv4Addr::from);
            let by = format!("a subnet from {}", first.unwrap_or(subnet.network()));
            return Err(taken(doing, by));
        }
    }
    Ok(())
}

fn overlap(found: &Found, subnet: Ipv4Network) -> bool {
    let bound = |key: &[u8]| key.first_chunk().copied().map(u32::from_be_bytes);
    let (Some(first), Some(last)) = (
        bound(&found.key),
        bound(found.key_end.as_deref().unwrap_or(&found.key)),
    ) else {
        return false;
    };
    u32::from(subnet.network()) <= last && first <= u32::from(subnet.broadcast())
}

fn taken(doing: impl fmt::Display, by: String) -> Error {
    let doing = doing.to_string();
    Inner::Taken { doing, by }.into()
}

/// All elements of a set of a table that is there.
fn all_of(
    socket: &mut Socket,
    table: &TableName,
    set: Set,
) -> std::result::Result<Vec<Found>, Failure> {
    let found = socket.elements(table, set);
    found.map_err(|failure| match failure.errno() {
        Some(libc::ENOENT) => foreign_table(failure),
        _ => failure,
    })
}

/// Whether the table has other elements than these. What this handle holds is asked for first, then the sets of networks: they are
/// small. Else every port is read.
fn has_others(
    socket: &mut Socket,
    table: &TableName,
    ours: &[Element],
    held: &mut BTreeSet<Element>,
) -> std::result::Result<bool, Failure> {
    while let Some(likely) = held.pop_first() {
        if socket.element(table, &likely)?.is_some() {
            held.insert(likely);
            return Ok(true);
        }
    }
    for set in Set::ALL {
        let mine = ours.iter().filter(|element| element.set() == set).count();
        if all_of(socket, table, set)?.len() > mine {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a kernel without nf_tables says to a message for it.
fn no_nftables(failure: Failure) -> Failure {
    match failure.errno() {
        Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => failure
            .of_kind(ErrorKind::Unsupported)
            .with_note("the kernel has no nf_tables, or may not load it; a Proxy publishes without"),
        Some(libc::EPERM) => failure.with_note(
            "CAP_NET_ADMIN in the user namespace that owns the network namespace is missing; a Proxy publishes without",
        ),
        _ => failure,
    }
}

/// A table of our name that is not ours.
fn foreign_table(failure: Failure) -> Failure {
    failure
        .of_kind(ErrorKind::AlreadyExists)
        .with_note("a table of that name is there, but not one of this crate")
}
