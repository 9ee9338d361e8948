//! What a container uses.

use std::fs::{self, File};
use std::time::Duration;

use cofferdam_cgroups as cgroups;
use cofferdam_cgroups::{Pressure, Resource};
use cofferdam_netbridge::{Counters, Inspect};

use crate::error::Result;
use crate::running::Running;

/// What a container uses and has used, as of about one moment: [`Running::stats`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// How long ago it was started, or attached to.
    pub uptime: Duration,
    /// CPU time, memory, processes, I/O. Memory, processes and I/O are `None` for a container that was started without a
    /// limit on them, but where the machine counts them all the same.
    pub usage: cgroups::Sample,
    /// How long its processes waited for CPUs. `None` without cgroup v2, and where the kernel does not count.
    pub cpu_pressure: Option<Pressure>,
    /// How long they waited for memory.
    pub memory_pressure: Option<Pressure>,
    /// How long they waited for I/O.
    pub io_pressure: Option<Pressure>,
    /// What went through its network links, without `lo`.
    pub links: Vec<LinkStats>,
}

/// What went through a network link of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Its name inside: `eth0`.
    pub name: String,
    /// Packets and bytes.
    pub counters: Counters,
}

/// A process of a container: [`Running::top`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopProcess {
    /// Its pid, as the caller counts.
    pub pid: u32,
    /// Its name, of at most 15 bytes, as it was executed or as it calls itself. Any bytes: the container says so.
    pub command: String,
}

/// What is kept open from one sample to the next.
#[derive(Debug)]
pub(crate) struct Sources {
    cgroup: cgroups::Stats,
    net: Inspect,
}

/// # What it uses
///
/// ```no_run
/// # let web = cofferdam::Container::builder().command("/app").start()?;
/// for process in web.top()? {
///     println!("{process:?}");
/// }
/// println!("{:?}", web.stats()?);
/// # Ok::<(), cofferdam::Error>(())
/// ```
impl Running {
    /// Takes one sample of what it uses. The first opens a dozen files and a socket, which are kept for the next ones.
    ///
    /// # Errors
    /// `NotFound` once its program has ended, `Unsupported` for a container without a cgroup.
    pub fn stats(&self) -> Result<Stats> {
        let subject = self.subject();
        let mut sources = self.sources();
        let Sources { cgroup, net } = match &mut *sources {
            Some(sources) => sources,
            none => none.insert(self.open_sources()?),
        };
        let failed = || subject.failed::<cgroups::Error>("read its cgroup");
        let links = net.links().map_err(subject.failed("read its links"))?;
        let links = links.into_iter().filter(|link| link.name != "lo");
        Ok(Stats {
            uptime: self.uptime(),
            usage: cgroup.sample().map_err(failed())?,
            cpu_pressure: cgroup.pressure(Resource::Cpu).map_err(failed())?,
            memory_pressure: cgroup.pressure(Resource::Memory).map_err(failed())?,
            io_pressure: cgroup.pressure(Resource::Io).map_err(failed())?,
            links: links
                .map(|link| LinkStats {
                    name: link.name,
                    counters: link.counters,
                })
                .collect(),
        })
    }

    /// Its processes, those of [`exec`](Self::exec) among them, by pid. Processes that it put into cgroups of its own are not.
    ///
    /// # Errors
    /// `Unsupported` for a container without a cgroup.
    pub fn top(&self) -> Result<Vec<TopProcess>> {
        let pids = self.needs_cgroup()?.procs();
        let mut pids = pids.map_err(self.subject().failed("list its processes"))?;
        pids.sort_unstable();
        // Who has ended since has no name any more.
        let named = pids.into_iter().filter_map(|pid| {
            let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
            let command = String::from_utf8_lossy(&name).trim_end().to_owned();
            Some(TopProcess { pid, command })
        });
        Ok(named.collect())
    }

    fn open_sources(&self) -> Result<Sources> {
        let subject = self.subject();
        let cgroup = self.needs_cgroup()?.stats();
        let cgroup = cgroup.map_err(subject.failed("open its cgroup"))?;
        let netns = File::open(format!("/proc/{}/ns/net", self.pid()));
        let netns = netns.map_err(subject.failed("open its network namespace"));
        let netns = netns.map_err(|error| self.or_gone(error))?;
        // As long as it runs, the number has meant it all the time.
        self.needs_program()?;
        let net = Inspect::of(netns).map_err(subject.failed("look into its network namespace"))?;
        Ok(Sources { cgroup, net })
    }
}
