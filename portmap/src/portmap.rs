//! The handle on a table in the kernel, and the guards of what it was given.

mod builder;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use builder::PortmapBuilder;

use crate::choice::{self, Place};
use crate::conntrack::Conntrack;
use crate::ephemeral::Turn;
use crate::error::{ErrorKind, Result};
use crate::kernel::{Attempt, Delta, Kernel, Ownership, during};
use crate::mapping::PortMapping;
use crate::name::{IfName, Owner, TableName};
use crate::netns::NetNs;
use crate::network::NetworkSpec;
use crate::reconcile::Repaired;
use crate::reservation::{Claim, Families, Reservation, Reserve};
use crate::ruleset::{Ruleset, taken};
use crate::spec::PortSpec;
use crate::wire;

/// A handle on one table of nf_tables in one network namespace: where networks are managed and ports published.
///
/// What is there is what the kernel has. Any number of handles, threads and processes may use the same table at once, unless one
/// [owns](Ownership) it. A handle remembers what it saw, as long as the kernel says that nothing changed, and what it gave, for
/// [`reapply`](Self::reapply). Dropping the handle changes nothing; guards outlive it.
#[derive(Clone, Debug)]
pub struct Portmap {
    pub(crate) shared: Arc<Shared>,
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
        Self::builder(table_name).open()
    }

    /// Says how the handle is to be.
    pub fn builder(table_name: &str) -> PortmapBuilder {
        PortmapBuilder::of(table_name)
    }

    /// Manages a bridge and its subnets, by one transaction: its containers reach out under an address of the host, reach each
    /// other, and are reached from elsewhere by published ports only, or what else the network says.
    ///
    /// The bridge need not exist yet. See [the crate's page](crate#what-it-changes-on-the-host) for the sysctls that are the
    /// caller's to set.
    ///
    /// # Errors
    /// `AlreadyExists` if the bridge or an overlapping subnet is managed in this table; `Owned` if another process owns the table;
    /// `Unsupported` if the kernel lacks a part of nf_tables; `Busy` if others kept changing the ruleset. In each case nothing was
    /// changed.
    pub fn network(&self, network: NetworkSpec) -> Result<NetworkGuard> {
        Ruleset::of(self.shared.table.clone()).network(network.clone())?;
        let doing = self
            .shared
            .doing(format_args!("manage bridge {}", network.bridge()));
        self.shared.lock().change(&doing, |there| {
            if let Some(by) = there.network_conflict(&network) {
                let doing = doing.clone();
                return Err(crate::error::Inner::Taken { doing, by }.into());
            }
            Ok(Delta {
                networks: vec![network.clone()],
                ..Delta::default()
            })
        })?;
        let lease = Lease::new(&self.shared, vec![network.clone()], Vec::new());
        Ok(NetworkGuard { lease, network })
    }

    /// Publishes a port: leads it to `target`'s container port, by one transaction.
    ///
    /// Before that, it binds a socket to the port in the handle's network namespace, and keeps it in the guard: a port a
    /// process of the host has is an error, and no process of the host can take a published one. That socket lets nothing in. For
    /// SCTP it does so only where the kernel's module is loaded already. [`Reserve`] is for who wants none of it.
    ///
    /// Without a host address it is published on every one of the target's family. A port published on every address and the same
    /// on one address exclude each other, as with Docker.
    ///
    /// # Errors
    /// As [`publish_all`](Self::publish_all), and as [`PortMapping::of_spec`].
    pub fn publish(&self, spec: &PortSpec, target: IpAddr) -> Result<Published> {
        self.publish_to(spec, &[target])
    }

    /// Publishes what a spec says for a container with addresses of both families, by one transaction: host ports are the same in
    /// both, also those that are chosen.
    ///
    /// A port that is left to be chosen is one of the host's range for such (`net.ipv4.ip_local_port_range` without
    /// `net.ipv4.ip_local_reserved_ports`) or of the spec's, in turn, that is not published and that no socket of the host has, in
    /// the families of the targets. [`Published::ports`] says which it was.
    ///
    /// # Errors
    /// As [`publish_all`](Self::publish_all), and as [`PortMapping::of_spec`]; `Exhausted` if there is no free port.
    pub fn publish_to(&self, spec: &PortSpec, targets: &[IpAddr]) -> Result<Published> {
        if spec.expand().all(|one| one.is_single()) {
            return self.publish_all(mappings(spec.expand(), targets)?);
        }
        const TRIES: usize = 8;
        let doing = self.shared.doing(format_args!("publish {spec}"));
        let mut tries = 0;
        loop {
            tries += 1;
            let reserved = self.choose(spec, targets, &doing)?;
            let ports = mappings(reserved.iter().map(|(one, _)| *one), targets)?;
            let reservations = reserved.into_iter().map(|(_, reservation)| reservation);
            match self.publish_reserved(ports, Some(reservations.collect())) {
                // Somebody without a socket has published it meanwhile.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < TRIES => {}
                published => return published,
            }
        }
    }

    fn choose(&self, spec: &PortSpec, targets: &[IpAddr], doing: &str) -> Result<choice::Reserved> {
        // Refuses targets that cannot be before anything is bound.
        mappings(spec.expand().map(|one| one.at_host_port(1)), targets)?;
        let there = self.list()?;
        let is_published = |one: &PortSpec| {
            let ports = mappings([*one], targets)?;
            Ok(ports.iter().any(|port| there.port_conflict(port).is_some()))
        };
        let place = Place {
            netns: &self.shared.netns,
            turn: &self.shared.turn,
            families: families(targets),
            reserve: self.shared.reserve,
        };
        choice::reserve(place, &[*spec], doing, is_published)
    }

    /// Publishes ports, all or none of them, by one transaction, however many they are. One guard has them all.
    ///
    /// Each port takes an fd as long as it is published, unless the handle only [checks](Reserve::Check), as one that publishes
    /// thousands should, or does [neither](Reserve::Never).
    ///
    /// # Errors
    /// `AlreadyExists` if one is published in this table already, or two of them exclude each other; `Busy` if a socket of the host
    /// has one, or if others kept changing the ruleset; `NotFound` if the host does not have an address; `Owned` if another process
    /// owns the table; `PermissionDenied` for a port below 1024 without `CAP_NET_BIND_SERVICE`, or, from a thread in another
    /// network namespace, without `CAP_SYS_ADMIN`; `Unsupported` if the kernel lacks a part of nf_tables. The error names the port.
    /// In each case nothing was changed.
    pub fn publish_all(&self, ports: impl IntoIterator<Item = PortMapping>) -> Result<Published> {
        self.publish_reserved(ports.into_iter().collect(), None)
    }

    fn publish_reserved(
        &self,
        ports: Vec<PortMapping>,
        mut reservations: Option<Vec<Reservation>>,
    ) -> Result<Published> {
        let mut batch = Ruleset::of(self.shared.table.clone());
        for port in &ports {
            batch.publish(port.clone())?;
        }
        let doing = self.shared.doing(publishing(&ports));
        self.shared.lock().change_ports(&doing, &ports, |there| {
            for port in &ports {
                if let Some(other) = there.port_conflict(port) {
                    let doing = self.shared.doing(format_args!("publish {port}"));
                    return Err(taken(doing, other));
                }
            }
            if reservations.is_none() {
                let (netns, claims) = (&self.shared.netns, Claim::of_all(&ports));
                let made = Reservation::all(netns, &claims, self.shared.reserve);
                reservations = Some(made.map_err(during(&doing))?);
            }
            Ok(Delta {
                ports: ports.clone(),
                ..Delta::default()
            })
        })?;
        let published = Published {
            lease: Lease::new(&self.shared, Vec::new(), ports.clone()),
            reservations: reservations.unwrap_or_default(),
            ports,
        };
        // If it fails, the lease takes them back.
        self.shared.end_stale_flows(&published.ports, &doing)?;
        Ok(published)
    }

    /// Closes a published port to new flows, whoever published it and wherever it leads, and deletes the table if nothing else is
    /// in it. Host address, host port and protocol tell which; without a host address, those on every address of both families.
    /// That it is not there is success.
    ///
    /// It is for what was [persisted](Published::persist) or left by a failed [`Published::remove`] or a killed process. Where
    /// the [`Published`] still exists, that keeps the port reserved.
    ///
    /// # Errors
    /// `Owned` if another process owns the table; `InvalidInput` if the spec leaves the host port to be chosen; `Busy` if others kept
    /// changing the ruleset, else what the kernel says.
    pub fn unpublish(&self, spec: &PortSpec) -> Result<()> {
        spec.expand().try_for_each(|one| one.require_single())?;
        let is_wanted = |port: &PortMapping| {
            let host_ip = spec.host_ip();
            let same_family = host_ip.is_none_or(|ip| ip.is_ipv4() == port.is_ipv4());
            let host_ip = host_ip.filter(|ip| !ip.is_unspecified());
            let same = (spec.protocol(), host_ip) == (port.protocol(), port.host_ip());
            same_family && same && spec.host_ports().contains(&port.host_port())
        };
        let doing = self.shared.doing(format_args!("unpublish {spec}"));
        self.shared.unpublish(&doing, is_wanted).map(drop)
    }

    /// Closes all published ports of an owner, whichever handle published them, by one transaction, and says which they were.
    ///
    /// # Errors
    /// As [`unpublish`](Self::unpublish).
    pub fn unpublish_owner(&self, owner: &Owner) -> Result<Vec<PortMapping>> {
        let doing = self.shared.doing(format_args!("unpublish all of {owner}"));
        let is_wanted = |port: &PortMapping| port.owner() == Some(owner);
        self.shared.unpublish(&doing, is_wanted)
    }

    /// Stops managing a bridge, whoever had it managed, and deletes the table if nothing else is in it. That it is not managed is
    /// success.
    ///
    /// # Errors
    /// As [`unpublish`](Self::unpublish), and `InvalidInput` for a name no link can have.
    pub fn remove_network(&self, bridge: &str) -> Result<()> {
        let bridge = IfName::new(bridge)?;
        let doing = self
            .shared
            .doing(format_args!("stop managing bridge {}", bridge.as_str()));
        let decide = |there: &Ruleset| {
            Ok(Delta {
                gone_networks: there.network_of(&bridge).cloned().into_iter().collect(),
                ..Delta::default()
            })
        };
        self.shared.lock().change(&doing, decide).map(drop)
    }

    /// Reads back which networks are managed and which ports published, by whichever process, with their owners.
    ///
    /// # Errors
    /// `AlreadyExists` if the table of that name is not one of this crate; `Malformed` if parts of it are missing; `Busy` if others
    /// kept changing the ruleset.
    pub fn list(&self) -> Result<Ruleset> {
        let doing = self.shared.doing("list");
        self.shared.lock().read(&doing)
    }

    /// Makes the table exactly what is declared, by one transaction, and says what that took: what is missing is added, what is too
    /// many removed, whoever added it; rules that somebody changed are restored; a table that is not there is made. What is right
    /// already is not touched, so that traffic goes on.
    ///
    /// It is for a program that starts after a crash, with a state of its own of what should be. The ruleset's table name does not
    /// matter. From then on what is declared is the handle's, for [`reapply`](Self::reapply). Ports are not reserved by it.
    ///
    /// # Errors
    /// `AlreadyExists` if the table of that name is not one of this crate; `Owned` if another process owns it; `Busy` if others
    /// kept changing the ruleset; else what the kernel says. In each case nothing was changed.
    pub fn reconcile(&self, declared: &Ruleset) -> Result<Repaired> {
        let doing = self.shared.doing("reconcile");
        // What cannot be read cannot have been used.
        let before = self.list().ok();
        let repaired = self.shared.lock().reconcile(declared, &doing)?;
        let is_gone = |port: &&PortMapping| declared.port_at(port) != Some(port);
        let gone = before.iter().flat_map(Ruleset::ports).filter(is_gone);
        self.shared.end_closed_flows(gone, &doing)?;
        if !repaired.is_nothing() {
            self.shared.end_stale_flows(declared.ports(), &doing)?;
        }
        Ok(repaired)
    }

    /// Brings back what this handle, its clones and its guards have in the table, and all rules, by one transaction, and says what
    /// that took: after `nft flush ruleset`, a reload of a firewall, or a change of the table by hand. What others have in it stays.
    ///
    /// # Errors
    /// `AlreadyExists` if somebody else has taken one of the ports, bridges or subnets meanwhile, or if a table of that name is there
    /// that is not one of this crate; `Owned`, `Busy` and others as [`reconcile`](Self::reconcile). In each case nothing was changed.
    pub fn reapply(&self) -> Result<Repaired> {
        let doing = self.shared.doing("reapply");
        let mut kernel = self.shared.lock();
        let repaired = kernel.reapply(&doing)?;
        let declared = kernel.declared.clone();
        drop(kernel);
        if !repaired.is_nothing() {
            self.shared.end_stale_flows(declared.ports(), &doing)?;
        }
        Ok(repaired)
    }

    /// Who else may change the table.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        self.shared.lock().ownership()
    }

    /// Whether the table is there: something of it is managed or published, by this process or another.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn exists(&self) -> Result<bool> {
        let table = &self.shared.table;
        let doing = &*format!("look for table inet {table}");
        let found = self.shared.lock().socket.table(table);
        Ok(found.map_err(during(doing))?.is_some())
    }

    /// Deletes the table with all that is in it, also what was [persisted](Published::persist) or left by processes that were
    /// killed; [`reapply`](Self::reapply) does not bring it back. That it is not there is success.
    ///
    /// # Errors
    /// `Owned` if another process owns it; `Busy` if others kept changing the ruleset, else what the kernel says.
    pub fn delete_table(&self) -> Result<()> {
        let table = &self.shared.table;
        let doing = &*format!("delete table inet {table}");
        let mut kernel = self.shared.lock();
        kernel.transact(doing, |kernel, generation| {
            let Some(found) = kernel.socket.table(table).map_err(during(doing))? else {
                return Ok(Attempt::Done);
            };
            kernel.refuse_owned(found, doing)?;
            Ok(kernel.commit(generation, &wire::delete_table(table)))
        })?;
        kernel.declared = Ruleset::of(table.clone());
        Ok(())
    }
}

