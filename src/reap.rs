//! Removing what processes left that were killed.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_cgroups::Hierarchy;
use cofferdam_namespaces::Spawned;
use cofferdam_netbridge::{IfName, NetNs, delete_link};
use cofferdam_portmap::{PortSpec, Portmap};

use crate::error::{Error, Result, Subject};
use crate::network::{Pasta, TABLE};
use crate::process::namespace;
use crate::runtime::{self, Facts, Record};

/// How long a killed program is waited for.
const DEATH: Duration = Duration::from_secs(5);

/// What [`reap`] did.
#[derive(Debug, Default)]
#[must_use = "what could not be removed is in `failed`"]
#[non_exhaustive]
pub struct Reaped {
    /// What was there and is no more, in this order.
    pub removed: Vec<Removed>,
    /// What could not be removed. Its record stays, for the next time.
    pub failed: Vec<Error>,
}

/// Something that [`reap`] removed. `Display` says what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removed {
    /// The program of a container, which ran.
    Program {
        /// The container.
        container: String,
        /// As the caller counts.
        pid: u32,
    },
    /// The pasta that led a container's network out.
    Pasta {
        /// The container.
        container: String,
        /// As the caller counts.
        pid: u32,
    },
    /// A directory of a container's cgroup.
    Cgroup(PathBuf),
    /// A bridge with its rules and the ports that led into it.
    Bridge(String),
    /// A record that a start, or a network, was written down in.
    Record(PathBuf),
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Removed::Program { container, pid } => {
                write!(f, "program {pid} of container {container}")
            }
            Removed::Pasta { container, pid } => {
                write!(f, "pasta {pid} of container {container}")
            }
            Removed::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Removed::Bridge(name) => write!(f, "bridge {name}"),
            Removed::Record(path) => write!(f, "record {}", path.display()),
        }
    }
}

/// Removes what processes left that used this library and were killed: containers that run on, cgroups, bridges, rules, ports,
/// and the records themselves, of those that are in the [usual directories](crate::ContainerBuilder::runtime_dir).
///
/// What a living process has is never touched: it holds a lock on its records. Nor are [detached](crate::Running::detach)
/// containers whose program runs. Any number of processes may call it, at any time; it takes no more than five seconds for each
/// container that is left. It needs the privileges that making those took.
///
/// # Errors
/// If a directory cannot be read. What cannot be removed is in [`Reaped::failed`].
pub fn reap() -> Result<Reaped> {
    let mut reaped = Reaped::default();
    for dir in runtime::usual() {
        // One that is not the caller's is not one that the caller wrote to.
        if runtime::check_directory(&dir).is_ok() {
            reap_dir(&dir, &mut reaped)?;
        }
    }
    Ok(reaped)
}

/// As [`reap`], for records in this directory, which only the caller may be able to write to. One that is not there is empty.
///
/// # Errors
/// `PermissionDenied` if others can write to it, or it is no directory; otherwise as [`reap`].
pub fn reap_in(dir: impl AsRef<Path>) -> Result<Reaped> {
    let dir = dir.as_ref();
    let mut reaped = Reaped::default();
    if fs::symlink_metadata(dir).is_ok() {
        let subject = Subject::runtime(dir);
        runtime::check_directory(dir).map_err(subject.failed("look at it"))?;
        reap_dir(dir, &mut reaped)?;
    }
    Ok(reaped)
}

fn reap_dir(dir: &Path, reaped: &mut Reaped) -> Result<()> {
    let subject = Subject::runtime(dir);
    let mut dead = Vec::new();
    let mut lived_in = Vec::new();
    for entry in fs::read_dir(dir).map_err(subject.failed("list it"))? {
        let path = entry.map_err(subject.failed("list it"))?.path();
        match Record::take(&path) {
            Ok(Some((record, facts))) if !lives_on(&facts) => dead.push((record, facts)),
            Ok(Some(_)) => {}
            Ok(None) => lived_in.extend(Record::peek(&path).unwrap_or_default().bridges),
            Err(error) => reaped
                .failed
                .push(Subject::runtime(&path).failed("read it")(error)),
        }
    }
    // Containers first: a network goes when nothing is in it.
    dead.sort_by_key(|(_, facts)| !facts.bridges.is_empty());
    for (record, mut facts) in dead {
        facts.bridges.retain(|bridge| !lived_in.contains(bridge));
        let path = record.path().to_owned();
        match remove(&facts, &mut reaped.removed) {
            Ok(()) => {
                let removed = record.remove();
                match removed.map_err(Subject::runtime(&path).failed("remove it")) {
                    Ok(()) => reaped.removed.push(Removed::Record(path)),
                    Err(error) => reaped.failed.push(error),
                }
            }
            Err(error) => reaped.failed.push(error),
        }
    }
    Ok(())
}

/// A detached container whose program runs.
fn lives_on(facts: &Facts) -> bool {
    let program = facts
        .program
        .filter(|_| facts.detached && !is_of_another_boot(facts));
    // Not to be killed by Drop.
    let lives = |(pid, started)| Spawned::adopt(pid, started).map(Spawned::persist).is_ok();
    program.is_some_and(lives)
}

fn is_of_another_boot(facts: &Facts) -> bool {
    let boot = crate::process::boot();
    let owner = facts.owner.as_ref();
    owner.is_some_and(|owner| boot.is_ok_and(|boot| boot != owner.boot))
}

