//! A container as described, and its start.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use cofferdam_cgroups::{Cgroup, CgroupName, Hierarchy, Limits};
use cofferdam_dns::{Name, ResolvConf};
use cofferdam_namespaces::{Command, Mount, Namespace, Namespaces};
use cofferdam_overlay::VolumeRef;
use cofferdam_portmap::PortSpec;

use crate::builder::ContainerBuilder;
use crate::error::{Result, Subject};
use crate::network::{Attached, Network};
use crate::rootfs::{Opened, Rootfs};
use crate::running::{Held, Running};
use crate::volume::Named;

/// What the names of this suite's cgroups begin with.
const CGROUP_PREFIX: &str = "cofferdam";

/// A container as it is to be: a value, checked as far as it can be without the kernel. [`start`](Self::start) makes it
/// real, any number of times.
#[derive(Clone, Debug)]
pub struct Container {
    pub(crate) subject: Subject,
    pub(crate) name: String,
    pub(crate) rootfs: Option<Rootfs>,
    pub(crate) network: Option<(Network, Vec<Name>)>,
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) limits: Limits,
    pub(crate) named: Vec<Named>,
    pub(crate) command: Command,
}

impl Container {
    /// Says what a container is to be.
    pub fn builder() -> ContainerBuilder {
        ContainerBuilder::new()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, and returns once the program runs. From any thread; where a network is involved, from one in the
    /// network namespace the network was made in.
    ///
    /// Needs what the parts need: root, or a user namespace that has the caller as root; and for limits, write access to
    /// the cgroup filesystem. When it fails, nothing of it is left
    /// but named volumes, which stay as those of any container do.
    ///
    /// # Errors
    /// The line names the step and the item: a layer that is missing (`NotFound`), a port that is taken
    /// (`AlreadyExists`, `Busy`), a limit the machine cannot apply (`Unsupported`), a program that does not exist
    /// (`NotFound`), and so on.
    pub fn start(&self) -> Result<Running> {
        // Each of these undoes itself when a later step fails.
        let root = self
            .rootfs
            .as_ref()
            .map(|rootfs| rootfs.open(&self.subject))
            .transpose()?;
        let volumes = self.volumes(root.as_ref())?;
        let cgroup = self.create_cgroup()?;
        let attached = self.attach()?;
        let mut command = self.command.clone();
        let mut written = None;
        if let Some(root) = root {
            let (root, upper) = root.into_root();
            command = command.root(root);
            written = upper;
        }
        if let Some(cgroup) = &cgroup {
            command = self.enter(command, cgroup)?;
        }
        if let Some(attached) = &attached {
            command = self.join(command, attached)?;
        }
        let spawned = command
            .spawn()
            .map_err(self.subject.failed("start the program"))?;
        Ok(Running::new(
            self.subject.clone(),
            self.name.clone(),
            spawned,
            cgroup,
            attached,
            Held { written, volumes },
        ))
    }

    /// Named volumes, made and filled where they are new.
    fn volumes(&self, root: Option<&Opened>) -> Result<Vec<VolumeRef>> {
        let Some(root) = root else {
            return Ok(Vec::new());
        };
        let each = self.named.iter();
        each.map(|named| named.acquire(&self.subject, root))
            .collect()
    }

    /// A cgroup of its own, if it has limits.
    fn create_cgroup(&self) -> Result<Option<Cgroup>> {
        static STARTS: AtomicU32 = AtomicU32::new(0);
        if self.limits == Limits::new() {
            return Ok(None);
        }
        let (process, start) = (std::process::id(), STARTS.fetch_add(1, Ordering::Relaxed));
        let name = format!("{CGROUP_PREFIX}-{process}-{start}-{}", self.name);
        let failed = |step| self.subject.failed::<cofferdam_cgroups::Error>(step);
        let name = CgroupName::new(name).map_err(failed("name the cgroup"))?;
        let hierarchy = Hierarchy::detect().map_err(failed("find the cgroup filesystem"))?;
        hierarchy
            .create(&name, &self.limits)
            .map(Some)
            .map_err(failed("create the cgroup"))
    }

    fn enter(&self, mut command: Command, cgroup: &Cgroup) -> Result<Command> {
        let failed = || self.subject.failed("duplicate a cgroup's file descriptor");
        let entry = cgroup.entry();
        if let Some(dir) = entry.dir {
            command = command.cgroup(dir.try_clone_to_owned().map_err(failed())?);
        }
        for procs in entry.procs {
            command = command.cgroup_procs(procs.try_clone_to_owned().map_err(failed())?);
        }
        Ok(command)
    }

    fn attach(&self) -> Result<Option<Attached>> {
        let Some((network, names)) = &self.network else {
            return Ok(None);
        };
        network.attach(&self.subject, names, &self.ports).map(Some)
    }

    /// The network namespace, and the files by which programs find names, but for those the caller mounts.
    fn join(&self, command: Command, attached: &Attached) -> Result<Command> {
        let netns = attached
            .netns()
            .map_err(self.subject.failed("duplicate a namespace"))?;
        let command = command.namespaces(Namespaces::default().join(Namespace::Net, netns));
        // A host without the file has no nameservers and no search domains.
        let host = fs::read_to_string(Path::new("/etc/resolv.conf")).unwrap_or_default();
        let resolv_conf = ResolvConf::parse(&host).for_container().to_string();
        let files = [
            ("/etc/resolv.conf", resolv_conf),
            ("/etc/hosts", attached.hosts().to_string()),
            ("/etc/hostname", format!("{}\n", self.name)),
        ];
        // What the caller mounts there is what the caller wants there.
        let taken = |path: &str| {
            self.command
                .mounts()
                .iter()
                .any(|mount| mount.target() == Path::new(path))
        };
        let missing = files.into_iter().filter(|(path, _)| !taken(path));
        Ok(missing.fold(command, |command, (path, content)| {
            command.mount(Mount::file(path, content))
        }))
    }
}