/// A managed bridge. Dropping it ends that, and deletes the table if nothing else is in it.
///
/// Drop takes one transaction, tried again a bounded number of times if others change the ruleset; what it cannot remove stays
/// until [`Portmap::remove_network`] or [`Portmap::delete_table`].
#[derive(Debug)]
#[must_use = "dropping a NetworkGuard stops managing the bridge"]
pub struct NetworkGuard {
    lease: Lease,
    network: NetworkSpec,
}

impl NetworkGuard {
    /// The bridge's name.
    #[must_use]
    pub fn bridge(&self) -> &str {
        self.network.bridge()
    }

    /// What was asked for.
    pub fn network(&self) -> &NetworkSpec {
        &self.network
    }

    /// Stops managing the bridge, and deletes the table if nothing else is in it. Gone already is success.
    ///
    /// # Errors
    /// `Busy` if others kept changing the ruleset, else what the kernel says. Then it stays managed, until
    /// [`Portmap::remove_network`].
    pub fn remove(mut self) -> Result<()> {
        self.lease.remove()
    }

    /// Leaves the bridge managed after the process, and out of what [`Portmap::reapply`] brings back.
    pub fn persist(mut self) {
        self.lease.persist();
    }
}

/// Published ports. Dropping it closes them to new flows, and deletes the table if nothing else is in it; established flows go on.
///
/// Drop takes one transaction, tried again a bounded number of times if others change the ruleset; what it cannot remove stays
/// until [`Portmap::unpublish`] or [`Portmap::delete_table`].
#[derive(Debug)]
#[must_use = "dropping a Published unpublishes the ports"]
pub struct Published {
    // Before the reservation: the port is free again once it leads nowhere.
    lease: Lease,
    pub(crate) reservations: Vec<Reservation>,
    ports: Vec<PortMapping>,
}

