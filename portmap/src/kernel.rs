//! The table in the kernel: looked at once, remembered while nobody changes anything, and changed by one transaction each.

use std::fmt;
use std::thread;

use crate::element::Element;
use crate::error::{Error, ErrorKind, Failure, Inner, Result};
use crate::layout::Set;
use crate::mapping::PortMapping;
use crate::name::TableName;
use crate::network::NetworkSpec;
use crate::ruleset::Ruleset;
use crate::socket::{FoundTable, Socket};
use crate::wire::{self, Change, Flags};

/// Who else may change the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ownership {
    /// Everybody who may change nf_tables: any number of handles, threads and processes share it, and `nft flush ruleset` deletes
    /// it, until [`Portmap::reapply`](crate::Portmap::reapply).
    #[default]
    Shared,
    /// Only this handle, its clones and its guards, by `NFT_TABLE_F_OWNER` (Linux 5.12). `nft flush ruleset` passes over the
    /// table. The kernel deletes it when the last of them is gone, or the process: nothing can be persisted.
    Owned,
    /// The same with `NFT_TABLE_F_PERSIST` (Linux 6.9): the table stays when they are gone, and anybody may change it then. The next
    /// handle with this ownership takes it over with its first change.
    OwnedPersistent,
}

impl Ownership {
    fn flags(self) -> Flags {
        match self {
            Ownership::Shared => Flags::default(),
            Ownership::Owned => Flags(Flags::OWNER),
            Ownership::OwnedPersistent => Flags(Flags::OWNER | Flags::PERSIST),
        }
    }
}

/// Networks and ports to add and to take out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    pub(crate) networks: Vec<NetworkSpec>,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) gone_networks: Vec<NetworkSpec>,
    pub(crate) gone_ports: Vec<PortMapping>,
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        let Delta {
            networks,
            ports,
            gone_networks,
            gone_ports,
        } = self;
        networks.is_empty() && ports.is_empty() && gone_networks.is_empty() && gone_ports.is_empty()
    }

    fn added(&self) -> Vec<Element> {
        elements(&self.networks, &self.ports)
    }

    fn gone(&self) -> Vec<Element> {
        elements(&self.gone_networks, &self.gone_ports)
    }

    /// Does to a ruleset what was done to the kernel's. What is gone there is gone here only if it is the same.
    pub(crate) fn apply_to(&self, ruleset: &mut Ruleset) {
        for network in &self.gone_networks {
            if ruleset.network_of(&network.bridge) == Some(network) {
                ruleset.remove_network(network.bridge());
            }
        }
        for port in &self.gone_ports {
            if ruleset.port_at(port) == Some(port) {
                ruleset.unpublish(port);
            }
        }
        for network in &self.networks {
            ruleset.insert_network(network.clone());
        }
        for port in &self.ports {
            ruleset.insert_port(port.clone());
        }
    }
}

/// In the order of sets, so that those of one set share messages.
fn elements(networks: &[NetworkSpec], ports: &[PortMapping]) -> Vec<Element> {
    let networks = networks.iter().flat_map(Element::of_network);
    let mut elements: Vec<_> = networks.chain(ports.iter().map(Element::of_port)).collect();
    elements.sort_by_key(|element| element.set);
    elements
}

/// The way to the kernel, and what is known of it.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) socket: Socket,
    pub(crate) table: TableName,
    ownership: Ownership,
    known: Option<Known>,
    /// What was given to the kernel by this handle and not taken back.
    pub(crate) declared: Ruleset,
}

/// What a look at the kernel saw. It holds as long as the generation does.
#[derive(Debug)]
struct Known {
    generation: u32,
    table: Option<Table>,
}

impl Known {
    /// Whether it is a table of another owner: with that it ends, or loses its owner, and the generation stays.
    fn may_end(&self, socket: &Socket) -> bool {
        let owner = self.table.as_ref().and_then(|table| table.found.owner);
        owner.is_some_and(|owner| owner != socket.port)
    }
}

#[derive(Debug)]
struct Table {
    found: FoundTable,
    ruleset: Ruleset,
    strays: Vec<Element>,
}

