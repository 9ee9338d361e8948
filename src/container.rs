//! A container as described, and its start.

use std::sync::atomic::{AtomicU32, Ordering};

use cofferdam_cgroups::{Cgroup, CgroupName, Hierarchy, Limits};
use cofferdam_namespaces::Command;

use crate::builder::ContainerBuilder;
use crate::error::{Result, Subject};
use crate::network::Plan;
use crate::rootfs::Rootfs;
use crate::running::Running;

/// What the names of this suite's cgroups begin with.
const CGROUP_PREFIX: &str = "cofferdam";

/// A container as it is to be: a value, checked as far as it can be without the kernel. [`start`](Self::start) makes it
/// real, any number of times.
#[derive(Clone, Debug)]
pub struct Container {
    pub(crate) subject: Subject,
    pub(crate) name: String,
    pub(crate) rootfs: Option<Rootfs>,
    pub(crate) networking: Plan,
    pub(crate) limits: Limits,
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
    /// the cgroup filesystem. When it fails, nothing of it is left.
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
        let cgroup = self.create_cgroup()?;
        let attached = self.networking.attach(&self.subject, &self.name)?;
        let mut command = self.command.clone();
        let has_root = root.is_some();
        if let Some(root) = root {
            command = command.root(root);
        }
        if let Some(cgroup) = &cgroup {
            command = self.enter(command, cgroup)?;
        }
        command = self
            .networking
            .enter(command, attached.as_ref(), &self.subject, has_root)?;
        let spawned = command
            .spawn()
            .map_err(self.subject.failed("start the program"))?;
        Ok(Running::new(
            self.subject.clone(),
            self.name.clone(),
            spawned,
            cgroup,
            attached,
        ))
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
}