impl Published {
    /// The ports, in the order they were given.
    pub fn ports(&self) -> &[PortMapping] {
        &self.ports
    }

    /// Closes the ports to new flows, and deletes the table if nothing else is in it. Gone already is success, and a port that
    /// somebody has since published elsewhere is left alone.
    ///
    /// # Errors
    /// `Busy` if others kept changing the ruleset, else what the kernel says. Then they stay published but are no longer reserved,
    /// as after [`persist`](Published::persist): [`Portmap::unpublish`] tries again.
    pub fn remove(mut self) -> Result<()> {
        self.lease.remove()
    }

    /// Leaves the ports published after the process, and out of what [`Portmap::reapply`] brings back. They are no longer reserved:
    /// a process of the host may bind one, but gets no connections from where it is published.
    pub fn persist(mut self) {
        self.lease.persist();
    }
}

/// What is ours to remove.
#[derive(Debug)]
struct Lease {
    shared: Arc<Shared>,
    networks: Vec<NetworkSpec>,
    ports: Vec<PortMapping>,
    armed: bool,
}

impl Lease {
    fn new(shared: &Arc<Shared>, networks: Vec<NetworkSpec>, ports: Vec<PortMapping>) -> Self {
        Lease {
            shared: Arc::clone(shared),
            networks,
            ports,
            armed: true,
        }
    }