/// How often a transaction is tried when others change the ruleset between our look and our change.
const TRIES: u32 = 1000;

/// What became of one try of a transaction.
pub(crate) enum Attempt {
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

impl Kernel {
    pub(crate) fn new(socket: Socket, table: TableName, ownership: Ownership) -> Self {
        Kernel {
            socket,
            declared: Ruleset::of(table.clone()),
            table,
            ownership,
            known: None,
        }
    }

    pub(crate) fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// What the table says now.
    pub(crate) fn read(&mut self, doing: impl fmt::Display + Copy) -> Result<Ruleset> {
        let mut read = None;
        self.transact(doing, |kernel, generation| {
            kernel.look(generation).map_err(during(doing))?;
            read = kernel.known_ruleset().cloned();
            // A change meanwhile may have torn what was read.
            let now = kernel.socket.generation().map_err(during(doing))?;
            Ok(match generation == now {
                true => Attempt::Done,
                false => Attempt::Outdated,
            })
        })?;
        Ok(read.unwrap_or_else(|| Ruleset::of(self.table.clone())))
    }

    /// Changes the table as `decide` says on the ground of what it is.
    pub(crate) fn change(
        &mut self,
        doing: impl fmt::Display + Copy,
        decide: impl FnMut(&Ruleset) -> Result<Delta>,
    ) -> Result<Delta> {
        self.change_ports(doing, &[], decide)
    }

    /// The same, where nothing of the table matters to `decide` but what these ports are or exclude: if the table is not known and they
    /// are few, only that is looked at, and `decide` sees no more. So it costs the same beside however many others.
    pub(crate) fn change_ports(
        &mut self,
        doing: impl fmt::Display + Copy,
        ports: &[PortMapping],
        mut decide: impl FnMut(&Ruleset) -> Result<Delta>,
    ) -> Result<Delta> {
        let nothing = Ruleset::of(self.table.clone());
        let mut done = Delta::default();
        self.transact(doing, |kernel, generation| {
            if let Some(part) = kernel.glance(generation, ports) {
                let delta = decide(&part.ruleset)?;
                if delta.is_empty() {
                    return Ok(Attempt::Done);
                }
                // What is left may be all of it or not.
                if !part.is_empty_after(&delta) {
                    let changes = kernel.compile(Some(&part), &delta, doing)?;
                    match kernel.commit(generation, &changes) {
                        // The whole table tells why.
                        Attempt::Failed(_) => {}
                        attempt => {
                            if let Attempt::Done = attempt {
                                done = delta;
                            }
                            return Ok(attempt);
                        }
                    }
                }
            }
            kernel.look(generation).map_err(during(doing))?;
            let delta = decide(kernel.known_ruleset().unwrap_or(&nothing))?;
            let known = kernel.known.as_ref();
            let table = known.and_then(|known| known.table.as_ref());
            let changes = kernel.compile(table, &delta, doing)?;
            if changes.is_empty() {
                return Ok(Attempt::Done);
            }
            let attempt = kernel.commit(generation, &changes);
            if let Attempt::Done = attempt {
                kernel.remember(&delta);
                done = delta;
            }
            Ok(attempt)
        })?;
        done.apply_to(&mut self.declared);
        Ok(done)
    }