fn remove(facts: &Facts, removed: &mut Vec<Removed>) -> Result<()> {
    if is_of_another_boot(facts) {
        return Ok(());
    }
    let subject = Subject::container(&facts.name);
    remove_program(facts, removed);
    if let Some(pasta) = Pasta::of(facts) {
        let (container, pid) = (facts.name.clone(), pasta.pid());
        pasta.remove(&subject, DEATH)?;
        removed.push(Removed::Pasta { container, pid });
    }
    remove_cgroup(facts, &subject, removed)?;
    for (name, netns) in &facts.bridges {
        remove_bridge(name, netns, removed)?;
    }
    Ok(())
}

/// Its whole pid namespace goes with it.
fn remove_program(facts: &Facts, removed: &mut Vec<Removed>) {
    let Some((pid, started)) = facts.program else {
        return;
    };
    let Ok(spawned) = Spawned::adopt(pid, started) else {
        return;
    };
    if spawned.kill().is_ok() {
        // Whoever it belongs to now takes the status, and so it may be lost; it has ended all the same.
        let _ended = spawned.wait_timeout(DEATH).is_ok();
        let container = facts.name.clone();
        removed.push(Removed::Program { container, pid });
    }
    spawned.persist();
}

fn remove_cgroup(facts: &Facts, subject: &Subject, removed: &mut Vec<Removed>) -> Result<()> {
    let Some(name) = &facts.cgroup else {
        return Ok(());
    };
    let failed = |step| subject.failed::<cofferdam_cgroups::Error>(step);
    let hierarchy = match Hierarchy::detect() {
        // Where there are none, none was made.
        Err(error)
            if error.kind() == cofferdam_cgroups::ErrorKind::Unsupported
                && facts.cgroup_paths.is_empty() =>
        {
            return Ok(());
        }
        found => found.map_err(failed("find the cgroup filesystem"))?,
    };
    let mut paths = hierarchy
        .find(name)
        .map_err(failed("look for its cgroup"))?;
    paths.extend(facts.cgroup_paths.iter().cloned());
    paths.retain(|path| path.file_name().is_some_and(|file| *file == **name) && path.exists());
    paths.sort_unstable();
    paths.dedup();
    if paths.is_empty() {
        return Ok(());
    }
    let cgroup = match hierarchy.open(&paths) {
        // Another process reaps too.
        Err(error) if error.kind() == cofferdam_cgroups::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed("open its cgroup"))?,
    };
    cgroup.kill().map_err(failed("kill its cgroup"))?;
    cgroup.remove().map_err(failed("remove its cgroup"))?;
    removed.extend(paths.into_iter().map(Removed::Cgroup));
    Ok(())
}

/// Where its network namespace is gone, it is too.
fn remove_bridge(name: &str, netns: &str, removed: &mut Vec<Removed>) -> Result<()> {
    let subject = Subject::network(name);
    let here = namespace("net").map_err(subject.failed("read /proc"))?;
    let done = if here == netns {
        remove_bridge_here(name, &subject)
    } else {
        let Some(other) = find_namespace(netns) else {
            return Ok(());
        };
        let other = NetNs::from(OwnedFd::from(other));
        let entered = other.run(|| remove_bridge_here(name, &subject));
        entered.map_err(subject.failed("enter its network namespace"))?
    };
    if done? {
        removed.push(Removed::Bridge(name.to_owned()));
    }
    Ok(())
}

/// Whether there was one.
fn remove_bridge_here(name: &str, subject: &Subject) -> Result<bool> {
    let failed = |step| subject.failed::<cofferdam_portmap::Error>(step);
    let portmap = Portmap::open(TABLE).map_err(failed("open the rules"))?;
    if portmap.exists().map_err(failed("read the rules"))? {
        let rules = portmap.list().map_err(failed("read the rules"))?;
        let network = rules.networks().find(|network| network.bridge() == name);
        let subnets: Vec<_> = network
            .into_iter()
            .flat_map(|network| network.subnets())
            .collect();
        let inside = rules.ports().filter(|port| {
            let target = port.target().ip();
            subnets.iter().any(|subnet| subnet.contains(target))
        });
        for port in inside {
            let spec = PortSpec::new(port.host_port(), port.target().port());
            let spec = spec.map(|spec| spec.with_protocol(port.protocol()));
            let spec = spec.map(|spec| match port.host_ip() {
                Some(address) => spec.with_host_ip(address),
                None => spec,
            });
            let removed = spec.and_then(|spec| portmap.unpublish(&spec));
            removed.map_err(failed("take back a port"))?;
        }
        portmap
            .remove_network(name)
            .map_err(failed("remove the rules"))?;
    }
    let failed = |step| subject.failed::<cofferdam_netbridge::Error>(step);
    let links = cofferdam_netbridge::links().map_err(failed("list the links"))?;
    let Some(bridge) = links.iter().find(|link| link.name == name) else {
        return Ok(false);
    };
    let ports = links
        .iter()
        .filter(|link| link.controller == Some(bridge.index));
    // Those of dead namespaces would go by themselves, some time.
    let ports = ports.filter(|link| link.kind.as_deref() == Some("veth"));
    for link in ports.chain([bridge]) {
        let name: IfName = link.name.parse().map_err(failed("name a link"))?;
        delete_link(&name).map_err(failed("remove a link"))?;
    }
    Ok(true)
}

/// That of some process, or one with a name below `/run/netns`.
fn find_namespace(netns: &str) -> Option<File> {
    let number: u64 = netns
        .strip_prefix("net:[")?
        .strip_suffix(']')?
        .parse()
        .ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let processes = processes.map(|process| process.path().join("ns/net"));
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let all = processes.chain(named.map(|file| file.path()));
    let is_it = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.ino() == number);
    all.filter(is_it).find_map(|path| {
        let file = File::open(path).ok()?;
        let found = file.metadata().ok()?;
        (found.ino() == number).then_some(file)
    })
}