    fn remove(&mut self) -> Result<()> {
        self.armed = false;
        let (networks, ports) = (&self.networks, &self.ports);
        let doing = match networks.first() {
            Some(network) => format!("stop managing bridge {}", network.bridge()),
            None => format!("un{}", publishing(ports)),
        };
        let doing = self.shared.doing(doing);
        let mut kernel = self.shared.lock();
        self.gone().apply_to(&mut kernel.declared);
        let is_ours = |there: &NetworkSpec| {
            let same = |network: &&NetworkSpec| network.bridge == there.bridge;
            let ours = networks.iter().find(same);
            ours.is_some_and(|ours| ours.owner() == there.owner())
        };
        let near: &[PortMapping] = if networks.is_empty() { ports } else { &[] };
        let done = kernel.change_ports(&doing, near, |there| {
            let bridges = networks
                .iter()
                .filter_map(|ours| there.network_of(&ours.bridge));
            let gone_ports = ports
                .iter()
                .filter(|port| there.port_at(port) == Some(port));
            Ok(Delta {
                gone_networks: bridges.filter(|there| is_ours(there)).cloned().collect(),
                gone_ports: gone_ports.cloned().collect(),
                ..Delta::default()
            })
        })?;
        drop(kernel);
        self.shared.end_closed_flows(&done.gone_ports, &doing)
    }

