//! Networks and leases, in memory or in a directory that processes share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::directory::Directory;
use super::name::{check_name, check_owner};
use super::network::{Lease, LeaseRequest, Network};
use super::occupied::Occupied;
use super::outline::Outline;
use super::pools::Pools;
use super::span::Family;
use super::subnet::Subnet;
use crate::error::{Error, ErrorKind, Result};

/// What a network's addresses are to be, for [`Ipam::create`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct NetworkSpec {
    given: Vec<Subnet>,
    picked: Vec<(Family, Pools)>,
    occupied: Occupied,
}

impl NetworkSpec {
    /// Of nothing yet: at least one subnet has to be added.
    pub fn new() -> Self {
        NetworkSpec::default()
    }

    /// With this subnet, of either family. One of each at most.
    pub fn subnet(mut self, subnet: impl Into<Subnet>) -> Self {
        self.given.push(subnet.into());
        self
    }

    /// With a subnet of this family from `pools`.
    pub fn pick(mut self, family: Family, pools: Pools) -> Self {
        self.picked.push((family, pools));
        self
    }

    /// What a subnet that is picked must not overlap, beside the other networks of the store. Subnets that are given may.
    pub fn avoiding(mut self, occupied: Occupied) -> Self {
        self.occupied = occupied;
        self
    }
}

/// Networks, their subnets and who has which address: in memory, or in a directory that several processes use at once.
///
/// ```
/// use cofferdam_netbridge::ipam::{Family, Ipam, LeaseRequest, NetworkSpec, Pool, Pools};
///
/// let ipam = Ipam::in_memory();                                    // or Ipam::open("/run/app/ipam")?
/// let pools = Pools::default().pool(Pool::ula("id of this host"));
/// let spec = NetworkSpec::new().pick(Family::V4, pools.clone()).pick(Family::V6, pools);
/// ipam.create("app", &spec)?;
///
/// let lease = ipam.lease("app", &LeaseRequest::new("container-1"))?;
/// assert_eq!(lease.addresses.len(), 2);                            // both or none
/// ipam.release_owner("container-1")?;                              // again and again: also after a crash
/// # Ok::<(), cofferdam_netbridge::Error>(())
/// ```
///
/// # In a directory
///
/// A file of text for each network, and a file `lock`. A call takes the lock, reads the file, and where it changes
/// anything puts a new one in its place, by fsync(2) and rename(2): a process that is killed, and a machine that stops,
/// leave what was before the call or what is after it. A file that is not whole, or of something else, is `Malformed` and
/// stays as it is. The lock is flock(2)'s, which ends with its holder; it is waited for, 10 s at most, and then `Busy`.
///
/// A call reads only the network it is about, but [`networks`](Ipam::networks) and [`release_owner`](Ipam::release_owner),
/// which read all; [`create`](Ipam::create) reads those that changed since this value read them for it. As addresses hardly outlive the boot, a directory in `/run` is
/// right, and 100 times as fast as a disk.
#[derive(Debug)]
pub struct Ipam(Backend);

#[derive(Debug)]
enum Backend {
    Memory(Mutex<BTreeMap<String, Network>>),
    Directory(Directory),
}

impl Ipam {
    /// In this process, as long as the value lives.
    #[must_use]
    pub fn in_memory() -> Self {
        Ipam(Backend::Memory(Mutex::default()))
    }