    /// Looks and changes, again and again until nobody has changed anything in between: the kernel takes a transaction only with
    /// the generation it had before the look.
    pub(crate) fn transact(
        &mut self,
        doing: impl fmt::Display + Copy,
        mut attempt: impl FnMut(&mut Kernel, u32) -> Result<Attempt>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let generation = self.socket.generation().map_err(during(doing))?;
            let refused = match attempt(self, generation) {
                Ok(Attempt::Done) => return Ok(()),
                Ok(Attempt::Outdated) => None,
                Ok(Attempt::Failed(failure)) => Some(failure.during(doing)),
                Err(error) => Some(error),
            };
            // What was refused on the ground of a look that was outdated meanwhile may be right by now.
            match refused {
                Some(error) if self.socket.generation().map_err(during(doing))? == generation => {
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

    pub(crate) fn commit(&mut self, generation: u32, changes: &[Change]) -> Attempt {
        let committed = self.socket.commit(generation, changes);
        let committed = committed.map_err(|failure| match failure.errno() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) if self.ownership != Ownership::Shared => {
                failure.with_note("to own a table needs Linux 5.12, and that it persists Linux 6.9")
            }
            _ => failure,
        });
        committed.into()
    }

    /// Forgets what was seen.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }

    /// That somebody else owns the table.
    pub(crate) fn refuse_owned(&self, found: FoundTable, doing: impl fmt::Display) -> Result<()> {
        match found.owner.filter(|owner| *owner != self.socket.port) {
            None => Ok(()),
            Some(owner) => Err(Inner::Owned {
                doing: doing.to_string(),
                table: self.table.to_string(),
                owner,
            }
            .into()),
        }
    }

    /// How a table that is there becomes ours, if it is to.
    pub(crate) fn takeover(&self, found: FoundTable) -> Takeover {
        match self.ownership {
            _ if found.owner.is_some() => Takeover::NotNeeded,
            Ownership::Shared => Takeover::NotNeeded,
            Ownership::OwnedPersistent if found.flags & Flags::PERSIST != 0 => {
                Takeover::Flags(wire::change_table(&self.table, self.flags()))
            }
            Ownership::Owned | Ownership::OwnedPersistent => Takeover::Replace,
        }
    }

    pub(crate) fn flags(&self) -> Flags {
        self.ownership.flags()
    }

    /// The messages that put another table in the place of this one, in one transaction: no packet sees it missing.
    pub(crate) fn replace(&self, elements: &[Element]) -> Vec<Change> {
        let mut changes = wire::delete_table(&self.table);
        changes.extend(wire::create(&self.table, self.flags(), elements));
        changes
    }

    fn known_ruleset(&self) -> Option<&Ruleset> {
        let table = self.known.as_ref()?.table.as_ref()?;
        Some(&table.ruleset)
    }

    /// What of the table these ports are and exclude, and its bridges. None if it is known anyway or has to be looked at as a whole.
    fn glance(&mut self, generation: u32, ports: &[PortMapping]) -> Option<Table> {
        const FEW: usize = 8;
        if ports.is_empty() || ports.len() > FEW || self.knows(generation) {
            return None;
        }
        let Some(found) = self.socket.table(&self.table).ok()? else {
            let table = None;
            self.known = Some(Known { generation, table });
            return None;
        };
        if !found.is_tagged || !matches!(self.takeover(found), Takeover::NotNeeded) {
            return None;
        }
        let elements = self.elements_near(ports).ok()?;
        self.known = None;
        let (ruleset, strays) = Ruleset::read(self.table.clone(), elements);
        Some(Table {
            found,
            ruleset,
            strays,
        })
    }

    fn elements_near(
        &mut self,
        ports: &[PortMapping],
    ) -> std::result::Result<Vec<Element>, Failure> {
        let (socket, name) = (&mut self.socket, &self.table);
        let mut elements = socket.elements(name, Set::Bridges)?;
        // A port on every address excludes those on one, whichever that is.
        for (set, ipv4) in [(Set::Ports4, true), (Set::Ports6, false)] {
            let mut family = ports.iter().filter(|port| port.is_ipv4() == ipv4);
            if family.any(|port| port.host_ip().is_none()) {
                elements.extend(socket.elements(name, set)?);
            }
        }
        for key in ports.iter().flat_map(Element::keys_of_port) {
            elements.extend(socket.element(name, &key)?);
        }
        elements.sort();
        elements.dedup();
        Ok(elements)
    }

    fn knows(&self, generation: u32) -> bool {
        let known = self.known.as_ref();
        known.is_some_and(|known| known.generation == generation && !known.may_end(&self.socket))
    }

    /// Makes what is known that of this generation.
    fn look(&mut self, generation: u32) -> std::result::Result<(), Failure> {
        if self.knows(generation) {
            return Ok(());
        }
        self.known = None;
        let table = match self.socket.table(&self.table)? {
            None => None,
            Some(found) => Some(self.look_into(found)?),
        };
        self.known = Some(Known { generation, table });
        Ok(())
    }

    fn look_into(&mut self, found: FoundTable) -> std::result::Result<Table, Failure> {
        let mut elements = Vec::new();
        for set in Set::ALL {
            let of_set = self.socket.elements(&self.table, set);
            elements.extend(of_set.map_err(|failure| match failure.errno() {
                Some(libc::ENOENT) if found.is_tagged => damaged_table(failure),
                Some(libc::ENOENT) => foreign_table(failure),
                _ => failure,
            })?);
        }
        let (ruleset, strays) = Ruleset::read(self.table.clone(), elements);
        Ok(Table {
            found,
            ruleset,
            strays,
        })
    }

    /// The messages of a change of a table.
    fn compile(
        &self,
        table: Option<&Table>,
        delta: &Delta,
        doing: impl fmt::Display,
    ) -> Result<Vec<Change>> {
        if delta.is_empty() {
            return Ok(Vec::new());
        }
        let (name, added) = (&self.table, delta.added());
        let Some(table) = table else {
            return Ok(wire::create(name, self.flags(), &added));
        };
        self.refuse_owned(table.found, doing)?;
        if table.is_empty_after(delta) {
            return Ok(wire::delete_table(name));
        }
        let mut changes = Vec::new();
        match self.takeover(table.found) {
            Takeover::NotNeeded => {}
            Takeover::Flags(change) => changes.push(change),
            Takeover::Replace => return Ok(self.replace(&table.elements_after(delta))),
        }
        changes.extend(wire::delete_elements(name, &delta.gone()));
        changes.extend(wire::add_elements(name, &added));
        Ok(changes)
    }

    /// What is known after a change that the kernel took.
    fn remember(&mut self, delta: &Delta) {
        let (port, flags) = (self.socket.port, self.flags());
        let name = self.table.clone();
        let Some(known) = &mut self.known else { return };
        // The kernel leaves out 0.
        known.generation = known.generation.checked_add(1).unwrap_or(1);
        let table = known.table.get_or_insert_with(|| Table {
            found: FoundTable {
                flags: flags.0,
                owner: None,
                is_tagged: true,
            },
            ruleset: Ruleset::of(name),
            strays: Vec::new(),
        });
        delta.apply_to(&mut table.ruleset);
        if flags.0 & Flags::OWNER != 0 {
            table.found.flags = flags.0;
            table.found.owner = Some(port);
        }
        if table.ruleset.is_empty() && table.strays.is_empty() {
            known.table = None;
        }
    }
}

impl Table {
    fn is_empty_after(&self, delta: &Delta) -> bool {
        let left = self.ruleset.len() + self.strays.len();
        let gone = delta.gone_networks.len() + delta.gone_ports.len();
        delta.networks.is_empty() && delta.ports.is_empty() && left == gone
    }

    fn elements_after(&self, delta: &Delta) -> Vec<Element> {
        let mut ruleset = self.ruleset.clone();
        delta.apply_to(&mut ruleset);
        let mut elements = ruleset.elements();
        elements.extend(self.strays.iter().cloned());
        elements.sort_by_key(|element| element.set);
        elements
    }
}

/// How a table becomes one of this handle's ownership.
pub(crate) enum Takeover {
    NotNeeded,
    /// By changing its flags.
    Flags(Change),
    /// By another in its place: the kernel gives an owner to no table that had none.
    Replace,
}

pub(crate) fn during(doing: impl fmt::Display + Copy) -> impl Fn(Failure) -> Error {
    move |failure| failure.during(doing)
}

/// A table of our name that is not ours.
pub(crate) fn foreign_table(failure: Failure) -> Failure {
    failure
        .of_kind(ErrorKind::AlreadyExists)
        .with_note("a table of that name is there, but not one of this crate")
}

/// Ours, of which somebody took a part away.
fn damaged_table(failure: Failure) -> Failure {
    failure
        .of_kind(ErrorKind::Malformed)
        .with_note("a set of the table is missing: reconcile or reapply makes it whole")
}