    fn persist(&mut self) {
        self.armed = false;
        self.gone().apply_to(&mut self.shared.lock().declared);
    }

    fn gone(&self) -> Delta {
        Delta {
            gone_networks: self.networks.clone(),
            gone_ports: self.ports.clone(),
            ..Delta::default()
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.armed {
            let _unused = self.remove().is_ok();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    table: TableName,
    netns: NetNs,
    reserve: Reserve,
    turn: Turn,
    kernel: Mutex<Kernel>,
    conntrack: Mutex<Conntrack>,
}

impl Shared {
    fn unpublish(
        &self,
        doing: &str,
        is_wanted: impl Fn(&PortMapping) -> bool,
    ) -> Result<Vec<PortMapping>> {
        let done = self.lock().change(doing, |there| {
            let gone = there.ports().filter(|port| is_wanted(port)).cloned();
            Ok(Delta {
                gone_ports: gone.collect(),
                ..Delta::default()
            })
        })?;
        self.end_closed_flows(&done.gone_ports, doing)?;
        Ok(done.gone_ports)
    }

    fn doing(&self, what: impl std::fmt::Display) -> String {
        format!("{what} in table inet {}", self.table)
    }

    fn lock(&self) -> MutexGuard<'_, Kernel> {
        // A panic elsewhere leaves nothing half done: answers are told apart by their sequence number.
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn conntrack(&self) -> MutexGuard<'_, Conntrack> {
        // The same holds for it.
        let locked = self.conntrack.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each of the specs for each of the targets.
fn mappings(
    specs: impl IntoIterator<Item = PortSpec>,
    targets: &[IpAddr],
) -> Result<Vec<PortMapping>> {
    let each = specs.into_iter().flat_map(|spec| {
        let of_target = move |target: &IpAddr| PortMapping::of_spec(&spec, *target);
        targets.iter().map(of_target)
    });
    each.collect()
}

fn families(targets: &[IpAddr]) -> Families {
    let has = |ipv6| targets.iter().any(|target| target.is_ipv6() == ipv6);
    match (has(false), has(true)) {
        (true, false) => Families::Ipv4,
        (false, true) => Families::Ipv6,
        _ => Families::Both,
    }
}

fn publishing(ports: &[PortMapping]) -> String {
    match ports {
        [port] => format!("publish {port}"),
        _ => format!("publish {} ports", ports.len()),
    }
}