    /// In the directory at `path`, which is made with mode 0700 where it is not there (its parent must be). It is held by
    /// an fd.
    ///
    /// # Errors
    /// As open(2) and mkdir(2) say.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Directory::open(path.as_ref()).map(|directory| Ipam(Backend::Directory(directory)))
    }

    /// Makes a network. Its name is 1 to 63 letters, digits, dots, dashes and underscores.
    ///
    /// # Errors
    /// `AlreadyExists` where there is one of this name, or one whose subnet overlaps one that is given; `Exhausted` where
    /// the pools have no subnet left; `InvalidInput` for a spec that cannot be; else those of the store: `Malformed`,
    /// `Busy`, and what the file system says.
    pub fn create(&self, name: &str, spec: &NetworkSpec) -> Result<Network> {
        check_name("network", name)?;
        self.locked(|store| {
            let others = store.outlines()?;
            let network = made(name, spec, &others)?;
            store.write(&network)?;
            Ok(network)
        })
    }

    /// Removes a network and all leases of it. One that is gone is a success: `false`.
    ///
    /// # Errors
    /// Those of the store.
    pub fn remove(&self, name: &str) -> Result<bool> {
        check_name("network", name)?;
        self.locked(|store| store.remove(name))
    }

    /// A network as it is now, with its leases.
    ///
    /// # Errors
    /// `NotFound`, and those of the store.
    pub fn network(&self, name: &str) -> Result<Network> {
        check_name("network", name)?;
        self.locked(|store| store.read(name))
    }

    /// All networks as they are now, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub fn networks(&self) -> Result<Vec<Network>> {
        self.locked(|store| all(store))
    }

    /// Leases addresses: all that are asked for, or none.
    ///
    /// # Errors
    /// `NotFound` without such a network; `AlreadyExists` where an address that is asked for is taken; `Exhausted` where
    /// none is left, with the subnet, the range and how many there are; `InvalidInput` for an address that is no host's in
    /// the network, or an owner that cannot be one; and those of the store.
    pub fn lease(&self, network: &str, request: &LeaseRequest) -> Result<Lease> {
        check_name("network", network)?;
        self.locked(|store| {
            let mut network = store.read(network)?;
            let lease = network.lease(request)?;
            store.write(&network)?;
            Ok(lease)
        })
    }

    /// Takes an address back. One that is not leased, or whose network is gone, is a success: `false`.
    ///
    /// # Errors
    /// Those of the store.
    pub fn release(&self, network: &str, address: IpAddr) -> Result<bool> {
        check_name("network", network)?;
        self.locked(|store| {
            let mut network = match store.read(network) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                read => read?,
            };
            let released = network.release(address)?;
            if released {
                store.write(&network)?;
            }
            Ok(released)
        })
    }

    /// Takes back all addresses of an owner, of every network. Returns the networks and addresses: none where it has none.
    /// A network is all or nothing. A failure of one does not keep it from the others; after it, call this again.
    ///
    /// # Errors
    /// Those of the store.
    pub fn release_owner(&self, owner: &str) -> Result<Vec<(String, IpAddr)>> {
        check_owner(owner)?;
        self.locked(|store| {
            let mut released = Vec::new();
            let mut outcome = Ok(());
            for name in store.names()? {
                match release_owner_of(store, &name, owner) {
                    Ok(addresses) => {
                        released.extend(addresses.into_iter().map(|a| (name.clone(), a)));
                    }
                    Err(error) => outcome = outcome.and(Err(error)),
                }
            }
            outcome.map(|()| released)
        })
    }

    fn locked<T>(&self, work: impl FnOnce(&mut dyn Store) -> Result<T>) -> Result<T> {
        match &self.0 {
            Backend::Memory(networks) => work(&mut lock(networks)),
            Backend::Directory(directory) => work(&mut directory.lock()?),
        }
    }
}

/// Networks, while nobody else can read or write them.
pub(super) trait Store {
    fn read(&mut self, name: &str) -> Result<Network>;
    fn write(&mut self, network: &Network) -> Result<()>;
    /// Whether it was there.
    fn remove(&mut self, name: &str) -> Result<bool>;
    /// Of all networks, by name.
    fn outlines(&mut self) -> Result<Vec<Outline>>;
    /// In order.
    fn names(&mut self) -> Result<Vec<String>>;
}

fn all(store: &mut dyn Store) -> Result<Vec<Network>> {
    let names = store.names()?;
    names.iter().map(|name| store.read(name)).collect()
}

fn release_owner_of(store: &mut dyn Store, name: &str, owner: &str) -> Result<Vec<IpAddr>> {
    let mut network = store.read(name)?;
    let addresses = network.release_owner(owner)?;
    if !addresses.is_empty() {
        store.write(&network)?;
    }
    Ok(addresses)
}

type Networks = BTreeMap<String, Network>;

impl Store for MutexGuard<'_, Networks> {
    fn read(&mut self, name: &str) -> Result<Network> {
        self.get(name).cloned().ok_or_else(|| absent(name))
    }

    fn outlines(&mut self) -> Result<Vec<Outline>> {
        Ok(self.values().map(Outline::of).collect())
    }

    fn write(&mut self, network: &Network) -> Result<()> {
        self.insert(network.name().to_owned(), network.clone());
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<bool> {
        Ok(Networks::remove(self, name).is_some())
    }

    fn names(&mut self) -> Result<Vec<String>> {
        Ok(self.keys().cloned().collect())
    }
}

fn lock(networks: &Mutex<Networks>) -> MutexGuard<'_, Networks> {
    networks.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn absent(name: &str) -> Error {
    let what = format!("read network {name}");
    Error::plain(ErrorKind::NotFound, what, "there is none of this name")
}

fn made(name: &str, spec: &NetworkSpec, others: &[Outline]) -> Result<Network> {
    let what = || format!("create network {name}");
    if others.iter().any(|other| other.name == name) {
        let why = "there is one of this name";
        return Err(Error::plain(ErrorKind::AlreadyExists, what(), why));
    }
    for subnet in &spec.given {
        if let Some(other) = others.iter().find(|o| o.overlaps(subnet.network())) {
            let why = format!("{subnet} overlaps network {}", other.name);
            return Err(Error::plain(ErrorKind::AlreadyExists, what(), why));
        }
    }
    let networks = others
        .iter()
        .flat_map(|other| other.subnets.iter().copied());
    let occupied = networks.fold(spec.occupied.clone(), Occupied::on_link_network);
    let mut subnets = spec.given.clone();
    for (family, pools) in &spec.picked {
        let subnet = pools.find(*family, name, &occupied)?;
        subnets.push(Subnet::new(subnet));
    }
    Network::new(name.to_owned(), subnets)
}
